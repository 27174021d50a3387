package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// A grown is a repository of one stream and what the stream holds.
type grown struct {
	repo    *Repository
	driver  *mem.Driver
	records map[uint64]*record.Record
	last    uint64 // highest sequence ever given
	n       int
}

func newGrown(t *testing.T) *grown {
	t.Helper()
	r, d := newRepo(t)
	return &grown{repo: r, driver: d, records: map[uint64]*record.Record{}}
}

// write adds messages to the stream.
func (g *grown) write(n, size int) {
	for range n {
		g.last++
		g.records[g.last] = makeRecord(g.last, size)
	}
}

// drop takes messages from the stream.
func (g *grown) drop(gone func(uint64) bool) {
	for seq := range g.records {
		if gone(seq) {
			delete(g.records, seq)
		}
	}
}

func (g *grown) alive() (*seqset.Set, []*record.Record) {
	var seqs []uint64
	for seq := range g.records {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	set := &seqset.Set{}
	var recs []*record.Record
	for _, seq := range seqs {
		set.Add(seq)
		recs = append(recs, g.records[seq])
	}
	return set, recs
}

// A capture is how one backup goes.
type capture struct {
	fresh    bool                    // without a base
	repaired func(seq uint64) bool   // comes late
	gone     func(seq uint64) bool   // deleted while it was captured
	believed func(alive *seqset.Set) // changes what is planned by
}

func (g *grown) try(t *testing.T, o capture) (Point, error) {
	t.Helper()
	g.n++
	task := fmt.Sprintf("b.%06d", g.n)
	r := reopen(t, g.driver, OpenOptions{})
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 64<<20), Task: task, Target: "default", Stream: "ORDERS"})
	if err != nil {
		return Point{}, err
	}
	defer w.Abort()
	alive, recs := g.alive()
	base, err := r.Latest(t.Context(), "default", "ORDERS")
	switch {
	case errors.Is(err, ErrNoPoint) || o.fresh:
	case err != nil:
		return Point{}, err
	default:
		planned := alive.Clone()
		if o.believed != nil {
			o.believed(planned)
		}
		if err := w.Continue(t.Context(), base, planned); err != nil {
			return Point{}, err
		}
	}
	var late []*record.Record
	for _, rec := range recs {
		if o.repaired != nil && o.repaired(rec.Sequence) {
			late = append(late, rec)
			continue
		}
		if err := w.Append(rec); err != nil {
			return Point{}, err
		}
	}
	for _, rec := range late {
		if err := w.AppendRepair(rec); err != nil {
			return Point{}, err
		}
	}
	dead := &seqset.Set{}
	if o.gone != nil {
		for seq := range alive.All() {
			if o.gone(seq) {
				dead.Add(seq)
				delete(g.records, seq)
			}
		}
	}
	c, err := w.Finish(t.Context(), dead)
	if err != nil {
		return Point{}, err
	}
	if err := r.Commit(t.Context(), makePoint(task, c)); err != nil {
		return Point{}, err
	}
	return r.Point(t.Context(), task)
}

// backup makes a restore point and checks that it is what the stream holds.
func (g *grown) backup(t *testing.T, o capture) Point {
	t.Helper()
	p, err := g.try(t, o)
	if err != nil {
		t.Fatalf("backup %d: %v", g.n, err)
	}
	g.check(t, p)
	return p
}

// check reads a restore point, and compares its sums with those of records.
func (g *grown) check(t *testing.T, p Point) {
	t.Helper()
	_, recs := g.alive()
	wantRecords(t, g.repo, p, recs)
	dead, err := g.repo.DeletedSet(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	extra, err := g.repo.ExtraSet(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if beyond, ok := extra.Within(dead); !ok {
		t.Errorf("extra %v are not deleted", beyond)
	}
	stored := uint64(0)
	for _, s := range segmentsOf(t, g.repo, p) {
		stored += s.count
	}
	if stored != p.Content.Messages+dead.Len() {
		t.Errorf("%d records stored, %d alive and %d dead", stored, p.Content.Messages, dead.Len())
	}
}

// overlap returns how many segments of a restore point cover one sequence.
func overlap(t *testing.T, r *Repository, p Point) int {
	t.Helper()
	most := 0
	var open []uint64
	for _, s := range segmentsOf(t, r, p) {
		open = append(slices.DeleteFunc(open, func(last uint64) bool { return last < s.first }), s.last)
		most = max(most, len(open))
	}
	return most
}

// Many generations of whatever can become of a stream: each restore point holds
// exactly what the stream did, and so do the earlier ones.
func TestGenerations(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 3))
			g := newGrown(t)
			size := []int{30, 900, 9000}[seed%3]
			g.write(2_000_000/(size+60)/2, size)
			g.backup(t, capture{})
			dropped := map[uint64]*record.Record{}
			for range 40 {
				lose := func(gone func(uint64) bool) {
					for seq, rec := range g.records {
						if gone(seq) {
							dropped[seq] = rec
						}
					}
					g.drop(gone)
				}
				share := uint64(1 + random.IntN(12))
				switch random.IntN(7) {
				case 0: // the front is purged
					to := g.last * share / 60
					lose(func(seq uint64) bool { return seq <= to })
				case 1: // some are deleted inside
					lose(func(seq uint64) bool { return mix64(seq^uint64(g.n))%40 < share })
				case 2: // most keys of a bucket are written again
					lose(func(seq uint64) bool { return mix64(seq^uint64(g.n))%14 < share })
					g.write(20_000/size*int(share), size)
				case 3: // a server lost its memory of deletions
					for seq, rec := range dropped {
						if mix64(seq+uint64(g.n))%60 < share {
							g.records[seq] = rec
						}
					}
				case 4: // the end is deleted
					last := g.last
					lose(func(seq uint64) bool { return seq+share > last })
				case 5:
					g.write(300_000/size, size)
				}
				g.write(random.IntN(5), size)
				o := capture{}
				salt := random.Uint64()
				if random.IntN(3) == 0 {
					from := random.Uint64N(g.last)
					o.repaired = func(seq uint64) bool { return seq > from && seq < from+g.last/10 }
				}
				if random.IntN(3) == 0 {
					o.gone = func(seq uint64) bool { return mix64(seq^salt)%200 == 0 }
				}
				if random.IntN(4) == 0 { // the plan is by a state that is not so any more
					o.believed = func(alive *seqset.Set) {
						from := salt % g.last
						alive.AddRange(from, from+g.last/8)
						gone := &seqset.Set{}
						gone.AddRange(from/2, from/2+g.last/8)
						alive.Subtract(gone)
					}
				}
				p := g.backup(t, o)
				if n := overlap(t, g.repo, p); n > maxOverlap {
					t.Errorf("%d segments overlap", n)
				}
			}
			report, err := reopen(t, g.driver, OpenOptions{}).Verify(t.Context(), VerifyOptions{Level: VerifyRecords})
			if err != nil || len(report.Problems) > 0 {
				t.Errorf("verify: %+v, %v", report, err)
			}
		})
	}
}

// Hundreds of increments of a few records do not leave hundreds of segments,
// nor is everything stored again each time.
func TestTinyIncrements(t *testing.T) {
	t.Parallel()
	g := newGrown(t)
	g.write(3000, 1000)
	g.backup(t, capture{})
	uploaded, written := uint64(0), uint64(0)
	for i := range 200 {
		g.write(3, 1000)
		written += 3 * 1000
		g.drop(func(seq uint64) bool { return seq == uint64(5*i+1) })
		p := g.backup(t, capture{})
		uploaded += p.Content.NewBytes
		if n := overlap(t, g.repo, p); n > 2 {
			t.Fatalf("increment %d: %d segments overlap", i, n)
		}
		if p.Content.Segments > 40 {
			t.Fatalf("increment %d: %d segments", i, p.Content.Segments)
		}
	}
	// Each record's kilobyte does not compress; it is stored again when runs of
	// small segments are merged.
	if uploaded > 60*written {
		t.Errorf("%d bytes were uploaded for %d", uploaded, written)
	}
}

// The second backup stores what is new.
func TestSecondBackupIsSmall(t *testing.T) {
	t.Parallel()
	const n, size = 20_000, 1000
	for name, c := range map[string]struct {
		change func(*grown)
		o      capture
		most   uint64
	}{
		"nothing":         {func(*grown) {}, capture{}, 0},
		"appended":        {func(g *grown) { g.write(n/100, size) }, capture{}, n / 100 * size * 12 / 10},
		"purged":          {func(g *grown) { g.drop(func(seq uint64) bool { return seq <= n/100 }) }, capture{}, 0},
		"deleted inside":  {func(g *grown) { g.drop(func(seq uint64) bool { return mix64(seq)%33 == 0 }) }, capture{}, 5000},
		"read again late": {func(*grown) {}, capture{repaired: func(seq uint64) bool { return seq > 500 && seq < 9000 }}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrown(t)
			g.write(n, size)
			first := g.backup(t, capture{})
			c.change(g)
			second := g.backup(t, c.o)
			if second.Content.NewBytes > c.most {
				t.Errorf("uploaded %d bytes, at most %d", second.Content.NewBytes, c.most)
			}
			if c.most == 0 && second.Content.Segments > first.Content.Segments {
				t.Errorf("%d segments, %d before", second.Content.Segments, first.Content.Segments)
			}
		})
	}
}

// A record that is another one than the base has is found, wherever it is.
func TestDivergence(t *testing.T) {
	t.Parallel()
	const n = 9000
	for name, c := range map[string]struct {
		seq uint64
		o   capture
	}{
		"first": {seq: 1}, "middle": {seq: n / 2}, "last": {seq: n},
		"repaired":    {seq: n / 2, o: capture{repaired: func(seq uint64) bool { return seq >= n/2 && seq < n/2+100 }}},
		"rewritten":   {seq: n - 7, o: capture{believed: func(s *seqset.Set) { *s = *seqset.Of(n - 7) }}},
		"was deleted": {seq: n - 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrown(t)
			g.write(n, 700)
			first := g.backup(t, capture{gone: func(seq uint64) bool { return seq == n-1 }})
			g.records[n-1] = makeRecord(n-1, 700) // it came back
			g.backup(t, capture{})
			was := g.records[c.seq]
			other := *was
			other.Time++
			g.records[c.seq] = &other
			_, err := g.try(t, c.o)
			var diverged *DivergedError
			if !errors.As(err, &diverged) || diverged.Sequence != c.seq || diverged.Point == first.ID {
				t.Errorf("got %v", err)
			}
			g.backup(t, capture{fresh: true})
		})
	}
}

// A base that was pruned after it had been looked up is noticed by the commit,
// however late the writer began.
func TestBasePrunedMeanwhile(t *testing.T) {
	g := newGrown(t)
	g.write(2000, 1000)
	base := g.backup(t, capture{})
	if err := g.repo.Forget(t.Context(), []string{base.ID}); err != nil {
		t.Fatal(err)
	}
	if _, report := mustPrune(t, g.repo, PruneOptions{Grace: time.Hour}); report.Condemned == 0 {
		t.Fatal("nothing was condemned")
	}
	w, err := g.repo.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 64<<20), Task: "b.000009", Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	alive, recs := g.alive()
	if err := w.Continue(t.Context(), base, alive); err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		if err := w.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.Finish(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.repo.Commit(t.Context(), makePoint("b.000009", c)); !errors.Is(err, ErrPruned) {
		t.Errorf("got %v", err)
	}
}

// A pack of the base that is lost does not spread into the next restore point,
// which is made without the base.
func TestBaseThatLostAPack(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, g *grown, pack string){
		"missing": func(t *testing.T, g *grown, pack string) {
			if err := g.driver.Delete(t.Context(), pack); err != nil {
				t.Fatal(err)
			}
		},
		"cut": func(t *testing.T, g *grown, pack string) {
			if !g.driver.Corrupt(pack, func(b []byte) []byte { return b[:len(b)-1] }) {
				t.Fatalf("%s is not there", pack)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrown(t)
			g.write(3000, 1000)
			base := g.backup(t, capture{})
			segments := segmentsOf(t, g.repo, base)
			harm(t, g, g.repo.packName(base.Chain, segments[0].pack.hash))
			g.write(10, 1000)
			if _, err := g.try(t, capture{}); !errors.Is(err, ErrBase) {
				t.Fatalf("built on a base that lacks a pack: %v", err)
			}
			if name == "missing" {
				g.backup(t, capture{fresh: true})
			}
		})
	}
}
