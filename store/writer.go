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
	// Task names the writer in errors.
	Task string
	// Workers compress in parallel; 0 means one for each CPU, at most 4.
	Workers int
	Level   Level
	// OnProgress, if set, is told the bytes of records taken in, of packs made
	// and of packs uploaded so far. It is called by one goroutine at a time and
	// must not block.
	OnProgress func(read, stored, uploaded uint64)
}

// uploaders is how many packs are uploaded at once.
const uploaders = 2

// A Writer stores the records of one restore point. One goroutine feeds it:
// Append and AppendRepair, then Finish or Abort, one of which must be called.
//
// Behind it run workers that hash and compress segments, one goroutine that
// packs them in order, and two that upload. All end in Finish or Abort. What
// goes wrong in any of them is returned by the next call.
type Writer struct {
	repo *Repository
	opt  WriterOptions

	group  *errgroup.Group
	ctx    context.Context //nolint:containedctx // the pipeline's own, ended by Finish and Abort
	cancel context.CancelCauseFunc
	closed bool

	cur     *chunk
	last    uint64 // highest sequence appended
	repairs repairs

	jobs    chan *chunk // to the workers
	ordered chan *chunk // to the packer, in order
	free    chan *chunk // buffers not in use
	packs   chan *packFile

	packer  *packer
	results results
}

// A chunk is a segment on its way through the pipeline. Chunks are reused.
type chunk struct {
	raw    []byte
	ends   []int // of each record in raw
	frame  []byte
	seg    segment
	seqs   uint64 // sum of mix64 over the sequences
	repair bool
	sum    record.Sum
	done   chan error // from the worker
}

// stored describes a segment that is packed.
type stored struct {
	segment
	pack   int
	seqs   uint64
	repair bool
}

// results is what the pipeline found out, for Finish.
type results struct {
	segments []stored // the packer's
	packs    []packRef
	sum      record.Sum
	rawBytes uint64

	mu                 sync.Mutex // guards what follows, for progress
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
	opt.Workers = workers(opt.Workers)
	own, cancel := context.WithCancelCause(ctx)
	group, gctx := errgroup.WithContext(own)
	n := opt.Workers + 3 // in work, plus being filled, packed and repaired
	w := &Writer{
		repo: r, opt: opt, group: group, ctx: gctx, cancel: cancel,
		jobs: make(chan *chunk, n), ordered: make(chan *chunk, n), free: make(chan *chunk, n), packs: make(chan *packFile),
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
// record's slices are free when it returns.
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
	if w.cur != nil && len(w.cur.raw)+size > MaxSegment {
		if err := w.cut(borderNone); err != nil {
			return err
		}
	}
	if w.cur == nil {
		if w.cur, err = w.take(); err != nil {
			return err
		}
	}
	w.cur.add(r)
	w.last = r.Sequence
	if b := borderAfter(r.Sequence, r.Time, size); b != borderNone {
		return w.cut(b)
	}
	return nil
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

func (c *chunk) add(r *record.Record) {
	if size := len(c.raw) + r.Size(); size > cap(c.raw) {
		c.raw = append(make([]byte, 0, bufferFor(max(uint64(size), 2*uint64(len(c.raw)), 16<<10))), c.raw...)
	}
	c.raw = record.Append(c.raw, r)
	c.added(r.Sequence)
}

// added notes the record that has been appended to raw.
func (c *chunk) added(seq uint64) {
	if len(c.ends) == 0 {
		c.seg.first = seq
	}
	c.ends = append(c.ends, len(c.raw))
	c.seg.last = seq
	c.seqs += mix64(seq)
}

// reset makes the chunk ready for reuse; a buffer that one huge record made
// huge is let go.
func (c *chunk) reset() {
	if cap(c.raw) > 2*MaxSegment {
		c.raw = nil
	}
	if cap(c.frame) > 2*MaxSegment {
		c.frame = nil
	}
	*c = chunk{raw: c.raw[:0], ends: c.ends[:0], frame: c.frame[:0], done: c.done}
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
	return fmt.Errorf("write %s: %w", w.opt.Task, context.Cause(w.ctx))
}

// work is a worker: it hashes and compresses segments. A small stream keeps one
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
			if enc == nil {
				var err error
				if enc, err = newEncoder(w.opt.Level); err != nil {
					return err
				}
			}
			c.compress(enc, h)
			c.done <- nil
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
}

func (c *chunk) compress(enc *zstd.Encoder, h hash.Hash) {
	h.Reset()
	start := 0
	for _, end := range c.ends {
		sum := record.Hash(c.raw[start:end])
		c.sum.AddHash(sum)
		h.Write(sum[:])
		start = end
	}
	h.Sum(c.seg.hash[:0])
	c.frame = enc.EncodeAll(c.raw, c.frame[:0])
	c.seg.stored = uint64(len(c.frame))
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
	w.packer.drop()
}

// drain ends the input and waits for the pipeline.
func (w *Writer) drain() error {
	if w.cur != nil {
		if err := w.cut(borderNone); err != nil {
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
	seqs  seqset.Set // all there ever were
}

type repairItem struct {
	seq      uint64
	from, to int
}

// AppendRepair adds a record whose sequence may be lower than those before:
// one that a capture lacked and read again. Such records are sorted in memory
// and stored as segments of their own of at most 4 MiB; handed in by rising
// sequence they cost the reader least, in a random order too many of them end
// in ErrTooFragmented. That a sequence is stored twice is found by Finish.
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
	p := &w.repairs
	if p.seqs.Contains(r.Sequence) {
		return fmt.Errorf("repair sequence %d: %w", r.Sequence, ErrDuplicate)
	}
	if len(p.buf)+size > MaxSegment {
		if err := w.spillRepairs(); err != nil {
			return err
		}
	}
	from := len(p.buf)
	p.buf = record.Append(p.buf, r)
	p.items = append(p.items, repairItem{r.Sequence, from, len(p.buf)})
	p.seqs.Add(r.Sequence)
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
		c.added(it.seq)
	}
	c.repair = true
	p.items = p.items[:0]
	p.buf = p.buf[:0]
	if cap(p.buf) > 2*MaxSegment {
		p.buf = nil
	}
	return w.submit(c, borderNone)
}
