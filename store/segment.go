package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"jetkeep/store/record"
)

type hash256 = [sha256.Size]byte

// A segment describes a run of records stored as one zstd frame in a pack.
type segment struct {
	offset uint64 // of the frame in the pack
	stored uint64 // length of the frame
	raw    uint64 // length of the records
	first  uint64
	last   uint64
	count  uint64
	border border
	hash   hash256 // over the hashes of the records, in order
}

// appendTo appends all fields but the offset, which follows from the lengths.
func (s *segment) appendTo(b []byte) []byte {
	for _, v := range []uint64{s.stored, s.raw, s.first, s.last - s.first, s.count, uint64(s.border)} {
		b = binary.AppendUvarint(b, v)
	}
	return append(b, s.hash[:]...)
}

func (f *fields) segment() segment {
	s := segment{stored: f.upTo(maxPack), raw: f.upTo(maxRawSegment), first: f.uvarint()}
	s.last = f.plus(s.first)
	s.count = f.upTo(s.raw / minRecord)
	if s.raw > MaxSegment && s.count > 1 {
		f.fail("segment of %d records in %d bytes", s.count, s.raw)
	}
	s.border = border(f.upTo(uint64(borderTable)))
	copy(s.hash[:], f.bytes(sha256.Size))
	if f.err == nil && (s.stored == 0 || s.count == 0 || s.first == 0 || s.count-1 > s.last-s.first) {
		f.fail("segment of %d records from %d to %d in %d bytes", s.count, s.first, s.last, s.stored)
	}
	return s
}

// check reads through the decoded records of the segment and verifies that
// they are what the description says. visit sees each with its encoding.
func (s *segment) check(h hash.Hash, raw []byte, visit func(r *record.Record, encoded []byte, sum hash256)) error {
	if uint64(len(raw)) != s.raw {
		return fmt.Errorf("%d bytes, not %d", len(raw), s.raw)
	}
	h.Reset()
	count, last := uint64(0), uint64(0)
	for off := 0; off < len(raw); {
		r, n, err := record.Decode(raw[off:])
		if err != nil {
			return fmt.Errorf("record %d: %w", count+1, err)
		}
		if count == 0 && r.Sequence != s.first || r.Sequence <= last {
			return fmt.Errorf("record %d has sequence %d after %d", count+1, r.Sequence, last)
		}
		count, last = count+1, r.Sequence
		encoded := raw[off : off+n]
		sum := record.Hash(encoded)
		h.Write(sum[:])
		visit(&r, encoded, sum)
		off += n
	}
	if count != s.count || last != s.last {
		return fmt.Errorf("%d records up to %d, not %d up to %d", count, last, s.count, s.last)
	}
	var got hash256
	if h.Sum(got[:0]); got != s.hash {
		return errors.New("hash of the records differs")
	}
	return nil
}

// decode decompresses a frame into buf, which is grown if it is too small.
func (s *segment) decode(dec *zstd.Decoder, frame, buf []byte) ([]byte, error) {
	if uint64(cap(buf)) < s.raw {
		if err := s.tryLength(frame); err != nil {
			return nil, err
		}
		buf = make([]byte, 0, bufferFor(s.raw))
	}
	raw, err := dec.DecodeAll(frame, buf[:0:s.raw])
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return raw, nil
}

// tryLength makes sure, before memory is set aside for a record that is larger
// than any segment of several, that this is what the frame unpacks to: a few
// bytes can claim anything.
func (s *segment) tryLength(frame []byte) error {
	if s.raw <= MaxSegment {
		return nil
	}
	dec, err := zstd.NewReader(bytes.NewReader(frame), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	defer dec.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(dec, int64(s.raw)+1))
	if err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	if uint64(n) != s.raw {
		return fmt.Errorf("%d bytes, not %d", n, s.raw)
	}
	return nil
}

// bufferFor returns how large a buffer to make for so many bytes: a small one
// for the small streams of which there are many, else one that fits the next
// segments too.
func bufferFor(n uint64) uint64 {
	if n <= 256<<10 {
		return n
	}
	return max(n, MaxSegment)
}

func compareFirst(a, b *segment) int { return cmp.Compare(a.first, b.first) }
