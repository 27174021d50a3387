package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/testenv"
)

func TestVerifySound(t *testing.T) {
	r, _ := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(3000, 1000)), seqset.Of(4, 8))
	mustSave(t, r, "b.0002", steps(rising(6000, 1000)), seqset.Of(4, 8))
	for _, l := range []VerifyLevel{VerifyStructure, VerifyData, VerifyRecords} {
		rep, err := r.Verify(t.Context(), VerifyOptions{Level: l})
		if err != nil || !rep.OK() {
			t.Fatal(err, rep)
		}
		t.Logf("%s: %+v", l, rep)
	}
}

// Accidents, 10,000 in a campaign and else each object in each way and some more:
// each is found by Verify, which names the object and exactly the restore points
// that it reaches, and none is restored as if it were good. The race detector,
// which finds no more in 10,000 than in some, sees a part.
func TestEveryDamageIsFound(t *testing.T) {
	t.Parallel()
	for i, c := range []struct {
		sealed, signed bool
		blows          int
	}{{false, false, 3500}, {false, true, 3000}, {true, false, 1500}, {true, true, 2000}} {
		if raceDetector && c.sealed != c.signed {
			continue
		}
		s := makeSpecimen(t, c.sealed, c.signed)
		switch each := 5 * len(s.objects); { // object in each way
		case raceDetector:
			c.blows = each
		case !testenv.Campaign():
			c.blows = each + c.blows/10
		}
		s.run(t, uint64(i+1), c.blows)
	}
}

// Runs over all parts read each object once; a percentage reads about as many.
func TestVerifyInParts(t *testing.T) {
	r, _ := newRepo(t)
	for i := range 40 {
		mustSave(t, r, fmt.Sprintf("b.%04d", i), steps(rising(50+i, 100)), nil)
	}
	read := func(o VerifyOptions) (n int) {
		o.Level = VerifyData
		rep, err := r.Verify(t.Context(), o)
		if err != nil || !rep.OK() || rep.Points != 40 || rep.Objects < 40 {
			t.Fatal(err, rep)
		}
		return rep.Read
	}
	all, sum := read(VerifyOptions{}), 0
	for part := 1; part <= 3; part++ {
		n := read(VerifyOptions{Part: part, Parts: 3})
		if n != read(VerifyOptions{Part: part, Parts: 3}) || n == 0 || n == all {
			t.Errorf("part %d reads %d of %d", part, n, all)
		}
		sum += n
	}
	if sum != all || all < 40 {
		t.Errorf("the parts read %d objects, there are %d", sum, all)
	}
	seeds, total := map[int]bool{}, 0
	for i := range 20 {
		n := read(VerifyOptions{Percent: 25, Seed: fmt.Sprint(i)})
		seeds[n], total = true, total+n
	}
	if len(seeds) < 2 || total < 20*all/8 || total > 20*all/2 {
		t.Errorf("25 percent of %d objects, 20 times: %d", all, total)
	}
	for _, o := range []VerifyOptions{{Part: 1}, {Part: 4, Parts: 3}, {Parts: 3}, {Percent: 101}, {Percent: 5, Part: 1, Parts: 2}, {Level: 3}} {
		if _, err := r.Verify(t.Context(), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// Errors of the store are told from damage, and too many end it.
func TestVerifyWithAFailingStore(t *testing.T) {
	r, d := newRepo(t)
	for i := range maxFailures + 10 {
		mustSave(t, r, fmt.Sprintf("b.%04d", i), steps(rising(2+i, 10)), nil)
	}
	f := faulty.New(t, d, faulty.Fault{Op: faulty.Get, Prefix: "packs/", Times: 3})
	r, err := openAgain(t, r, object.NewBucket(f))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.Verify(t.Context(), VerifyOptions{Level: VerifyData})
	if err != nil || len(rep.Problems) != 3 || len(rep.Damaged) != 3 || !strings.Contains(rep.Problems[0].Problem, "cannot be read") {
		t.Errorf("%v, %+v", err, rep)
	}
	f = faulty.New(t, d, faulty.Fault{Op: faulty.Get, Prefix: "packs/", Times: -1})
	if r, err = openAgain(t, r, object.NewBucket(f)); err != nil {
		t.Fatal(err)
	}
	if rep, err := r.Verify(t.Context(), VerifyOptions{Level: VerifyData}); !errors.Is(err, faulty.ErrInjected) {
		t.Errorf("%v, %+v", err, rep)
	}
}

func openAgain(t *testing.T, _ *Repository, b *object.Bucket) (*Repository, error) {
	return Open(t.Context(), b, OpenOptions{})
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	r, _ := newRepo(t)
	for i := range 20 {
		mustSave(t, r, fmt.Sprintf("b.%04d", i), steps(rising(2+i, 10)), nil)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	n := 0
	rep, err := r.Verify(ctx, VerifyOptions{Level: VerifyRecords, Workers: 1, OnProgress: func(p VerifyProgress) {
		if n++; n == 5 {
			cancel(cause)
		}
	}})
	if !errors.Is(err, cause) || rep != nil {
		t.Errorf("%v, %+v", err, rep)
	}
}

func TestVerifyCountsOrphans(t *testing.T) {
	r, d := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(20, 10)), nil)
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 1<<20), Task: "b.0002", Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range rising(30, 10) {
		if err := w.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.Finish(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.Verify(t.Context(), VerifyOptions{})
	if err != nil || rep.Orphans != c.Packs || rep.OrphanBytes != int64(c.StoredBytes) || !rep.OK() {
		t.Errorf("%v, %+v, %+v", err, rep, c)
	}
	_, _ = p, d
}

// A bit that flips on the way is no damage of the store.
func TestVerifyReadsTwice(t *testing.T) {
	r, d := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(20, 10)), nil)
	for _, level := range []VerifyLevel{VerifyData, VerifyRecords} {
		f := faulty.New(t, d, faulty.Fault{Op: faulty.Get, Prefix: "packs/", Kind: faulty.Flip})
		again, err := Open(t.Context(), object.NewBucket(f), OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if rep, err := again.Verify(t.Context(), VerifyOptions{Level: level}); err != nil || !rep.OK() {
			t.Errorf("%s: %v, %+v", level, err, rep)
		}
	}
}

// What is whole by all hashes and still says something wrong is found, too.
func TestVerifyComparesWithTheCommit(t *testing.T) {
	for name, c := range map[string]struct {
		level  VerifyLevel // where it is found
		change func(c *Content)
	}{
		"messages":       {VerifyStructure, func(c *Content) { c.Messages++ }},
		"segments":       {VerifyStructure, func(c *Content) { c.Segments++ }},
		"packs":          {VerifyStructure, func(c *Content) { c.Packs++ }},
		"raw bytes":      {VerifyStructure, func(c *Content) { c.RawBytes-- }},
		"undeleted":      {VerifyStructure, func(c *Content) { c.Deleted = Deleted{} }},
		"no tables":      {VerifyStructure, func(c *Content) { c.Tables = Tables{} }},
		"table":          {VerifyStructure, func(c *Content) { c.Tables.List[0].Count++ }},
		"table of table": {VerifyStructure, func(c *Content) { c.Tables.List[0].First++ }},
		"digest":         {VerifyRecords, func(c *Content) { c.Digest = strings.Repeat("ab", 32) }},
		"bytes":          {VerifyRecords, func(c *Content) { c.Bytes-- }},
		"first":          {VerifyRecords, func(c *Content) { c.FirstSeq++ }},
		"last":           {VerifyRecords, func(c *Content) { c.LastSeq-- }},
		"deleted":        {VerifyRecords, func(c *Content) { c.Deleted.Data = seqset.Of(8).AppendBinary(nil) }},
		"dead and alive": {VerifyRecords, func(c *Content) { c.Messages++; c.Deleted = Deleted{} }},
	} {
		r, _ := newRepo(t)
		content := mustSave(t, r, "b.0001", steps(rising(500, 30)), seqset.Of(7)).Content
		c.change(&content)
		if err := r.Commit(t.Context(), makePoint("b.0002", content)); err != nil {
			t.Fatal(err)
		}
		for level := VerifyStructure; level <= VerifyRecords; level++ {
			rep, err := r.Verify(t.Context(), VerifyOptions{Level: level})
			if err != nil {
				t.Fatal(err)
			}
			if found := slices.Equal(rep.Damaged, []string{"b.0002"}); found != (level >= c.level) || found && len(rep.Problems) != 1 {
				t.Errorf("%s at level %s: %+v", name, level, rep)
			}
		}
	}
}

// A table that is well formed and not what the pack is.
func TestVerifyComparesTablesWithPacks(t *testing.T) {
	for name, change := range map[string]func(*segment){
		"hash":   func(s *segment) { s.hash[7] ^= 1 },
		"border": func(s *segment) { s.border++ },
		"first":  func(s *segment) { s.first++; s.count-- },
		"stored": func(s *segment) { s.stored-- },
		"offset": func(s *segment) { s.offset++; s.stored-- },
	} {
		r, _ := newRepo(t)
		p := mustSave(t, r, "b.0001", steps(rising(500, 30)), nil)
		segments := segmentsOf(t, r, p)
		change(&segments[0].segment)
		forged := makePoint("b.0002", withTable(p, segments).Content)
		forged.Content.Messages = forged.Content.Tables.List[0].Count
		if err := r.Commit(t.Context(), forged); err != nil {
			t.Fatal(err)
		}
		rep, err := r.Verify(t.Context(), VerifyOptions{Level: VerifyRecords})
		if err != nil || !slices.Equal(rep.Damaged, []string{"b.0002"}) || len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0].Problem, "its index does not") {
			t.Errorf("%s: %v, %+v", name, err, rep)
		}
	}
}

// Each segment is right, and they hold a sequence twice.
func TestVerifyFindsWhatIsStoredTwice(t *testing.T) {
	r, _ := newRepo(t)
	some := []*record.Record{makeRecord(50, 99), makeRecord(60, 99)}
	p := mustSave(t, r, "b.0001", steps(rising(100, 30)), nil)
	q := mustSave(t, r, "b.0002", steps(some), nil)
	both := withTable(p, append(segmentsOf(t, r, p), segmentsOf(t, r, q)...)).Content
	a, err := p.Content.sum()
	if err != nil {
		t.Fatal(err)
	}
	b, err := q.Content.sum()
	if err != nil {
		t.Fatal(err)
	}
	a.Merge(b)
	both.Messages, both.Digest, both.Bytes = a.Count(), a.String(), p.Content.Bytes+q.Content.Bytes
	both.Segments, both.Packs, both.RawBytes = 2, 2, p.Content.RawBytes+q.Content.RawBytes
	both.Uses.Objects = slices.Concat(p.Content.Uses.Objects, q.Content.Uses.Objects)
	if err := r.Commit(t.Context(), makePoint("b.0003", both)); err != nil {
		t.Fatal(err)
	}
	rep, err := r.Verify(t.Context(), VerifyOptions{Level: VerifyRecords})
	if err != nil || !slices.Equal(rep.Damaged, []string{"b.0003"}) || !strings.Contains(rep.Problems[0].Problem, "stored twice") {
		t.Errorf("%v, %+v", err, rep)
	}
}

// A restore point that is forgotten and pruned while Verify reads is no damage;
// what the others need is.
func TestVerifyWhileRestorePointsAreForgotten(t *testing.T) {
	r, d := newRepo(t)
	var points []Point
	for i := range 4 {
		points = append(points, mustSave(t, r, fmt.Sprintf("b.%04d", i), steps(rising(20+i, 20)), nil))
	}
	bucket := object.NewBucket(d)
	gone := []string{commitName("b.0001")}
	for _, p := range []Point{points[1], points[2]} {
		for _, s := range segmentsOf(t, r, p) {
			gone = append(gone, r.packName(p.Chain, s.pack.hash))
		}
	}
	once := false
	rep, err := r.Verify(t.Context(), VerifyOptions{Level: VerifyRecords, Workers: 1, OnProgress: func(VerifyProgress) {
		if once {
			return
		}
		once = true
		tail, _, err := r.tailOf(t.Context(), points[0].Chain)
		if err != nil {
			t.Error(err)
		}
		_, err = r.appendEntry(t.Context(), &tail, func(*entry) error { return nil }, func() (*entry, error) {
			return &entry{kind: entryForget, task: "forget", time: time.Now().UTC(), codec: bodyJSON, body: []byte(`{"points":["b.0001"]}`)}, nil
		})
		if err != nil {
			t.Error(err)
		}
		for _, name := range gone {
			if err := bucket.Delete(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
	}})
	if err != nil || rep.Points != 3 || !slices.Equal(rep.Damaged, []string{"b.0002"}) || len(rep.Problems) != 1 {
		t.Errorf("%v, %+v", err, rep)
	}
}

// A commit that Verify runs into has its entry in the log and its commit record
// a moment later.
func TestVerifyWhileARestorePointIsCommitted(t *testing.T) {
	r, d := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(20, 20)), nil)
	mustSave(t, r, "b.0002", steps(rising(30, 20)), nil)
	bucket, name := object.NewBucket(d), commitName("b.0002")
	record, err := bucket.ReadAll(t.Context(), name, maxCommit)
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	// It stays away, and whoever verifies may not write.
	reading := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.Put, Err: object.ErrNotWritable, Times: -1}), OpenOptions{})
	rep, err := reading.Verify(t.Context(), VerifyOptions{})
	if err != nil || !slices.Equal(rep.Damaged, []string{"b.0002"}) {
		t.Errorf("it stays away: %v, %+v", err, rep)
	}
	rep, err = r.Verify(t.Context(), VerifyOptions{OnProgress: func(VerifyProgress) {
		_ = bucket.PutBytes(t.Context(), name, record)
	}})
	if err != nil || !rep.OK() || rep.Points != 2 {
		t.Errorf("it comes: %v, %+v", err, rep)
	}
}
