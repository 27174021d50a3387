package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// maxDeadBytes bounds the deleted sets that are in memory at once, as they are
// encoded. One alone may have more.
const maxDeadBytes = 32 << 20

// records reads the packs, each once for as many restore points as their
// deleted sets leave room for, and compares what they hold with the commits.
func (c *chainCheck) records(ctx context.Context) error {
	if c.v.opt.Level < VerifyRecords {
		return nil
	}
	todo := slices.DeleteFunc(slices.Clone(c.points), func(p *pointCheck) bool { return p.skip || p.locked })
	for first := true; first || len(todo) > 0; first = false {
		n, size := 0, int64(0)
		for n < len(todo) && (n == 0 || size+deadSize(todo[n]) <= maxDeadBytes) {
			size += deadSize(todo[n])
			n++
		}
		if err := c.batch(ctx, todo[:n], first); err != nil {
			return err
		}
		todo = todo[n:]
	}
	return nil
}

func deadSize(p *pointCheck) int64 {
	size := int64(0)
	for _, b := range []Blob{p.point.Content.Deleted.Blob, p.point.Content.Extra.Blob} {
		size += int64(len(b.Data))
		if b.Ref != nil {
			size += b.Ref.Raw
		}
	}
	return size
}

// batch reads the packs of some restore points; in the first of a chain all
// packs, so that none is left out because its restore points cannot be counted.
func (c *chainCheck) batch(ctx context.Context, points []*pointCheck, all bool) error {
	in := map[*pointCheck]bool{}
	for _, p := range points {
		err := c.loadDead(ctx, p)
		if err != nil {
			p.skip = true
			if err := c.failErr(ctx, p.name, []int32{p.holder}, err); err != nil {
				return err
			}
			continue
		}
		in[p] = true
	}
	var packs []*need
	for _, n := range c.order {
		if c.forRecords(n) && (all || c.usedBy(n, in)) {
			packs = append(packs, n)
			c.v.planned(1, n.size)
		}
	}
	if err := c.each(ctx, c.v.opt.readers(), packs, func(ctx context.Context, n *need) error { return c.readPack(ctx, n, in) }); err != nil {
		return err
	}
	for _, p := range points {
		if err := c.complete(ctx, p); err != nil {
			return err
		}
		p.dead, p.extra = nil, nil
	}
	return nil
}

// loadDead reads which records of a restore point are not alive. The extra ones
// are some of them.
func (c *chainCheck) loadDead(ctx context.Context, p *pointCheck) (err error) {
	if p.dead, err = c.v.repo.DeletedSet(ctx, p.point); err != nil {
		return err
	}
	if p.extra, err = c.v.repo.ExtraSet(ctx, p.point); err != nil {
		return err
	}
	if beyond, ok := p.extra.Within(p.dead); !ok {
		return damaged(p.name, nil, "counts sequences of %d to %d, which are not deleted, as such", beyond.First, beyond.Last)
	}
	return nil
}

func (c *chainCheck) usedBy(n *need, points map[*pointCheck]bool) bool {
	for i := range n.uses {
		for _, h := range c.holders[n.uses[i].table.holder].parents {
			if points[c.holders[h].point] {
				return true
			}
		}
	}
	return false
}

// complete compares what the segments of a restore point hold with its commit.
func (c *chainCheck) complete(ctx context.Context, p *pointCheck) error {
	if p.skip || !c.v.opt.whole() || c.damaged(p) {
		return nil
	}
	k, own := &p.point.Content, []int32{p.holder}
	want, err := k.sum()
	switch {
	case err != nil:
		c.fail(p.name, own, "digest: %s", err.Error())
	case p.tally.live != k.Messages:
		c.fail(p.name, own, "says %d messages, the segments hold %d", k.Messages, p.tally.live)
	case p.tally.sum != want:
		c.fail(p.name, own, "says digest %s, the segments have %s", k.Digest, p.tally.sum.String())
	case p.tally.bytes != k.Bytes || p.tally.first != k.FirstSeq || p.tally.last != k.LastSeq:
		c.fail(p.name, own, "says %d bytes from %d to %d, the segments hold %d from %d to %d", k.Bytes, k.FirstSeq, k.LastSeq, p.tally.bytes, p.tally.first, p.tally.last)
	case p.overlaps:
		// Only in order it shows whether a sequence is there twice. Each pack is
		// sound: what is wrong now is how they are put together.
		err := c.v.repo.readThrough(ctx, p.point)
		if damage := (*DamageError)(nil); errors.As(err, &damage) {
			c.fail(p.name, own, "%s", err.Error())
			return nil
		}
		return c.failErr(ctx, p.name, own, err)
	}
	return nil
}

// readThrough reads a restore point to its end.
func (r *Repository) readThrough(ctx context.Context, p Point) error {
	rd, err := r.NewReader(ctx, p)
	if err != nil {
		return err
	}
	defer rd.Close()
	for {
		if _, err := rd.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// A packReader decodes the segments of one pack.
type packReader struct {
	dec  *zstd.Decoder
	hash hash.Hash
	raw  []byte
	held []heldRecord
}

// A heldRecord is what counts of a record.
type heldRecord struct {
	seq  uint64
	size uint64
	sum  hash256
}

// usualProof is more than the proof of a pack has whose records are not tiny.
const usualProof = 4 << 20

// readPack reads a pack, decodes each of its segments and adds what they hold
// to the restore points that need them.
func (c *chainCheck) readPack(ctx context.Context, n *need, points map[*pointCheck]bool) error {
	if n.proof.Ref != nil && n.proof.Ref.Raw > usualProof {
		c.v.heavy.Lock()
		defer c.v.heavy.Unlock()
	}
	memory := c.v.repo.shares()
	taken, err := memory.packs.take(ctx, n.size)
	if err != nil {
		return err
	}
	defer memory.packs.give(taken)
	data, err := c.v.repo.readHashed(ctx, n.name, n.size, bufferOf(&memory.packBuffers))
	if err != nil {
		return err
	}
	defer func() { recycle(&memory.packBuffers, data) }()
	if data, err = c.v.repo.openPack(n.name, data); err != nil {
		return err
	}
	segments, err := packSegments(data)
	if err != nil {
		return damaged(n.name, err, "index")
	}
	proofs, err := c.proofs(ctx, n)
	if err != nil {
		return err
	}
	dec, err := newDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	pr := packReader{dec: dec, hash: sha256.New()}
	users := c.users(n, segments)
	for i := range segments {
		s := &segments[i]
		if err := pr.readWithin(ctx, memory, s, data[s.offset:s.offset+s.stored]); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return damaged(n.name, err, "segment %d-%d", s.first, s.last)
		}
		if proofs != nil && !c.proven(n, proofs, s, pr.held, i+1 == len(segments)) {
			proofs = nil
		}
		all := tallyOf(pr.held, nil, nil)
		tallies := map[*pointCheck]tally{}
		for _, p := range users[s.offset] {
			if !points[p] {
				continue
			}
			tallies[p] = all
			if p.dead.Overlaps(s.first, s.last) {
				tallies[p] = tallyOf(pr.held, p.dead, p.extra)
			}
		}
		c.v.mu.Lock()
		c.v.report.Records += s.count
		for p, t := range tallies {
			p.tally.merge(&t)
		}
		c.v.mu.Unlock()
	}
	return nil
}

// users returns for the place of each segment the restore points that have it.
// A table that says something else of a segment than the pack is damaged.
func (c *chainCheck) users(n *need, segments []segment) map[uint64][]*pointCheck {
	at := map[uint64]*segment{}
	for i := range segments {
		at[segments[i].offset] = &segments[i]
	}
	users := map[uint64][]*pointCheck{}
	for _, u := range n.uses {
		var described []byte
		for _, o := range u.offsets {
			if s := at[uint64(o)]; s != nil {
				described = s.describe(described)
			}
		}
		if sha256.Sum256(described) != u.check {
			c.fail(n.name, []int32{u.table.holder}, "a table says of its segments what its index does not")
			continue
		}
		for _, h := range c.holders[u.table.holder].parents {
			for _, o := range u.offsets {
				users[uint64(o)] = append(users[uint64(o)], c.holders[h].point)
			}
		}
	}
	return users
}

// packSegments reads the index of a pack and checks that it covers the frames.
func packSegments(data []byte) ([]segment, error) {
	if len(data) < packTail {
		return nil, fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	length := int64(binary.LittleEndian.Uint32(data[len(data)-packTail:])) + packHead
	if length > int64(len(data)) {
		return nil, fmt.Errorf("%w: index of %d bytes", errMalformed, length)
	}
	frames := int64(len(data)) - length
	segments, _, err := decodePackIndex(data[frames:])
	if err != nil {
		return nil, err
	}
	if s := segments[len(segments)-1]; s.offset+s.stored != uint64(frames) {
		return nil, fmt.Errorf("%w: the index covers %d bytes of %d", errMalformed, s.offset+s.stored, frames)
	}
	return segments, nil
}

// readWithin is read that takes the memory for a large record before.
func (pr *packReader) readWithin(ctx context.Context, m *Memory, s *segment, frame []byte) error {
	if s.raw <= MaxSegment {
		return pr.read(s, frame)
	}
	taken, err := m.records.take(ctx, int64(s.raw))
	if err != nil {
		return err
	}
	defer m.records.give(taken)
	usual := pr.raw
	pr.raw = bufferOf(&m.recordBuffers)
	defer func() {
		recycle(&m.recordBuffers, pr.raw)
		pr.raw = usual
	}()
	return pr.read(s, frame)
}

// read decodes a segment and holds what counts of its records.
func (pr *packReader) read(s *segment, frame []byte) error {
	raw, err := s.decode(pr.dec, frame, pr.raw)
	if err != nil {
		return err
	}
	pr.raw, pr.held = raw, pr.held[:0]
	return s.check(pr.hash, raw, func(r *record.Record, encoded []byte, sum hash256) {
		pr.held = append(pr.held, heldRecord{r.Sequence, uint64(len(encoded)), sum})
	})
}

// A tally is what the records of a restore point sum up to: its bytes and digest
// are over the live and the extra ones.
type tally struct {
	sum         record.Sum
	bytes       uint64
	live        uint64
	first, last uint64 // live
}

// tallyOf counts the records that are not dead, and those that count though
// they are.
func tallyOf(held []heldRecord, dead, extra *seqset.Packed) tally {
	var t tally
	isDead, isExtra := dead.Cursor(), extra.Cursor()
	for i := range held {
		h := &held[i]
		live := !isDead.Contains(h.seq)
		if !live && !isExtra.Contains(h.seq) {
			continue
		}
		one := tally{bytes: h.size}
		if live {
			one.live, one.first, one.last = 1, h.seq, h.seq
		}
		one.sum.AddHash(h.sum)
		t.merge(&one)
	}
	return t
}

func (t *tally) merge(o *tally) {
	t.sum.Merge(o.sum)
	t.bytes += o.bytes
	if o.live == 0 {
		return
	}
	if t.live == 0 || o.first < t.first {
		t.first = o.first
	}
	t.last = max(t.last, o.last)
	t.live += o.live
}
