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
	needs   []*need // the packs first
	packs   int
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

// readTables goes through the metadata of a restore point and notes what it
// needs. Each table must be what its reference says, and everything what the
// commit says.
func (c *chainCheck) readTables(ctx context.Context, p *pointCheck) error {
	k := &p.point.Content
	for _, b := range []Blob{k.Tables.Blob, k.Deleted.Blob, k.Extra.Blob, p.point.Consumers.Blob} {
		if err := c.refer(ctx, p, p.holder, b); err != nil {
			return err
		}
	}
	if err := c.v.repo.Consumers(ctx, p.point, countConsumers); err != nil {
		if err := c.failErr(ctx, p.name, []int32{p.holder}, err); err != nil {
			return err
		}
	}
	refs, err := c.v.repo.tables(ctx, p.point)
	if err != nil {
		p.skip = true
		return c.failErr(ctx, p.name, []int32{p.holder}, err)
	}
	var all totals
	for i := range refs {
		t, err := c.readTable(ctx, p, &refs[i])
		if err != nil {
			return err
		}
		if t.bad {
			p.skip = true
			continue
		}
		c.addTable(p, t, &all)
	}
	if !p.skip {
		c.compareTotals(p, &all)
	}
	return nil
}

// totals is what the tables of a restore point have together.
type totals struct {
	segments, packs int
	raw, records    uint64
	seen            map[*need]bool
	begins, reaches uint64 // of the last table, and of all
}

// addTable adds a table of a restore point, which others may share.
func (c *chainCheck) addTable(p *pointCheck, t *tableCheck, all *totals) {
	if t.ref.First < all.begins {
		c.fail(p.name, []int32{p.holder}, "tables are out of order at sequence %d", t.ref.First)
	}
	p.overlaps = p.overlaps || t.overlap || all.segments > 0 && t.ref.First <= all.reaches
	all.begins, all.reaches = t.begins, max(all.reaches, t.reaches)
	all.segments, all.raw, all.records = all.segments+t.ref.Segments, all.raw+t.raw, all.records+t.ref.Count
	if all.seen == nil {
		all.seen = map[*need]bool{}
	}
	for i, n := range t.needs {
		if p.listed && !c.holds(p, n.named) {
			c.fail(p.name, []int32{p.holder}, "needs %s, which is not among its uses", n.name)
		}
		if i < t.packs && !all.seen[n] {
			all.seen[n] = true
			all.packs++
		}
	}
}

// compareTotals compares the tables with the commit. Each stored record is alive
// or in the deleted set, and nothing else is.
func (c *chainCheck) compareTotals(p *pointCheck, all *totals) {
	k := &p.point.Content
	if all.segments != k.Segments || all.packs != k.Packs || all.raw != k.RawBytes || all.records != k.Messages+k.Deleted.Count {
		c.fail(p.name, []int32{p.holder}, "says %d segments in %d packs, %d bytes and %d records, the tables have %d in %d, %d and %d",
			k.Segments, k.Packs, k.RawBytes, k.Messages+k.Deleted.Count, all.segments, all.packs, all.raw, all.records)
	}
}

// refer notes that a holder names a metadata object.
func (c *chainCheck) refer(ctx context.Context, p *pointCheck, from int32, b Blob) error {
	if b.Ref == nil {
		return nil
	}
	hash, err := b.Ref.hash()
	if err != nil {
		return c.failErr(ctx, p.name, []int32{p.holder}, err)
	}
	c.refersTo(p, from, c.v.repo.metaName(c.chain, hash), b.Ref.Size)
	return nil
}

// refersTo notes that a holder names an object, or if the restore point lists
// what it uses, checks that the object is there.
func (c *chainCheck) refersTo(p *pointCheck, from int32, name string, size int64) *need {
	if !p.listed {
		return c.need(from, name, size)
	}
	n := c.needs[name]
	if n == nil || !c.holds(p, n.named) {
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
	var last *packRef
	var n *need
	var proofs []*need
	for i := range segments {
		s := &segments[i]
		t.raw += s.raw
		t.begins = s.first
		t.overlap = t.overlap || i > 0 && s.first <= t.reaches
		t.reaches = max(t.reaches, s.last)
		if s.pack != last {
			n, last = c.refersTo(p, t.holder, c.v.repo.packName(c.chain, s.pack.hash), int64(s.pack.size)), s.pack
		}
		if places[n] == nil {
			t.needs = append(t.needs, n)
			n.proof = s.pack.proof
			if proof := c.proofObject(p, t, s.pack); proof != nil {
				proofs = append(proofs, proof)
			}
		}
		places[n] = append(places[n], s)
	}
	t.packs = len(t.needs)
	t.needs = append(t.needs, proofs...)
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

// proofObject notes the object that the proof of a pack is in, if it is in one.
// Restores do without it.
func (c *chainCheck) proofObject(p *pointCheck, t *tableCheck, pack *packRef) *need {
	if pack.proof.Ref == nil {
		return nil
	}
	hash, err := pack.proof.Ref.hash()
	if err != nil {
		return nil // decodeTable made it
	}
	n := c.refersTo(p, t.holder, c.v.repo.metaName(c.chain, hash), pack.proof.Ref.Size)
	n.aside = true
	return n
}

// describe appends everything that a segment says of itself.
func (s *segment) describe(b []byte) []byte {
	return s.appendTo(binary.AppendUvarint(b, s.offset))
}
