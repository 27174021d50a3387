package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// Finish stores what is left and the tables, and returns what a restore point
// of these records holds. Sequences in deleted are stored perhaps but not
// live; deleted may hold any others too. Only segments that may hold one are
// read again. The writer is at its end, whatever Finish returns.
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
	slices.SortStableFunc(t.segments, func(a, b stored) int { return cmp.Compare(a.first, b.first) })
	if err := checkOverlap(t.segments); err != nil {
		return Content{}, err
	}
	live := census{deleted: deleted, repaired: &w.repairs.seqs, sum: t.sum, bytes: t.rawBytes}
	if err := live.take(ctx, w.repo, t); err != nil {
		return Content{}, err
	}
	c := Content{
		Messages: live.sum.Count(), Bytes: live.bytes, FirstSeq: live.first, LastSeq: live.last, Digest: live.sum.String(),
		Segments: len(t.segments), RawBytes: t.rawBytes, NewBytes: t.upload,
	}
	for _, p := range distinct(t.packs) {
		c.Packs++
		c.StoredBytes += p.size
	}
	if err := w.putTables(ctx, &c); err != nil {
		return Content{}, err
	}
	if live.dead.Empty() {
		return c, nil
	}
	blob, n, err := w.repo.putBlob(ctx, kindDeleted, live.dead.AppendBinary(nil), maxInlineDeleted)
	c.Deleted = Deleted{Count: live.dead.Len(), Blob: blob}
	c.account(blob, n)
	return c, err
}

// distinct returns the packs without repetitions: equal records would make
// equal packs.
func distinct(packs []packRef) []packRef {
	seen := map[hash256]bool{}
	return slices.DeleteFunc(slices.Clone(packs), func(p packRef) bool {
		again := seen[p.hash]
		seen[p.hash] = true
		return again
	})
}

// account counts a metadata object.
func (c *Content) account(b Blob, uploaded int64) {
	if b.Ref != nil {
		c.StoredBytes += uint64(b.Ref.Size)
	}
	c.NewBytes += uint64(uploaded)
}

// checkOverlap refuses what a Reader would have to hold too much of.
func checkOverlap(segments []stored) error {
	var open []uint64 // last sequences of the segments that reach here
	for i := range segments {
		open = slices.DeleteFunc(open, func(last uint64) bool { return last < segments[i].first })
		if open = append(open, segments[i].last); len(open) > maxOverlap {
			return fmt.Errorf("%w: %d at sequence %d, at most %d", ErrTooFragmented, len(open), segments[i].first, maxOverlap)
		}
	}
	return nil
}

// putTables cuts the segments into tables and stores them. A table ends where
// a table border lies, so that the tables of two restore points are the same
// wherever their segments are.
func (w *Writer) putTables(ctx context.Context, c *Content) error {
	t := &w.results
	var refs []TableRef
	var part []located
	for i := range t.segments {
		s := &t.segments[i]
		part = append(part, located{segment: s.segment, pack: t.packs[s.pack]})
		last := i == len(t.segments)-1
		if s.border < borderTable && len(part) < maxTableSegments && !last {
			continue
		}
		inline := 0
		if last && len(refs) == 0 {
			inline = maxInlineTable // spares small streams an object
		}
		blob, n, err := w.repo.putBlob(ctx, kindTable, encodeTable(part), inline)
		if err != nil {
			return err
		}
		c.account(blob, n)
		ref := describeTable(part)
		ref.Blob = blob
		refs, part = append(refs, ref), part[:0]
	}
	tables, n, err := w.repo.putTables(ctx, refs)
	if err != nil {
		return err
	}
	c.Tables = tables
	c.account(tables.Blob, n)
	return nil
}

// A census counts the live records.
type census struct {
	deleted  *seqset.Set // not live
	repaired *seqset.Set // stored by AppendRepair
	sum      record.Sum  // of all stored ones at first, of the live ones at last
	bytes    uint64
	first    uint64 // live
	last     uint64
	dead     seqset.Set // stored and not live
}

// take goes through the segments and reads those again that hold deleted
// records, or repaired ones too.
func (c *census) take(ctx context.Context, repo *Repository, t *results) error {
	var dec *zstd.Decoder
	for i := range t.segments {
		s := &t.segments[i]
		repaired := !s.repair && c.repaired.Overlaps(s.first, s.last)
		if !repaired && s.without(c.deleted) {
			c.live(s.first)
			c.live(s.last)
			continue
		}
		if dec == nil {
			var err error
			if dec, err = newDecoder(); err != nil {
				return err
			}
			defer dec.Close()
		}
		var twice uint64
		err := repo.readSegment(ctx, t.packs[s.pack].hash, &s.segment, dec, func(r *record.Record, encoded []byte, _ hash256) {
			if repaired && c.repaired.Contains(r.Sequence) {
				twice = r.Sequence
			}
			c.visit(r.Sequence, encoded)
		})
		if err != nil {
			return err
		}
		if twice != 0 {
			return fmt.Errorf("repaired sequence %d: %w", twice, ErrDuplicate)
		}
	}
	return nil
}

// visit takes a stored record out of the sum if it is not live.
func (c *census) visit(seq uint64, encoded []byte) {
	if !c.deleted.Contains(seq) {
		c.live(seq)
		return
	}
	c.sum.Remove(encoded)
	c.bytes -= uint64(len(encoded))
	c.dead.Add(seq)
}

func (c *census) live(seq uint64) {
	if c.first == 0 || seq < c.first {
		c.first = seq
	}
	c.last = max(c.last, seq)
}

// without says whether the segment certainly holds no deleted record. A stream
// with many deletions, as a KV bucket, has some in the range of every segment,
// but the server sent none of them: then the stored sequences are all others
// in the range, which their number and the sum over them prove.
func (s *stored) without(deleted *seqset.Set) bool {
	if !deleted.Overlaps(s.first, s.last) {
		return true
	}
	others := &seqset.Set{}
	others.AddRange(s.first, s.last)
	others.Subtract(deleted.Clip(s.first, s.last))
	if others.Len() != s.count {
		return false
	}
	var sum uint64
	for seq := range others.All() {
		sum += mix64(seq)
	}
	return sum == s.seqs
}
