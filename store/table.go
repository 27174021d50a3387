package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
)

// A packRef names a pack, says how large it is and refers to its proof, which
// in format 1 it does not have.
type packRef struct {
	hash  hash256
	size  uint64
	proof Blob
}

// A located segment is a segment and the pack that holds it.
type located struct {
	segment
	pack *packRef
}

// encodeTable encodes the payload of a table: the packs in order of first use,
// then the segments in order of first sequence.
func encodeTable(segments []located) []byte {
	index := map[hash256]uint64{}
	var packs []*packRef
	for i := range segments {
		p := segments[i].pack
		if _, ok := index[p.hash]; !ok {
			index[p.hash] = uint64(len(packs))
			packs = append(packs, p)
		}
	}
	b := binary.AppendUvarint(nil, uint64(len(packs)))
	for _, p := range packs {
		b = p.appendTo(b)
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

// appendTo appends the encoding: hash, size, and the proof: its length plus one
// and itself if it is small, else 0 and its hash, stored and raw length.
func (p *packRef) appendTo(b []byte) []byte {
	b = append(b, p.hash[:]...)
	b = binary.AppendUvarint(b, p.size)
	if p.proof.Ref == nil {
		b = binary.AppendUvarint(b, uint64(len(p.proof.Data))+1)
		return append(b, p.proof.Data...)
	}
	h, err := p.proof.Ref.hash()
	if err != nil {
		panic(err) // made by putBlob or read from a table
	}
	b = append(binary.AppendUvarint(b, 0), h[:]...)
	b = binary.AppendUvarint(b, uint64(p.proof.Ref.Size))
	return binary.AppendUvarint(b, uint64(p.proof.Ref.Raw))
}

func (f *fields) packRef() *packRef {
	p := &packRef{}
	copy(p.hash[:], f.bytes(sha256.Size))
	p.size = f.upTo(maxPack)
	if n := f.upTo(maxInlineProof + 1); n > 0 {
		if n > 1 {
			p.proof.Data = slices.Clone(f.bytes(int(n - 1)))
		}
		return p
	}
	ref := &Ref{Hash: hex.EncodeToString(f.bytes(sha256.Size))}
	ref.Size, ref.Raw = int64(f.upTo(maxBlob)), int64(f.upTo(maxProofPayload))
	if f.err == nil && (ref.Size == 0 || ref.Raw == 0) {
		f.fail("reference to an empty proof")
	}
	p.proof.Ref = ref
	return p
}

// packRef1 reads what format 1 knew of a pack.
func (f *fields) packRef1() *packRef {
	p := &packRef{}
	copy(p.hash[:], f.bytes(sha256.Size))
	p.size = f.upTo(maxPack)
	return p
}

// decodeTable decodes the payload of a table and refuses what encodeTable
// would have written otherwise.
func decodeTable(b []byte) ([]located, error) { return decodePacks(b, (*fields).packRef) }

// decodeTable1 decodes a table of format 1.
func decodeTable1(b []byte) ([]located, error) { return decodePacks(b, (*fields).packRef1) }

func decodePacks(b []byte, pack func(*fields) *packRef) ([]located, error) {
	f := fields{b: b}
	n := f.upTo(maxTableSegments)
	packs := make([]*packRef, 0, min(n, 256))
	seen := map[hash256]bool{}
	for range n {
		p := pack(&f)
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
func (f *fields) located(packs []*packRef) ([]located, error) {
	n := f.upTo(maxTableSegments)
	segments := make([]located, 0, min(n, 256))
	used := 0
	for range n {
		i := f.uvarint()
		offset := f.upTo(maxPack)
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
