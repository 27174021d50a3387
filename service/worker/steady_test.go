package worker

import (
	"testing"
	"time"

	"jetkeep/store/testenv"
)

// steadily lets an attempt show what happens when the lease of a task is over. The
// server hands on the task of whoever is late, by its own clock: so an attempt during
// which this process or the server stood still for a good part of a lease proves
// nothing if it goes wrong, and is made again on another bench.
func steadily(t *testing.T, attempt func(b *bench) error) {
	t.Helper()
	testenv.Until(t, "an attempt on a machine that does not stand still", func() error {
		b := newBench(t)
		b.lease = lease
		stop := pulse(t, b)
		err := attempt(b)
		gap := stop()
		if err != nil && gap < lease/8 {
			t.Fatalf("%v; nothing stood still for more than %s", err, gap)
		}
		if err != nil {
			t.Logf("something stood still for %s: %v", gap, err)
		}
		return err
	})
}

// pulse measures the longest time between two answers of the server.
func pulse(t *testing.T, b *bench) (stop func() time.Duration) {
	t.Helper()
	nc := b.server.Connect()
	end, longest := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		gap, last := time.Duration(0), time.Now()
		for {
			err := nc.FlushTimeout(testenv.Hang)
			gap, last = max(gap, time.Since(last)), time.Now()
			select {
			case <-end:
			case <-time.After(20 * time.Millisecond):
				if err == nil {
					continue
				}
			}
			longest <- max(gap, time.Since(last))
			return
		}
	}()
	return func() time.Duration {
		close(end)
		return testenv.Receive(t, "the pulse", longest)
	}
}
