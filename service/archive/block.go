package archive

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/minio/highwayhash"

	"jetkeep/store/record"
)

// A block is a sequence of records. All integers are little endian.
//
//	 0  4  length of the record, with the hash; bit 31: it has headers
//	 4  8  sequence; bit 63: erased or skipped, bit 62: tombstone
//	12  8  time
//	20  2  length of the subject
//	22  …  subject, [4 bytes length of the headers, headers,] data
//	 …  8  HighwayHash-64 of bytes 4 to 20, subject, headers and data
//
// The hash does not cover the lengths. That the subject ends where it says is
// therefore known only by the checksum of the S2 chunk.
const (
	headLen = 22
	hashLen = highwayhash.Size64
	minRec  = headLen + hashLen

	headersBit   = 1 << 31
	erasedBit    = 1 << 63
	tombstoneBit = 1 << 62

	// maxRead is the longest record that is read: servers limit a message to
	// 64 MiB. They cannot recover one above maxWritten, so none is written.
	maxRead    = 64<<20 + 1<<17
	maxWritten = 32 << 20
)

type hashKey [sha256.Size]byte

func streamKey(stream string) hashKey { return sha256.Sum256([]byte(stream)) }

func consumerKey(stream, consumer string) hashKey {
	return sha256.Sum256([]byte(stream + "/" + consumer))
}

func blockKey(stream string, index uint32) hashKey {
	return sha256.Sum256([]byte(stream + "-" + strconv.FormatUint(uint64(index), 10)))
}

func (k *hashKey) sum(b []byte) uint64 { return highwayhash.Sum64(b, k[:]) }

// A blockRecord is one record of a block, whatever it stands for.
type blockRecord struct {
	record.Record
	flags uint64 // erasedBit, tombstoneBit
}

// recordLen returns the length of the record that b begins with, of which b
// holds at least the first four bytes.
func recordLen(b []byte) (int, error) {
	n := int(binary.LittleEndian.Uint32(b) &^ headersBit)
	if n < minRec || n > maxRead {
		return 0, corrupt("record of %d bytes", n)
	}
	return n, nil
}

// decode reads the record that b is. It changes b: so that one pass over one
// slice yields the hash, sequence, time and subject are moved up to where the
// hashed content follows without a break.
func (r *blockRecord) decode(b []byte, key *hashKey) error {
	subject := int(binary.LittleEndian.Uint16(b[20:]))
	end := len(b) - hashLen
	body := headLen + subject
	header := 0
	gap := 2
	if b[3]&0x80 != 0 {
		gap, body = 6, body+4
		if body > end {
			return corrupt("record of %d bytes with a subject of %d", len(b), subject)
		}
		n := binary.LittleEndian.Uint32(b[body-4:])
		if uint64(n) > uint64(end-body) {
			return corrupt("record of %d bytes with headers of %d", len(b), n)
		}
		header = int(n)
		copy(b[headLen+4:], b[headLen:headLen+subject])
	} else if body > end {
		return corrupt("record of %d bytes with a subject of %d", len(b), subject)
	}
	copy(b[4+gap:], b[4:20])
	if key.sum(b[4+gap:end]) != binary.LittleEndian.Uint64(b[end:]) {
		return corrupt("record does not match its checksum")
	}
	seq := binary.LittleEndian.Uint64(b[4+gap:])
	r.flags = seq & (erasedBit | tombstoneBit)
	r.Sequence = seq &^ (erasedBit | tombstoneBit)
	r.Time = int64(binary.LittleEndian.Uint64(b[12+gap:]))
	r.Subject = b[body-subject : body : body]
	r.Header = b[body : body+header : body+header]
	r.Data = b[body+header : end : end]
	return nil
}

// appendBlockRecord appends the encoding of a record of a block.
func appendBlockRecord(dst []byte, r *record.Record, flags uint64, key *hashKey) ([]byte, error) {
	size := minRec + len(r.Subject) + len(r.Header) + len(r.Data)
	gap := 2
	if len(r.Header) > 0 {
		size, gap = size+4, 6
	}
	if size > maxWritten || len(r.Subject) > 1<<16-1 {
		return dst, fmt.Errorf("%w: message %d takes %d bytes, servers read up to %d", ErrTooLarge, r.Sequence, size, maxWritten)
	}
	le := binary.LittleEndian
	// What is hashed is put together without a break first, then its head is
	// moved down to make room for the lengths.
	start := len(dst)
	dst = append(dst, make([]byte, 4+gap)...)
	dst = le.AppendUint64(dst, r.Sequence|flags)
	dst = le.AppendUint64(dst, uint64(r.Time))
	dst = append(dst, r.Subject...)
	dst = append(dst, r.Header...)
	dst = append(dst, r.Data...)
	dst = le.AppendUint64(dst, key.sum(dst[start+4+gap:]))

	b := dst[start:]
	copy(b[4:], b[4+gap:20+gap])
	length := uint32(size)
	if gap == 6 {
		copy(b[headLen:], b[headLen+4:headLen+4+len(r.Subject)])
		le.PutUint32(b[headLen+len(r.Subject):], uint32(len(r.Header)))
		length |= headersBit
	}
	le.PutUint32(b, length)
	le.PutUint16(b[20:], uint16(len(r.Subject)))
	return dst, nil
}
