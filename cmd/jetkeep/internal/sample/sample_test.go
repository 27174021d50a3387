package sample_test

import (
	"context"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/service/embedded"
	"jetkeep/store/testenv"
)

// TestFillMakesWhatTheDemoPromises names what the sample must contain, because
// a demo over data without the hard cases proves nothing.
func TestFillMakesWhatTheDemoPromises(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	js := filled(ctx, t, sample.Default())

	if names := streamNames(ctx, t, js); !slices.Equal(names, slices.Sorted(slices.Values(sample.Streams()))) {
		t.Errorf("streams: %v", names)
	}
	orders := info(ctx, t, js, "ORDERS")
	if orders.State.NumDeleted == 0 || orders.State.FirstSeq == 1 || orders.State.LastSeq != 12_000 {
		t.Errorf("ORDERS has no gaps: %+v", orders.State)
	}
	checkOrderConsumers(ctx, t, js)
	if s := info(ctx, t, js, "WORK"); s.Config.Retention != jetstream.WorkQueuePolicy || s.State.NumDeleted == 0 {
		t.Errorf("WORK: %+v", s.State)
	}
	if s := info(ctx, t, js, "LOGINS"); s.Config.MaxAge == 0 || s.State.Msgs == 0 {
		t.Errorf("LOGINS: %+v", s)
	}
	if s := info(ctx, t, js, "TICKS"); s.Config.Storage != jetstream.MemoryStorage || s.State.NumDeleted == 0 {
		t.Errorf("TICKS: %+v", s)
	}
	if s := info(ctx, t, js, "ORDERS_MIRROR"); s.State.Msgs != orders.State.Msgs {
		t.Errorf("ORDERS_MIRROR has %d messages, ORDERS %d", s.State.Msgs, orders.State.Msgs)
	}
	if s := info(ctx, t, js, "BIG_ORDERS"); s.State.Msgs == 0 || len(s.Config.Sources) != 1 {
		t.Errorf("BIG_ORDERS: %+v", s)
	}
	checkBuckets(ctx, t, js)
}

func checkOrderConsumers(ctx context.Context, t *testing.T, js jetstream.JetStream) {
	t.Helper()
	stream, err := js.Stream(ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	ephemerals, pending := 0, 0
	for c := range stream.ListConsumers(ctx).Info() {
		if c.Config.Durable == "" {
			ephemerals++
		}
		pending += c.NumAckPending
	}
	if ephemerals != 1 || pending < 40 {
		t.Errorf("%d ephemeral consumers, %d acks pending", ephemerals, pending)
	}
}

func checkBuckets(ctx context.Context, t *testing.T, js jetstream.JetStream) {
	t.Helper()
	kv, err := js.KeyValue(ctx, "settings")
	if err != nil {
		t.Fatal(err)
	}
	history, err := kv.History(ctx, "shop.000.limit")
	if err != nil {
		t.Fatal(err)
	}
	if len(history) != 5 || history[4].Operation() != jetstream.KeyValueDelete {
		t.Errorf("history of a deleted key: %v", history)
	}
	store, err := js.ObjectStore(ctx, "documents")
	if err != nil {
		t.Fatal(err)
	}
	film, err := store.GetInfo(ctx, "film.mp4")
	if err != nil {
		t.Fatal(err)
	}
	if film.Size != 20<<20 {
		t.Errorf("large object has %d bytes", film.Size)
	}
}

func filled(ctx context.Context, t *testing.T, size sample.Size) jetstream.JetStream {
	t.Helper()
	server, err := embedded.Start(ctx, embedded.Options{Dir: t.TempDir(), Port: embedded.RandomPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Shutdown(context.Background()) })
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if err := sample.Fill(ctx, nc, size, 1); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func streamNames(ctx context.Context, t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	var names []string
	for name := range js.StreamNames(ctx).Name() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func info(ctx context.Context, t *testing.T, js jetstream.JetStream, name string) *jetstream.StreamInfo {
	t.Helper()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo()
}
