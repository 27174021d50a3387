// Package sample fills a JetStream account with data that looks like
// somebody's: what a backup meets in practice, in small amounts.
//
// The content depends on the seed alone, so two fills differ only in their
// times. Fill returns once the server has confirmed every message and the
// mirror and the sourcing stream hold what they copy, or an error with the
// account partly filled. It wants an account that has none of these streams.
package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Size says how much data Fill makes.
type Size struct {
	Orders   int   // messages published to ORDERS; the other streams follow it
	Keys     int   // keys of the KV bucket
	Object   int64 // bytes of the large object
	WorkJobs int   // messages published to the work queue
}

// Default returns the size of the demo's data, about 35 MB.
func Default() Size {
	return Size{Orders: 12_000, Keys: 400, Object: 20 << 20, WorkJobs: 2_000}
}

// Streams names every stream that Fill makes, origins before their copies.
func Streams() []string {
	return []string{
		"ORDERS", "KV_settings", "OBJ_documents", "WORK", "LOGINS", "TICKS",
		"ORDERS_MIRROR", "BIG_ORDERS",
	}
}

// stallWait bounds the wait for the server to confirm what was published, and to
// deliver it. A server on a busy machine may be slow.
const stallWait = 2 * time.Minute

type filler struct {
	js   jetstream.JetStream
	rand *rand.Rand
	size Size
}

// Fill makes the sample streams in the account of the connection.
func Fill(ctx context.Context, nc *nats.Conn, size Size, seed uint64) error {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(512))
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	defer js.CleanupPublisher()
	f := &filler{js: js, rand: rand.New(rand.NewPCG(seed, 1)), size: size}
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"ORDERS", f.orders},
		{"KV_settings", f.settings},
		{"OBJ_documents", f.documents},
		{"WORK", f.work},
		{"LOGINS", f.logins},
		{"TICKS", f.ticks},
		{"ORDERS_MIRROR", f.mirror},
		{"BIG_ORDERS", f.sourced},
	}
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("make sample stream %s: %w", step.name, err)
		}
	}
	return nil
}

// publish sends n messages in order and waits until each is stored.
func (f *filler) publish(ctx context.Context, n int, next func(i int) *nats.Msg) error {
	futures := make([]jetstream.PubAckFuture, 0, n)
	for i := range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		future, err := f.js.PublishMsgAsync(next(i), jetstream.WithStallWait(stallWait))
		if err != nil {
			return fmt.Errorf("publish message %d: %w", i, err)
		}
		futures = append(futures, future)
	}
	for i, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return fmt.Errorf("publish message %d: %w", i, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// text returns about n bytes that compress like text does.
func (f *filler) text(n int) string {
	words := [...]string{
		"parcel", "harbour", "invoice", "Lisbon", "express", "pallet", "customs", "north",
		"warehouse", "retour", "signature", "fragile", "Tuesday", "container", "weight", "crate",
	}
	text := make([]byte, 0, n+16)
	for len(text) < n {
		text = append(append(text, words[f.rand.IntN(len(words))]...), ' ')
	}
	return string(text[:n])
}

var regions = [...]string{"eu", "us", "asia"}

func (f *filler) order(i int) *nats.Msg {
	region := regions[f.rand.IntN(len(regions))]
	subject := fmt.Sprintf("orders.%s.%s", region, [...]string{"created", "paid", "shipped"}[i%3])
	body := fmt.Sprintf(`{"order":%d,"region":%q,"customer":"C%06d","total":%.2f,"note":%q}`,
		i, region, f.rand.IntN(100_000), f.rand.Float64()*900, f.text(80+f.rand.IntN(500)))
	m := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}}
	m.Header.Set("Nats-Msg-Id", fmt.Sprintf("order-%d", i))
	if i%4 == 0 {
		m.Header.Set("Content-Type", "application/json")
		m.Header.Add("Trace", fmt.Sprintf("%016x", f.rand.Uint64()))
		m.Header.Add("Trace", fmt.Sprintf("%016x", f.rand.Uint64()))
	}
	if i%7 == 0 {
		m.Header = nil
	}
	if i%1000 == 999 {
		m.Data = nil // empty bodies happen
	}
	return m
}

func (f *filler) orders(ctx context.Context) error {
	stream, err := f.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "ORDERS", Subjects: []string{"orders.>"}, Description: "every order and what became of it",
		Duplicates: 10 * time.Minute, AllowDirect: true, Metadata: map[string]string{"team": "sales"},
	})
	if err != nil {
		return err
	}
	if err := f.publish(ctx, f.size.Orders, f.order); err != nil {
		return err
	}
	// Gaps of all kinds: the head, single messages, a run, the last message.
	last := uint64(f.size.Orders)
	doomed := []uint64{1, 2, 3, last / 2, last}
	for i := range last / 100 {
		doomed = append(doomed, 10+i*97)
	}
	for seq := last / 3; seq < last/3+last/50; seq++ {
		doomed = append(doomed, seq)
	}
	for _, seq := range doomed {
		if err := stream.DeleteMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			return fmt.Errorf("delete message %d: %w", seq, err)
		}
	}
	return f.orderConsumers(ctx, stream)
}

// orderConsumers makes a durable consumer in the middle of its work, with
// messages that it has not acknowledged, and an ephemeral one.
func (f *filler) orderConsumers(ctx context.Context, stream jetstream.Stream) error {
	durable, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "shipping", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour,
		FilterSubject: "orders.*.paid", MaxDeliver: 5, Metadata: map[string]string{"owner": "depot"},
	})
	if err != nil {
		return err
	}
	// One in eight stays without an answer.
	if err := take(ctx, durable, f.size.Orders/40, func(i int) bool { return i%8 != 5 }); err != nil {
		return err
	}
	ephemeral, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckAllPolicy, InactiveThreshold: time.Hour, AckWait: time.Hour,
	})
	if err != nil {
		return err
	}
	return take(ctx, ephemeral, 50, func(i int) bool { return i == 39 })
}

// take fetches n messages and acknowledges those that ack picks.
func take(ctx context.Context, c jetstream.Consumer, n int, ack func(i int) bool) error {
	for taken := 0; taken < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch, err := c.Fetch(min(n-taken, 500), jetstream.FetchMaxWait(stallWait))
		if err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		before := taken
		for m := range batch.Messages() {
			if ack(taken) {
				if err := m.DoubleAck(ctx); err != nil {
					return fmt.Errorf("acknowledge: %w", err)
				}
			}
			taken++
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		if taken == before {
			return fmt.Errorf("consumer delivered %d messages of %d", taken, n)
		}
	}
	return nil
}

func (f *filler) settings(ctx context.Context) error {
	kv, err := f.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "settings", History: 5, Description: "settings of the shop"})
	if err != nil {
		return err
	}
	for round := range 4 {
		for i := range f.size.Keys {
			if i%(round+1) != 0 {
				continue
			}
			value := fmt.Sprintf(`{"round":%d,"value":%q}`, round, f.text(20+f.rand.IntN(60)))
			if _, err := kv.PutString(ctx, fmt.Sprintf("shop.%03d.limit", i), value); err != nil {
				return fmt.Errorf("put key: %w", err)
			}
		}
	}
	for i := 0; i < f.size.Keys; i += 25 {
		if err := kv.Delete(ctx, fmt.Sprintf("shop.%03d.limit", i)); err != nil {
			return fmt.Errorf("delete key: %w", err)
		}
	}
	for i := 7; i < f.size.Keys; i += 50 {
		if err := kv.Purge(ctx, fmt.Sprintf("shop.%03d.limit", i)); err != nil {
			return fmt.Errorf("purge key: %w", err)
		}
	}
	return nil
}

func (f *filler) documents(ctx context.Context) error {
	store, err := f.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "documents", Description: "scans and films"})
	if err != nil {
		return err
	}
	// Film does not compress, paper does.
	film := io.LimitReader(rand.NewChaCha8([32]byte{byte(f.rand.Uint32())}), f.size.Object)
	if _, err := store.Put(ctx, jetstream.ObjectMeta{
		Name: "film.mp4", Description: "the yard at night",
		Headers: nats.Header{"Content-Type": {"video/mp4"}},
	}, film); err != nil {
		return fmt.Errorf("put object: %w", err)
	}
	for _, name := range []string{"contract.txt", "draft.txt", "empty.txt"} {
		text := ""
		if name != "empty.txt" {
			text = f.text(300_000)
		}
		if _, err := store.PutString(ctx, name, text); err != nil {
			return fmt.Errorf("put object: %w", err)
		}
	}
	return store.Delete(ctx, "draft.txt")
}

func (f *filler) work(ctx context.Context) error {
	stream, err := f.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "WORK", Subjects: []string{"work.*"}, Retention: jetstream.WorkQueuePolicy,
	})
	if err != nil {
		return err
	}
	err = f.publish(ctx, f.size.WorkJobs, func(i int) *nats.Msg {
		return &nats.Msg{Subject: "work." + regions[i%3], Data: fmt.Appendf(nil, `{"job":%d,"script":%q}`, i, f.text(200))}
	})
	if err != nil {
		return err
	}
	worker, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "worker", AckWait: time.Hour})
	if err != nil {
		return err
	}
	// What is acknowledged leaves the stream; a few jobs are being worked on.
	return take(ctx, worker, f.size.WorkJobs/4, func(i int) bool { return i%20 != 3 })
}

func (f *filler) logins(ctx context.Context) error {
	if _, err := f.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "LOGINS", Subjects: []string{"login.*"}, MaxAge: 24 * time.Hour, Compression: jetstream.S2Compression,
	}); err != nil {
		return err
	}
	return f.publish(ctx, f.size.Orders/4, func(int) *nats.Msg {
		user := f.rand.IntN(500)
		return &nats.Msg{Subject: fmt.Sprintf("login.u%d", user), Data: fmt.Appendf(nil, `{"user":%d,"agent":%q}`, user, f.text(60))}
	})
}

func (f *filler) ticks(ctx context.Context) error {
	stream, err := f.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "TICKS", Subjects: []string{"tick.>"}, Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 300,
	})
	if err != nil {
		return err
	}
	err = f.publish(ctx, f.size.Orders/5, func(i int) *nats.Msg {
		return &nats.Msg{Subject: fmt.Sprintf("tick.%s.%d", regions[i%3], i%7), Data: fmt.Appendf(nil, "%.5f", f.rand.NormFloat64())}
	})
	if err != nil {
		return err
	}
	for seq := uint64(f.size.Orders/5 - 40); seq < uint64(f.size.Orders/5-20); seq++ {
		if err := stream.DeleteMsg(ctx, seq); err != nil {
			return fmt.Errorf("delete message %d: %w", seq, err)
		}
	}
	monitor, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "monitor", AckWait: time.Hour, FilterSubject: "tick.eu.*"})
	if err != nil {
		return err
	}
	return take(ctx, monitor, 20, func(i int) bool { return i%3 != 1 })
}

func (f *filler) mirror(ctx context.Context) error {
	stream, err := f.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "ORDERS_MIRROR", Mirror: &jetstream.StreamSource{Name: "ORDERS"}, AllowDirect: true, MirrorDirect: true,
	})
	if err != nil {
		return err
	}
	origin, err := f.js.Stream(ctx, "ORDERS")
	if err != nil {
		return err
	}
	return settle(ctx, stream, origin.CachedInfo().State.Msgs)
}

func (f *filler) sourced(ctx context.Context) error {
	origin, err := f.js.Stream(ctx, "ORDERS")
	if err != nil {
		return err
	}
	const filter = "orders.eu.paid"
	info, err := origin.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return err
	}
	stream, err := f.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "BIG_ORDERS", Subjects: []string{"big.orders"},
		Sources: []*jetstream.StreamSource{{Name: "ORDERS", FilterSubject: filter}},
	})
	if err != nil {
		return err
	}
	return settle(ctx, stream, info.State.Subjects[filter])
}

// settle waits until the copy holds as many messages as its origin.
func settle(ctx context.Context, stream jetstream.Stream, messages uint64) error {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		info, err := stream.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.Msgs == messages {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d messages, have %d: %w", messages, info.State.Msgs, ctx.Err())
		case <-poll.C:
		}
	}
}
