package store

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"jetkeep/store/object"
)

// A packRef names a pack and says how large it is.
type packRef struct {
	hash hash256
	size uint64
}

// A located segment is a segment and the pack that holds it.
type located struct {
	segment
	pack packRef
}

// encodeTable encodes the payload of a table: the packs in order of first use,
// then the segments in order of first sequence.
func encodeTable(segments []located) []byte {
	index := map[hash256]uint64{}
	var packs []packRef
	for i := range segments {
		p := segments[i].pack
		if _, ok := index[p.hash]; !ok {
			index[p.hash] = uint64(len(packs))
			packs = append(packs, p)
		}
	}
	b := binary.AppendUvarint(nil, uint64(len(packs)))
	for _, p := range packs {
		b = append(b, p.hash[:]...)
		b = binary.AppendUvarint(b, p.size)
	}
	b = binary.AppendUvarint(b, uint64(len(segments)))
	for i := range segments {
		s := &segments[i]
		b = binary.AppendUvarint(b, index[s.pack.hash])
		b = binary.AppendUvarint(b, s.offset)
		b = s.appendTo(b)
	}
	return b
}

// decodeTable decodes the payload of a table and refuses what encodeTable
// would have written otherwise.
func decodeTable(b []byte) ([]located, error) {
	f := fields{b: b}
	n := f.upTo(maxTableSegments)
	packs := make([]packRef, 0, min(n, 256))
	seen := map[hash256]bool{}
	for range n {
		var p packRef
		copy(p.hash[:], f.bytes(sha256.Size))
		p.size = f.upTo(object.MaxSize)
		if f.err != nil {
			return nil, f.err
		}
		if seen[p.hash] {
			return nil, fmt.Errorf("%w: pack named twice", errMalformed)
		}
		seen[p.hash] = true
		packs = append(packs, p)
	}
	return f.located(packs)
}

// located reads the segments of a table and its end.
func (f *fields) located(packs []packRef) ([]located, error) {
	n := f.upTo(maxTableSegments)
	segments := make([]located, 0, min(n, 256))
	used := 0
	for range n {
		i := f.uvarint()
		offset := f.upTo(object.MaxSize)
		s := located{segment: f.segment()}
		if f.err != nil {
			return nil, f.err
		}
		if i > uint64(used) || i >= uint64(len(packs)) {
			return nil, fmt.Errorf("%w: pack %d of %d, %d used so far", errMalformed, i, len(packs), used)
		}
		if i == uint64(used) {
			used++
		}
		s.offset, s.pack = offset, packs[i]
		if offset+s.stored > s.pack.size {
			return nil, fmt.Errorf("%w: segment beyond the end of its pack", errMalformed)
		}
		if k := len(segments); k > 0 && s.first < segments[k-1].first {
			return nil, fmt.Errorf("%w: segments out of order", errMalformed)
		}
		segments = append(segments, s)
	}
	if f.err == nil && (used != len(packs) || n == 0) {
		f.fail("%d packs named, %d used by %d segments", len(packs), used, n)
	}
	if err := f.end(); err != nil {
		return nil, err
	}
	return segments, nil
}
