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
	notes   []string                   // of Verify, while it is undamaged
}

// A blow is one way to damage a store.
type blow struct {
	kind    string
	objects []string // that are damaged
	strike  func(d *mem.Driver)
	readAll bool // read the sound restore points, too
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
	// Most objects are small packs: the others are struck as often.
	var others []string
	for _, name := range names {
		if !strings.HasPrefix(name, packsPrefix) {
			others = append(others, name)
		}
	}
	pick := func() string {
		if r.IntN(2) == 0 {
			return others[r.IntN(len(others))]
		}
		return names[r.IntN(len(names))]
	}
	var out []blow
	add := func(kind string, objects []string, strike func(*mem.Driver)) {
		out = append(out, blow{kind, objects, strike, len(out)%10 == 0})
	}
	for i := range n {
		name := pick()
		kind := 4 + r.IntN(36)
		if i < 5*len(names) { // each object in each way
			name, kind = names[i/5], i%5
		}
		data := s.objects[name]
		set := func(to []byte) func(*mem.Driver) {
			return func(d *mem.Driver) { d.Corrupt(name, func([]byte) []byte { return to }) }
		}
		switch kind {
		case 0, 5:
			add("deletion", []string{name}, func(d *mem.Driver) { _ = d.Delete(context.Background(), name) })
		case 1, 6:
			add("truncation", []string{name}, set(data[:r.IntN(len(data))]))
		case 2, 7:
			other := pick()
			if bytes.Equal(data, s.objects[other]) {
				other = names[(slices.Index(names, name)+1)%len(names)]
			}
			add("swap", []string{name, other}, func(d *mem.Driver) {
				d.Corrupt(name, func([]byte) []byte { return s.objects[other] })
				d.Corrupt(other, func([]byte) []byte { return data })
			})
		case 3, 8:
			add("addition", []string{name}, set(append(slices.Clone(data), byte(r.IntN(256)))))
		default:
			bit := r.IntN(8 * len(data))
			flipped := slices.Clone(data)
			flipped[bit/8] ^= 1 << (bit % 8)
			add("bit", []string{name}, set(flipped))
		}
	}
	return out
}

// judge strikes once, says what is wrong with what Verify and readers say, and
// makes the store whole again.
func (s *specimen) judge(d *mem.Driver, b blow) error {
	ctx := context.Background()
	b.strike(d)
	defer s.mend(d, b.objects)
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
	b.objects = slices.DeleteFunc(slices.Clone(b.objects), func(o string) bool {
		again := s.putRight(ctx, d, o, rep)
		if again {
			delete(want, strings.TrimPrefix(o, commitPrefix))
		}
		return again
	})
	if err := s.judgeReport(b, rep, want); err != nil {
		return fmt.Errorf("%w\nproblems: %v\nnotes: %v", err, rep.Problems, rep.Notes)
	}
	return s.judgeReading(ctx, r, want, b.readAll)
}

// putRight says whether a verification put a commit record that was missing back
// as it was, from the log, and said so.
func (s *specimen) putRight(ctx context.Context, d *mem.Driver, name string, rep *VerifyReport) bool {
	id, ok := strings.CutPrefix(name, commitPrefix)
	if !ok || !slices.ContainsFunc(rep.Notes, func(n string) bool { return strings.Contains(n, "restore point "+id+" could not be found by its id") }) {
		return false
	}
	got, err := object.NewBucket(d).ReadAll(ctx, name, 1<<20)
	return err == nil && bytes.Equal(got, s.objects[name])
}

func (s *specimen) mend(d *mem.Driver, names []string) {
	for _, name := range names {
		if !d.Corrupt(name, func([]byte) []byte { return s.objects[name] }) {
			_ = object.NewBucket(d).PutBytes(context.Background(), name, s.objects[name])
		}
	}
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
		// What is not there may never have been: the notes count it.
		if !apart(o) || slices.Equal(rep.Notes, s.notes) {
			return fmt.Errorf("%s is not named", o)
		}
	}
	return nil
}

// apart says whether restore points, logs and keys do without an object, so that
// notes tell of it: the readme, marks of prunes, and what was there or not as
// somebody pleased, pins and copies of writer keys.
func apart(name string) bool {
	return name == readmeName || strings.HasSuffix(name, doneSuffix) || strings.HasPrefix(name, pinPrefix) || strings.HasPrefix(name, writerPrefix)
}

// judgeReading reads the restore points that are damaged, and now and then all:
// none that is damaged ends well, and what ends well is right.
func (s *specimen) judgeReading(ctx context.Context, r *Repository, damaged map[string]bool, all bool) error {
	for id, want := range s.records {
		if !all && !damaged[id] {
			continue
		}
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
	if err := s.judge(s.driver(t), blow{strike: func(*mem.Driver) {}, readAll: true}); err != nil {
		t.Fatalf("%s, undamaged: %v", s.name, err)
	}
	blows := s.blows(rand.New(rand.NewPCG(seed, 3)), n)
	var g errgroup.Group
	var wrong atomic.Int64
	const workers = 2
	for k := range workers {
		d := s.driver(t)
		g.Go(func() error {
			for i := k; i < len(blows); i += workers {
				if err := s.judge(d, blows[i]); err != nil && wrong.Add(1) < 10 {
					t.Errorf("%s, seed %d, %d: %s of %v: %v", s.name, seed, i, blows[i].kind, blows[i].objects, err)
				}
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
	t.Logf("%s, seed %d: %d objects %v; %v; %d not found", s.name, seed, len(s.objects), s.kinds(), counts, wrong.Load())
}
