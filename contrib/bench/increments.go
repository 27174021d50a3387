package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go/jetstream"
)

// An increment is what one backup added to each repository after one change.
type increment struct {
	name    string
	fresh   int64 // compressed size of the records that the change added
	jetkeep sample
	peers   sample
}

// increments backs one stream up again and again with both, after one change
// each time, into the same two repositories, and notes by how much each grew.
func (b *bench) increments(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(b.forget(ctx), b.renew(ctx, b.o.messages, 1)); err != nil {
		return err
	}
	one := b.o.messages / 100
	next := b.o.messages
	appendOne := func(ctx context.Context) (int64, error) {
		rng := rand.New(rand.NewPCG(uint64(next), 2))
		size, err := b.publish(ctx, rng, next, one)
		next += one
		return size, err
	}
	expireOne := func(ctx context.Context) error {
		return b.js(func(js jetstream.JetStream) error {
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			return s.Purge(ctx, jetstream.WithPurgeSequence(s.CachedInfo().State.FirstSeq+uint64(one)))
		})
	}
	for _, c := range []struct {
		name   string
		change func(context.Context) (int64, error)
	}{
		{"first backup", func(context.Context) (int64, error) { return 0, nil }},
		{"1 % appended and 1 % expired at the front", func(ctx context.Context) (int64, error) {
			size, err := appendOne(ctx)
			if err != nil {
				return 0, err
			}
			return size, expireOne(ctx)
		}},
		{"1 % appended", appendOne},
		{"1 % expired at the front", func(ctx context.Context) (int64, error) { return 0, expireOne(ctx) }},
		{"3 % deleted inside", func(ctx context.Context) (int64, error) { return 0, b.deleteInside(ctx, 3*one) }},
		{"nothing changed", func(context.Context) (int64, error) { return 0, nil }},
	} {
		fresh, err := c.change(ctx)
		if err != nil {
			return fmt.Errorf("%s: change stream: %w", c.name, err)
		}
		if err := b.grow(ctx, dir, c.name, fresh); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// grow backs the stream up with both and keeps what it took.
func (b *bench) grow(ctx context.Context, dir, name string, fresh int64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	i := increment{name: name, fresh: fresh}
	ours, theirs := filepath.Join(dir, "jetkeep", "repository"), filepath.Join(dir, "restic")
	before := [2]int64{growth(ours), growth(theirs)}
	var err error
	if i.jetkeep, err = b.withService(ctx, dir, "jetkeep backup", "backup", stream); err != nil {
		return err
	}
	samples, err := b.peersBackup(ctx, dir)
	if err != nil {
		return err
	}
	i.peers = samples[len(samples)-1]
	i.jetkeep.stored, i.peers.stored = growth(ours)-before[0], growth(theirs)-before[1]
	b.grown = append(b.grown, i)
	log.Printf("  %-42s jetkeep %9d bytes %6.2f s, nats + restic %9d bytes %6.2f s", name,
		i.jetkeep.stored, i.jetkeep.wall.Seconds(), i.peers.stored, i.peers.wall.Seconds())
	return nil
}

// growth is the size of a directory that may not be there yet.
func growth(dir string) int64 {
	n, err := sizeOf(dir)
	if err != nil {
		return 0
	}
	return n
}

// deleteInside deletes n messages at random.
func (b *bench) deleteInside(ctx context.Context, n int) error {
	return b.js(func(js jetstream.JetStream) error {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		st := s.CachedInfo().State
		rng := rand.New(rand.NewPCG(3, 4))
		for done := map[uint64]bool{}; len(done) < n; {
			seq := st.FirstSeq + 1 + rng.Uint64N(st.LastSeq-st.FirstSeq-1)
			if done[seq] {
				continue
			}
			done[seq] = true
			if err := s.DeleteMsg(ctx, seq); err != nil {
				return err
			}
		}
		return nil
	})
}

// leaderChange does the same on a cluster, where the second backup comes from a
// replica that was rebuilt from nothing meanwhile.
func (b *bench) leaderChange(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := startCluster(ctx, b.o.server, filepath.Join(dir, "cluster"))
	if err != nil {
		return err
	}
	defer c.stop()
	single := b.url
	b.url = c.url
	defer func() { b.url = single }()
	if err := b.renew(ctx, b.o.messages/4, 3); err != nil {
		return err
	}
	if err := b.grow(ctx, dir, "first backup of a quarter, in a cluster", 0); err != nil {
		return err
	}
	if err := rebuild(ctx, b); err != nil {
		return fmt.Errorf("rebuild replicas: %w", err)
	}
	return b.grow(ctx, dir, "leader changed to a rebuilt replica", 0)
}

// A squeezer sums up the size that records have once they are compressed as
// jetkeep does by default, in segments of 2 MiB.
type squeezer struct {
	enc   *zstd.Encoder
	buf   []byte
	bytes int64
}

func newSqueezer() (*squeezer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	return &squeezer{enc: enc}, err
}

func (s *squeezer) add(record []byte) {
	if s.buf = append(s.buf, record...); len(s.buf) >= 2<<20 {
		s.flush()
	}
}

func (s *squeezer) flush() {
	s.bytes += int64(len(s.enc.EncodeAll(s.buf, nil)))
	s.buf = s.buf[:0]
}

func (b *bench) printIncrements(w io.Writer) {
	if len(b.grown) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "after\tjetkeep bytes\ts\tnats + restic bytes\ts\tjetkeep / new records compressed")
	for _, i := range b.grown {
		ratio := "-"
		if i.fresh > 0 {
			ratio = fmt.Sprintf("%d / %d = %.2f (bound 1.1)", i.jetkeep.stored, i.fresh, float64(i.jetkeep.stored)/float64(i.fresh))
		}
		fmt.Fprintf(t, "%s\t%d\t%.2f\t%d\t%.2f\t%s\n", i.name, i.jetkeep.stored, i.jetkeep.wall.Seconds(), i.peers.stored, i.peers.wall.Seconds(), ratio)
	}
	_ = t.Flush() // to a terminal or file; what follows fails too if it does
	fmt.Fprintln(w)
}
