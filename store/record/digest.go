package record

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"

	"github.com/minio/highwayhash"
)

// HashKey is the key of the records' hashes. It is no secret.
const HashKey = "jetkeep record digest, version 1"

// Hash returns the HighwayHash-256 of a record's encoding under HashKey. It
// costs a fifth of what SHA-256 costs, which is as much as the compression's
// faster half, and it is asked to find accidents only.
func Hash(encoded []byte) [32]byte { return highwayhash.Sum(encoded, []byte(HashKey)) }

// HashOf returns the Hash of a record's encoding without making the encoding,
// for records of which one copy is enough.
func HashOf(r *Record) (sum [32]byte) {
	h, err := highwayhash.New([]byte(HashKey))
	if err != nil {
		panic(err) // only if HashKey had not 32 bytes, with which Hash would panic too
	}
	for _, b := range [][]byte{AppendFields(nil, r), r.Header, r.Data} {
		_, _ = h.Write(b) // never fails
	}
	h.Sum(sum[:0])
	return sum
}

// A Sum is the digest of a set of records: the Hash of each, read as a
// little-endian 256-bit number, added modulo 2^256. The
// zero Sum is that of no records.
//
// It does not depend on order, so segments are summed in parallel and a
// deleted record is subtracted without reading the others again. It finds
// accidents; that nobody forged a record is what hashes of stored objects and
// the commit's signature are for.
type Sum struct {
	n     uint64
	limbs [4]uint64
}

// Add adds one record by its encoding.
func (s *Sum) Add(encoded []byte) { s.AddHash(Hash(encoded)) }

// AddHash adds one record by its Hash.
func (s *Sum) AddHash(h [32]byte) {
	var c uint64
	for i := range s.limbs {
		s.limbs[i], c = bits.Add64(s.limbs[i], binary.LittleEndian.Uint64(h[8*i:]), c)
	}
	s.n++
}

// Remove takes one record, by its encoding, out of the set.
func (s *Sum) Remove(encoded []byte) {
	h := Hash(encoded)
	var c uint64
	for i := range s.limbs {
		s.limbs[i], c = bits.Sub64(s.limbs[i], binary.LittleEndian.Uint64(h[8*i:]), c)
	}
	s.n--
}

// Merge adds the records of another set, disjoint from this one.
func (s *Sum) Merge(o Sum) {
	var c uint64
	for i := range s.limbs {
		s.limbs[i], c = bits.Add64(s.limbs[i], o.limbs[i], c)
	}
	s.n += o.n
}

// Count returns the number of records in the set.
func (s *Sum) Count() uint64 { return s.n }

// String returns the digest as 64 hexadecimal digits, least significant byte
// first. It does not hold the count.
func (s Sum) String() string {
	var b [32]byte
	for i, l := range s.limbs {
		binary.LittleEndian.PutUint64(b[8*i:], l)
	}
	return hex.EncodeToString(b[:])
}

// ParseSum restores a Sum from its String and its Count.
func ParseSum(digest string, count uint64) (Sum, error) {
	b, err := hex.DecodeString(digest)
	if err != nil || len(b) != 32 {
		return Sum{}, fmt.Errorf("%w: digest %q is not 64 hexadecimal digits", ErrInvalid, digest)
	}
	s := Sum{n: count}
	for i := range s.limbs {
		s.limbs[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return s, nil
}
