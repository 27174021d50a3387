package seqset

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// edges brings the ends of the number space into a small oracle: low numbers
// stand for themselves, the others for the highest ones.
const space = 96

func number(i int) uint64 {
	if i < space/2 {
		return uint64(i)
	}
	return math.MaxUint64 - uint64(space-1-i)
}

type oracle map[uint64]bool

func draw(t *rapid.T, name string) (*Set, oracle) {
	s, o := &Set{}, oracle{}
	n := rapid.IntRange(0, 25).Draw(t, name+" count")
	for range n {
		a := rapid.IntRange(0, space-1).Draw(t, name+" from")
		limit := space/2 - 1
		if a >= space/2 {
			limit = space - 1
		}
		b := rapid.IntRange(a, min(a+8, limit)).Draw(t, name+" to")
		s.AddRange(number(a), number(b))
		for i := a; i <= b; i++ {
			o[number(i)] = true
		}
	}
	return s, o
}

func check(t *rapid.T, what string, s *Set, o oracle) {
	t.Helper()
	n := uint64(0)
	for i := range space {
		q := number(i)
		if s.Contains(q) != o[q] {
			t.Fatalf("%s: Contains(%d) = %v, set %s", what, q, s.Contains(q), s)
		}
		if o[q] {
			n++
		}
	}
	if s.Len() != n || s.Empty() != (n == 0) {
		t.Fatalf("%s: Len %d, want %d", what, s.Len(), n)
	}
	var last Range
	for i, r := range s.ranges {
		if r.First > r.Last || i > 0 && !behind(last.Last, r.First) {
			t.Fatalf("%s: ranges %v are not ordered and apart", what, s.ranges)
		}
		last = r
	}
	all := slices.Collect(s.All())
	if uint64(len(all)) != n || !slices.IsSorted(all) {
		t.Fatalf("%s: All yields %v", what, all)
	}
	if n > 0 && (s.First() != all[0] || s.Last() != all[n-1]) {
		t.Fatalf("%s: First %d Last %d of %v", what, s.First(), s.Last(), all)
	}
}

func TestAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, oa := draw(t, "a")
		b, ob := draw(t, "b")
		check(t, "a", a, oa)
		check(t, "b", b, ob)

		union, minus, both := oracle{}, oracle{}, oracle{}
		for i := range space {
			q := number(i)
			union[q], minus[q], both[q] = oa[q] || ob[q], oa[q] && !ob[q], oa[q] && ob[q]
		}
		u, m, x := a.Clone(), a.Clone(), a.Clone()
		u.Union(b)
		m.Subtract(b)
		x.Intersect(b)
		check(t, "union", u, union)
		check(t, "subtract", m, minus)
		check(t, "intersect", x, both)
		check(t, "a untouched", a, oa)
		check(t, "b untouched", b, ob)

		lo := rapid.IntRange(0, space-1).Draw(t, "lo")
		hi := rapid.IntRange(0, space-1).Draw(t, "hi")
		clip, any := oracle{}, false
		for i := lo; i <= hi; i++ {
			clip[number(i)] = oa[number(i)]
			any = any || oa[number(i)]
		}
		check(t, "clip", a.Clip(number(lo), number(hi)), clip)
		if a.Overlaps(number(lo), number(hi)) != any {
			t.Fatalf("Overlaps(%d, %d) = %v of %s", number(lo), number(hi), !any, a)
		}
	})
}

func TestEncodings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, _ := draw(t, "s")
		got, err := ParseBinary(s.AppendBinary(nil))
		if err != nil || !got.Equal(s) {
			t.Fatalf("binary: %v, %v", got, err)
		}
		j, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back Set
		if err := json.Unmarshal(j, &back); err != nil || !back.Equal(s) {
			t.Fatalf("json %s: %v", j, err)
		}
	})
}

func TestNilAndWhole(t *testing.T) {
	var none *Set
	if none.Contains(1) || none.Len() != 0 || !none.Empty() || !none.Equal(&Set{}) || none.Clone().Len() != 0 {
		t.Error("a nil set is not an empty set")
	}
	if got := none.AppendBinary(nil); !bytes.Equal(got, []byte{0}) {
		t.Errorf("nil encodes to %v", got)
	}
	whole := &Set{}
	whole.AddRange(0, math.MaxUint64)
	if whole.Len() != math.MaxUint64 || !whole.Contains(0) || !whole.Contains(math.MaxUint64) {
		t.Error("the whole space is wrong")
	}
	whole.Subtract(Of(5))
	if whole.Len() != math.MaxUint64 || whole.Contains(5) || whole.NumRanges() != 2 {
		t.Errorf("whole without 5: %s", whole)
	}
}

func TestString(t *testing.T) {
	s := Of(3)
	s.AddRange(7, 12)
	if s.String() != "3, 7-12" {
		t.Errorf("got %q", s)
	}
	for i := range uint64(12) {
		s.Add(100 + 2*i)
	}
	if want := "3, 7-12, 100, 102, 104, 106, 108, 110, 112, 114, and 4 ranges more"; s.String() != want {
		t.Errorf("got %q", s)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, bad := range []string{`[[2,1]]`, `[[1]]`, `[[1,2,3]]`, `[[-1,2]]`, `{}`} {
		var s Set
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

var seeds = [][]byte{
	{0},
	Of(0).AppendBinary(nil),
	Of(1, 2, 3, 9).AppendBinary(nil),
	Of(math.MaxUint64).AppendBinary(nil),
	Of(0, math.MaxUint64-2, math.MaxUint64).AppendBinary(nil),
	{2, 0x81, 0, 1, 1, 1},
	{0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1},
}

func FuzzParseBinary(f *testing.F) {
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseBinary(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if again := s.AppendBinary(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes to %s, which encodes to %x", b, s, again)
		}
		for i := 1; i < len(s.ranges); i++ {
			if !behind(s.ranges[i-1].Last, s.ranges[i].First) {
				t.Fatalf("%x decodes to touching ranges %v", b, s.ranges)
			}
		}
	})
}

func BenchmarkAddRising(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		s := &Set{}
		for i := range uint64(100_000) {
			s.Add(i * 3)
		}
	}
}
