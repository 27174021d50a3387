package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"jetkeep/service/metrics"
	"jetkeep/service/metrics/gatewaytest"
	"jetkeep/store/testenv"
)

// TestPush: what was asked for before the end arrives at a real gateway.
func TestPush(t *testing.T) {
	t.Parallel()
	g := gatewaytest.Start(t)
	p := metrics.NewPusher(filled(time.Now()), g.URL, "one")
	testenv.Until(t, "a push that lasts no longer than it may", func() (failed error) {
		p.Wake()
		p.Wake()
		ctx, end := context.WithCancel(t.Context())
		end()
		p.Run(ctx, func(err error) {
			if failed = err; !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		})
		return failed
	})
	want := `jetkeep_sessions_total{instance="one",job="jetkeep",kind="backup",result="succeeded"} 1`
	if text := g.Metrics(t); !strings.Contains(text, want) {
		t.Errorf("%s is not in %s", want, text)
	}
}

// TestPushFails: a gateway that is not there delays nobody who asks, and is
// counted.
func TestPushFails(t *testing.T) {
	t.Parallel()
	m := filled(time.Now())
	p := metrics.NewPusher(m, "http://127.0.0.1:1", "one")
	for range 1000 {
		p.Wake() // it waits for nobody, for nobody pushes yet
	}
	ctx, end := context.WithCancel(t.Context())
	end()
	failed := 0
	p.Run(ctx, func(error) { failed++ })
	if failed != 1 || !strings.Contains(scrape(t, m.Handler()), `jetkeep_pushes_total{result="failed"} 1`) {
		t.Errorf("%d failures were told", failed)
	}
}

// TestPushAgain: what a gateway did not take arrives when it is there again, without
// another session.
func TestPushAgain(t *testing.T) {
	t.Parallel()
	testenv.Until(t, "pushes that last no longer than they may", func() error {
		begun := time.Now()
		err := pushAgain(t)
		if err != nil && time.Since(begun) < 10*time.Second {
			t.Fatal(err)
		}
		return err
	})
}

func pushAgain(t *testing.T) error {
	t.Helper()
	var tries atomic.Int64
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if tries.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer gateway.Close()
	m := filled(time.Now())
	p := metrics.NewPusherAgain(m, gateway.URL, "one", 10*time.Millisecond)
	p.Wake()
	ctx, end := context.WithCancel(t.Context())
	var failed atomic.Int64
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		p.Run(ctx, func(error) { failed.Add(1) })
	}()
	testenv.True(t, "another push", func() bool {
		return strings.Contains(scrape(t, m.Handler()), `jetkeep_pushes_total{result="ok"} 1`)
	})
	time.Sleep(100 * time.Millisecond) // in which it would be pushed once more, if it were
	end()
	<-ran
	if failed.Load() != 2 || tries.Load() != 3 {
		return fmt.Errorf("%d tries, of which %d were told to have failed", tries.Load(), failed.Load())
	}
	return nil
}
