package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
)

// A specimen is a small but complete repository and what must be in it.
type specimen struct {
	name    string
	objects map[string][]byte
	open    func(ctx context.Context, b *object.Bucket) (*Repository, error)
	heads   map[string]Head
	records map[string][][]byte        // of each restore point
	needs   map[string]map[string]bool // which restore points need an object
	// apart says what Verify says of an object that no restore point needs.
	apart func(name string) string
}

// A blow is one way to damage a store.
type blow struct {
	kind    string
	objects []string // that are damaged
	strike  func(d *mem.Driver)
}

func (s *specimen) driver(t testing.TB) *mem.Driver {
	t.Helper()
	d := mem.New()
	b := object.NewBucket(d)
	for name, data := range s.objects {
		if err := b.PutBytes(context.Background(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// blows makes n random ways to damage the specimen: mostly single bits.
func (s *specimen) blows(r *rand.Rand, n int) []blow {
	names := slices.Sorted(maps.Keys(s.objects))
	pick := func() string { return names[r.IntN(len(names))] }
	var out []blow
	for i := range n {
		name := pick()
		if i < 4*len(names) { // each object is struck in each way
			name = names[i/4]
		}
		data := s.objects[name]
		set := func(to []byte) func(*mem.Driver) {
			return func(d *mem.Driver) { d.Corrupt(name, func([]byte) []byte { return to }) }
		}
		switch kind := i % 20; {
		case kind == 0 || kind == 1 && i < 4*len(names):
			out = append(out, blow{"deletion", []string{name}, func(d *mem.Driver) { _ = d.Delete(context.Background(), name) }})
		case kind == 1:
			out = append(out, blow{"truncation", []string{name}, set(data[:r.IntN(len(data))])})
		case kind == 2:
			other := pick()
			if bytes.Equal(data, s.objects[other]) {
				other = names[(slices.Index(names, name)+1)%len(names)]
			}
			out = append(out, blow{"swap", []string{name, other}, func(d *mem.Driver) {
				d.Corrupt(name, func([]byte) []byte { return s.objects[other] })
				d.Corrupt(other, func([]byte) []byte { return data })
			}})
		case kind == 3:
			out = append(out, blow{"addition", []string{name}, set(append(slices.Clone(data), byte(r.IntN(256))))})
		default:
			bit := r.IntN(8 * len(data))
			flipped := slices.Clone(data)
			flipped[bit/8] ^= 1 << (bit % 8)
			out = append(out, blow{"bit", []string{name}, set(flipped)})
		}
	}
	return out
}

// judge strikes once and says what is wrong with what Verify and readers say.
func (s *specimen) judge(t testing.TB, b blow) error {
	ctx := context.Background()
	d := s.driver(t)
	b.strike(d)
	want := map[string]bool{}
	for _, o := range b.objects {
		maps.Copy(want, s.needs[o])
	}
	r, err := s.open(ctx, object.NewBucket(d))
	if err != nil {
		if slices.Contains(b.objects, markerName) {
			return nil
		}
		return fmt.Errorf("open: %w", err)
	}
	if slices.Contains(b.objects, markerName) {
		return errors.New("the marker is damaged, and opened")
	}
	rep, err := r.Verify(ctx, VerifyOptions{Level: VerifyRecords, Heads: s.heads})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if err := s.judgeReport(b, rep, want); err != nil {
		return fmt.Errorf("%w\nproblems: %v\nnotes: %v", err, rep.Problems, rep.Notes)
	}
	return s.judgeReading(ctx, r, want)
}

func (s *specimen) judgeReport(b blow, rep *VerifyReport, want map[string]bool) error {
	if !slices.Equal(rep.Damaged, slices.Sorted(maps.Keys(want))) {
		return fmt.Errorf("damage reaches %v, Verify says %v", slices.Sorted(maps.Keys(want)), rep.Damaged)
	}
	for _, o := range b.objects {
		named := slices.IndexFunc(rep.Problems, func(p Problem) bool { return p.Object == o })
		if named >= 0 {
			continue
		}
		text := s.apart(o)
		if text == "" {
			return fmt.Errorf("%s is not named", o)
		}
		if !slices.ContainsFunc(rep.Notes, func(n string) bool { return strings.Contains(n, text) }) {
			return fmt.Errorf("%s: no note says %q", o, text)
		}
	}
	return nil
}

// judgeReading reads every restore point: none that is damaged ends well, and
// what ends well is right.
func (s *specimen) judgeReading(ctx context.Context, r *Repository, damaged map[string]bool) error {
	for id, want := range s.records {
		got, err := readAll(ctx, r, id)
		if err == nil && !slices.EqualFunc(got, want, bytes.Equal) {
			return fmt.Errorf("restore point %s was read to its end, with %d records, and is wrong", id, len(got))
		}
		if err != nil && !damaged[id] {
			return fmt.Errorf("restore point %s is sound and cannot be read: %w", id, err)
		}
	}
	return nil
}

// run strikes n times and prints the counts.
func (s *specimen) run(t *testing.T, seed uint64, n int) {
	t.Helper()
	if err := s.judge(t, blow{strike: func(*mem.Driver) {}}); err != nil {
		t.Fatalf("%s, undamaged: %v", s.name, err)
	}
	blows := s.blows(rand.New(rand.NewPCG(seed, 3)), n)
	var g errgroup.Group
	g.SetLimit(2)
	var wrong atomic.Int64
	for i, b := range blows {
		g.Go(func() error {
			if err := s.judge(t, b); err != nil && wrong.Add(1) < 10 {
				t.Errorf("%s, seed %d, %d: %s of %v: %v", s.name, seed, i, b.kind, b.objects, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	counts, struck := map[string]int{}, map[string]bool{}
	for _, b := range blows {
		counts[b.kind]++
		for _, o := range b.objects {
			struck[o] = true
		}
	}
	if len(struck) != len(s.objects) {
		t.Errorf("%s: %d of %d objects were struck", s.name, len(struck), len(s.objects))
	}
	t.Logf("%s, seed %d: %d objects; %v; %d not found", s.name, seed, len(s.objects), counts, wrong.Load())
}
