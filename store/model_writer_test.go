package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// The same with real records: writers that build on earlier restore points, and
// readers that read every record. It is slower, so there are fewer.
func TestModelWithRecords(t *testing.T) {
	t.Parallel()
	runs, seed := modelFlags(t)
	noise() // made before there is a bubble
	total := map[string]int{}
	for i := range max(1, runs/10) {
		stats, _, failure := modelRun(t, seed+uint64(i), t.TempDir())
		if failure != "" {
			t.Fatalf("seed %d: %s", seed+uint64(i), failure)
		}
		for k, n := range stats {
			total[k] += n
		}
	}
	t.Logf("%d interleavings from seed %d: %v", max(1, runs/10), seed, total)
	for _, what := range []string{"committed", "forgotten", "deleted", "pruned", "read", "continued"} {
		if runs >= 1000 && total[what] == 0 {
			t.Errorf("%s never happened", what)
		}
	}
}

// A modelStream is a stream whose records never change; more come, and some are
// deleted.
type modelStream struct {
	last uint64
	dead seqset.Set
}

// goOn has it grow and lose records, not always: what is stored shall be the
// same again and again.
func (s *modelStream) goOn(a *actor) (last uint64, dead *seqset.Set) {
	if s.last == 0 || a.rng.IntN(3) == 0 {
		s.last += 10 * uint64(1+a.rng.IntN(3))
	}
	if a.rng.IntN(5) == 0 {
		first := 1 + a.rng.Uint64N(s.last)
		s.dead.AddRange(first, min(s.last, first+a.rng.Uint64N(30)))
	}
	return s.last, s.dead.Clone()
}

// record is what a backup does: it sends everything, and the writer stores
// what is new.
func (p play) record(a *actor, r *Repository, stream, task string) (err error) {
	ctx := context.Background()
	var base Point
	if a.rng.IntN(3) > 0 {
		if base, err = r.Latest(ctx, "default", stream); err != nil && !errors.Is(err, ErrNoPoint) {
			return err
		}
	}
	if err := p.dawdle(a, r); err != nil {
		return err
	}
	dir := filepath.Join(p.dir, fmt.Sprint(a.id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	area, err := staging.Open(dir, 4<<20)
	if err != nil {
		return err
	}
	defer area.Close()
	w, err := r.NewWriter(ctx, WriterOptions{Staging: area, Task: task, Target: "default", Stream: stream, Workers: 1})
	if err != nil {
		return err
	}
	defer w.Abort()
	p.w.mu.Lock()
	last, dead := p.w.streams[stream].goOn(a)
	p.w.mu.Unlock()
	alive := &seqset.Set{}
	if last > 0 {
		alive.AddRange(1, last)
	}
	alive.Subtract(dead)
	if base.ID != "" {
		if err := w.Continue(ctx, base, alive); err == nil {
			p.w.count("continued")
		} else if !errors.Is(err, ErrBase) {
			return err
		}
	}
	// Some are deleted after they were sent.
	late := &seqset.Set{}
	if !alive.Empty() && a.rng.IntN(3) == 0 {
		late.Add(alive.First())
	}
	for seq := range alive.All() {
		if err := w.Append(makeRecord(seq, 60)); err != nil {
			return err
		}
	}
	c, err := w.Finish(ctx, late)
	if err != nil {
		return err
	}
	alive.Subtract(late)
	if c.Messages != alive.Len() {
		return fmt.Errorf("%d messages stored, %d alive", c.Messages, alive.Len())
	}
	point := makePoint(task, c)
	point.Backup, point.Stream = "backup-"+task[:1], stream
	for range 3 {
		if err = r.Commit(ctx, point); !errors.Is(err, errFlaky) {
			break
		}
	}
	return err
}

// readRecords reads every record, and says whether each is what it must be.
func readRecords(ctx context.Context, r *Repository, p Point) error {
	rd, err := r.NewReader(ctx, p)
	if err != nil {
		return err
	}
	defer rd.Close()
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if want := makeRecord(rec.Sequence, 60); string(encode(want)) != string(encode(rec)) {
			return fmt.Errorf("record %d of %s is another", rec.Sequence, p.ID)
		}
	}
}
