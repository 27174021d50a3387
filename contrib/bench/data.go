package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const stream = "BENCH"

var (
	cities  = []string{"Zürich", "Porto", "Kraków", "Lagos", "Osaka", "Lima", "Halifax", "Perth", "Tromsø", "Busan"}
	states  = []string{"placed", "paid", "picked", "packed", "shipped", "delivered", "returned"}
	words   = []string{"linen", "walnut", "copper", "saddle", "harbour", "lantern", "pepper", "granite", "velvet", "maple", "cobalt", "thistle", "amber", "juniper", "basalt", "cinder"}
	sources = []string{"web", "app", "store", "partner"}
)

// fill publishes n messages of 1 KiB of JSON, with values as various as those
// of orders are: identifiers and amounts at random, names from small sets.
func fill(ctx context.Context, url string, n int) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return err
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{"orders.>"}})
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		if _, err := js.PublishAsync(fmt.Sprintf("orders.%d", i%1000), order(rng, i)); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(5 * time.Minute):
		return fmt.Errorf("%d messages are still not acknowledged", js.PublishAsyncPending())
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	if got := s.CachedInfo().State.Msgs; got != uint64(n) {
		return fmt.Errorf("stream holds %d messages, not %d", got, n)
	}
	return nil
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
