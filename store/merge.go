package store

import (
	"context"
	"slices"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// A merge puts the records of segments whose ranges overlap, as those of
// repaired records do, in order. Almost always one segment is open.
type merge struct {
	open  []*cursor
	given *cursor        // whose record was given out last
	peek  *loadedSegment // the segment that comes next, not yet open
	ended bool           // no more segments come
	first uint64         // sequence that the segment opened last begins with
}

// A cursor stands on a live record of a segment.
type cursor struct {
	segment *loadedSegment
	off     int // of what follows the record
	dead    *seqset.Cursor
	record  record.Record
}

// advance moves to the next live record and says whether there is one.
func (c *cursor) advance() (bool, error) {
	raw := c.segment.raw
	for c.off < len(raw) {
		r, n, err := record.Decode(raw[c.off:])
		if err != nil {
			return false, err
		}
		c.off += n
		if !c.dead.Contains(r.Sequence) {
			c.record = r
			return true, nil
		}
	}
	return false, nil
}

// next returns the next live record, nil after the last.
func (rd *Reader) next() (*record.Record, error) {
	m := &rd.merge
	if m.given != nil {
		if err := rd.advance(m.given); err != nil {
			return nil, err
		}
		m.given = nil
	}
	low := m.lowest()
	// Segments come by rising first sequence, so what the last one begins with is
	// given out without a look at the next. With a large record that is more than
	// thrift: the next segment may wait for the memory that it holds.
	for low == nil || low.record.Sequence > m.first {
		if err := rd.peek(); err != nil {
			return nil, err
		}
		if m.peek == nil || low != nil && low.record.Sequence < m.peek.first {
			break
		}
		if err := rd.openSegment(); err != nil {
			return nil, err
		}
		low = m.lowest()
	}
	if low == nil {
		return nil, nil
	}
	r := &low.record
	if rd.given > 0 && r.Sequence <= rd.last {
		return nil, damaged(rd.repo.packName(rd.point.where(), low.segment.pack.hash), nil, "sequence %d is stored twice", r.Sequence)
	}
	if rd.given == 0 {
		rd.first = r.Sequence
	}
	rd.last = r.Sequence
	rd.given++
	m.given = low
	return r, nil
}

// lowest returns the open segment with the lowest sequence, nil if none is open.
func (m *merge) lowest() *cursor {
	var low *cursor
	for _, c := range m.open {
		if low == nil || c.record.Sequence < low.record.Sequence {
			low = c
		}
	}
	return low
}

// advance moves an open segment on, and closes it at its end.
func (rd *Reader) advance(c *cursor) error {
	more, err := c.advance()
	if err != nil || more {
		return err
	}
	m := &rd.merge
	m.open = slices.DeleteFunc(m.open, func(o *cursor) bool { return o == c })
	if c.segment.memory > 0 {
		recycle(&rd.repo.shares().recordBuffers, c.segment.raw)
		c.segment.raw = nil
		rd.records.give(c.segment.memory)
		return nil
	}
	select {
	case rd.raws <- c.segment.raw[:0]:
	default:
	}
	return nil
}

// peek makes sure that the segment which comes next is known, if there is one.
func (rd *Reader) peek() error {
	m := &rd.merge
	if m.peek != nil || m.ended {
		return nil
	}
	select {
	case l, ok := <-rd.loaded:
		if ok {
			m.peek = l
			return nil
		}
		m.ended = true
		// The channel closes when all segments are through, and also when the
		// prefetch fails: only its goroutines' end tells which.
		if rd.group.Wait() != nil {
			return context.Cause(rd.ctx)
		}
		return nil
	case <-rd.ctx.Done():
		return context.Cause(rd.ctx)
	}
}

// openSegment opens the segment that comes next.
func (rd *Reader) openSegment() error {
	m := &rd.merge
	l := m.peek
	if err := wait(rd.ctx, l.done); err != nil {
		return err
	}
	m.peek, m.first = nil, l.first
	<-rd.ahead
	if len(m.open) >= maxOverlap {
		return damaged(commitName(rd.point.Task), nil, "more than %d segments overlap at sequence %d", maxOverlap, l.first)
	}
	rd.sum.Merge(l.sum)
	rd.live.Merge(l.live)
	rd.bytes += l.bytes
	c := &cursor{segment: l, dead: rd.dead.Cursor()}
	m.open = append(m.open, c)
	return rd.advance(c)
}
