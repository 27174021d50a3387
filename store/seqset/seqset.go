// Package seqset is a set of sequence numbers, kept as ordered ranges that
// neither overlap nor touch. Its memory is 16 bytes a range, so it is small
// exactly when numbers cluster, as the deleted sequences of a stream do.
//
// The zero Set is empty and ready. Methods that only read accept a nil Set as
// an empty one. Adding in rising order costs constant time; adding elsewhere
// moves the ranges behind. A Set is not safe for use by several goroutines
// while one of them changes it.
package seqset

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
)

// A Range holds the numbers from First to Last, both included.
type Range struct {
	First uint64
	Last  uint64
}

// Len returns how many numbers the range holds.
func (r Range) Len() uint64 { return r.Last - r.First + 1 }

// A Set holds sequence numbers.
type Set struct {
	ranges []Range
}

// Of returns a set of the given numbers.
func Of(seqs ...uint64) *Set {
	s := &Set{}
	for _, q := range seqs {
		s.Add(q)
	}
	return s
}

// Add adds one number.
func (s *Set) Add(seq uint64) { s.AddRange(seq, seq) }

// AddRange adds the numbers from first to last; it adds none if first > last.
func (s *Set) AddRange(first, last uint64) {
	if first > last {
		return
	}
	if n := len(s.ranges); n == 0 || behind(s.ranges[n-1].Last, first) {
		s.ranges = append(s.ranges, Range{first, last})
		return
	}
	// i is the first range that reaches or touches first, j the first that
	// begins beyond last without touching it: i to j-1 become one.
	i := s.search(first)
	if i > 0 && !behind(s.ranges[i-1].Last, first) {
		i--
	}
	j := i
	for j < len(s.ranges) && !behind(last, s.ranges[j].First) {
		first, last = min(first, s.ranges[j].First), max(last, s.ranges[j].Last)
		j++
	}
	s.ranges = slices.Replace(s.ranges, i, j, Range{first, last})
}

// behind says whether b lies beyond a without touching it.
func behind(a, b uint64) bool { return a < b && b-a > 1 }

// search returns the index of the first range whose Last is at least seq.
func (s *Set) search(seq uint64) int {
	i, _ := slices.BinarySearchFunc(s.ranges, seq, func(r Range, q uint64) int { return cmp.Compare(r.Last, q) })
	return i
}

// Contains says whether seq is in the set.
func (s *Set) Contains(seq uint64) bool {
	if s == nil {
		return false
	}
	i := s.search(seq)
	return i < len(s.ranges) && s.ranges[i].First <= seq
}

// Overlaps says whether the set holds any number from first to last.
func (s *Set) Overlaps(first, last uint64) bool {
	if s == nil || first > last {
		return false
	}
	i := s.search(first)
	return i < len(s.ranges) && s.ranges[i].First <= last
}

// Len returns how many numbers the set holds. The set of all 2^64 numbers, the
// only one whose length does not fit, reports one less.
func (s *Set) Len() uint64 {
	if s == nil {
		return 0
	}
	if len(s.ranges) == 1 && s.ranges[0] == (Range{0, math.MaxUint64}) {
		return math.MaxUint64
	}
	var n uint64
	for _, r := range s.ranges {
		n += r.Len()
	}
	return n
}

// Empty says whether the set holds nothing.
func (s *Set) Empty() bool { return s == nil || len(s.ranges) == 0 }

// NumRanges returns the number of ranges, which is what the set costs.
func (s *Set) NumRanges() int {
	if s == nil {
		return 0
	}
	return len(s.ranges)
}

// First returns the lowest number, 0 if the set is empty.
func (s *Set) First() uint64 {
	if s.Empty() {
		return 0
	}
	return s.ranges[0].First
}

// Last returns the highest number, 0 if the set is empty.
func (s *Set) Last() uint64 {
	if s.Empty() {
		return 0
	}
	return s.ranges[len(s.ranges)-1].Last
}

// Ranges yields the ranges in rising order. The set must not change meanwhile.
func (s *Set) Ranges() iter.Seq[Range] {
	if s == nil {
		return func(func(Range) bool) {}
	}
	return slices.Values(s.ranges)
}

// All yields the numbers in rising order. The set must not change meanwhile.
func (s *Set) All() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for r := range s.Ranges() {
			for q := r.First; ; q++ {
				if !yield(q) {
					return
				}
				if q == r.Last {
					break
				}
			}
		}
	}
}

// Clone returns a copy.
func (s *Set) Clone() *Set {
	if s == nil {
		return &Set{}
	}
	return &Set{ranges: slices.Clone(s.ranges)}
}

// Equal says whether both sets hold the same numbers.
func (s *Set) Equal(o *Set) bool {
	if s.Empty() || o.Empty() {
		return s.Empty() && o.Empty()
	}
	return slices.Equal(s.ranges, o.ranges)
}

// Union adds the numbers of o.
func (s *Set) Union(o *Set) {
	if o.Empty() {
		return
	}
	a, b := s.ranges, o.ranges
	out := Set{ranges: make([]Range, 0, len(a)+len(b))}
	for len(a) > 0 || len(b) > 0 {
		var r Range
		if len(b) == 0 || len(a) > 0 && a[0].First <= b[0].First {
			r, a = a[0], a[1:]
		} else {
			r, b = b[0], b[1:]
		}
		out.AddRange(r.First, r.Last) // rising starts: always at the end
	}
	s.ranges = out.ranges
}

// Subtract takes the numbers of o out.
func (s *Set) Subtract(o *Set) {
	if s.Empty() || o.Empty() {
		return
	}
	out := make([]Range, 0, len(s.ranges))
	b := o.ranges
	for _, r := range s.ranges {
		for len(b) > 0 && b[0].Last < r.First {
			b = b[1:]
		}
		out = appendWithout(out, r, b)
	}
	s.ranges = out
}

// appendWithout appends what is left of r without the ranges of b, none of
// which ends before r begins.
func appendWithout(out []Range, r Range, b []Range) []Range {
	for _, x := range b {
		if x.First > r.Last {
			break
		}
		if x.First > r.First {
			out = append(out, Range{r.First, x.First - 1})
		}
		if x.Last >= r.Last {
			return out
		}
		r.First = x.Last + 1
	}
	return append(out, r)
}

// Intersect keeps only the numbers that o holds too.
func (s *Set) Intersect(o *Set) {
	if s.Empty() {
		return
	}
	var out []Range
	if !o.Empty() {
		a, b := s.ranges, o.ranges
		for len(a) > 0 && len(b) > 0 {
			first, last := max(a[0].First, b[0].First), min(a[0].Last, b[0].Last)
			if first <= last {
				out = append(out, Range{first, last})
			}
			if a[0].Last < b[0].Last {
				a = a[1:]
			} else {
				b = b[1:]
			}
		}
	}
	s.ranges = out
}

// Clip returns a new set of those numbers that lie from first to last.
func (s *Set) Clip(first, last uint64) *Set {
	out := &Set{}
	if s == nil || first > last {
		return out
	}
	for _, r := range s.ranges[s.search(first):] {
		if r.First > last {
			break
		}
		out.ranges = append(out.ranges, Range{max(r.First, first), min(r.Last, last)})
	}
	return out
}

// String names the set as "3, 7-12", at most its first ten ranges.
func (s *Set) String() string {
	const most = 10
	var b strings.Builder
	n := 0
	for r := range s.Ranges() {
		if n > 0 {
			b.WriteString(", ")
		}
		if n == most {
			fmt.Fprintf(&b, "and %d ranges more", len(s.ranges)-most)
			break
		}
		if r.First == r.Last {
			fmt.Fprintf(&b, "%d", r.First)
		} else {
			fmt.Fprintf(&b, "%d-%d", r.First, r.Last)
		}
		n++
	}
	return b.String()
}
