// Package deadline ends what does not move on.
//
// Small operations have a deadline each. A transfer has none, for how long it
// takes depends on the object and the line; it is ended when no byte moved for
// a while. Once the whole of a body has been taken, the answer has a deadline of
// its own.
//
// What is ended here is object.ErrUnavailable: the same may succeed later. What
// the caller ends is the context's error, as ever.
package deadline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"jetkeep/store/object"
)

// Defaults of Options.
const (
	DefaultSmall  = 30 * time.Second
	DefaultStall  = 30 * time.Second
	DefaultAnswer = 2 * time.Minute
)

// Options are how long things may take. What is zero is its default.
type Options struct {
	Small  time.Duration // a Stat, List or Delete, and the begin of a Get
	Stall  time.Duration // no byte moves
	Answer time.Duration // from the last byte of a body to the answer
}

var (
	errSlow  = errors.New("did not answer in time")
	errStall = errors.New("transfer stalled")
)

// A Driver ends another's operations that do not move on.
type Driver struct {
	next object.Driver
	opt  Options
}

// New returns a driver that bounds what next does.
func New(next object.Driver, o Options) *Driver {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.Small, DefaultSmall)
	set(&o.Stall, DefaultStall)
	set(&o.Answer, DefaultAnswer)
	return &Driver{next: next, opt: o}
}

// Unwrap returns the decorated driver.
func (d *Driver) Unwrap() object.Driver { return d.next }

// A watch ends a context when nothing was heard for some time.
type watch struct {
	parent context.Context // to tell its end from ours
	ctx    context.Context // of the operation that is watched
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newWatch(ctx context.Context, first time.Duration) *watch {
	w := &watch{parent: ctx}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(first, func() { w.cancel(fmt.Errorf("%w within %s", errSlow, first)) })
	return w
}

// allow gives it so much time from now on.
func (w *watch) allow(d time.Duration) {
	if w.timer.Stop() {
		w.timer.Reset(d)
	}
}

func (w *watch) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// typed says whether an error is due to the watch.
func (w *watch) typed(err error) error {
	cause := context.Cause(w.ctx)
	if err == nil || w.parent.Err() != nil || !errors.Is(cause, errSlow) {
		return err
	}
	return fmt.Errorf("%w: %w", object.ErrUnavailable, cause)
}

func (d *Driver) small(ctx context.Context, f func(ctx context.Context) error) error {
	w := newWatch(ctx, d.opt.Small)
	defer w.end()
	return w.typed(f(w.ctx))
}

// Put implements object.Driver.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	w := newWatch(ctx, d.opt.Stall+d.opt.Small)
	defer w.end()
	b := &watchedBody{r: body, watch: w, opt: d.opt, size: size}
	return w.typed(d.next.Put(w.ctx, name, b, size))
}

// A watchedBody gives more time with each read. A body is read more than once
// and in any order; when its end is read the answer may be next.
type watchedBody struct {
	r     io.ReaderAt
	watch *watch
	opt   Options
	size  int64
}

func (b *watchedBody) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.r.ReadAt(p, off)
	if off+int64(n) >= b.size {
		b.watch.allow(b.opt.Answer)
	} else {
		b.watch.allow(b.opt.Stall)
	}
	return n, err
}

// Get implements object.Driver.
func (d *Driver) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	w := newWatch(ctx, d.opt.Small)
	body, err := d.next.Get(w.ctx, name, offset, length)
	if err != nil {
		w.end()
		return nil, w.typed(err)
	}
	w.timer.Stop() // the caller may be slow to read
	return &reader{body: body, watch: w, stall: d.opt.Stall}, nil
}

// A reader bounds each read, not the time between reads.
type reader struct {
	body  io.ReadCloser
	watch *watch
	stall time.Duration
	once  sync.Once
}

func (r *reader) Read(p []byte) (int, error) {
	w := r.watch
	stalled := time.AfterFunc(r.stall, func() { w.cancel(fmt.Errorf("%w: %w, no byte within %s", errSlow, errStall, r.stall)) })
	n, err := r.body.Read(p)
	stalled.Stop()
	if errors.Is(err, io.EOF) {
		return n, err
	}
	return n, w.typed(err)
}

func (r *reader) Close() error {
	var err error
	r.once.Do(func() {
		err = r.body.Close()
		r.watch.end()
	})
	return err
}

// Stat implements object.Driver.
func (d *Driver) Stat(ctx context.Context, name string) (info object.Info, err error) {
	err = d.small(ctx, func(ctx context.Context) error {
		info, err = d.next.Stat(ctx, name)
		return err
	})
	return info, err
}

// List implements object.Driver.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) (page []object.Info, more bool, err error) {
	err = d.small(ctx, func(ctx context.Context) error {
		page, more, err = d.next.List(ctx, prefix, after, limit)
		return err
	})
	return page, more, err
}

// Delete implements object.Driver.
func (d *Driver) Delete(ctx context.Context, name string) error {
	return d.small(ctx, func(ctx context.Context) error { return d.next.Delete(ctx, name) })
}

// DeleteMany implements object.BulkDeleter. It takes as long as an upload's
// answer may.
func (d *Driver) DeleteMany(ctx context.Context, names []string) (errs []error, err error) {
	bulk, ok := object.As[object.BulkDeleter](d.next)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	w := newWatch(ctx, d.opt.Answer)
	defer w.end()
	errs, err = bulk.DeleteMany(w.ctx, names)
	for i := range errs {
		errs[i] = w.typed(errs[i])
	}
	return errs, w.typed(err)
}

// RetainFor implements object.Retainer.
func (d *Driver) RetainFor() time.Duration {
	if r, ok := object.As[object.Retainer](d.next); ok {
		return r.RetainFor()
	}
	return 0
}

// Retain implements object.Retainer.
func (d *Driver) Retain(ctx context.Context, name string, until time.Time) error {
	r, ok := object.As[object.Retainer](d.next)
	if !ok {
		return errors.ErrUnsupported
	}
	return d.small(ctx, func(ctx context.Context) error { return r.Retain(ctx, name, until) })
}

// Retention implements object.Retainer.
func (d *Driver) Retention(ctx context.Context, name string) (until time.Time, err error) {
	r, ok := object.As[object.Retainer](d.next)
	if !ok {
		return time.Time{}, errors.ErrUnsupported
	}
	err = d.small(ctx, func(ctx context.Context) error {
		until, err = r.Retention(ctx, name)
		return err
	})
	return until, err
}
