package seqset

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrInvalid means that bytes are no encoding of a set.
var ErrInvalid = errors.New("sequence set is invalid")

// AppendBinary appends the set's encoding: the number of ranges, then for each
// the distance from the range before (the first one: from zero; the others:
// beyond the least possible distance, two) and its length less one, all
// unsigned varints. Equal sets have equal encodings.
func (s *Set) AppendBinary(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.NumRanges()))
	base := uint64(0)
	for r := range s.Ranges() {
		dst = binary.AppendUvarint(dst, r.First-base)
		dst = binary.AppendUvarint(dst, r.Last-r.First)
		base = r.Last + 2 // wraps only after the last possible range
	}
	return dst
}

// ParseBinary decodes what AppendBinary wrote and nothing else: b must hold
// one set in its only encoding and no byte more.
func ParseBinary(b []byte) (*Set, error) {
	count, b, err := uvarint(b)
	if err != nil {
		return nil, err
	}
	if count > uint64(len(b))/2 {
		return nil, fmt.Errorf("%w: %d ranges in %d bytes", ErrInvalid, count, len(b))
	}
	s := &Set{ranges: make([]Range, 0, count)}
	base := uint64(0)
	for i := range count {
		var r Range
		if r, b, err = nextRange(b, base, i == 0); err != nil {
			return nil, err
		}
		s.ranges = append(s.ranges, r)
		base = r.Last + 2
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the end", ErrInvalid, len(b))
	}
	return s, nil
}

func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, fmt.Errorf("%w: varint", ErrInvalid)
	}
	return v, b[n:], nil
}

// MarshalJSON writes the ranges as [[first,last],…].
func (s *Set) MarshalJSON() ([]byte, error) {
	pairs := make([][2]uint64, 0, s.NumRanges())
	for r := range s.Ranges() {
		pairs = append(pairs, [2]uint64{r.First, r.Last})
	}
	return json.Marshal(pairs)
}

// UnmarshalJSON reads what MarshalJSON wrote; ranges may come in any order.
func (s *Set) UnmarshalJSON(b []byte) error {
	var pairs [][]uint64
	if err := json.Unmarshal(b, &pairs); err != nil {
		return fmt.Errorf("decode sequence set: %w", err)
	}
	s.ranges = nil
	for _, p := range pairs {
		if len(p) != 2 || p[0] > p[1] {
			return fmt.Errorf("%w: range %v", ErrInvalid, p)
		}
		s.AddRange(p[0], p[1])
	}
	return nil
}
