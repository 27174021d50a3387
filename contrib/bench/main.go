// Command bench measures backups and restores end to end and as separate
// processes, and what the usual tools need for the same on the same machine in
// the same run. It prints tables of medians and the ratios that the project
// holds itself to. What it measures is chosen with -cases:
//
//   - full: full backup and restore of one large stream, against `nats backup
//     stream` followed by `restic backup`, and back;
//   - sealed: the same backup and restore with encryption and without;
//   - increments: what a second backup uploads after the stream was changed a
//     little, against the same two, and from a rebuilt replica in a cluster;
//   - small: many small streams, against `nats backup account`;
//   - memory: what the service takes at most for large messages and for many
//     subjects.
//
// It needs nats-server, nats, restic and jetkeep as programs; `make bench`
// provides them. It exits non-zero only if something could not be measured or
// came back different, never because a bound was missed: machines differ, and
// the ratios are for people to read.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(log.Ltime)
	var o options
	flag.StringVar(&o.server, "nats-server", "nats-server", "path of nats-server")
	flag.StringVar(&o.nats, "nats", "nats", "path of the nats command")
	flag.StringVar(&o.restic, "restic", "restic", "path of restic")
	flag.StringVar(&o.jetkeep, "jetkeep", "jetkeep", "path of jetkeep")
	flag.IntVar(&o.runs, "runs", 5, "measured runs of each case, after one warm-up")
	flag.IntVar(&o.messages, "messages", 1<<20, "messages of 1 KiB in the stream")
	flag.IntVar(&o.streams, "streams", 1000, "how many small streams")
	flag.Func("cases", "what to measure, of full, sealed, increments, small, memory (default all)", func(s string) error {
		o.cases = strings.Split(s, ",")
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Fatal(err)
	}
}

type options struct {
	server, nats, restic, jetkeep string
	runs, messages, streams       int
	cases                         []string
}

func (o *options) wants(c string) bool { return len(o.cases) == 0 || slices.Contains(o.cases, c) }

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "jetkeep-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{o: o, dir: dir, results: map[string][]sample{}}
	if err := b.startServer(ctx, filepath.Join(dir, "js")); err != nil {
		return err
	}
	defer b.server.stop()
	for _, c := range []struct {
		name string
		run  func(ctx context.Context, dir string) error
	}{
		{"full", b.full}, {"sealed", b.sealed}, {"increments", b.increments}, {"increments", b.leaderChange}, {"small", b.small}, {"memory", b.memory},
	} {
		if !o.wants(c.name) {
			continue
		}
		log.Printf("case %s", c.name)
		if err := c.run(ctx, filepath.Join(dir, c.name)); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	b.print(os.Stdout)
	b.printIncrements(os.Stdout)
	return nil
}

// tell logs samples as they are taken.
func (b *bench) tell(samples ...sample) {
	for _, s := range samples {
		log.Printf("  %-36s %6.2f s wall %6.2f s cpu %5d MiB rss %5d MiB stored", s.name, s.wall.Seconds(), s.cpu.Seconds(), s.rss>>20, s.stored>>20)
	}
}

// full measures backups and restores of the whole stream.
func (b *bench) full(ctx context.Context, dir string) error {
	if err := b.renew(ctx, b.o.messages, 1); err != nil {
		return err
	}
	for i := range b.o.runs + 1 {
		log.Printf("run %d of %d (0 is the warm-up)", i, b.o.runs)
		if err := b.once(ctx, filepath.Join(dir, fmt.Sprint(i)), i > 0); err != nil {
			return err
		}
	}
	b.ratios = append(b.ratios,
		ratio{"jetkeep backup", "nats + restic backup", "0.6"},
		ratio{"jetkeep backup", "raw drain of the snapshot", "1.4 with the fast codec"},
		ratio{"jetkeep restore without read-back", "restic + nats restore", "0.5"},
		ratio{"jetkeep restore with read-back", "restic + nats restore", "none"},
	)
	return nil
}

// once measures each case one time, in turn, so that a machine that becomes
// slower meanwhile does so for all of them.
func (b *bench) once(ctx context.Context, dir string, count bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, step := range []struct {
		name string
		run  func(ctx context.Context, dir string) ([]sample, error)
	}{
		{"raw drain of the snapshot", b.drain},
		{"peers' backup", b.peersBackup},
		{"jetkeep backup", b.jetkeepBackup},
		{"peers' restore", b.peersRestore},
		{"jetkeep restore", b.jetkeepRestore},
	} {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
		samples, err := step.run(ctx, dir)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		for _, s := range samples {
			b.tell(s)
			if count {
				b.keep(s)
			}
		}
	}
	return nil
}
