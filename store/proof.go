package store

import (
	"encoding/binary"
	"slices"
	"sort"
)

// fingerprintSize is how many bytes of each record's hash a proof keeps. A
// record that differs goes unnoticed once in 2^32 times, and is then found by
// the digest when the restore point is read.
const fingerprintSize = 4

const (
	// maxSegmentRecords is the most that a segment of several can hold.
	maxSegmentRecords = MaxSegment / minRecord
	// minRun is the least that a run takes: two numbers and a fingerprint.
	minRun = 2 + fingerprintSize
)

// A proof says which records a pack holds: for each segment the sequences and a
// fingerprint of each record. By it the next backup knows, without reading the
// pack, that what the server sends again is what is stored.
type proof []segmentProof

// A segmentProof is the part of a proof about one segment.
type segmentProof struct {
	runs   []seqRun
	prints []byte // fingerprintSize for each record, in order
}

// A seqRun is a range of sequences without a gap, and how many records of the
// segment come before it.
type seqRun struct {
	first, last uint64
	before      uint64
}

func (p *segmentProof) count() uint64 { return uint64(len(p.prints) / fingerprintSize) }

// add adds the next record's sequence; its fingerprint follows separately.
func (p *segmentProof) add(seq, before uint64) {
	if n := len(p.runs); n > 0 && p.runs[n-1].last+1 == seq {
		p.runs[n-1].last = seq
		return
	}
	p.runs = append(p.runs, seqRun{first: seq, last: seq, before: before})
}

// find returns the fingerprint of the record of that sequence, nil if there is
// none.
func (p *segmentProof) find(seq uint64) []byte {
	i := sort.Search(len(p.runs), func(i int) bool { return p.runs[i].last >= seq })
	if i == len(p.runs) || p.runs[i].first > seq {
		return nil
	}
	at := (p.runs[i].before + seq - p.runs[i].first) * fingerprintSize
	return p.prints[at : at+fingerprintSize]
}

// matches says whether a record of that hash has this fingerprint.
func matches(print []byte, hash [32]byte) bool {
	return string(print) == string(hash[:fingerprintSize])
}

// appendTo appends the encoding: number of runs; for each the distance from the
// one before, less two, and its length less one; then the fingerprints.
func (p *segmentProof) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p.runs)))
	next := uint64(0)
	for i, r := range p.runs {
		if i == 0 {
			b = binary.AppendUvarint(b, r.first)
		} else {
			b = binary.AppendUvarint(b, r.first-next-1)
		}
		b = binary.AppendUvarint(b, r.last-r.first)
		next = r.last + 1
	}
	return append(b, p.prints...)
}

// memory returns about how much the runs of a decoded proof take.
func (p proof) memory() int {
	runs := 0
	for i := range p {
		runs += len(p[i].runs)
	}
	return 24 * runs
}

func (p proof) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(p)))
	for i := range p {
		b = p[i].appendTo(b)
	}
	return b
}

// decodeProof decodes what encode writes and nothing else. The fingerprints
// are slices of b.
func decodeProof(b []byte) (proof, error) {
	var p proof
	r := proofReader{}
	if err := r.begin(b); err != nil {
		return nil, err
	}
	for r.left > 0 {
		s, err := r.next()
		if err != nil {
			return nil, err
		}
		p = append(p, s)
	}
	return p, nil
}

// A proofReader decodes a proof segment by segment, as decodeProof does: all of
// it at once takes several times the encoding.
type proofReader struct {
	f    fields
	left uint64 // segments
}

func (r *proofReader) begin(b []byte) error {
	r.f = fields{b: b}
	if r.left = r.f.upTo(maxPackSegments); r.left == 0 {
		r.f.fail("proof of nothing")
	}
	return r.f.err
}

// next decodes the next segment; with the last it makes sure that nothing follows.
func (r *proofReader) next() (segmentProof, error) {
	if r.left == 0 {
		r.f.fail("proof of too few segments")
		return segmentProof{}, r.f.err
	}
	s := r.f.segmentProof()
	if r.left--; r.f.err == nil && r.left == 0 {
		r.f.end() //nolint:errcheck // sticks
	}
	return s, r.f.err
}

func (f *fields) segmentProof() segmentProof {
	n := f.upTo(min(maxSegmentRecords, uint64(len(f.b))/minRun))
	p := segmentProof{runs: make([]seqRun, 0, min(n, 256))}
	count := uint64(0)
	for i := range n {
		r := seqRun{before: count}
		if i == 0 {
			r.first = f.uvarint()
		} else {
			r.first = f.plus(f.add(p.runs[i-1].last, 2))
		}
		r.last = f.plus(r.first)
		if f.err != nil {
			return p
		}
		if r.first == 0 || r.last-r.first >= maxSegmentRecords {
			f.fail("run of sequences %d-%d", r.first, r.last)
			return p
		}
		count += r.last - r.first + 1
		p.runs = append(p.runs, r)
	}
	if count == 0 || count > maxSegmentRecords {
		f.fail("proof of %d records", count)
		return p
	}
	p.prints = f.bytes(int(count) * fingerprintSize)
	return p
}

// reset makes the proof ready for another segment.
func (p *segmentProof) reset() { p.runs, p.prints = p.runs[:0], p.prints[:0] }

// clone copies the proof of a segment whose chunk is reused.
func (p *segmentProof) clone() segmentProof {
	return segmentProof{runs: slices.Clone(p.runs), prints: slices.Clone(p.prints)}
}
