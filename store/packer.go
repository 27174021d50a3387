package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"

	"jetkeep/store/staging"
)

// A packer writes segments, in order, into pack files in staging and hands the
// full ones to the uploaders. It is one goroutine.
type packer struct {
	w      *Writer
	cap    uint64 // of stored bytes
	hash   hash.Hash
	file   *staging.File // the pack being written
	index  []segment
	raw    uint64
	offset uint64
}

// A packFile is a pack that waits for its upload.
type packFile struct {
	ref  packRef
	file *staging.File
}

func newPacker(w *Writer) *packer {
	// A small staging area must hold two packs, so that one is written while
	// the other is uploaded.
	half := uint64(w.opt.Staging.Limit() / 2)
	return &packer{w: w, cap: min(maxPackStored, half-min(half, uint64(maxPackIndex))), hash: sha256.New()}
}

func (p *packer) run() error {
	defer close(p.w.packs)
	for {
		select {
		case c, ok := <-p.w.ordered:
			if !ok {
				return p.finish()
			}
			if err := p.take(c); err != nil {
				return err
			}
		case <-p.w.ctx.Done():
			return context.Cause(p.w.ctx)
		}
	}
}

// take waits for a segment's worker, packs it and frees the chunk.
func (p *packer) take(c *chunk) error {
	select {
	case err := <-c.done:
		if err != nil {
			return err
		}
	case <-p.w.ctx.Done():
		return context.Cause(p.w.ctx)
	}
	if err := p.add(c); err != nil {
		return err
	}
	t := &p.w.results
	t.segments = append(t.segments, stored{segment: p.index[len(p.index)-1], pack: len(t.packs), seqs: c.seqs, repair: c.repair})
	t.sum.Merge(c.sum)
	t.rawBytes += c.seg.raw
	p.w.progress(c.seg.raw, c.seg.stored, 0)
	ends := c.seg.border >= borderPack
	c.reset()
	p.w.free <- c // never blocks: it holds all chunks
	if ends {
		return p.finish()
	}
	return nil
}

// add writes a segment, into a new pack if it does not fit into this one.
func (p *packer) add(c *chunk) error {
	full := p.offset+c.seg.stored > p.cap || p.raw+c.seg.raw > maxPackRaw || len(p.index) == maxPackSegments
	if p.file != nil && full {
		if err := p.finish(); err != nil {
			return err
		}
	}
	if p.file == nil {
		file, err := p.w.opt.Staging.Create(p.w.ctx, int64(max(p.cap, c.seg.stored))+int64(maxPackIndex))
		if err != nil {
			return fmt.Errorf("stage pack: %w", err)
		}
		p.file = file
		p.hash.Reset()
	}
	if err := p.write(c.frame); err != nil {
		return err
	}
	seg := c.seg
	seg.offset = p.offset
	p.index = append(p.index, seg)
	p.offset += seg.stored
	p.raw += seg.raw
	return nil
}

func (p *packer) write(b []byte) error {
	if _, err := p.file.Write(b); err != nil {
		return fmt.Errorf("stage pack: %w", err)
	}
	p.hash.Write(b)
	return nil
}

// finish ends the current pack, if there is one, and hands it on.
func (p *packer) finish() error {
	if p.file == nil {
		return nil
	}
	if err := p.write(appendPackIndex(nil, p.index)); err != nil {
		return err
	}
	p.file.Finish()
	ref := packRef{size: uint64(p.file.Size())}
	p.hash.Sum(ref.hash[:0])
	select {
	case p.w.packs <- &packFile{ref: ref, file: p.file}:
	case <-p.w.ctx.Done():
		return context.Cause(p.w.ctx)
	}
	p.w.results.packs = append(p.w.results.packs, ref)
	p.file, p.index, p.raw, p.offset = nil, p.index[:0], 0, 0
	return nil
}

// drop gives back the pack being written, after run has ended early.
func (p *packer) drop() {
	if p.file != nil {
		_ = p.file.Close() // leftovers go when staging is opened again
		p.file = nil
	}
}

// uploads is one of the uploaders. It ends when the packer does.
func (w *Writer) uploads() error {
	for pack := range w.packs {
		if err := w.upload(pack); err != nil {
			// The packer stops on the context; until it does, no pack may be
			// left behind in the channel without its file being freed.
			w.cancel(err)
			for pack := range w.packs {
				_ = pack.file.Close()
			}
			return err
		}
	}
	return nil
}

func (w *Writer) upload(pack *packFile) error {
	size := int64(pack.ref.size)
	n, err := w.repo.putOnce(w.ctx, packName(pack.ref.hash), pack.file, size)
	if err = errors.Join(err, pack.file.Close()); err != nil {
		return err
	}
	w.progress(0, 0, uint64(n))
	return nil
}
