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
