package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/store/record"
)

const stream = "BENCH"

var (
	cities  = []string{"Zürich", "Porto", "Kraków", "Lagos", "Osaka", "Lima", "Halifax", "Perth", "Tromsø", "Busan"}
	states  = []string{"placed", "paid", "picked", "packed", "shipped", "delivered", "returned"}
	words   = []string{"linen", "walnut", "copper", "saddle", "harbour", "lantern", "pepper", "granite", "velvet", "maple", "cobalt", "thistle", "amber", "juniper", "basalt", "cinder"}
	sources = []string{"web", "app", "store", "partner"}
)

// renew makes the stream anew, with n messages of 1 KiB of JSON, with values as
// various as those of orders are: identifiers and amounts at random, names from
// small sets.
func (b *bench) renew(ctx context.Context, n, replicas int) error {
	log.Printf("publishing %d messages of 1 KiB", n)
	err := b.js(func(js jetstream.JetStream) error {
		if err := js.DeleteStream(ctx, stream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{"orders.>"}, Replicas: replicas})
		return err
	})
	if err != nil {
		return err
	}
	_, err = b.publish(ctx, rand.New(rand.NewPCG(1, 2)), 0, n)
	return err
}

// publish adds n messages and returns the size of their records, compressed as
// a backup that holds nothing else would have them.
func (b *bench) publish(ctx context.Context, rng *rand.Rand, from, n int) (int64, error) {
	squeezer, err := newSqueezer()
	if err != nil {
		return 0, err
	}
	nc, err := nats.Connect(b.url)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return 0, err
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	before := s.CachedInfo().State
	var buf []byte
	for i := range n {
		subject, data := fmt.Sprintf("orders.%d", (from+i)%1000), order(rng, from+i)
		if _, err := js.PublishAsync(subject, data); err != nil {
			return 0, err
		}
		if from > 0 { // of the many that come first nobody asks
			r := record.Record{Sequence: before.LastSeq + uint64(i) + 1, Time: time.Now().UnixNano(), Subject: []byte(subject), Data: data}
			buf = record.Append(buf[:0], &r)
			squeezer.add(buf)
		}
	}
	squeezer.flush()
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(5 * time.Minute):
		return 0, fmt.Errorf("%d messages are still not acknowledged", js.PublishAsyncPending())
	}
	info, err := s.Info(ctx)
	if err != nil {
		return 0, err
	}
	if got := info.State.Msgs - before.Msgs; got != uint64(n) {
		return 0, fmt.Errorf("stream grew by %d messages, not %d", got, n)
	}
	return squeezer.bytes, nil
}

func order(rng *rand.Rand, i int) []byte {
	pick := func(s []string) string { return s[rng.IntN(len(s))] }
	b := make([]byte, 0, 1100)
	b = fmt.Appendf(b, `{"order_id":"%08x-%04x","seq":%d,"customer":{"id":%d,"city":"%s","email":"%s.%s%d@example.org"},"state":"%s","source":"%s","placed_at":"2026-%02d-%02dT%02d:%02d:%02d.%03dZ","items":[`,
		rng.Uint32(), rng.IntN(65536), i, rng.IntN(500000), pick(cities), pick(words), pick(words), rng.IntN(1000), pick(states), pick(sources),
		1+rng.IntN(12), 1+rng.IntN(28), rng.IntN(24), rng.IntN(60), rng.IntN(60), rng.IntN(1000))
	for first := true; len(b) < 880; first = false {
		if !first {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"sku":"%s-%s-%05d","quantity":%d,"unit_price":%d.%02d,"currency":"EUR"}`,
			pick(words), pick(words), rng.IntN(100000), 1+rng.IntN(9), rng.IntN(400), rng.IntN(100))
	}
	b = fmt.Appendf(b, `],"note":"`)
	for len(b) < 1024-12 {
		b = append(b, pick(words)...)
		b = append(b, ' ')
	}
	b = append(b[:1024-2], '"', '}')
	return b
}
