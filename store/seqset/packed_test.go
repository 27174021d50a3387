package seqset

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// packed encodes a set and takes it as it is.
func packed(t testing.TB, s *Set) *Packed {
	t.Helper()
	p, err := ParsePacked(s.AppendBinary(nil))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return p
}

// A Packed is the Set that it was made of, in whatever order it is asked.
func TestPackedIsTheSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		s, seq := &Set{}, uint64(0)
		for range rng.IntN(1 + 20*round) {
			seq += 1 + rng.Uint64N(9)
			s.AddRange(seq, seq+rng.Uint64N(4))
			seq += 4
		}
		p := packed(t, s)
		if p.Len() != s.Len() || p.Empty() != s.Empty() || !slices.Equal(slices.Collect(p.Ranges()), slices.Collect(s.Ranges())) {
			t.Fatalf("%d numbers instead of %d", p.Len(), s.Len())
		}
		rising, random := p.Cursor(), p.Cursor()
		for q := range seq + 5 {
			if rising.Contains(q) != s.Contains(q) {
				t.Fatalf("round %d: %d, rising", round, q)
			}
			at := rng.Uint64N(seq + 5)
			if random.Contains(at) != s.Contains(at) {
				t.Fatalf("round %d: %d, in any order", round, at)
			}
			if to := at + rng.Uint64N(6); p.Overlaps(at, to) != s.Overlaps(at, to) {
				t.Fatalf("round %d: %d-%d", round, at, to)
			}
		}
	}
}

func TestPackedWithin(t *testing.T) {
	all := Of(1, 2, 3, 7, 8, 9, 20)
	for _, c := range []struct {
		some *Set
		ok   bool
		out  Range
	}{
		{&Set{}, true, Range{}}, {Of(2, 8, 20), true, Range{}}, {all, true, Range{}},
		{Of(2, 4), false, Range{4, 4}}, {Of(8, 9, 10), false, Range{8, 10}}, {Of(21), false, Range{21, 21}},
	} {
		if out, ok := packed(t, c.some).Within(packed(t, all)); ok != c.ok || out != c.out {
			t.Errorf("%s: %v, %v", c.some, out, ok)
		}
	}
	if _, ok := packed(t, Of(1)).Within(nil); ok {
		t.Error("something is within nothing")
	}
}

func TestPackedAtTheEnds(t *testing.T) {
	for _, r := range []Range{{0, 0}, {0, math.MaxUint64}, {math.MaxUint64, math.MaxUint64}, {1, math.MaxUint64 - 1}} {
		s := &Set{}
		s.AddRange(r.First, r.Last)
		p := packed(t, s)
		c := p.Cursor()
		for _, q := range []uint64{0, 1, math.MaxUint64 - 1, math.MaxUint64, 0} {
			if c.Contains(q) != s.Contains(q) {
				t.Errorf("%v: %d", r, q)
			}
		}
		if p.Len() != s.Len() {
			t.Errorf("%v: %d numbers instead of %d", r, p.Len(), s.Len())
		}
	}
	var none *Packed
	if none.Cursor().Contains(1) || none.Overlaps(0, 9) || none.Len() != 0 || !none.Empty() {
		t.Error("a nil Packed is not empty")
	}
}

// What one decoder takes the other does.
func FuzzParsePacked(f *testing.F) {
	f.Add([]byte{0})
	f.Add(Of(1, 2, 3, 9).AppendBinary(nil))
	f.Add([]byte{0x80, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, want := ParseBinary(slices.Clone(b))
		p, err := ParsePacked(b)
		if (err == nil) != (want == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("%v and %v", err, want)
		}
		if err == nil && (p.Len() != s.Len() || !slices.Equal(slices.Collect(p.Ranges()), slices.Collect(s.Ranges()))) {
			t.Fatalf("other ranges than %s", s)
		}
	})
}
