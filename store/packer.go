package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"jetkeep/store/staging"
)

// A packer writes segments, in order, into pack files in staging and hands the
// full ones to the uploaders. It is one goroutine.
type packer struct {
	w      *Writer
	cap    uint64 // of stored bytes
	hash   hash.Hash
	file   *staging.File  // the pack being written
	sealed io.WriteCloser // what seals it on the way there, if it is sealed
	ref    *packRef
	index  []segment
	proof  proof
	raw    uint64
	offset uint64 // before sealing
}

// A packFile is a pack that waits for its upload.
type packFile struct {
	ref   *packRef
	proof []byte
	file  *staging.File
	key   string // of the journal, if it is to be noted there
}

// sealOverhead bounds what sealing adds to a pack of n bytes: a head, and 16
// bytes for each 64 KiB.
func sealOverhead(n uint64) int64 { return 8<<10 + int64(n>>12) }

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
	t.segments = append(t.segments, located{segment: p.index[len(p.index)-1], pack: p.ref})
	t.sum.Merge(c.sum)
	p.w.progress(c.seg.raw, c.seg.stored, 0)
	ends := c.seg.border >= borderPack
	p.w.recycle(c)
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
		if err := p.begin(max(p.cap, c.seg.stored)); err != nil {
			return err
		}
	}
	if err := p.write(c.frame); err != nil {
		return err
	}
	if err := c.pieces.each(p.write); err != nil {
		return err
	}
	seg := c.seg
	seg.offset = p.offset
	p.index = append(p.index, seg)
	p.proof = append(p.proof, c.proof.clone())
	p.offset += seg.stored
	p.raw += seg.raw
	return nil
}

// begin starts a pack of at most so many bytes of frames.
func (p *packer) begin(frames uint64) error {
	size := int64(frames) + int64(maxPackIndex)
	if p.w.repo.sealer != nil {
		size += sealOverhead(uint64(size))
	}
	file, err := p.w.opt.Staging.Create(p.w.ctx, size)
	if err != nil {
		return fmt.Errorf("stage pack: %w", err)
	}
	p.file, p.ref = file, &packRef{}
	p.hash.Reset()
	if sealer := p.w.repo.sealer; sealer != nil {
		if p.sealed, err = sealer.PackWriter(stagedPack{p}); err != nil {
			return fmt.Errorf("stage pack: %w", err)
		}
	}
	return nil
}

func (p *packer) write(b []byte) error {
	var to io.Writer = stagedPack{p}
	if p.sealed != nil {
		to = p.sealed
	}
	if _, err := to.Write(b); err != nil {
		return fmt.Errorf("stage pack: %w", err)
	}
	return nil
}

// A stagedPack takes a pack's bytes as they are stored.
type stagedPack struct{ p *packer }

func (s stagedPack) Write(b []byte) (int, error) {
	s.p.hash.Write(b)
	return s.p.file.Write(b)
}

// finish ends the current pack, if there is one, and hands it on.
func (p *packer) finish() error {
	if p.file == nil {
		return nil
	}
	index := appendPackIndex(nil, p.index, p.w.place.epoch)
	if err := p.write(index); err != nil {
		return err
	}
	if p.sealed != nil {
		if err := p.sealed.Close(); err != nil {
			return fmt.Errorf("stage pack: %w", err)
		}
	}
	p.file.Finish()
	p.ref.size = uint64(p.file.Size())
	p.hash.Sum(p.ref.hash[:0])
	select {
	case p.w.packs <- &packFile{ref: p.ref, proof: p.proof.encode(), file: p.file, key: p.w.journalKey(index, p.ref.size)}:
	case <-p.w.ctx.Done():
		return context.Cause(p.w.ctx)
	}
	p.file, p.sealed, p.ref, p.index, p.proof, p.raw, p.offset = nil, nil, nil, p.index[:0], p.proof[:0], 0, 0
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

// upload stores a pack and its proof, and frees its file.
func (w *Writer) upload(pack *packFile) error {
	again, err := w.reuse(pack)
	if err == nil && !again {
		err = w.put(pack)
	}
	return errors.Join(err, pack.file.Close())
}

// put notes a pack before it uploads it: of one whose answer is lost, or whose
// writer dies, the next attempt still knows the name.
func (w *Writer) put(pack *packFile) error {
	proof, n, err := w.repo.putBlob(w.ctx, w.place, kindProof, pack.proof, maxInlineProof)
	if err != nil {
		return err
	}
	pack.ref.proof = proof
	if err := w.note(pack); err != nil {
		return err
	}
	m, err := w.repo.putOnce(w.ctx, w.repo.packName(w.place.chain, pack.ref.hash), pack.file, int64(pack.ref.size))
	if err != nil {
		return err
	}
	w.progress(0, 0, uint64(n+m))
	return nil
}
