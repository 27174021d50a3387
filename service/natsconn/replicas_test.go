package natsconn_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// TestReplicaBehind: a replica that was cut off from the others knows nothing of a
// key that they took, which is no reason to say that there is none.
func TestReplicaBehind(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, "", natstest.Severable(), natstest.Hidden())
	js := must(jetstream.New(c.Connect()))(t)
	ctx := t.Context() // whose calls end by themselves: some are not answered
	kv := must(natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{Bucket: "B"}))(t)
	must(kv.Put(ctx, "gone", []byte("x")))(t)
	if err := kv.Delete(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	c.AwaitReplicas(js.Conn(), "KV_B")
	leader := c.Leader(js.Conn(), "KV_B")
	behind := (leader + 1) % len(c.Nodes)
	others := must(natsconn.Bucket(ctx, must(jetstream.New(c.Nodes[leader].Connect()))(t), jetstream.KeyValueConfig{Bucket: "B"}))(t)
	there := must(jetstream.New(c.Nodes[behind].Connect()))(t)
	alone := must(natsconn.Bucket(ctx, there, jetstream.KeyValueConfig{Bucket: "B"}))(t)
	replica := must(there.KeyValue(ctx, "B"))(t)

	// A new replica answers no reads for some seconds.
	testenv.Until(t, "a replica that says that there is no key", func() error {
		c.Sever(behind)
		must(others.Put(natstest.Context(t), "k", []byte("v")))(t)
		_, err := replica.Get(ctx, "k")
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil
		}
		if err := others.Purge(natstest.Context(t), "k"); err != nil {
			t.Fatal(err)
		}
		c.Mend(behind)
		c.AwaitReplicas(js.Conn(), "KV_B")
		return fmt.Errorf("the replica says %w", err)
	})
	var wg sync.WaitGroup
	for _, key := range []string{"k", "gone"} {
		wg.Go(func() {
			e, err := alone.Get(ctx, key)
			if err == nil || errors.Is(err, jetstream.ErrKeyNotFound) {
				t.Errorf("key %s at a server that was cut off: %v, %v", key, e, err)
			}
		})
	}
	wg.Wait()
	c.Mend(behind)
	testenv.Until(t, "key k after the server was back", func() error {
		e, err := alone.Get(ctx, "k")
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Fatal("key k after the server was back: not found")
		}
		if err == nil && string(e.Value()) != "v" {
			t.Fatalf("key k after the server was back: %q", e.Value())
		}
		return err
	})
}

// A lagging JetStream has replicas of buckets that know of no key.
type lagging struct{ jetstream.JetStream }

func (l lagging) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := l.JetStream.KeyValue(ctx, bucket)
	return knowsNothing{kv}, err
}

type knowsNothing struct{ jetstream.KeyValue }

func (knowsNothing) Get(context.Context, string) (jetstream.KeyValueEntry, error) {
	return nil, jetstream.ErrKeyNotFound
}

// TestLeaderAnswers: what a replica does not know the leader hands out as a
// replica would have, and what was deleted is not there.
func TestLeaderAnswers(t *testing.T) {
	t.Parallel()
	plain := natstest.Start(t).Connect()
	edge := natstest.Start(t, natstest.Domain("edge")).Connect()
	for name, js := range map[string]jetstream.JetStream{
		"default": must(jetstream.New(plain))(t),
		"prefix":  must(jetstream.NewWithAPIPrefix(plain, "$JS.API"))(t),
		"domain":  must(jetstream.NewWithDomain(edge, "edge"))(t),
	} {
		ctx := natstest.Context(t)
		c := jetstream.KeyValueConfig{Bucket: "B-" + name, LimitMarkerTTL: time.Minute}
		right := must(natsconn.Bucket(ctx, js, c))(t)
		behind := must(natsconn.Bucket(ctx, lagging{js}, c))(t)
		if e, err := behind.Get(ctx, "never"); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Errorf("%s: key never: %v, %v", name, e, err)
		}
		for _, v := range []string{"", "v", "{\"a\": \"\u00e4\"}\x00\xff"} {
			revision := must(right.Put(ctx, "k.k", []byte(v)))(t)
			want := must(right.Get(ctx, "k.k"))(t)
			e, err := behind.Get(ctx, "k.k")
			if err != nil {
				t.Errorf("%s: key k.k: %v", name, err)
				continue
			}
			if string(e.Value()) != v || e.Revision() != revision || !e.Created().Equal(want.Created()) ||
				e.Bucket() != want.Bucket() || e.Key() != want.Key() || e.Operation() != want.Operation() || e.Delta() != want.Delta() {
				t.Errorf("%s: key k.k is %+v, want %+v", name, e, want)
			}
		}
		must(right.Put(ctx, "deleted", []byte("v")))(t)
		must(right.Put(ctx, "purged", []byte("v")))(t)
		must(right.Create(ctx, "aged", []byte("v"), jetstream.KeyTTL(time.Second)))(t)
		if err := errors.Join(right.Delete(ctx, "deleted"), right.Purge(ctx, "purged")); err != nil {
			t.Fatal(err)
		}
		testenv.True(t, "the end of key aged", func() bool {
			_, err := right.Get(ctx, "aged")
			return errors.Is(err, jetstream.ErrKeyNotFound)
		})
		for _, key := range []string{"deleted", "purged", "aged"} {
			if e, err := behind.Get(ctx, key); !errors.Is(err, jetstream.ErrKeyNotFound) {
				t.Errorf("%s: key %s: %v, %v", name, key, e, err)
			}
		}
	}
}

// TestNoLeaderToAsk: that there is no key is still said while the leader is lost,
// as soon as there is another. An election may last longer than is waited for it, but
// who says sooner that nobody answers has not waited.
func TestNoLeaderToAsk(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, natstest.Latest)
	js := must(jetstream.New(c.Connect()))(t)
	must(natsconn.Bucket(t.Context(), js, jetstream.KeyValueConfig{Bucket: "B"}))(t)
	c.AwaitReplicas(js.Conn(), "KV_B")
	leader := c.Leader(js.Conn(), "KV_B")
	left := must(jetstream.New(c.Nodes[(leader+1)%3].Connect()))(t)
	kv := must(natsconn.Bucket(t.Context(), left, jetstream.KeyValueConfig{Bucket: "B"}))(t)
	c.Kill(leader)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for begun := time.Now(); ; begun = time.Now() {
				_, err := kv.Get(t.Context(), "none")
				if errors.Is(err, jetstream.ErrKeyNotFound) {
					return
				}
				if err == nil || time.Since(begun) < natsconn.ReadWait || t.Context().Err() != nil {
					t.Error(err)
					return
				}
			}
		})
		time.Sleep(100 * time.Millisecond)
	}
	wg.Wait()
}
