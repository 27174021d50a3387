package session

import (
	"testing"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
)

// TestFullBucketIsEmptied: a bucket with a bound that is full, in which servers of
// a cluster take no mark of a deletion either, gets room again.
func TestFullBucketIsEmptied(t *testing.T) {
	t.Parallel()
	ctx := natstest.Context(t)
	store := openStore(t, natstest.StartCluster(t, 3, natstest.Latest).Connect(), Options{Replicas: 3, MaxBytes: 256 << 10})
	made := 0
	for ; ; made++ {
		if made > 1000 {
			t.Fatal("the bucket takes whatever is written into it")
		}
		s, tasks := newSession(20)
		s.State, s.Ended = api.StateSucceeded, time.Now().Add(-time.Hour)
		if err := store.Create(ctx, s, tasks); err != nil {
			break // full
		}
		if _, err := store.UpdateSession(ctx, s.ID, func(x *Session) error { x.Ready = true; return nil }); err != nil {
			break
		}
	}
	if full, err := store.NearlyFull(ctx); err != nil || !full {
		t.Fatalf("%d sessions were made, and the bucket is not full: %v", made, err)
	}
	n, err := store.Expire(ctx, time.Now().Add(-time.Minute))
	if err != nil || n < made {
		t.Fatalf("%d of %d sessions were forgotten: %v", n, made, err)
	}
	if full, err := store.NearlyFull(ctx); err != nil || full {
		t.Errorf("it is still full, %v", err)
	}
	s, tasks := newSession(20)
	if err := store.Create(ctx, s, tasks); err != nil {
		t.Errorf("nothing can be begun: %v", err)
	}
}
