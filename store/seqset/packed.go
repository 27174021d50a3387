package seqset

import (
	"fmt"
	"iter"
	"math"
	"sort"
)

// markEvery is how many ranges lie between two places that a Packed finds
// without reading what comes before.
const markEvery = 128

// A Packed is a set in its encoding, which it takes little more memory than: two
// to twenty bytes a range. It cannot be changed, so goroutines can share it. A
// nil Packed is empty.
type Packed struct {
	b      []byte // the ranges
	marks  []mark
	ranges uint64
	count  uint64
	last   uint64
}

// A mark is a place in the encoding: what follows counts from base.
type mark struct {
	base uint64
	off  int
}

// ParsePacked takes what AppendBinary wrote and nothing else, like ParseBinary,
// and keeps it: the caller must not change it any more.
func ParsePacked(b []byte) (*Packed, error) {
	count, rest, err := uvarint(b)
	if err != nil {
		return nil, err
	}
	if count > uint64(len(rest))/2 {
		return nil, fmt.Errorf("%w: %d ranges in %d bytes", ErrInvalid, count, len(rest))
	}
	p := &Packed{b: rest, ranges: count}
	base := uint64(0)
	for i := range count {
		if i%markEvery == 0 {
			p.marks = append(p.marks, mark{base, len(p.b) - len(rest)})
		}
		var r Range
		if r, rest, err = nextRange(rest, base, i == 0); err != nil {
			return nil, err
		}
		p.count += r.Len()
		p.last, base = r.Last, r.Last+2
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the end", ErrInvalid, len(rest))
	}
	if count == 1 && p.count == 0 {
		p.count = math.MaxUint64 // all 2^64 numbers, as Len of a Set has it
	}
	return p, nil
}

// nextRange decodes a range that follows base, which is two beyond the last of
// the range before.
func nextRange(b []byte, base uint64, first bool) (Range, []byte, error) {
	gap, b, err := uvarint(b)
	if err != nil {
		return Range{}, nil, err
	}
	span, b, err := uvarint(b)
	if err != nil {
		return Range{}, nil, err
	}
	if !first && base < 2 || gap > math.MaxUint64-base || span > math.MaxUint64-base-gap {
		return Range{}, nil, fmt.Errorf("%w: range beyond the highest number", ErrInvalid)
	}
	return Range{First: base + gap, Last: base + gap + span}, b, nil
}

// Len returns how many numbers the set holds, as Len of a Set does.
func (p *Packed) Len() uint64 {
	if p == nil {
		return 0
	}
	return p.count
}

// Empty says whether the set holds nothing.
func (p *Packed) Empty() bool { return p == nil || p.ranges == 0 }

// Ranges yields the ranges in rising order.
func (p *Packed) Ranges() iter.Seq[Range] {
	return func(yield func(Range) bool) {
		c := p.Cursor()
		for c.step() {
			if !yield(c.at) {
				return
			}
		}
	}
}

// Overlaps says whether the set holds any number from first to last.
func (p *Packed) Overlaps(first, last uint64) bool {
	if first > last {
		return false
	}
	c := p.Cursor()
	c.seek(first)
	return c.valid && c.at.First <= last
}

// Within says whether o holds every number of the set, and else the first range
// of it that o does not hold whole.
func (p *Packed) Within(o *Packed) (Range, bool) {
	c := o.Cursor()
	for r := range p.Ranges() {
		c.seek(r.First)
		if !c.valid || c.at.First > r.First || c.at.Last < r.Last {
			return r, false
		}
	}
	return Range{}, true
}

// Cursor returns a cursor that stands before the set's first range.
func (p *Packed) Cursor() *Cursor { return &Cursor{set: p} }

// A Cursor looks numbers up in a Packed. Those that rise cost least. It is for
// one goroutine.
type Cursor struct {
	set   *Packed
	at    Range // if valid: the range that it stands on
	valid bool
	off   int
	next  uint64 // how many ranges come before off
	base  uint64
	floor uint64 // no number from here on lies before the range it stands on
}

// Contains says whether seq is in the set.
func (c *Cursor) Contains(seq uint64) bool {
	c.seek(seq)
	return c.valid && c.at.First <= seq
}

// seek moves to the first range whose last number is at least seq; there is none
// if the cursor is not valid afterwards.
func (c *Cursor) seek(seq uint64) {
	if c.set.Empty() {
		return
	}
	if c.valid && c.floor <= seq && seq <= c.at.Last {
		return
	}
	// From the last mark that is not beyond the range that is sought.
	marks := c.set.marks
	i := sort.Search(len(marks), func(i int) bool { return i > 0 && marks[i].base > seq }) - 1
	if back := seq < c.floor; back || uint64(i)*markEvery > c.next {
		c.off, c.base, c.next, c.valid, c.floor = marks[i].off, marks[i].base, uint64(i)*markEvery, false, 0
		if i > 0 {
			c.floor = marks[i].base - 1
		}
	}
	for !c.valid || c.at.Last < seq {
		if !c.step() {
			return
		}
	}
}

// step goes to the next range and says whether there is one.
func (c *Cursor) step() bool {
	if c.valid {
		c.floor = c.at.Last + 1
	}
	if c.set == nil || c.next == c.set.ranges {
		c.valid = false
		return false
	}
	before := c.set.b[c.off:]
	r, rest, err := nextRange(before, c.base, c.next == 0)
	if err != nil {
		panic(err) // ParsePacked has read it
	}
	c.at, c.valid = r, true
	c.off, c.next, c.base = c.off+len(before)-len(rest), c.next+1, r.Last+2
	return true
}
