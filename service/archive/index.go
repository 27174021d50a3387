package archive

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/minio/highwayhash"

	"jetkeep/store/seqset"
)

// index.db describes the stream as a whole. It may be as large as all the
// stream's subjects and is therefore not held in memory; of use here are the
// state, the list of blocks and the deleted messages.
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
	t     *tarReader
	hash  *highwayhash.Digest64
	state IndexState
	err   error
}

// maxDeletedRanges bounds what is remembered of deleted messages.
const maxDeletedRanges = 8 << 20

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
	x := indexReader{t: &r.t, hash: hash, state: IndexState{Deleted: &seqset.Set{}}}
	r.index = x.blocks()
	r.sum.Index = x.state
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
	x.state.Messages = x.uvarint()
	x.uvarint() // bytes
	x.state.First = x.uvarint()
	x.uvarint() // its time
	x.state.Last = x.uvarint()
	x.uvarint() // its time
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

// deletes reads the set of deleted sequences of a block.
func (x *indexReader) deletes() {
	magic, version := x.byte(), x.byte()
	var nodes uint64
	for i := range 4 {
		nodes |= uint64(x.byte()) << (8 * i)
	}
	x.discard(4)
	// A node is its base, a bitmap of 64 or 32 words, and its height.
	words := map[byte]int{1: 64, 2: 32}[version]
	if (magic != deletesMagic || words == 0) && x.err == nil {
		x.err = corrupt("set of deleted messages is of no known version")
	}
	for ; nodes > 0 && x.err == nil; nodes-- {
		base := x.word()
		for i := range uint64(words) {
			x.deleted(base+64*i, x.word())
		}
		x.discard(2)
	}
}

// deleted notes the sequences that a word of a bitmap stands for.
func (x *indexReader) deleted(base, word uint64) {
	for ; word != 0 && x.err == nil; word &= word - 1 {
		x.state.Deleted.Add(base + uint64(bits.TrailingZeros64(word)))
	}
	if x.state.Deleted.NumRanges() > maxDeletedRanges && x.err == nil {
		x.err = fmt.Errorf("%w: index of more than %d ranges of deleted messages", ErrTooLarge, maxDeletedRanges)
	}
}

func (x *indexReader) word() uint64 {
	var v uint64
	for i := range 8 {
		v |= uint64(x.byte()) << (8 * i)
	}
	return v
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
