package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// A tableCheck is what is remembered of a table once it was read, however many
// restore points share it.
type tableCheck struct {
	ref     TableRef // what it describes
	holder  int32
	bad     bool
	packs   []*need
	raw     uint64
	begins  uint64 // first sequence of its last segment
	reaches uint64 // highest last sequence
	overlap bool
}

// A packUse is what one table says is in a pack: the places of segments, and a
// hash over their descriptions.
type packUse struct {
	table   *tableCheck
	offsets []uint32
	check   hash256
}

// readTables goes through the tables of a restore point and notes what they
// need. Each must be what its reference says, and everything what the commit
// says.
func (c *chainCheck) readTables(ctx context.Context, p *pointCheck) error {
	own := []int32{p.holder}
	for _, b := range []struct {
		kind kind
		blob Blob
	}{{kindTables, p.point.Content.Tables.Blob}, {kindDeleted, p.point.Content.Deleted.Blob}, {kindConsumers, p.point.Consumers.Blob}} {
		if err := c.refer(ctx, p, p.holder, b.blob); err != nil {
			return err
		}
	}
	if _, err := c.v.repo.Consumers(ctx, p.point); err != nil {
		if err := c.failErr(ctx, p.name, own, err); err != nil {
			return err
		}
	}
	refs, err := c.v.repo.tables(ctx, p.point)
	if err != nil {
		p.skip = true
		return c.failErr(ctx, p.name, own, err)
	}
	var segments int
	var raw, count, begins, reaches uint64
	packs := map[*need]bool{}
	for i := range refs {
		t, err := c.readTable(ctx, p, &refs[i])
		if err != nil {
			return err
		}
		if t.bad {
			p.skip = true
			continue
		}
		if refs[i].First < begins {
			c.fail(p.name, own, "tables are out of order at sequence %d", refs[i].First)
		}
		p.overlaps = p.overlaps || t.overlap || i > 0 && refs[i].First <= reaches
		begins, reaches = t.begins, max(reaches, t.reaches)
		segments, raw, count = segments+t.ref.Segments, raw+t.raw, count+t.ref.Count
		for _, n := range t.packs {
			packs[n] = true
			if p.listed && !c.holds(p, n.owners) {
				c.fail(p.name, own, "needs %s, which is not among its uses", n.name)
			}
		}
	}
	k := &p.point.Content
	if !p.skip && (segments != k.Segments || len(packs) != k.Packs || raw != k.RawBytes || count != k.Messages+k.Deleted.Count) {
		c.fail(p.name, own, "says %d segments in %d packs, %d bytes and %d records, the tables have %d in %d, %d and %d",
			k.Segments, k.Packs, k.RawBytes, k.Messages+k.Deleted.Count, segments, len(packs), raw, count)
	}
	return nil
}

// refer notes that a holder names a metadata object.
func (c *chainCheck) refer(ctx context.Context, p *pointCheck, from int32, b Blob) error {
	if b.Ref == nil {
		return nil
	}
	name, _, err := b.Ref.name()
	if err != nil {
		return c.failErr(ctx, p.name, []int32{p.holder}, err)
	}
	c.refersTo(p, from, name, b.Ref.Size)
	return nil
}

// refersTo notes that a holder names an object, or if the restore point lists
// what it uses, checks that the object is there.
func (c *chainCheck) refersTo(p *pointCheck, from int32, name string, size int64) *need {
	if !p.listed {
		return c.need(from, name, size)
	}
	n := c.needs[name]
	if n == nil || !c.holds(p, n.owners) {
		c.fail(p.name, []int32{p.holder}, "needs %s, which is not among its uses", name)
	}
	return c.need(from, name, size)
}

// readTable reads a table, unless it is known.
func (c *chainCheck) readTable(ctx context.Context, p *pointCheck, ref *TableRef) (*tableCheck, error) {
	if err := c.refer(ctx, p, p.holder, ref.Blob); err != nil {
		return nil, err
	}
	key := p.id + "/" + string(ref.Data)
	if ref.Ref != nil {
		key = ref.Ref.Hash
	}
	from, isNew := c.share(p.holder, "table "+key)
	if !isNew {
		t := c.tables[key]
		if d := t.ref; !t.bad && (d.Segments != ref.Segments || d.First != ref.First || d.Last != ref.Last || d.Count != ref.Count) {
			c.fail(p.name, []int32{p.holder}, "refers to a table of %d segments %d-%d as another", d.Segments, d.First, d.Last)
		}
		return t, nil
	}
	t := &tableCheck{holder: from}
	c.tables[key] = t
	segments, err := c.v.repo.table(ctx, p.point, *ref)
	if err != nil {
		t.bad = true
		return t, c.failErr(ctx, p.name, []int32{p.holder}, err)
	}
	c.keepTable(p, t, segments)
	return t, nil
}

// keepTable remembers of a table what is needed later.
func (c *chainCheck) keepTable(p *pointCheck, t *tableCheck, segments []located) {
	t.ref = describeTable(segments)
	places := map[*need][]*located{}
	var lastPack hash256
	var n *need
	for i := range segments {
		s := &segments[i]
		t.raw += s.raw
		t.begins = s.first
		t.overlap = t.overlap || i > 0 && s.first <= t.reaches
		t.reaches = max(t.reaches, s.last)
		if n == nil || s.pack.hash != lastPack {
			n, lastPack = c.refersTo(p, t.holder, packName(s.pack.hash), int64(s.pack.size)), s.pack.hash
		}
		if places[n] == nil {
			t.packs = append(t.packs, n)
		}
		places[n] = append(places[n], s)
	}
	if c.v.opt.Level < VerifyRecords {
		return
	}
	for n, in := range places {
		u := packUse{table: t}
		var described []byte
		for _, s := range in {
			u.offsets = append(u.offsets, uint32(min(s.offset, math.MaxUint32)))
			described = s.describe(described)
		}
		u.check = sha256.Sum256(described)
		n.uses = append(n.uses, u)
	}
}

// describe appends everything that a segment says of itself.
func (s *segment) describe(b []byte) []byte {
	return s.appendTo(binary.AppendUvarint(b, s.offset))
}
