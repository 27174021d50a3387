package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// spread puts what a commit record holds itself into objects of its own: they
// must be as safe.
func spread(t *testing.T, r *Repository, p *Point, consumers []byte) {
	t.Helper()
	c := &p.Content
	put := func(b *Blob, k kind, payload []byte) {
		t.Helper()
		var err error
		if *b, _, err = r.putBlob(t.Context(), c.place(), k, payload, 0); err != nil {
			t.Fatal(err)
		}
		c.Uses = c.Uses.with(Used{Name: chainObject(metaPrefix, c.chain, b.Ref.Hash), Size: b.Ref.Size})
	}
	segments, err := r.table(t.Context(), *p, c.Tables.List[0])
	if err != nil {
		t.Fatal(err)
	}
	put(&segments[0].pack.proof, kindProof, segments[0].pack.proof.Data)
	put(&c.Tables.List[0].Blob, kindTable, encodeTable(segments))
	list, err := marshal(c.Tables.List)
	if err != nil {
		t.Fatal(err)
	}
	c.Tables.List = nil
	put(&c.Tables.Blob, kindTables, list)
	put(&c.Deleted.Blob, kindDeleted, c.Deleted.Data)
	put(&c.Extra.Blob, kindExtra, c.Extra.Data)
	p.Consumers.Count = 1
	put(&p.Consumers.Blob, kindConsumers, consumers)
	uses, err := marshal(c.Uses)
	if err != nil {
		t.Fatal(err)
	}
	var listed Blob
	put(&listed, kindUses, uses)
	c.Uses = Uses{Lists: []Ref{*listed.Ref}}
}

// smallRepo makes a repository with two restore points that use every kind of
// object, small enough to damage each of its bytes.
func smallRepo(t *testing.T) (*mem.Driver, []string) {
	t.Helper()
	r, d := newRepo(t)
	for i, task := range []string{"b.0001", "b.0002"} {
		recs := rising(24+i, 20)
		w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 1<<20), Task: task, Target: "default", Stream: "ORDERS"})
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			if err := w.Append(rec); err != nil {
				t.Fatal(err)
			}
		}
		c, err := w.Finish(t.Context(), seqset.Of(3, 9))
		if err != nil {
			t.Fatal(err)
		}
		p := makePoint(task, c)
		spread(t, r, &p, fmt.Appendf(nil, `[{"name":"c%d"}]`, i))
		if err := r.Commit(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for info, err := range object.NewBucket(d).List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	if len(names) < 10 {
		t.Fatalf("only %v", names)
	}
	return d, names
}

// readBoth reads everything of both restore points from a fresh Open on.
func readBoth(t *testing.T, d *mem.Driver) error {
	t.Helper()
	r, err := Open(t.Context(), object.NewBucket(d), OpenOptions{})
	if err != nil {
		return err
	}
	points, err := r.Points(t.Context())
	if err != nil {
		return err
	}
	if len(points) != 2 {
		return fmt.Errorf("%d points", len(points))
	}
	for i, l := range points {
		if l.Err != nil {
			return l.Err
		}
		consumers, err := consumersIn(t.Context(), r, l.Point)
		if err != nil {
			return err
		}
		if want := fmt.Sprintf(`{"name":"c%d"}`, i); len(consumers) != 1 || string(consumers[0]) != want {
			t.Errorf("wrong consumers were read without an error: %s", consumers)
		}
		got, err := load(t.Context(), r, l.Point)
		if err != nil {
			return err
		}
		want := without(rising(24+i, 20), seqset.Of(3, 9).Contains)
		if len(got) != len(want) {
			t.Errorf("%d records were read without an error, want %d", len(got), len(want))
			continue
		}
		for k := range got {
			if !bytes.Equal(got[k], encode(want[k])) {
				t.Errorf("a wrong record %d was read without an error", k)
			}
		}
		if l.Point.Stream != "ORDERS" || !json.Valid(l.Point.Config) || l.Point.Target != "default" {
			t.Errorf("a wrong point was read without an error: %+v", l.Point)
		}
	}
	for _, l := range points {
		if err := readAside(t, r, l.Point); err != nil {
			return err
		}
	}
	return readEntries(t, r, points[1].Point)
}

// readAside reads what prune and the next backup need, and no restore does.
func readAside(t *testing.T, r *Repository, p Point) error {
	t.Helper()
	if _, err := r.resolve(t.Context(), p.Chain, p.Content.Uses); err != nil {
		return err
	}
	b := &base{repo: r, point: p, tables: map[hash256]baseTable{}}
	if err := b.load(t.Context()); err != nil {
		return err
	}
	for i := range b.segments {
		if _, err := b.proof(t.Context(), &b.segments[i]); err != nil {
			return err
		}
	}
	return nil
}

// readEntries reads the log of a chain, which must reach to a restore point.
func readEntries(t *testing.T, r *Repository, p Point) error {
	t.Helper()
	tail, err := r.readLog(t.Context(), p.Chain, func(e *entry) error {
		_, err := r.decodePoint(entryName(e.chain, e.number), e)
		return err
	})
	if err == nil && tail.Number < p.Number {
		err = damaged(entryName(p.Chain, tail.Number+1), nil, "missing")
	}
	return err
}

// isTyped says whether err tells damage, or what a damaged version looks like.
func isTyped(err error) bool {
	var d *DamageError
	return errors.As(err, &d) || errors.Is(err, ErrNewerFormat)
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	t.Parallel()
	d, names := smallRepo(t)
	if err := readBoth(t, d); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		info, err := d.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range info.Size {
			flip := func(b []byte) []byte { b[i] ^= 1 << (i % 8); return b }
			d.Corrupt(name, flip)
			if err := readBoth(t, d); !isTyped(err) {
				t.Errorf("%s with byte %d flipped: %v", name, i, err)
			}
			d.Corrupt(name, flip)
			n++
		}
	}
	if err := readBoth(t, d); err != nil || n < 4000 {
		t.Errorf("%d bytes flipped, afterwards %v", n, err)
	}
}

func TestEveryCutIsFound(t *testing.T) {
	d, names := smallRepo(t)
	for _, name := range names {
		var whole []byte
		d.Corrupt(name, func(b []byte) []byte { whole = slices.Clone(b); return b })
		for cut := 0; cut < len(whole); cut += 1 + len(whole)/97 {
			d.Corrupt(name, func([]byte) []byte { return whole[:cut] })
			if err := readBoth(t, d); !isTyped(err) {
				t.Errorf("%s cut to %d: %v", name, cut, err)
			}
		}
		d.Corrupt(name, func([]byte) []byte { return append(slices.Clone(whole), 'x') })
		if err := readBoth(t, d); !isTyped(err) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		d.Corrupt(name, func([]byte) []byte { return whole })
	}
	if err := readBoth(t, d); err != nil {
		t.Error(err)
	}
}

func TestMissingAndSwappedAreFound(t *testing.T) {
	d, names := smallRepo(t)
	content := map[string][]byte{}
	for _, name := range names {
		d.Corrupt(name, func(b []byte) []byte { content[name] = slices.Clone(b); return b })
	}
	b := object.NewBucket(d)
	for _, name := range names {
		if err := b.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		err := readBoth(t, d)
		if strings.HasPrefix(name, commitPrefix) && err == nil {
			// Whoever lists copies the last entry of a log again.
			if got, err := b.ReadAll(t.Context(), name, 1<<20); err != nil || !bytes.Equal(got, content[name]) {
				t.Errorf("%s was put back as %d bytes, %v", name, len(got), err)
			}
			if err := b.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		} else if err == nil || !isTyped(err) && name != markerName && !strings.HasPrefix(name, commitPrefix) {
			t.Errorf("%s missing: %v", name, err)
		}
		var damage *DamageError
		if errors.As(err, &damage) && damage.Object != name {
			t.Errorf("%s missing, but %s is named", name, damage.Object)
		}
		if err := b.PutBytes(t.Context(), name, content[name]); err != nil {
			t.Fatal(err)
		}
		for _, other := range names {
			if other == name || bytes.Equal(content[name], content[other]) {
				continue
			}
			d.Corrupt(name, func([]byte) []byte { return content[other] })
			if err := readBoth(t, d); !isTyped(err) {
				t.Errorf("%s with the content of %s: %v", name, other, err)
			}
		}
		d.Corrupt(name, func([]byte) []byte { return content[name] })
	}
	if err := readBoth(t, d); err != nil {
		t.Error(err)
	}
}

// A commit that does not match what it refers to is found even when all
// hashes are right.
func TestContentThatDoesNotMatch(t *testing.T) {
	r, _ := newRepo(t)
	recs := rising(500, 30)
	good := mustSave(t, r, "b.0001", steps(recs), seqset.Of(7))
	for name, change := range map[string]func(*Content){
		"messages":  func(c *Content) { c.Messages++ },
		"digest":    func(c *Content) { c.Digest = strings.Repeat("ab", 32) },
		"bytes":     func(c *Content) { c.Bytes-- },
		"first":     func(c *Content) { c.FirstSeq++ },
		"last":      func(c *Content) { c.LastSeq-- },
		"undeleted": func(c *Content) { c.Deleted = Deleted{} },
		"deleted":   func(c *Content) { c.Deleted.Data = seqset.Of(8).AppendBinary(nil) },
		"count":     func(c *Content) { c.Deleted.Count++ },
		"table":     func(c *Content) { c.Tables.List[0].Count++ },
		"no tables": func(c *Content) { c.Tables = Tables{} },
	} {
		p := good
		p.Content.Tables.List = slices.Clone(good.Content.Tables.List)
		change(&p.Content)
		if _, err := load(t.Context(), r, p); !isTyped(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// segmentsOf reads the tables of a restore point.
func segmentsOf(t *testing.T, r *Repository, p Point) []located {
	t.Helper()
	var out []located
	for _, ref := range p.Content.Tables.List {
		segments, err := r.table(t.Context(), p, ref)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, segments...)
	}
	return out
}

func withTable(p Point, segments []located) Point {
	ref := describeTable(segments)
	ref.Data = encodeTable(segments)
	p.Content.Tables = Tables{Count: 1, List: []TableRef{ref}}
	return p
}

// A table that is well formed and refers to what exists, but not to what it says.
func TestTableThatDoesNotMatch(t *testing.T) {
	r, _ := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(500, 30)), nil)
	good := segmentsOf(t, r, p)
	if _, err := load(t.Context(), r, withTable(p, good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*segment){
		"hash":   func(s *segment) { s.hash[7] ^= 1 },
		"raw":    func(s *segment) { s.raw++ },
		"first":  func(s *segment) { s.first++ },
		"last":   func(s *segment) { s.last++ },
		"count":  func(s *segment) { s.count-- },
		"stored": func(s *segment) { s.stored-- },
		"offset": func(s *segment) { s.offset++ },
	} {
		segments := slices.Clone(good)
		change(&segments[0].segment)
		if _, err := load(t.Context(), r, withTable(p, segments)); !isTyped(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Two segments that hold the same sequence, summed up as if that were right.
func TestSequenceStoredTwiceIsFound(t *testing.T) {
	r, _ := newRepo(t)
	all, some := rising(100, 30), []*record.Record{makeRecord(50, 99), makeRecord(60, 99)}
	some[0].Data = []byte("another")
	p := mustSave(t, r, "b.0001", steps(all), nil)
	q := mustSave(t, r, "b.0002", steps(some), nil)
	both := withTable(p, append(segmentsOf(t, r, p), segmentsOf(t, r, q)...))
	a, err := p.Content.sum()
	if err != nil {
		t.Fatal(err)
	}
	b, err := q.Content.sum()
	if err != nil {
		t.Fatal(err)
	}
	a.Merge(b)
	both.Content.Messages, both.Content.Digest, both.Content.Bytes = a.Count(), a.String(), p.Content.Bytes+q.Content.Bytes
	if got, err := load(t.Context(), r, both); !isTyped(err) || !strings.Contains(err.Error(), "stored twice") || len(got) != 50 {
		t.Errorf("%d records, %v", len(got), err)
	}
}

func TestCommitOfAnotherRepositoryIsRefused(t *testing.T) {
	r, d := newRepo(t)
	other, od := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(5, 5)), nil)
	var commit []byte
	d.Corrupt(commitName("b.0001"), func(b []byte) []byte { commit = slices.Clone(b); return b })
	if err := object.NewBucket(od).PutBytes(t.Context(), commitName("b.0001"), commit); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Point(t.Context(), "b.0001"); !isTyped(err) || !strings.Contains(err.Error(), r.Marker().ID) {
		t.Errorf("got %v", err)
	}
}
