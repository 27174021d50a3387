package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// WriterOptions say how to write a restore point's records.
type WriterOptions struct {
	// Staging is where packs wait for their upload.
	Staging *staging.Area
	// Task names the writer in errors, Target and Stream what is stored.
	Task, Target, Stream string
	// Workers compress in parallel; 0 means one for each CPU, at most 4.
	Workers int
	Level   Level
	// OnProgress, if set, is told the bytes of records taken in, of packs made
	// and of packs uploaded so far. It is called by one goroutine at a time and
	// must not block.
	OnProgress func(read, stored, uploaded uint64)
}

// uploaders is how many packs are uploaded at once.
const uploaders = 4

// A Writer stores the records of one restore point. One goroutine feeds it:
// Append and AppendRepair, then Finish or Abort, one of which must be called.
//
// Behind it run workers that hash and compress segments, one goroutine that
// packs them in order, and some that upload. All end in Finish or Abort. What
// goes wrong in any of them is returned by the next call.
type Writer struct {
	repo  *Repository
	opt   WriterOptions
	place place
	base  *base // nil: everything is new

	group  *errgroup.Group
	ctx    context.Context // the pipeline's own, ended by Finish and Abort
	cancel context.CancelCauseFunc
	closed bool

	cur     *chunk // of new records
	known   *chunk // of records that the base has
	last    uint64 // highest sequence appended
	repairs repairs

	received seqset.Set // every record
	bytes    uint64     // of their encodings

	jobs    chan *chunk // to the workers
	ordered chan *chunk // to the packer, in order
	free    chan *chunk // buffers not in use
	packs   chan *packFile

	memory  account // of what large records take
	packer  *packer
	results results
}

// A chunk is a segment on its way through the pipeline, or a run of records
// that the base has and that only need to be compared. Chunks are reused.
type chunk struct {
	raw     []byte
	ends    []int // of each record in raw
	expect  []expectation
	compare bool // nothing is stored
	frame   []byte
	pieces  pieces // instead of frame, of a huge record
	memory  int64  // taken, given back with the chunk
	seg     segment
	proof   segmentProof
	sum     record.Sum
	done    chan error // from the worker
}

// An expectation is the fingerprint that the base has for one of the records.
type expectation struct {
	record int
	seq    uint64
	print  []byte
}

// results is what the pipeline found out, for Finish.
type results struct {
	segments []located // the packer's, of new records
	sum      record.Sum

	mu                 sync.Mutex // guards what follows
	known              record.Sum // of records that the base has
	read, made, upload uint64
}

// NewWriter starts a writer. It ends, with an error, when ctx does.
func (r *Repository) NewWriter(ctx context.Context, opt WriterOptions) (*Writer, error) {
	if opt.Staging == nil {
		return nil, errors.New("writer needs a staging area")
	}
	if err := r.writable(); err != nil {
		return nil, err
	}
	at := place{}
	var err error
	if at.chain, at.since, at.epoch, err = r.chainHead(ctx, opt.Target, opt.Stream); err != nil {
		return nil, err
	}
	opt.Workers = workers(opt.Workers)
	own, cancel := context.WithCancelCause(ctx)
	group, gctx := errgroup.WithContext(own)
	n := opt.Workers + 4 // in work, plus being filled, two of them, packed and repaired
	w := &Writer{
		repo: r, opt: opt, place: at, group: group, ctx: gctx, cancel: cancel,
		memory: account{of: r.shares().frames},
		jobs:   make(chan *chunk, n), ordered: make(chan *chunk, n), free: make(chan *chunk, n), packs: make(chan *packFile),
	}
	for range n {
		w.free <- &chunk{done: make(chan error, 1)}
	}
	w.packer = newPacker(w)
	for range opt.Workers {
		group.Go(w.work)
	}
	group.Go(w.packer.run)
	for range uploaders {
		group.Go(w.uploads)
	}
	return w, nil
}

// Append adds a record, whose sequence must be higher than all before. The
// record's slices are free when it returns. That the base has another record
// under its sequence is a *DivergedError of this or a later call.
func (w *Writer) Append(r *record.Record) error {
	if err := w.failed(); err != nil {
		return err
	}
	if r.Sequence <= w.last {
		return fmt.Errorf("append sequence %d after %d: %w", r.Sequence, w.last, ErrOrder)
	}
	size, err := checkRecord(r)
	if err != nil {
		return err
	}
	var has known
	if w.base != nil {
		if has, err = w.base.find(w.ctx, &w.base.rising, r.Sequence); err != nil {
			return w.because(err)
		}
	}
	if has.segment != nil {
		err = w.compare(r, size, has)
	} else {
		err = w.store(r, size, has.print)
	}
	if err != nil {
		return err
	}
	w.last = r.Sequence
	w.took(r.Sequence, size)
	return nil
}

// took counts a record.
func (w *Writer) took(seq uint64, size int) {
	w.received.Add(seq)
	w.bytes += uint64(size)
}

// store adds a record to the segment being filled.
func (w *Writer) store(r *record.Record, size int, print []byte) error {
	if size > MaxSegment {
		if w.cur != nil {
			if err := w.cut(borderNone); err != nil {
				return err
			}
		}
		return w.storeLarge(r, size, print, borderAfter(r.Sequence, r.Time, size))
	}
	if w.cur != nil && len(w.cur.raw)+size > MaxSegment {
		if err := w.cut(borderNone); err != nil {
			return err
		}
	}
	if w.cur == nil {
		var err error
		if w.cur, err = w.take(); err != nil {
			return err
		}
	}
	w.cur.add(r, print)
	if b := borderAfter(r.Sequence, r.Time, size); b != borderNone {
		return w.cut(b)
	}
	return nil
}

// compare adds a record that a kept segment of the base has to those that are
// only compared. New segments do not reach over kept ones, or with each
// increment more of them would overlap.
func (w *Writer) compare(r *record.Record, size int, has known) error {
	if w.cur != nil {
		if err := w.cut(borderNone); err != nil {
			return err
		}
	}
	if size > MaxSegment {
		return w.compareLarge(r, size, has)
	}
	if w.known != nil && len(w.known.raw)+size > MaxSegment {
		if err := w.submitKnown(); err != nil {
			return err
		}
	}
	if w.known == nil {
		var err error
		if w.known, err = w.take(); err != nil {
			return err
		}
		w.known.compare = true
	}
	w.known.add(r, has.print)
	has.segment.hits++
	return nil
}

// submitKnown hands the records to be compared to the workers.
func (w *Writer) submitKnown() error {
	w.jobs <- w.known // never full: it holds all chunks
	w.known = nil
	return w.failed()
}

// checkRecord refuses what a reader would.
func checkRecord(r *record.Record) (int, error) {
	if r.Sequence == 0 || len(r.Subject) == 0 {
		return 0, fmt.Errorf("append sequence %d with subject %q: %w", r.Sequence, r.Subject, record.ErrInvalid)
	}
	if len(r.Subject) > record.MaxSubject || len(r.Header) > record.MaxBody || len(r.Data) > record.MaxBody {
		return 0, fmt.Errorf("append sequence %d of %d bytes: %w", r.Sequence, r.Size(), ErrBounds)
	}
	return r.Size(), nil
}

// add appends a record, with the fingerprint that the base has for it if it has
// the record.
func (c *chunk) add(r *record.Record, print []byte) {
	if size := len(c.raw) + r.Size(); size > cap(c.raw) {
		c.raw = append(make([]byte, 0, bufferFor(max(uint64(size), 2*uint64(len(c.raw)), 16<<10))), c.raw...)
	}
	c.raw = record.Append(c.raw, r)
	c.added(r.Sequence, print)
}

// added notes the record that has been appended to raw.
func (c *chunk) added(seq uint64, print []byte) {
	n := len(c.ends)
	if n == 0 {
		c.seg.first = seq
	}
	if print != nil {
		c.expect = append(c.expect, expectation{n, seq, print})
	}
	c.proof.add(seq, uint64(n))
	c.ends = append(c.ends, len(c.raw))
	c.seg.last = seq
}

// recycle makes the chunk free for reuse; buffers that one large record made
// large are let go.
func (w *Writer) recycle(c *chunk) {
	if c.memory > 0 {
		c.raw, c.frame = nil, nil
		c.pieces.free()
		w.memory.give(c.memory)
	}
	c.reset()
	w.free <- c // never blocks: it holds all chunks
}

func (c *chunk) reset() {
	clear(c.expect) // they hold on to proofs
	c.proof.reset()
	*c = chunk{raw: c.raw[:0], ends: c.ends[:0], expect: c.expect[:0], frame: c.frame[:0], proof: c.proof, done: c.done}
}

// take waits for a free chunk.
func (w *Writer) take() (*chunk, error) {
	select {
	case c := <-w.free:
		return c, nil
	case <-w.ctx.Done():
		return nil, w.failed()
	}
}

// cut ends the current segment.
func (w *Writer) cut(b border) error {
	c := w.cur
	w.cur = nil
	return w.submit(c, b)
}

// submit hands a segment to the workers and, in order, to the packer. Neither
// channel can be full: each holds as many as there are chunks.
func (w *Writer) submit(c *chunk, b border) error {
	c.seg.border = b
	c.seg.count = uint64(len(c.ends))
	c.seg.raw = uint64(len(c.raw))
	w.jobs <- c
	w.ordered <- c
	return w.failed()
}

// failed returns why the pipeline has ended, if it has.
func (w *Writer) failed() error {
	if w.closed {
		return fmt.Errorf("write %s: %w", w.opt.Task, ErrClosed)
	}
	if w.ctx.Err() == nil {
		return nil
	}
	return w.because(context.Cause(w.ctx))
}

func (w *Writer) because(err error) error { return fmt.Errorf("write %s: %w", w.opt.Task, err) }

// work is a worker: it hashes, compares and compresses. A small stream keeps one
// of them busy, so only what has work makes an encoder.
func (w *Writer) work() error {
	h := sha256.New()
	var enc *zstd.Encoder
	for {
		select {
		case c, ok := <-w.jobs:
			if !ok {
				return nil
			}
			if diverged := c.hash(h); diverged != 0 {
				return &DivergedError{Point: w.base.point.ID, Sequence: diverged}
			}
			if c.compare {
				w.compared(c)
				continue
			}
			if enc == nil {
				var err error
				if enc, err = w.repo.encoders.take(w.opt.Level); err != nil {
					return err
				}
				defer w.repo.encoders.give(w.opt.Level, enc)
			}
			c.frame = enc.EncodeAll(c.raw, c.frame[:0])
			c.seg.stored = uint64(len(c.frame))
			c.done <- nil
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
}

// hash sums up the records and makes their fingerprints. It returns the
// sequence of one that is not what the base has, 0 if there is none.
func (c *chunk) hash(h hash.Hash) uint64 {
	h.Reset()
	start := 0
	expect := c.expect
	for i, end := range c.ends {
		sum := record.Hash(c.raw[start:end])
		if len(expect) > 0 && expect[0].record == i {
			if !matches(expect[0].print, sum) {
				return expect[0].seq
			}
			expect = expect[1:]
		}
		c.sum.AddHash(sum)
		c.proof.prints = append(c.proof.prints, sum[:fingerprintSize]...)
		h.Write(sum[:])
		start = end
	}
	h.Sum(c.seg.hash[:0])
	return 0
}

// compared counts records that are as the base has them.
func (w *Writer) compared(c *chunk) {
	t := &w.results
	t.mu.Lock()
	t.known.Merge(c.sum)
	t.mu.Unlock()
	w.progress(uint64(len(c.raw)), 0, 0)
	w.recycle(c)
}

// Abort ends the writer and gives back its staging. What was uploaded stays
// for a later attempt.
func (w *Writer) Abort() {
	if w.closed {
		return
	}
	w.closed = true
	w.cancel(ErrClosed)
	_ = w.group.Wait()
	w.memory.close()
	w.packer.drop()
}

// drain ends the input and waits for the pipeline.
func (w *Writer) drain() error {
	if w.cur != nil {
		if err := w.cut(borderNone); err != nil {
			return err
		}
	}
	if w.known != nil {
		if err := w.submitKnown(); err != nil {
			return err
		}
	}
	if err := w.spillRepairs(); err != nil {
		return err
	}
	close(w.jobs)
	close(w.ordered)
	if w.group.Wait() != nil {
		// What came first, not what it made of whoever noticed first.
		return fmt.Errorf("write %s: %w", w.opt.Task, context.Cause(w.ctx))
	}
	return nil
}

// progress adds to the counts and reports them.
func (w *Writer) progress(read, made, uploaded uint64) {
	t := &w.results
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read += read
	t.made += made
	t.upload += uploaded
	if w.opt.OnProgress != nil {
		w.opt.OnProgress(t.read, t.made, t.upload)
	}
}

// repairs holds records that came after higher ones, until they fill a segment.
type repairs struct {
	buf   []byte
	items []repairItem
}

type repairItem struct {
	seq      uint64
	from, to int
	print    []byte
}

// AppendRepair adds a record whose sequence may be lower than those before:
// one that a capture lacked and read again. Such records are sorted in memory
// and stored as segments of their own of at most 4 MiB; handed in by rising
// sequence they cost the reader least, in a random order too many of them end
// in ErrTooFragmented. That a sequence comes twice is ErrDuplicate.
func (w *Writer) AppendRepair(r *record.Record) error {
	if r.Sequence > w.last {
		return w.Append(r)
	}
	if err := w.failed(); err != nil {
		return err
	}
	size, err := checkRecord(r)
	if err != nil {
		return err
	}
	if w.received.Contains(r.Sequence) {
		return fmt.Errorf("repair sequence %d: %w", r.Sequence, ErrDuplicate)
	}
	var has known
	if w.base != nil {
		if has, err = w.base.find(w.ctx, &w.base.random, r.Sequence); err != nil {
			return w.because(err)
		}
	}
	if has.segment != nil {
		err = w.compare(r, size, has)
	} else {
		err = w.repair(r, size, has.print)
	}
	if err != nil {
		return err
	}
	w.took(r.Sequence, size)
	return nil
}

func (w *Writer) repair(r *record.Record, size int, print []byte) error {
	if size > MaxSegment {
		return w.storeLarge(r, size, print, borderNone)
	}
	p := &w.repairs
	if len(p.buf)+size > MaxSegment {
		if err := w.spillRepairs(); err != nil {
			return err
		}
	}
	from := len(p.buf)
	p.buf = record.Append(p.buf, r)
	p.items = append(p.items, repairItem{r.Sequence, from, len(p.buf), print})
	return nil
}

// spillRepairs makes a segment of the repaired records held so far.
func (w *Writer) spillRepairs() error {
	p := &w.repairs
	if len(p.items) == 0 {
		return nil
	}
	slices.SortFunc(p.items, func(a, b repairItem) int { return cmp.Compare(a.seq, b.seq) })
	c, err := w.take()
	if err != nil {
		return err
	}
	for _, it := range p.items {
		c.raw = append(c.raw, p.buf[it.from:it.to]...)
		c.added(it.seq, it.print)
	}
	clear(p.items) // they hold on to proofs
	p.items = p.items[:0]
	p.buf = p.buf[:0]
	return w.submit(c, borderNone)
}
