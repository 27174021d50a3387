package natsconn_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// TestNobodyTakesIt: what is written while a stream has nobody who takes it, here
// because it is away, arrives when there is somebody; it is not waited for without
// end, and no longer than the caller waits.
func TestNobodyTakesIt(t *testing.T) {
	t.Parallel()
	js := must(jetstream.New(natstest.Start(t).Connect()))(t)
	ctx := natstest.Context(t)
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
	// An election is waited for for 4 s. A machine may be as slow as that, but not each
	// time; and who waits for it whatever the caller says is never quicker.
	testenv.Until(t, "writes that end with their caller", func() error {
		soon, cancel := context.WithTimeout(ctx, 1200*time.Millisecond)
		defer cancel()
		begun := time.Now()
		for name, err := range all(soon) {
			if err == nil {
				t.Fatalf("%s: nobody took it", name)
			}
		}
		if took := time.Since(begun); took > 3*time.Second {
			return fmt.Errorf("the caller waited %s", took)
		}
		return nil
	})
	testenv.Until(t, "writes that nobody takes", func() error {
		for name, err := range all(t.Context()) {
			if err == nil {
				t.Fatalf("%s: nobody took it", name)
			}
			if !errors.Is(err, jetstream.ErrNoStreamResponse) {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	testenv.Until(t, "writes that somebody takes later, and not too late", func() error {
		made := make(chan error, 1)
		time.AfterFunc(1500*time.Millisecond, func() {
			_, err := js.CreateStream(ctx, stream)
			made <- err
		})
		results := all(ctx)
		if err := testenv.Receive(t, "the stream", made); err != nil {
			t.Fatal(err)
		}
		for name, err := range results {
			if err != nil {
				if derr := js.DeleteStream(ctx, "KV_B"); derr != nil {
					t.Fatal(derr)
				}
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	if info := must(must(js.Stream(ctx, "KV_B"))(t).Info(ctx))(t); info.State.NumSubjects != uint64(len(writes)) {
		t.Errorf("%d of %d keys were written", info.State.NumSubjects, len(writes))
	}
}
