// Package record defines the canonical form of one stored message, the unit of
// everything jetkeep keeps, and the digest over a set of them.
//
// A record is encoded as one entry of the NATSARC1 format that nats-server 2.15
// introduced for snapshots (ADR-63), so that records between a head and an end
// entry are an archive such a server restores:
//
//	uvarint len(subject)
//	varint  time, nanoseconds since the Unix epoch
//	uvarint sequence
//	uvarint len(header)
//	uvarint len(data)
//	subject, header, data
//
// The encoding is canonical: Decode refuses varints that are longer than they
// need to be, so two records are equal if and only if their encodings are.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Magic starts a NATSARC1 archive.
const Magic = "NATSARC1"

// Bounds of one record, in bytes. A server accepts messages of at most 64 MiB
// (its hard limit on max_payload), header included.
const (
	MaxSubject = 1 << 16
	MaxBody    = 1 << 27
)

var (
	// ErrShort means that the buffer ends inside a record.
	ErrShort = errors.New("record is cut short")
	// ErrInvalid means that the bytes are no canonical record.
	ErrInvalid = errors.New("record is invalid")
)

// A Record is one message of a stream. The slices of a decoded record alias
// the buffer it was decoded from and are valid as long as that is.
type Record struct {
	Sequence uint64
	Time     int64 // nanoseconds since the Unix epoch, as the server stored it
	Subject  []byte
	Header   []byte // the raw NATS header block, "NATS/1.0\r\n" to the empty line; empty if the message has none
	Data     []byte
}

// Size returns the length of the record's encoding.
func (r *Record) Size() int {
	return uvarintLen(uint64(len(r.Subject))) + uvarintLen(zigzag(r.Time)) + uvarintLen(r.Sequence) +
		uvarintLen(uint64(len(r.Header))) + uvarintLen(uint64(len(r.Data))) +
		len(r.Subject) + len(r.Header) + len(r.Data)
}

// Append appends the encoding of r to dst.
func Append(dst []byte, r *Record) []byte {
	dst = AppendFields(dst, r)
	dst = append(dst, r.Header...)
	return append(dst, r.Data...)
}

// AppendFields appends the part of the encoding of r that comes before the
// header and the data.
func AppendFields(dst []byte, r *Record) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(r.Subject)))
	dst = binary.AppendVarint(dst, r.Time)
	dst = binary.AppendUvarint(dst, r.Sequence)
	dst = binary.AppendUvarint(dst, uint64(len(r.Header)))
	dst = binary.AppendUvarint(dst, uint64(len(r.Data)))
	return append(dst, r.Subject...)
}

// AppendHead appends what precedes the first entry of an archive.
func AppendHead(dst []byte) []byte { return append(dst, Magic...) }

// AppendEnd appends the end entry of an archive, every field zero.
func AppendEnd(dst []byte) []byte { return append(dst, 0, 0, 0, 0, 0) }

// Decode reads one record from the front of b and returns it with the number
// of bytes it took. It fails with ErrShort if b holds only a part of one, and
// with ErrInvalid if b holds no canonical record; the end entry is no record.
func Decode(b []byte) (Record, int, error) {
	r, n, err := DecodeEntry(b)
	if err == nil && (r.Sequence == 0 || len(r.Subject) == 0) {
		return Record{}, 0, fmt.Errorf("%w: sequence %d, subject of %d bytes", ErrInvalid, r.Sequence, len(r.Subject))
	}
	return r, n, err
}

// DecodeEntry is Decode without the demand that the entry be a message: it
// also returns the entries that precede the messages of an archive, whose
// sequence is zero, and the end entry, which is all zero.
func DecodeEntry(b []byte) (Record, int, error) {
	var f [5]uint64
	n := 0
	for i := range f {
		v, m, err := uvarint(b[n:])
		if err != nil {
			return Record{}, 0, err
		}
		f[i], n = v, n+m
	}
	if f[0] > MaxSubject || f[3] > MaxBody || f[4] > MaxBody {
		return Record{}, 0, fmt.Errorf("%w: subject of %d, header of %d, data of %d bytes", ErrInvalid, f[0], f[3], f[4])
	}
	s, h, d := int(f[0]), int(f[3]), int(f[4])
	if len(b)-n < s+h+d {
		return Record{}, 0, ErrShort
	}
	r := Record{
		Time:     int64(f[1]>>1) ^ -int64(f[1]&1),
		Sequence: f[2],
		Subject:  b[n : n+s : n+s],
		Header:   b[n+s : n+s+h : n+s+h],
		Data:     b[n+s+h : n+s+h+d : n+s+h+d],
	}
	return r, n + s + h + d, nil
}

// EntryLen returns how many bytes the entry takes that b begins with, 0 if b is
// too short to tell or holds no entry.
func EntryLen(b []byte) int {
	total, n := uint64(0), 0
	for i := range 5 {
		v, m, err := uvarint(b[n:])
		if err != nil {
			return 0
		}
		n += m
		if i == 1 || i == 2 { // time and sequence
			continue
		}
		if v > MaxBody {
			return 0
		}
		total += v
	}
	return n + int(total)
}

func uvarint(b []byte) (uint64, int, error) {
	v, n := binary.Uvarint(b)
	switch {
	case n == 0:
		return 0, 0, ErrShort
	case n < 0, n > 1 && b[n-1] == 0:
		return 0, 0, fmt.Errorf("%w: varint", ErrInvalid)
	}
	return v, n, nil
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func uvarintLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}
