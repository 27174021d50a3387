package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"jetkeep/store/seqset"
)

// maxInlineUses is how many objects a commit record names itself.
const maxInlineUses = 64

// Finish stores what is left and the tables, and returns what a restore point
// of these records holds. Sequences in deleted are not live; deleted may hold
// any others than those appended, too. The writer is at its end, whatever
// Finish returns.
func (w *Writer) Finish(ctx context.Context, deleted *seqset.Set) (Content, error) {
	if err := w.failed(); err != nil {
		w.Abort()
		return Content{}, err
	}
	defer w.Abort()
	stop := context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	defer stop()
	if err := w.drain(); err != nil {
		return Content{}, err
	}
	c, err := w.content(ctx, deleted)
	if err != nil {
		return Content{}, fmt.Errorf("finish %s: %w", w.opt.Task, err)
	}
	return c, nil
}

func (w *Writer) content(ctx context.Context, deleted *seqset.Set) (Content, error) {
	t := &w.results
	slices.SortStableFunc(t.segments, func(a, b located) int { return compareFirst(&a.segment, &b.segment) })
	dead := &seqset.Set{}
	if w.base != nil {
		var err error
		if dead, err = w.base.finish(ctx, &w.received); err != nil {
			return Content{}, err
		}
	}
	digested := w.received.Len()
	extra := w.received.Clone()
	extra.Intersect(deleted)
	dead.Union(extra)
	live := &w.received // it can be as large as the stream has gaps: no copy
	live.Subtract(extra)
	if err := checkOverlap(w.segments()); err != nil {
		if w.base != nil {
			err = fmt.Errorf("%w: %w", ErrBase, err)
		}
		return Content{}, err
	}
	sum := t.sum
	sum.Merge(t.known)
	count, err := w.reconcile(digested, dead, live)
	if err != nil {
		return Content{}, err
	}
	c := Content{
		Messages: live.Len(), Bytes: w.bytes, FirstSeq: live.First(), LastSeq: live.Last(), Digest: sum.String(),
		Segments: count, NewBytes: t.upload,
		Since: w.place.since, Epoch: w.place.epoch, chain: w.place.chain,
	}
	s := &shelf{w: w, content: &c, seen: map[string]bool{}}
	if err := s.tables(ctx, w.segments(), count); err != nil {
		return Content{}, err
	}
	if c.Deleted, err = s.deleted(ctx, kindDeleted, dead); err != nil {
		return Content{}, err
	}
	if c.Extra, err = s.deleted(ctx, kindExtra, extra); err != nil {
		return Content{}, err
	}
	return c, nil
}

// segments yields those of the base that are kept and the new ones, in order of
// first sequence. There can be many, so they are not put together.
func (w *Writer) segments() iter.Seq[*located] {
	return func(yield func(*located) bool) {
		var kept []baseSegment
		if w.base != nil {
			kept = w.base.segments
		}
		added := w.results.segments
		for len(kept)+len(added) > 0 {
			var next *located
			if len(added) == 0 || len(kept) > 0 && kept[0].first <= added[0].first {
				next, kept = &kept[0].located, kept[1:]
			} else {
				next, added = &added[0], added[1:]
			}
			if !yield(next) {
				return
			}
		}
	}
}

// reconcile compares the counts of what is stored, received and live, each of
// which was counted on its own, and returns the number of segments. They differ
// only if this program is wrong, and then there must be no restore point.
func (w *Writer) reconcile(received uint64, dead, live *seqset.Set) (int, error) {
	n, stored := 0, uint64(0)
	for s := range w.segments() {
		n++
		stored += s.count
	}
	summed := w.results.sum.Count() + w.results.known.Count()
	if summed != received || stored != dead.Len()+live.Len() {
		return 0, fmt.Errorf("%d records were received and %d summed up; %d are stored, %d of them dead and %d alive: %w",
			received, summed, stored, dead.Len(), live.Len(), ErrOrder)
	}
	return n, nil
}

// checkOverlap refuses what a Reader would have to hold too much of.
func checkOverlap(segments iter.Seq[*located]) error {
	var open []uint64 // last sequences of the segments that reach here
	for s := range segments {
		open = slices.DeleteFunc(open, func(last uint64) bool { return last < s.first })
		if open = append(open, s.last); len(open) > maxOverlap {
			return fmt.Errorf("%w: %d at sequence %d, at most %d", ErrTooFragmented, len(open), s.first, maxOverlap)
		}
	}
	return nil
}

// A shelf stores the metadata of a restore point and counts what it needs.
type shelf struct {
	w       *Writer
	content *Content
	seen    map[string]bool // objects counted
}

// use counts an object that the restore point needs, and says whether it was
// the first time.
func (s *shelf) use(o Used) bool {
	if s.seen[o.Name] {
		return false
	}
	s.seen[o.Name] = true
	s.content.StoredBytes += uint64(o.Size)
	return true
}

// meta returns the object that a blob is in, if it is in one.
func (s *shelf) meta(b Blob) (Used, bool) {
	if b.Ref == nil {
		return Used{}, false
	}
	return Used{Name: chainObject(metaPrefix, s.w.place.chain, b.Ref.Hash), Size: b.Ref.Size}, true
}

func (s *shelf) put(ctx context.Context, k kind, payload []byte, inline int) (Blob, error) {
	b, n, err := s.w.repo.putBlob(ctx, s.w.place, k, payload, inline)
	s.content.NewBytes += uint64(n)
	return b, err
}

// own has the commit record name the object of a blob itself.
func (s *shelf) own(b Blob) {
	if o, ok := s.meta(b); ok && s.use(o) {
		s.content.Uses.Objects = append(s.content.Uses.Objects, o)
	}
}

func (s *shelf) deleted(ctx context.Context, k kind, set *seqset.Set) (Deleted, error) {
	if set.Empty() {
		return Deleted{}, nil
	}
	b, err := s.put(ctx, k, set.AppendBinary(nil), maxInlineDeleted)
	if errors.Is(err, ErrBounds) && s.w.base != nil {
		err = fmt.Errorf("%w: %w", ErrBase, err) // alone it has hardly any
	}
	s.own(b)
	return Deleted{Count: set.Len(), Blob: b}, err
}

// A shelved table is one, and what it needs.
type shelved struct {
	ref  TableRef
	uses []Used
	list *Ref // of the base, if it has the same table
}

// tables cuts the segments into tables and stores them. A table ends where a
// table border lies, so that the tables of two restore points are the same
// wherever their segments are.
func (s *shelf) tables(ctx context.Context, segments iter.Seq[*located], count int) error {
	var all []shelved
	var part []located
	for segment := range segments {
		s.content.RawBytes += segment.raw
		part = append(part, *segment)
		count--
		if segment.border < borderTable && len(part) < maxTableSegments && count > 0 {
			continue
		}
		t, err := s.table(ctx, part, len(all) == 0 && count == 0)
		if err != nil {
			return err
		}
		all, part = append(all, t), part[:0]
	}
	if err := s.uses(ctx, all); err != nil {
		return err
	}
	refs := make([]TableRef, len(all))
	for i := range all {
		refs[i] = all[i].ref
	}
	tables, n, err := s.w.repo.putTables(ctx, s.w.place, refs)
	s.content.NewBytes += uint64(n)
	s.content.Tables = tables
	s.own(tables.Blob)
	return err
}

// table stores a table, unless the base has it.
func (s *shelf) table(ctx context.Context, segments []located, alone bool) (shelved, error) {
	payload := encodeTable(segments)
	t := shelved{ref: describeTable(segments)}
	if known, ok := s.w.base.table(payload); ok {
		t.ref, t.list = known.ref, known.list
	} else {
		inline := 0
		if alone {
			inline = maxInlineTable // spares small streams an object
		}
		var err error
		if t.ref.Blob, err = s.put(ctx, kindTable, payload, inline); err != nil {
			return t, err
		}
	}
	var last *packRef
	for i := range segments {
		p := segments[i].pack
		if p == last {
			continue
		}
		last = p
		pack := Used{Name: s.w.repo.packName(s.w.place.chain, p.hash), Size: int64(p.size)}
		if !slices.Contains(t.uses, pack) {
			t.uses = append(t.uses, pack)
			if s.use(pack) {
				s.content.Packs++
			}
			if proof, ok := s.meta(p.proof); ok {
				t.uses = append(t.uses, proof)
				s.use(proof)
			}
		}
	}
	if o, ok := s.meta(t.ref.Blob); ok {
		t.uses = append(t.uses, o)
		s.use(o)
	}
	return t, nil
}

// uses names what the tables need: in the commit record if it is little, else
// in one list for each table, which restore points share as they do the table.
func (s *shelf) uses(ctx context.Context, all []shelved) error {
	u := &s.content.Uses
	if len(s.seen) <= maxInlineUses {
		for _, t := range all {
			for _, o := range t.uses {
				*u = u.with(o)
			}
		}
		return nil
	}
	for _, t := range all {
		list := t.list
		if list == nil {
			payload, err := marshal(Uses{Objects: t.uses})
			if err != nil {
				return err
			}
			b, err := s.put(ctx, kindUses, payload, 0)
			if err != nil {
				return err
			}
			list = b.Ref
		}
		if o, ok := s.meta(Blob{Ref: list}); ok {
			s.use(o)
		}
		u.Lists = append(u.Lists, *list)
	}
	return nil
}
