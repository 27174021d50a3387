package scheduler_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/service/scheduler"
)

// A schedule that cannot be read is there nevertheless, and one that was deleted is
// not.
func TestOwners(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	store, err := scheduler.Open(ctx, js, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if owners, err := store.Owners(ctx); err != nil || len(owners) != 0 {
		t.Errorf("of none: %v %v", owners, err)
	}
	for _, v := range []api.Schedule{
		{Name: "own", Cron: "@daily", Repository: "r", Target: "t", Keep: &api.Keep{Last: 1}},
		{Name: "none", Cron: "@daily", Repository: "r", Target: "t"},
		{Name: "gone", Cron: "@daily"},
	} {
		if _, err := store.Put(ctx, &v, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Delete(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(ctx, api.BucketSchedules)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "spec.later", []byte(`{"name":"later","keep":"by another version"}`)); err != nil {
		t.Fatal(err)
	}
	owners, err := store.Owners(ctx)
	if err != nil || len(owners) != 3 {
		t.Fatalf("%v %v", owners, err)
	}
	if o := owners["own"]; o.Keep == nil || o.Unknown || o.Repository != "r" || o.Target != "t" {
		t.Errorf("own: %+v", o)
	}
	if o := owners["none"]; o.Keep != nil || o.Unknown {
		t.Errorf("none: %+v", o)
	}
	if o := owners["later"]; !o.Unknown {
		t.Errorf("later: %+v", o)
	}
}
