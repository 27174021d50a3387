package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
	"jetkeep/store/seqset"
)

// ErrBase means that an earlier restore point cannot be built on: something of
// it cannot be read. A backup that does without it succeeds.
var ErrBase = errors.New("earlier restore point cannot be built on")

// A DivergedError says that a record which the stream has now is not the one
// that an earlier restore point has under its sequence: the stream was restored
// over, or it is another one.
type DivergedError struct {
	Point    string // the earlier restore point
	Sequence uint64
}

func (e *DivergedError) Error() string {
	return fmt.Sprintf("stream differs from restore point %s at sequence %d", e.Point, e.Sequence)
}

// Safety and thrift of increments, here together because each trades bytes
// stored again for bytes kept in vain.
const (
	// minLive: a segment of which less than this part is alive is stored again
	// with others.
	minLive = 4
	// minUsed: so is every segment of a pack that is used to less than this part.
	minUsed = 16
	// smallSegment and maxSmallRun: of a run of more small segments than that,
	// as many small increments leave behind, one is made. So a record of a
	// stream that is backed up every minute is stored some four times in all.
	smallSegment = 512 << 10
	maxSmallRun  = 8
	// maxKeptOverlap: segments that overlap as many others are stored again, so
	// that maxOverlap is never reached however many increments follow.
	maxKeptOverlap = maxOverlap / 2
)

// A fate is what becomes of a segment of the base.
type fate uint8

const (
	fateKept      fate = iota // referred to again
	fateDropped               // nothing of it is alive
	fateRewritten             // what is alive is stored again
)

// A base is the restore point that a writer builds on.
type base struct {
	repo     *Repository
	point    Point
	segments []baseSegment // in order of first sequence
	tables   map[hash256]baseTable
	proofs   proofCache
	rising   baseCursor // for records in order
	random   baseCursor // for repaired ones
}

type baseSegment struct {
	located
	fate fate
	hits uint64 // records that came again
}

// A baseTable is a table of the base and the list of what it uses.
type baseTable struct {
	ref  TableRef
	list *Ref
}

// Continue lets the writer build on an earlier restore point of the same
// stream: what the base has is compared and not stored again. alive are the
// sequences that the stream is believed to have, by which it is planned what of
// the base to keep; it decides nothing else. Continue comes before the first
// Append. If it fails with ErrBase the writer goes on without a base.
func (w *Writer) Continue(ctx context.Context, p Point, alive *seqset.Set) error {
	if err := w.failed(); err != nil {
		return err
	}
	if w.last != 0 || w.base != nil {
		return fmt.Errorf("continue %s after records: %w", p.ID, ErrOrder)
	}
	if p.Chain != w.place.chain || p.Number == 0 || p.Number > w.place.since {
		return fmt.Errorf("%w: %s is entry %d of chain %s, the writer began at entry %d of chain %s",
			ErrBase, p.ID, p.Number, p.Chain, w.place.since, w.place.chain)
	}
	b := &base{repo: w.repo, point: p, tables: map[hash256]baseTable{}}
	if err := b.load(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w: %w", ErrBase, err)
	}
	b.plan(alive)
	w.base = b
	// The base was looked up before the writer began, and may have been
	// forgotten and pruned in between: Commit has to judge by all that the log
	// says since the base itself.
	w.place.since = min(w.place.since, p.Number)
	return nil
}

// load reads the tables of the base.
func (b *base) load(ctx context.Context) error {
	refs, err := b.repo.tables(ctx, b.point)
	if err != nil {
		return err
	}
	lists := b.point.Content.Uses.Lists
	packs := map[hash256]*packRef{}
	total := 0
	for i := range refs {
		total += min(max(refs[i].Segments, 0), maxTableSegments)
	}
	b.segments = make([]baseSegment, 0, total)
	for i, ref := range refs {
		segments, err := b.repo.table(ctx, b.point, ref)
		if err != nil {
			return err
		}
		for _, s := range segments {
			if known := packs[s.pack.hash]; known != nil {
				s.pack = known
			} else {
				packs[s.pack.hash] = s.pack
			}
			b.segments = append(b.segments, baseSegment{located: s})
		}
		t := baseTable{ref: ref}
		if len(lists) == len(refs) {
			t.list = &lists[i]
		}
		b.tables[sha256.Sum256(encodeTable(segments))] = t
	}
	slices.SortStableFunc(b.segments, func(x, y baseSegment) int { return compareFirst(&x.segment, &y.segment) })
	return nil
}

// plan decides what becomes of each segment.
func (b *base) plan(alive *seqset.Set) {
	used := map[*packRef]uint64{}
	var open []uint64 // last sequences of the segments that reach here
	for i := range b.segments {
		s := &b.segments[i]
		live := min(alive.Clip(s.first, s.last).Len(), s.count)
		used[s.pack] += s.stored / s.count * live
		open = append(slices.DeleteFunc(open, func(last uint64) bool { return last < s.first }), s.last)
		switch {
		case live == 0:
			s.fate = fateDropped
		case live*minLive < s.count, len(open) > maxKeptOverlap:
			s.fate = fateRewritten
		}
	}
	for i := range b.segments {
		if s := &b.segments[i]; s.fate == fateKept && used[s.pack]*minUsed < s.pack.size && s.pack.size > smallSegment {
			s.fate = fateRewritten
		}
	}
	b.mergeSmall()
}

// mergeSmall has runs of small segments stored again as one.
func (b *base) mergeSmall() {
	var run []*baseSegment
	end := func() {
		if len(run) > maxSmallRun {
			for _, s := range run {
				s.fate = fateRewritten
			}
		}
		run = run[:0]
	}
	for i := range b.segments {
		s := &b.segments[i]
		switch {
		case s.fate == fateDropped:
		case s.raw < smallSegment:
			run = append(run, s)
		default:
			end()
		}
	}
	end()
}

// A known is what the base has under a sequence.
type known struct {
	print   []byte       // nil: nothing
	segment *baseSegment // set if it is kept
}

// A baseCursor goes through the base's segments by rising sequence.
type baseCursor struct {
	pos  uint64
	next int // the first segment that begins behind pos
	open []openSegment
}

type openSegment struct {
	segment *baseSegment
	proof   segmentProof
}

// find looks a sequence up. Rising ones cost least.
func (b *base) find(ctx context.Context, c *baseCursor, seq uint64) (known, error) {
	if seq < c.pos {
		*c = baseCursor{open: c.open[:0]}
	}
	c.pos = seq
	for ; c.next < len(b.segments) && b.segments[c.next].first <= seq; c.next++ {
		s := &b.segments[c.next]
		if s.last < seq || s.fate == fateDropped {
			continue
		}
		p, err := b.proof(ctx, s)
		if err != nil {
			return known{}, err
		}
		c.open = append(c.open, openSegment{s, p})
	}
	found := known{}
	kept := c.open[:0]
	for _, o := range c.open {
		if o.segment.last < seq {
			continue
		}
		kept = append(kept, o)
		if print := o.proof.find(seq); print != nil {
			found.print = print
			if o.segment.fate == fateKept {
				found.segment = o.segment
			}
		}
	}
	c.open = kept
	return found, nil
}

// proof returns the proof of a segment.
func (b *base) proof(ctx context.Context, s *baseSegment) (segmentProof, error) {
	p, err := b.proofs.get(ctx, b, s.pack)
	if err != nil {
		if ctx.Err() != nil {
			return segmentProof{}, err
		}
		return segmentProof{}, fmt.Errorf("%w: %w", ErrBase, err)
	}
	for i := range p {
		if p[i].runs[0].first == s.first && p[i].count() == s.count {
			return p[i], nil
		}
	}
	return segmentProof{}, fmt.Errorf("%w: %w", ErrBase,
		damaged(b.repo.packName(b.point.where(), s.pack.hash), nil, "its proof does not know segment %d-%d", s.first, s.last))
}

// A proofCache holds the proofs of the packs that were asked for last.
type proofCache struct {
	packs  []*packRef // oldest first
	proofs []proof
	sizes  []int
	size   int
}

// Bounds of what is held: as many proofs as overlapping segments need at the
// same time, as long as they are small. The newest is held however large.
const (
	cachedProofs     = maxOverlap
	cachedProofBytes = 16 << 20
)

func (c *proofCache) get(ctx context.Context, b *base, pack *packRef) (proof, error) {
	if i := slices.Index(c.packs, pack); i >= 0 {
		return c.proofs[i], nil
	}
	payload, err := b.repo.getBlob(ctx, b.point.where(), kindProof, pack.proof)
	if err != nil {
		return nil, fmt.Errorf("read proof: %w", err)
	}
	p, err := decodeProof(payload)
	if err != nil {
		return nil, damaged(b.repo.packName(b.point.where(), pack.hash), err, "proof")
	}
	size := len(payload) + p.memory()
	for len(c.packs) > 0 && (len(c.packs) == cachedProofs || c.size+size > cachedProofBytes) {
		c.size -= c.sizes[0]
		c.packs, c.proofs, c.sizes = slices.Delete(c.packs, 0, 1), slices.Delete(c.proofs, 0, 1), slices.Delete(c.sizes, 0, 1)
	}
	c.packs, c.proofs, c.sizes, c.size = append(c.packs, pack), append(c.proofs, p), append(c.sizes, size), c.size+size
	return p, nil
}

// presenceChecks is how many packs are looked for at once.
const presenceChecks = 16

// present makes sure that every pack that is referred to again is there, with
// its size: one that was lost must not be missing from all that follows. What
// it holds is not read; that is for Verify.
func (b *base) present(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(presenceChecks)
	asked := map[*packRef]bool{}
	for i := range b.segments {
		pack := b.segments[i].pack
		if asked[pack] {
			continue
		}
		asked[pack] = true
		g.Go(func() error {
			name := b.repo.packName(b.point.where(), pack.hash)
			info, err := b.repo.bucket.Stat(gctx, name)
			switch {
			case errors.Is(err, object.ErrNotExist):
				return fmt.Errorf("%w: %w", ErrBase, damaged(name, err, "missing"))
			case err == nil && info.Size != int64(pack.size):
				return fmt.Errorf("%w: %w", ErrBase, damaged(name, nil, "has %d bytes instead of %d", info.Size, pack.size))
			}
			return err
		})
	}
	return g.Wait()
}

// finish leaves only those segments that the new restore point refers to again.
// It returns what they hold besides the received records.
func (b *base) finish(ctx context.Context, received *seqset.Set) (*seqset.Set, error) {
	gone := &seqset.Set{}
	b.segments = slices.DeleteFunc(b.segments, func(s baseSegment) bool { return s.fate != fateKept || s.hits == 0 })
	if err := b.present(ctx); err != nil {
		return nil, err
	}
	for i := range b.segments {
		s := &b.segments[i]
		if s.hits == s.count {
			continue
		}
		p, err := b.proof(ctx, s)
		if err != nil {
			return nil, err
		}
		held := &seqset.Set{}
		for _, r := range p.runs {
			held.AddRange(r.first, r.last)
		}
		held.Subtract(received.Clip(s.first, s.last))
		for r := range held.Ranges() {
			gone.AddRange(r.First, r.Last)
		}
	}
	return gone, nil
}

// table returns a table of the base that holds exactly this.
func (b *base) table(payload []byte) (baseTable, bool) {
	if b == nil {
		return baseTable{}, false
	}
	t, ok := b.tables[sha256.Sum256(payload)]
	return t, ok
}
