package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"
)

// smallMessages is how many messages each of the many small streams has.
const smallMessages = 100

// small backs up an account of many small streams with `nats backup account`
// and with jetkeep, in turn.
func (b *bench) small(ctx context.Context, dir string) error {
	if err := b.deleteStream(ctx); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	log.Printf("making %d streams of %d messages", b.o.streams, smallMessages)
	if err := b.fillSmall(ctx); err != nil {
		return err
	}
	names := [2]string{fmt.Sprintf("jetkeep backup of %d streams", b.o.streams), fmt.Sprintf("nats backup account of %d streams", b.o.streams)}
	for n := range b.o.runs {
		at := filepath.Join(dir, fmt.Sprint(n))
		if err := errors.Join(os.MkdirAll(at, 0o700), b.forget(ctx)); err != nil {
			return err
		}
		ours, err := b.withService(ctx, at, names[0], "backup", "M_*")
		if err != nil {
			return err
		}
		theirs, err := command(ctx, names[1], b.o.nats, "-s", b.url, "backup", "account", filepath.Join(at, "nats"), "--force")
		if err != nil {
			return err
		}
		ours.stored, theirs.stored = growth(filepath.Join(at, "jetkeep", "repository")), growth(filepath.Join(at, "nats"))
		b.keep(ours, theirs)
		if err := os.RemoveAll(at); err != nil {
			return err
		}
	}
	b.ratios = append(b.ratios, ratio{names[0], names[1], "0.5"})
	return nil
}

func (b *bench) fillSmall(ctx context.Context) error {
	return b.js(func(js jetstream.JetStream) error {
		rng := rand.New(rand.NewPCG(5, 6))
		for i := range b.o.streams {
			subject := fmt.Sprintf("m.%d", i)
			_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: fmt.Sprintf("M_%04d", i), Subjects: []string{subject}})
			if err != nil {
				return err
			}
			for k := range smallMessages {
				if _, err := js.PublishAsync(subject, order(rng, k)); err != nil {
					return err
				}
			}
			select {
			case <-js.PublishAsyncComplete():
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
}
