package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"jetkeep/store/record"
)

// A record larger than MaxSegment is a segment of its own, so that a few of them
// are most of what a writer holds. Two things keep that small: they share
// the memory that all writers have for them, and a huge one is hashed and
// compressed where it lies, by the caller of Append, so that it is held only once.

// huge is the size from which on a record is not copied for the workers. Below it
// they work on several at once.
const huge = 16 << 20

// storeLarge makes a segment of a record that is larger than one of several.
func (w *Writer) storeLarge(r *record.Record, size int, print []byte, b border) error {
	c, err := w.take()
	if err != nil {
		return err
	}
	need := int64(size)
	if size <= huge {
		need *= 2 // copied, and compressed besides
	}
	if c.memory, err = w.memory.take(w.ctx, need); err != nil {
		return w.failed()
	}
	if size <= huge {
		c.add(r, print)
		return w.submit(c, b)
	}
	c.added(r.Sequence, nil)
	sum := record.HashOf(r)
	if print != nil && !matches(print, sum) {
		return w.diverged(r.Sequence)
	}
	c.sum.AddHash(sum)
	c.proof.prints = append(c.proof.prints, sum[:fingerprintSize]...)
	c.seg.hash = sha256.Sum256(sum[:])
	if err := w.compressLarge(c, r, size); err != nil {
		w.cancel(err)
		return w.failed()
	}
	c.seg.border, c.seg.count, c.seg.raw = b, 1, uint64(size)
	c.done <- nil
	w.ordered <- c // never full: it holds all chunks
	return w.failed()
}

// compressLarge makes a record's frame, piece by piece.
func (w *Writer) compressLarge(c *chunk, r *record.Record, size int) error {
	enc, err := w.repo.encoders.take(w.opt.Level)
	if err != nil {
		return err
	}
	c.pieces.from = &w.repo.shares().pieces
	enc.ResetContentSize(&c.pieces, int64(size))
	for _, b := range [][]byte{record.AppendFields(nil, r), r.Header, r.Data} {
		if _, err := enc.Write(b); err != nil {
			return fmt.Errorf("compress: %w", err)
		}
	}
	if err := enc.Close(); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	enc.Reset(nil)
	w.repo.encoders.give(w.opt.Level, enc)
	c.seg.stored = c.pieces.size
	return nil
}

// compareLarge compares a record that the base has with it.
func (w *Writer) compareLarge(r *record.Record, size int, has known) error {
	sum := record.HashOf(r)
	if !matches(has.print, sum) {
		return w.diverged(r.Sequence)
	}
	has.segment.hits++
	t := &w.results
	t.mu.Lock()
	t.known.AddHash(sum)
	t.mu.Unlock()
	w.progress(uint64(size), 0, 0)
	return w.failed()
}

// diverged ends the writer because a record is not what the base has.
func (w *Writer) diverged(seq uint64) error {
	w.cancel(&DivergedError{Point: w.base.point.ID, Sequence: seq})
	return w.failed()
}

// pieces hold a frame whose length is not known in advance, without ever
// copying it to a place that is larger.
type pieces struct {
	from *sync.Pool // of pieces not in use
	full []*piece
	last int // bytes in the last one
	size uint64
}

type piece [pieceSize]byte

const pieceSize = 1 << 20

// Write appends; it does not fail.
func (p *pieces) Write(b []byte) (int, error) {
	p.size += uint64(len(b))
	for rest := b; len(rest) > 0; {
		if len(p.full) == 0 || p.last == pieceSize {
			one, ok := p.from.Get().(*piece)
			if !ok {
				one = new(piece)
			}
			p.full, p.last = append(p.full, one), 0
		}
		n := copy(p.full[len(p.full)-1][p.last:], rest)
		p.last, rest = p.last+n, rest[n:]
	}
	return len(b), nil
}

// free gives the pieces to the next frame. Left to the collector, those of the
// frame before would be there beside it.
func (p *pieces) free() {
	for _, one := range p.full {
		p.from.Put(one)
	}
	*p = pieces{}
}

// each calls fn with one piece after the other.
func (p *pieces) each(fn func([]byte) error) error {
	for i, one := range p.full {
		n := pieceSize
		if i == len(p.full)-1 {
			n = p.last
		}
		if err := fn(one[:n]); err != nil {
			return err
		}
	}
	return nil
}

// takeLarge waits for the memory of a segment of one large record. What is held
// is given back when the reader's caller has asked for the record behind it, for
// which it waits for nothing: see next.
func (rd *Reader) takeLarge(ctx context.Context, l *loadedSegment) (err error) {
	if l.located.raw <= MaxSegment {
		return nil
	}
	l.memory, err = rd.records.take(ctx, int64(l.located.raw))
	return err
}
