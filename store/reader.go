package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"jetkeep/store/record"
	"jetkeep/store/seal"
	"jetkeep/store/seqset"
)

// A Reader gives the live records of a restore point in rising order of their
// sequences. Packs are fetched, verified and decompressed ahead of the caller,
// by goroutines that end with Close. It is for one goroutine.
type Reader struct {
	repo  *Repository
	point Point
	want  record.Sum
	dead  *seqset.Packed
	extra *seqset.Packed // of the dead ones, those that are in the digest
	refs  []TableRef

	group  *errgroup.Group
	ctx    context.Context // the prefetch's own, ended by Close
	cancel context.CancelCauseFunc

	runs   chan *run           // fetched packs, in order
	loaded chan *loadedSegment // segments being decompressed, in order
	ahead  chan struct{}       // one for each segment decompressed ahead
	places chan struct{}       // one for each pack in memory
	raws   chan []byte         // buffers of segments not in use
	jobs   chan *loadedSegment

	stored  account // of what packs take
	records account // of what large records take

	merge merge
	sum   record.Sum // of what the digest is over, in the segments opened so far
	live  record.Sum
	bytes uint64
	given uint64
	first uint64
	last  uint64
	err   error // sticky, io.EOF at the end
}

// fetchers is how many packs are in memory or on their way.
const fetchers = 2

// A run is a pack and the segments of it that come next.
type run struct {
	pack     *packRef
	segments []located
	data     []byte
	memory   int64 // taken
	done     chan error
	left     atomic.Int64 // segments not decompressed yet
}

// A loadedSegment is a segment that is being decompressed.
type loadedSegment struct {
	located
	frame  []byte
	raw    []byte
	memory int64 // taken, if it is large
	run    *run
	done   chan error
	sum    record.Sum // of the live and the extra records
	live   record.Sum
	bytes  uint64
}

// NewReader starts to read a restore point. Close must be called. It fails with
// ErrLocked if the records are sealed and no identity is at hand.
func (r *Repository) NewReader(ctx context.Context, p Point) (*Reader, error) {
	if r.sealer != nil && !r.sealer.Unlocked() {
		return nil, fmt.Errorf("read restore point %s: %w", p.ID, ErrLocked)
	}
	want, err := p.Content.sum()
	if err != nil {
		return nil, damaged(commitName(p.Task), err, "digest")
	}
	dead, err := r.DeletedSet(ctx, p)
	if err != nil {
		return nil, err
	}
	extra, err := r.ExtraSet(ctx, p)
	if err != nil {
		return nil, err
	}
	refs, err := r.tables(ctx, p)
	if err != nil {
		return nil, err
	}
	n := workers(0)
	own, cancel := context.WithCancelCause(ctx)
	group, gctx := errgroup.WithContext(own)
	rd := &Reader{
		repo: r, point: p, want: want, dead: dead, extra: extra, refs: refs, group: group, ctx: gctx, cancel: cancel,
		runs: make(chan *run), loaded: make(chan *loadedSegment, n+2), ahead: make(chan struct{}, n+1),
		stored: account{of: r.shares().packs}, records: account{of: r.shares().records},
		places: make(chan struct{}, fetchers), raws: make(chan []byte, n+2), jobs: make(chan *loadedSegment, n+2),
	}
	for range n {
		group.Go(rd.work)
	}
	group.Go(rd.plan)
	group.Go(rd.dispatch)
	return rd, nil
}

// Close ends the prefetch. It may be called at any time, more than once.
func (rd *Reader) Close() {
	if rd.err == nil {
		rd.err = ErrClosed
	}
	rd.cancel(ErrClosed)
	_ = rd.group.Wait() // what went wrong was returned by Next
	rd.release()
}

// release gives back what was taken of the memory, once nothing runs any more.
func (rd *Reader) release() {
	rd.stored.close()
	rd.records.close()
}

// Next returns the next live record, which is valid until Next is called
// again. It returns io.EOF only after all of them, their number and digest
// being those of the restore point.
func (rd *Reader) Next() (*record.Record, error) {
	if rd.err != nil {
		return nil, rd.err
	}
	r, err := rd.next()
	if err == nil && r == nil {
		if err = rd.complete(); err == nil {
			err = io.EOF
			rd.release() // the caller may take its time until Close
		}
	}
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read restore point %s: %w", rd.point.ID, err)
		}
		rd.err = err
		rd.cancel(err)
		return nil, err
	}
	return r, nil
}

// LiveSum returns the digest of the records given out, all of them once Next
// has returned io.EOF. The restore point's own digest is over the extra ones,
// too, if there are any.
func (rd *Reader) LiveSum() record.Sum { return rd.live }

// complete compares what was given out with the commit.
func (rd *Reader) complete() error {
	c, name := &rd.point.Content, commitName(rd.point.Task)
	switch {
	case rd.live.Count() != c.Messages || rd.given != c.Messages:
		return damaged(name, nil, "says %d messages, the segments hold %d", c.Messages, rd.given)
	case rd.sum.Count() != rd.want.Count():
		return damaged(name, nil, "says %d records in the digest, the segments hold %d", rd.want.Count(), rd.sum.Count())
	case rd.sum != rd.want:
		return damaged(name, nil, "says digest %s, the segments have %s", c.Digest, rd.sum.String())
	case rd.bytes != c.Bytes || rd.first != c.FirstSeq || rd.last != c.LastSeq:
		return damaged(name, nil, "says %d bytes from %d to %d, the segments hold %d from %d to %d",
			c.Bytes, c.FirstSeq, c.LastSeq, rd.bytes, rd.first, rd.last)
	}
	return nil
}

// plan goes through the tables and starts to fetch packs, each once for the
// segments of it that follow one another.
func (rd *Reader) plan() error {
	defer close(rd.runs)
	var cur *run
	last := uint64(0)
	for _, ref := range rd.refs {
		segments, err := rd.repo.table(rd.ctx, rd.point, ref)
		if err != nil {
			return err
		}
		for _, s := range segments {
			if s.first < last {
				return damaged(commitName(rd.point.Task), nil, "tables are out of order at sequence %d", s.first)
			}
			last = s.first
			if cur != nil && cur.pack == s.pack && len(cur.segments) < maxPackSegments {
				cur.segments = append(cur.segments, s)
				continue
			}
			if err := rd.start(cur); err != nil {
				return err
			}
			cur = &run{pack: s.pack, segments: []located{s}, done: make(chan error, 1)}
		}
	}
	return rd.start(cur)
}

// start begins to fetch a run's pack, when there is room, and passes it on.
func (rd *Reader) start(r *run) error {
	if r == nil {
		return nil
	}
	select {
	case rd.places <- struct{}{}:
	case <-rd.ctx.Done():
		return context.Cause(rd.ctx)
	}
	var err error
	if r.memory, err = rd.stored.take(rd.ctx, int64(r.pack.size)); err != nil {
		return err
	}
	r.left.Store(int64(len(r.segments)))
	rd.group.Go(func() error {
		var err error
		r.data, err = rd.fetch(r.pack, bufferOf(&rd.repo.shares().packBuffers))
		r.done <- err
		return err
	})
	select {
	case rd.runs <- r:
		return nil
	case <-rd.ctx.Done():
		return context.Cause(rd.ctx)
	}
}

// fetch reads a whole pack, verifies its hash and opens it.
func (rd *Reader) fetch(p *packRef, buf []byte) ([]byte, error) {
	name := rd.repo.packName(rd.point.where(), p.hash)
	buf, err := rd.repo.readStored(rd.ctx, name, int64(p.size), buf)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(buf) != p.hash {
		return nil, damaged(name, nil, "content does not match its name")
	}
	return rd.repo.openPack(name, buf)
}

// openPack opens a pack as it is stored, in place.
func (r *Repository) openPack(name string, stored []byte) ([]byte, error) {
	if r.sealer == nil {
		return stored, nil
	}
	plain, err := r.sealer.OpenPack(stored)
	switch {
	case errors.Is(err, seal.ErrLocked):
		return nil, fmt.Errorf("read %s: %w", name, ErrLocked)
	case err != nil: // it is sealed to the repository's key alone
		return nil, damaged(name, err, "sealed pack")
	}
	return plain, nil
}

// dispatch hands the segments of fetched packs to the workers and, in order,
// to the caller.
func (rd *Reader) dispatch() error {
	defer close(rd.loaded)
	defer close(rd.jobs)
	for r := range rd.runs {
		if err := wait(rd.ctx, r.done); err != nil {
			return err
		}
		for _, s := range r.segments {
			if s.offset+s.stored > uint64(len(r.data)) {
				return damaged(rd.repo.packName(rd.point.where(), s.pack.hash), nil, "segment %d-%d lies behind its end", s.first, s.last)
			}
			l := &loadedSegment{located: s, frame: r.data[s.offset : s.offset+s.stored], run: r, done: make(chan error, 1)}
			select {
			case rd.ahead <- struct{}{}:
			case <-rd.ctx.Done():
				return context.Cause(rd.ctx)
			}
			// Neither blocks: fewer segments are ahead than they hold.
			rd.loaded <- l
			if err := rd.takeLarge(rd.ctx, l); err != nil {
				return err
			}
			rd.jobs <- l
		}
	}
	return nil
}

// wait prefers the result to the end of the context, which also comes when all
// goroutines have ended well.
func wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	default:
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// work decompresses and verifies segments.
func (rd *Reader) work() error {
	dec, err := newDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	h := sha256.New()
	for {
		select {
		case l, ok := <-rd.jobs:
			if !ok {
				return nil
			}
			var buf []byte
			if l.memory > 0 {
				buf = bufferOf(&rd.repo.shares().recordBuffers)
			} else {
				select {
				case buf = <-rd.raws:
				default:
				}
			}
			err := l.load(dec, buf, func(raw []byte) error { return l.check(h, raw, rd.count(l)) })
			if err != nil {
				err = damaged(rd.repo.packName(rd.point.where(), l.pack.hash), err, "segment %d-%d", l.first, l.last)
			}
			l.done <- err
			if err != nil {
				return err
			}
			if l.run.left.Add(-1) == 0 {
				rd.done(l.run)
			}
		case <-rd.ctx.Done():
			return context.Cause(rd.ctx)
		}
	}
}

// done makes room for the next pack, all segments of one being decompressed.
func (rd *Reader) done(r *run) {
	recycle(&rd.repo.shares().packBuffers, r.data)
	r.data = nil
	rd.stored.give(r.memory)
	<-rd.places
}

// load decompresses the segment and has it checked.
func (l *loadedSegment) load(dec *zstd.Decoder, buf []byte, check func([]byte) error) error {
	raw, err := l.decode(dec, l.frame, buf)
	if err == nil {
		err = check(raw)
	}
	if err != nil {
		return err
	}
	l.raw, l.frame = raw, nil
	return nil
}

// count returns a visitor that sums up the live records.
func (rd *Reader) count(l *loadedSegment) func(*record.Record, []byte, hash256) {
	dead, extra := rd.dead.Cursor(), rd.extra.Cursor()
	return func(r *record.Record, encoded []byte, sum hash256) {
		live := !dead.Contains(r.Sequence)
		if live {
			l.live.AddHash(sum)
		}
		if live || extra.Contains(r.Sequence) {
			l.sum.AddHash(sum)
			l.bytes += uint64(len(encoded))
		}
	}
}
