package scheduler_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/service/scheduler"
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
	store, err := scheduler.Open(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	settled := func() time.Duration {
		t.Helper()
		st, _, err := store.State(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(st.Settled)
	}
	for _, paused := range []bool{false, true, false} {
		if _, err := store.Put(t.Context(), &api.Schedule{Name: "a", Cron: "* * * * *", Paused: paused}, time.Now().Add(10*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if ahead := settled(); ahead > 5*time.Second {
			t.Errorf("paused %t: slots of the next %s are taken for settled", paused, ahead)
		}
	}
	if _, err := store.Put(t.Context(), &api.Schedule{Name: "a", Cron: "*/2 * * * *"}, time.Now().Add(-10*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if ahead := settled(); ahead < -5*time.Second {
		t.Errorf("slots of %s ago would run", -ahead)
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
	store, err := scheduler.Open(t.Context(), js, 1)
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
		if _, err := store.Put(t.Context(), &v, *at(-tc.settled)); err != nil {
			t.Fatal(err)
		}
		v = tc.after
		v.Name, v.Cron = name, "0 * * * *"
		if _, err := store.Put(t.Context(), &v, now); err != nil {
			t.Fatal(err)
		}
		st, _, err := store.State(t.Context(), name)
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
