// Package testenv is what tests of every package share: waiting for a state, and
// how much is to be tried.
//
// Until and Receive wait for a state and measure nothing: their deadline is one
// that only a hang reaches, on however slow a machine. When it passes they end
// the test and print what was waited for, its last error, the load of the machine
// and the stack of every goroutine.
//
// It is test support: nothing but tests may import it.
package testenv

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Hang is how long a state is waited for. Whoever needs a deadline for something
// that must happen takes this one.
const Hang = 10 * time.Minute

// CampaignVariable is the variable of the environment that `make campaign` sets.
const CampaignVariable = "JETKEEP_CAMPAIGN"

// Campaign tells whether everything is to be tried, which takes hours, and not
// the small form of it that runs with every change.
func Campaign() bool { return os.Getenv(CampaignVariable) != "" }

// Some returns all of the values in a campaign, and else the first and the
// last of them.
func Some[T any](all ...T) []T {
	if Campaign() || len(all) < 3 {
		return all
	}
	return []T{all[0], all[len(all)-1]}
}

// Until calls try until it returns nil, with pauses of up to 200 ms. It must run
// on the test's goroutine.
func Until(t testing.TB, what string, try func() error) {
	t.Helper()
	begin := time.Now()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Since(begin) > Hang {
			t.Fatalf("waited %s for %s: %v\n%s", time.Since(begin).Round(time.Second), what, err, Report())
		}
		time.Sleep(pause)
	}
}

// True is Until for a condition.
func True(t testing.TB, what string, so func() bool) {
	t.Helper()
	Until(t, what, func() error {
		if so() {
			return nil
		}
		return fmt.Errorf("it is not so")
	})
}

// Receive returns the next value of a channel, or its zero value if it is closed.
// It must run on the test's goroutine.
func Receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	begin := time.Now()
	timer := time.NewTimer(Hang)
	defer timer.Stop()
	select {
	case v := <-from:
		return v
	case <-timer.C:
		t.Fatalf("waited %s for %s\n%s", time.Since(begin).Round(time.Second), what, Report())
		panic("unreachable")
	}
}

// Report says what the machine and this process are doing: the load averages and
// the stack of every goroutine.
func Report() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte("unknown: " + err.Error())
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return fmt.Sprintf("load %s, %d processors\n%s", strings.TrimSpace(string(load)), runtime.GOMAXPROCS(0), stacks)
}
