package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/service/scheduler"
	"jetkeep/store/testenv"
)

// An instance whose clock is minutes ahead puts a schedule, or resumes it: the
// slots until then are still due. One whose clock is behind runs none of the past
// that it has not seen.
func TestPutByAClockAhead(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	store, err := scheduler.Open(natstest.Context(t), js, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	settled := func() time.Time {
		t.Helper()
		st, _, err := store.State(natstest.Context(t), "a")
		if err != nil {
			t.Fatal(err)
		}
		return st.Settled
	}
	for _, paused := range []bool{false, true, false} {
		if _, err := store.Put(natstest.Context(t), &api.Schedule{Name: "a", Cron: "* * * * *", Paused: paused}, time.Now().Add(10*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if ahead := time.Until(settled()); ahead > 5*time.Second {
			t.Errorf("paused %t: slots of the next %s are taken for settled", paused, ahead)
		}
	}
	begun := time.Now()
	if _, err := store.Put(natstest.Context(t), &api.Schedule{Name: "a", Cron: "*/2 * * * *"}, begun.Add(-10*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if ago := begun.Sub(settled()); ago > 5*time.Minute {
		t.Errorf("slots of %s ago would run", ago)
	}
}

// A schedule that starts earlier or ends later than before runs none of the slots
// that it had not; those that passed and were due before are due still.
func TestPutMovesStartOrEnd(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	store, err := scheduler.Open(natstest.Context(t), js, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	at := func(hours int) *time.Time {
		moment := now.Add(time.Duration(hours) * time.Hour)
		return &moment
	}
	for name, tc := range map[string]struct {
		before, after api.Schedule
		settled       int // hours ago, when the first was put
		due           bool
	}{
		"start-earlier":    {before: api.Schedule{Start: at(48)}, after: api.Schedule{Start: at(-72)}, settled: 96},
		"start-removed":    {before: api.Schedule{Start: at(48)}, settled: 96},
		"end-later":        {before: api.Schedule{End: at(-72)}, after: api.Schedule{End: at(72)}, settled: 48},
		"end-removed":      {before: api.Schedule{End: at(-72)}, settled: 48},
		"jitter":           {after: api.Schedule{Jitter: "1m"}, settled: 48, due: true},
		"missed-and-start": {after: api.Schedule{Start: at(-72)}, settled: 48, due: true},
		"missed-and-end":   {before: api.Schedule{End: at(-4)}, settled: 48, due: true},
	} {
		v := tc.before
		v.Name, v.Cron = name, "0 * * * *"
		if _, err := store.Put(natstest.Context(t), &v, *at(-tc.settled)); err != nil {
			t.Fatal(err)
		}
		v = tc.after
		v.Name, v.Cron = name, "0 * * * *"
		if _, err := store.Put(natstest.Context(t), &v, now); err != nil {
			t.Fatal(err)
		}
		st, _, err := store.State(natstest.Context(t), name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := scheduler.Parse(v)
		if err != nil {
			t.Fatal(err)
		}
		slot, _ := d.Timetable.Next(st.Settled)
		if due := slot.Before(now); due != tc.due {
			t.Errorf("%s: slot %s is due: %t, want %t", name, slot, due, tc.due)
		}
	}
}

// Pausing takes back nothing that somebody else puts meanwhile, and brings back no
// schedule that is deleted meanwhile.
func TestPauseBesidePut(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	store, err := scheduler.Open(natstest.Context(t), js, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx := natstest.Context(t)
	if _, err := store.Pause(ctx, "a", true, time.Now()); !errors.Is(err, scheduler.ErrNotFound) {
		t.Errorf("paused what is not there: %v", err)
	}
	done, pauses := make(chan struct{}), make(chan error, 1)
	put := func(history int) {
		t.Helper()
		if _, err := store.Put(ctx, &api.Schedule{Name: "a", Cron: "0 * * * *", History: history}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	go func() {
		paused := false
		for {
			select {
			case <-done:
				pauses <- nil
				return
			default:
			}
			paused = !paused
			v, err := store.Pause(ctx, "a", paused, time.Now())
			if err == nil && v.New.Paused != paused {
				err = fmt.Errorf("paused is %t, want %t", v.New.Paused, paused)
			}
			if err != nil && !errors.Is(err, scheduler.ErrNotFound) {
				pauses <- err
				return
			}
		}
	}()
	for i := 2; i <= 100; i++ {
		put(i)
		v, err := store.Spec(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		if v.History != i {
			t.Errorf("history %d was put, and is %d", i, v.History)
		}
	}
	if err := store.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	close(done)
	if err := <-pauses; err != nil {
		t.Error(err)
	}
	if v, err := store.Spec(ctx, "a"); !errors.Is(err, scheduler.ErrNotFound) {
		t.Errorf("a deleted schedule is back: %+v, %v", v, err)
	}
}

// A schedule whose state is missing, as somebody deleted it while another one put
// it, runs nevertheless.
func TestNoState(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	store, err := scheduler.Open(natstest.Context(t), js, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(natstest.Context(t), &api.Schedule{Name: "a", Cron: "@every 1s"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(natstest.Context(t), api.BucketSchedules)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(natstest.Context(t), "state.a"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		scheduler.New(store, instant{}, scheduler.Options{Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	testenv.Until(t, "a run", func() error {
		st, _, err := store.State(natstest.Context(t), "a")
		if err == nil && len(st.Recent) == 0 {
			err = fmt.Errorf("it does not run: %+v", st)
		}
		return err
	})
	cancel()
	<-done
	if err := store.Delete(natstest.Context(t), "a"); err != nil {
		t.Fatal(err)
	}
	if st, _, err := store.State(natstest.Context(t), "a"); err != nil || !st.Settled.IsZero() {
		t.Errorf("what is deleted has a state: %+v, %v", st, err)
	}
}
