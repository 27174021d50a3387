package testenv

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// A recorder is a test that fails and goes on.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// fail runs a wait that must end badly and returns what it said.
func fail(t *testing.T, wait func(testing.TB)) string {
	t.Helper()
	r, done := &recorder{TB: t}, make(chan struct{})
	go func() {
		defer close(done)
		wait(r)
		t.Error("the wait ended well")
	}()
	<-done
	return r.said
}

// A wait that ends badly says what it waited for, the last error, the load and
// the goroutines.
func TestBadEndIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, wait := range map[string]func(testing.TB){
			"the train: no train": func(t testing.TB) { Until(t, "the train", func() error { return errors.New("no train") }) },
			"the bus":             func(t testing.TB) { True(t, "the bus", func() bool { return false }) },
			"a letter":            func(t testing.TB) { Receive(t, "a letter", make(chan int)) },
		} {
			said := fail(t, wait)
			for _, want := range []string{"waited 10m", "for " + name, "load ", "processors", "goroutine ", "TestBadEndIsExplained"} {
				if !strings.Contains(said, want) {
					t.Errorf("%s: %q is not in what was said:\n%s", name, want, said)
				}
			}
		}
	})
}

func TestStatesAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		Until(t, "the tenth try", func() error {
			if tries++; tries < 10 {
				return errors.New("not yet")
			}
			return nil
		})
		if tries != 10 {
			t.Errorf("tried %d times", tries)
		}
		letters := make(chan string, 1)
		letters <- "dear"
		if got := Receive(t, "a letter", letters); got != "dear" {
			t.Errorf("received %q", got)
		}
	})
}

func TestSomeAreFewOutsideOfCampaigns(t *testing.T) {
	for campaign, want := range map[string]string{"": "[1 4] [1 2]", "1": "[1 2 3 4] [1 2]"} {
		t.Setenv(CampaignVariable, campaign)
		if got := fmt.Sprint(Some(1, 2, 3, 4), Some(1, 2)); got != want {
			t.Errorf("campaign %q: %s", campaign, got)
		}
	}
}
