package natsconn_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// TestNobodyTakesIt: what is written while a stream has nobody who takes it, here
// because it is away, arrives when there is somebody; it is not waited for without
// end, and no longer than the caller waits.
func TestNobodyTakesIt(t *testing.T) {
	t.Parallel()
	js := must(jetstream.New(natstest.Start(t).Connect()))(t)
	ctx := t.Context()
	kv := must(natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{Bucket: "B"}))(t)
	stream := must(js.Stream(ctx, "KV_B"))(t).CachedInfo().Config
	writes := map[string]func(context.Context) error{
		"create":  func(ctx context.Context) error { _, err := kv.Create(ctx, "create", nil); return err },
		"put":     func(ctx context.Context) error { _, err := kv.Put(ctx, "put", nil); return err },
		"string":  func(ctx context.Context) error { _, err := kv.PutString(ctx, "string", ""); return err },
		"update":  func(ctx context.Context) error { _, err := kv.Update(ctx, "update", nil, 0); return err },
		"delete":  func(ctx context.Context) error { return kv.Delete(ctx, "delete") },
		"purge":   func(ctx context.Context) error { return kv.Purge(ctx, "purge") },
		"publish": func(ctx context.Context) error { return natsconn.Publish(ctx, js, "$KV.B.publish", nil) },
	}
	all := func(ctx context.Context) map[string]error {
		type result struct {
			name string
			err  error
		}
		results := make(chan result)
		for name, write := range writes {
			go func() { results <- result{name, write(ctx)} }()
		}
		out := map[string]error{}
		for range writes {
			r := <-results
			out[r.name] = r.err
		}
		return out
	}
	if err := js.DeleteStream(ctx, "KV_B"); err != nil {
		t.Fatal(err)
	}
	took := time.Hour
	for try := 0; try < 5 && took > 3*time.Second; try++ { // a machine may be slow, but not each time
		soon, cancel := context.WithTimeout(ctx, 1200*time.Millisecond)
		begun := time.Now()
		for name, err := range all(soon) {
			if err == nil {
				t.Errorf("%s: nobody took it", name)
			}
		}
		took = time.Since(begun)
		cancel()
	}
	if took > 3*time.Second {
		t.Errorf("the caller waited %s", took)
	}
	for name, err := range all(ctx) {
		if !errors.Is(err, jetstream.ErrNoStreamResponse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for try := 0; ; try++ {
		begun := time.Now()
		made := make(chan error, 1)
		var after time.Duration
		time.AfterFunc(1500*time.Millisecond, func() {
			_, err := js.CreateStream(ctx, stream)
			after = time.Since(begun)
			made <- err
		})
		results := all(ctx)
		if err := <-made; err != nil {
			t.Fatal(err)
		}
		if after > 3*time.Second && try < 10 { // too late for who waits 4 s
			if err := js.DeleteStream(ctx, "KV_B"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for name, err := range results {
			if err != nil {
				t.Errorf("%s, somebody took it later: %v", name, err)
			}
		}
		break
	}
	if info := must(must(js.Stream(ctx, "KV_B"))(t).Info(ctx))(t); info.State.NumSubjects != uint64(len(writes)) {
		t.Errorf("%d of %d keys were written", info.State.NumSubjects, len(writes))
	}
}
