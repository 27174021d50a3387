package store

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"jetkeep/store/object"
)

// A log of which only the numbers are there that its end is looked for at costs
// no more than what is there.
func TestLogOfNumbersThatLie(t *testing.T) {
	_, d := newRepo(t)
	b := object.NewBucket(d)
	for number := uint64(1); number <= 1<<45; number *= 2 {
		if err := b.PutBytes(t.Context(), entryName(strings.Repeat("f", 32), number), nil); err != nil {
			t.Fatal(err)
		}
	}
	c := &counting{Driver: d}
	r := reopen(t, c, OpenOptions{})
	rep, err := r.Verify(t.Context(), VerifyOptions{})
	if err != nil || rep.OK() {
		t.Errorf("%v, %+v", err, rep)
	}
	if c.gets > 2*maxGap {
		t.Errorf("%d objects were asked for", c.gets)
	}
	plan, err := r.PlanPrune(t.Context(), PruneOptions{})
	if err != nil || len(plan.Problems) != 1 {
		t.Errorf("%v, %v", err, plan)
	}
	if _, err := r.Points(t.Context()); err != nil {
		t.Error(err)
	}
}

// Memory is set aside only for what a payload really unpacks to, and for no more
// than its kind may have.
func TestPayloadsThatLie(t *testing.T) {
	r, _ := newRepo(t)
	at := place{chain: strings.Repeat("a", 32)}
	b, _, err := r.putBlob(t.Context(), at, kindDeleted, make([]byte, 1000), 0)
	if err != nil {
		t.Fatal(err)
	}
	allocated := func(lie func(ref *Ref)) uint64 {
		ref := *b.Ref
		lie(&ref)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := r.getBlob(t.Context(), at.chain, kindDeleted, Blob{Ref: &ref})
		runtime.ReadMemStats(&after)
		if damage := (*DamageError)(nil); !errors.As(err, &damage) {
			t.Errorf("%+v: %v", ref, err)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	for name, lie := range map[string]func(ref *Ref){
		"raw":    func(ref *Ref) { ref.Raw = maxDeadPayload },
		"both":   func(ref *Ref) { ref.Raw, ref.Size = maxDeadPayload, maxDeadPayload },
		"beyond": func(ref *Ref) { ref.Raw = maxDeadPayload + 1 },
	} {
		if n := allocated(lie); n > 8<<20 {
			t.Errorf("%s: %d bytes were allocated", name, n)
		}
	}
	if _, _, err := r.putBlob(t.Context(), at, kindDeleted, make([]byte, maxDeadPayload+1), 0); !errors.Is(err, ErrBounds) {
		t.Errorf("a set that nobody would read: %v", err)
	}
}

// Descriptions that no segment or proof can have are refused where they are read.
func TestDescriptionsThatLie(t *testing.T) {
	good := segment{stored: 100, raw: 600, first: 1, last: 100, count: 100}
	for name, change := range map[string]func(s *segment){
		"stored":  func(s *segment) { s.stored = maxPack + 1 },
		"records": func(s *segment) { s.count, s.last = 101, 101 },
		"raw":     func(s *segment) { s.raw, s.count = MaxSegment+1, 2 },
	} {
		s := good
		change(&s)
		f := fields{b: s.appendTo(nil)}
		if f.segment(); !errors.Is(f.err, errMalformed) {
			t.Errorf("%s: %v", name, f.err)
		}
	}
	f := fields{b: good.appendTo(nil)}
	if f.segment(); f.err != nil {
		t.Error(f.err)
	}
	refs := make([]TableRef, maxInlineTables+1)
	r, d := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(10, 10)), nil)
	p.Content.Tables.List, p.Content.Tables.Count = refs, len(refs)
	_, body, err := r.encodePoint(&p)
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.readEntry(t.Context(), p.Chain, 1)
	if err != nil {
		t.Fatal(err)
	}
	e.body = body
	d.Corrupt(commitName("b.0001"), func([]byte) []byte { return e.encode() })
	if _, err := r.Point(t.Context(), "b.0001"); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("names %d tables", len(refs))) {
		t.Errorf("%v", err)
	}
}
