package archive

import (
	"encoding/binary"
	"fmt"

	"github.com/minio/highwayhash"
)

// index.db describes the stream as a whole; of it only the list of blocks is
// of use here. It may be as large as all the stream's subjects and is therefore
// not held in memory.
const (
	indexMagic      = 11
	indexMinVersion = 1
	indexMaxVersion = 4

	deletesMagic = 22

	// Of the index that servers up to 2.9 keep beside each block.
	indexFileMagic   = 22
	indexFileVersion = 1
)

// An indexReader reads an index.db and hashes it.
type indexReader struct {
	t    *tarReader
	hash *highwayhash.Digest64
	err  error
}

func (r *v1Reader) readIndex() error {
	if r.sum.HasIndex {
		return corrupt("it came before")
	}
	r.sum.HasIndex = true
	if r.t.left < hashLen {
		return corrupt("%d bytes", r.t.left)
	}
	key := streamKey(r.stream)
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return err
	}
	x := indexReader{t: &r.t, hash: hash}
	r.index = x.blocks()
	if x.err != nil {
		return x.err
	}
	sum, err := r.t.w.need(hashLen)
	if err != nil {
		return err
	}
	if hash.Sum64() != binary.LittleEndian.Uint64(sum) {
		return corrupt("it does not match its checksum")
	}
	r.t.skip(hashLen)
	if r.t.left > 0 {
		return corrupt("%d bytes are left in it", r.t.left)
	}
	return nil
}

// blocks reads up to the checksum and returns the indexes of the blocks.
func (x *indexReader) blocks() []uint32 {
	magic, version := x.byte(), x.byte()
	if x.err == nil && (magic != indexMagic || version < indexMinVersion || version > indexMaxVersion) {
		x.err = corrupt("it is of no known version")
	}
	for range 6 { // messages, bytes, first and last sequence and time
		x.uvarint()
	}
	for n := x.uvarint(); n > 0 && x.err == nil; n-- {
		x.subject(version)
	}
	var blocks []uint32
	for n := x.uvarint(); n > 0 && x.err == nil; n-- {
		if len(blocks) == maxBlocks {
			x.err = fmt.Errorf("%w: index of more than %d blocks", ErrTooLarge, maxBlocks)
		}
		blocks = append(blocks, x.block(version))
	}
	x.uvarint() // the last block
	x.discard(8)
	return blocks
}

func (x *indexReader) subject(version byte) {
	n := x.uvarint()
	if n == 0 {
		return
	}
	x.discard(n)
	total := x.uvarint()
	x.uvarint() // first block
	if total > 1 || version >= 4 {
		x.uvarint() // last block
	}
}

func (x *indexReader) block(version byte) uint32 {
	index := x.uvarint()
	for range 5 { // bytes, first and last sequence and time
		x.uvarint()
	}
	deleted := x.uvarint()
	for v := byte(2); v <= version && v <= 3; v++ { // with TTLs, with schedules
		x.uvarint()
	}
	if deleted > 0 {
		x.deletes()
	}
	if index > 1<<32-1 && x.err == nil {
		x.err = corrupt("it names block %d", index)
	}
	return uint32(index)
}

// deletes passes over the set of deleted sequences of a block.
func (x *indexReader) deletes() {
	magic, version := x.byte(), x.byte()
	var nodes uint64
	for i := range 4 {
		nodes |= uint64(x.byte()) << (8 * i)
	}
	x.discard(4)
	// A node is its base, a bitmap of 64 or 32 words, and its height.
	size := uint64(0)
	switch version {
	case 1:
		size = 8 + 64*8 + 2
	case 2:
		size = 8 + 32*8 + 2
	}
	if (magic != deletesMagic || size == 0) && x.err == nil {
		x.err = corrupt("set of deleted messages is of no known version")
	}
	x.discard(nodes * size)
}

// peek returns what may be read, up to the checksum at the end.
func (x *indexReader) peek() []byte {
	if x.err != nil {
		return nil
	}
	left := x.t.left - hashLen
	if left <= 0 {
		x.err = corrupt("it is cut short")
		return nil
	}
	b, err := x.t.some()
	if err != nil {
		x.err = err
		return nil
	}
	return b[:min(int64(len(b)), left)]
}

func (x *indexReader) take(b []byte) {
	_, _ = x.hash.Write(b) // never fails
	x.t.skip(len(b))
}

func (x *indexReader) byte() byte {
	b := x.peek()
	if len(b) == 0 {
		return 0
	}
	c := b[0]
	x.take(b[:1])
	return c
}

func (x *indexReader) discard(n uint64) {
	for n > 0 {
		b := x.peek()
		if len(b) == 0 {
			return
		}
		b = b[:min(uint64(len(b)), n)]
		n -= uint64(len(b))
		x.take(b)
	}
}

func (x *indexReader) uvarint() uint64 {
	if b := x.peek(); len(b) > 0 {
		if v, n := binary.Uvarint(b); n > 0 {
			x.take(b[:n])
			return v
		}
	}
	// It lies across what is in memory, or is wrong.
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		c := x.byte()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	if x.err == nil {
		x.err = corrupt("number in it")
	}
	return 0
}
