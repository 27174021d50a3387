package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// memoryBound is what the service promises to stay below, in MiB.
const memoryBound = 256

// A heavy stream is one that takes much memory for what it is.
type heavy struct {
	name string
	fill func(b *bench, ctx context.Context) (messages int, err error)
	// noRestore: no archive holds messages of more than 32 MiB, which servers take
	// in memory only, so that nothing restores them.
	noRestore bool
}

func heavies() []heavy {
	large := func(n, size int, in jetstream.StorageType) func(*bench, context.Context) (int, error) {
		return func(b *bench, ctx context.Context) (int, error) { return n, b.fillLarge(ctx, n, size, in) }
	}
	return []heavy{
		{"messages of 31 MiB", large(16, 31<<20, jetstream.FileStorage), false},
		{"messages of 64 MB", large(8, 64<<20, jetstream.MemoryStorage), true},
		{"1.5 M subjects, 1 M deletes", func(b *bench, ctx context.Context) (int, error) { return manySubjects, b.fillSubjects(ctx) }, false},
	}
}

// memory prints what the service takes at most for streams that take much, each
// in a process of its own.
func (b *bench) memory(ctx context.Context, dir string) error {
	url, server := b.url, b.server
	defer func() { b.url, b.server = url, server }()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	conf := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(conf, []byte("max_payload: 64MB\nmax_pending: 256MB\n"), 0o600); err != nil {
		return err
	}
	if err := b.startServer(ctx, filepath.Join(dir, "js"), "-c", conf); err != nil {
		return err
	}
	defer b.server.stop()
	for i, h := range heavies() {
		if err := b.weigh(ctx, filepath.Join(dir, fmt.Sprint(i)), h); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return nil
}

func (b *bench) weigh(ctx context.Context, dir string, h heavy) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := b.deleteStream(ctx); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	log.Printf("making a stream of %s", h.name)
	n, err := h.fill(b, ctx)
	if err != nil {
		return err
	}
	if err := b.forget(ctx); err != nil {
		return err
	}
	for _, step := range []string{"backup", "verify", "restore"} {
		args := []string{step, stream}
		switch {
		case step == "verify":
			args = []string{step, "--level", "records"}
		case step == "restore" && h.noRestore:
			continue
		case step == "restore":
			if err := b.deleteStream(ctx); err != nil {
				return err
			}
		}
		s, err := b.withService(ctx, dir, step+", "+h.name, args...)
		if err != nil {
			return err
		}
		if err := b.checkMessages(ctx, n); err != nil {
			return err
		}
		b.tell(s)
		b.keep(s)
		if s.rss>>20 > memoryBound {
			log.Printf("  that is more than %d MiB", memoryBound)
		}
	}
	return nil
}

// fillLarge makes a stream of messages that do not compress.
func (b *bench) fillLarge(ctx context.Context, n, size int, in jetstream.StorageType) error {
	size -= 1 << 10 // for what the client adds
	data, rng := make([]byte, size), rand.New(rand.NewPCG(7, 8))
	for i := 0; i+8 <= len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], rng.Uint64())
	}
	return b.js(func(js jetstream.JetStream) error {
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{"orders.>"}, Storage: in}); err != nil {
			return err
		}
		for i := range n {
			binary.LittleEndian.PutUint64(data, uint64(i))
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			_, err := js.Publish(ctx, fmt.Sprintf("orders.%d", i), data)
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// manySubjects is how many subjects the stream of many has; two of three of them
// got a second message, which took the place of the first one.
const manySubjects = 1_500_000

func (b *bench) fillSubjects(ctx context.Context) error {
	nc, err := nats.Connect(b.url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return err
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{"orders.>"}, MaxMsgsPerSubject: 1})
	if err != nil {
		return err
	}
	for round := range 2 {
		for i := range manySubjects {
			if round == 1 && i%3 == 0 {
				continue
			}
			if _, err := js.PublishAsync(fmt.Sprintf("orders.%d.customer", i), []byte("0123456789abcdef"), jetstream.WithStallWait(time.Minute)); err != nil {
				return err
			}
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-time.After(5 * time.Minute):
			return fmt.Errorf("%d messages are still not acknowledged", js.PublishAsyncPending())
		}
	}
	return nil
}
