package store

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A pack ends with its own index in a zstd skippable frame, which zstd -d
// passes over: magic, length, entries, length again, mark. The length at the
// end finds the frame from the back.
const (
	skippableMagic = 0x184D2A5A
	packMark       = "JKPACK02"
	packMark1      = "JKPACK01" // of format 1, without an epoch
	packHead       = 8
	packTail       = 4 + len(packMark)
	// maxPackIndex bounds the index: a segment's entry takes at most 90 bytes.
	maxPackIndex = packHead + packTail + 20 + maxPackSegments*90
)

// appendPackIndex appends the index frame of a pack of these segments. The
// epoch makes the name of the pack one that was never used before it.
func appendPackIndex(b []byte, segments []segment, epoch uint64) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.AppendUvarint(b, epoch)
	b = binary.AppendUvarint(b, uint64(len(segments)))
	for i := range segments {
		b = segments[i].appendTo(b)
	}
	length := uint32(len(b) - start - packHead + packTail)
	binary.LittleEndian.PutUint32(b[start+4:], length)
	b = binary.LittleEndian.AppendUint32(b, length)
	return append(b, packMark...)
}

// decodePackIndex decodes an index frame and nothing else: b begins with its
// magic and ends with its mark.
func decodePackIndex(b []byte) (segments []segment, epoch uint64, err error) {
	if len(b) < packHead+packTail || binary.LittleEndian.Uint32(b) != skippableMagic {
		return nil, 0, fmt.Errorf("%w: no pack index", errMalformed)
	}
	mark := string(b[len(b)-len(packMark):])
	if mark != packMark && mark != packMark1 {
		return nil, 0, fmt.Errorf("%w: no pack index", errMalformed)
	}
	length := uint32(len(b) - packHead)
	if len(b) > math.MaxUint32 || binary.LittleEndian.Uint32(b[4:]) != length || binary.LittleEndian.Uint32(b[len(b)-packTail:]) != length {
		return nil, 0, fmt.Errorf("%w: length of the pack index", errMalformed)
	}
	f := fields{b: b[packHead : len(b)-packTail]}
	if mark == packMark {
		epoch = f.uvarint()
	}
	n := f.upTo(maxPackSegments)
	segments = make([]segment, 0, n)
	offset := uint64(0)
	for range n {
		s := f.segment()
		s.offset = offset
		offset += s.stored
		segments = append(segments, s)
	}
	if f.err == nil && (n == 0 || offset > maxPack) {
		f.fail("pack of %d segments in %d bytes", n, offset)
	}
	return segments, epoch, f.end()
}
