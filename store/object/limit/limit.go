// Package limit bounds how much is asked of a store at once.
//
// There are two lanes, so that a look at a small object never waits behind
// packs: one for Puts of Bulk bytes and more, the uploads, and one for all else.
// How many uploads go on at once adapts: one more after each round in which as
// many as allowed succeeded, half as many when the store asks to slow down or
// breaks off, and that at most once a round.
//
// A Get has its place until it delivers: who reads from several objects at once
// must not wait for himself.
package limit

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"jetkeep/store/object"
)

// Defaults and bounds.
const (
	// Bulk is the size from which on a Put is an upload.
	Bulk           = 256 << 10
	DefaultUploads = 16
	DefaultSmall   = 32
	// begin is how many uploads there are at first.
	begin = 4
)

// Options are the bounds. What is zero is its default.
type Options struct {
	Uploads int // at once, at most
	Small   int // other requests at once
}

// A Driver bounds what is asked of another.
type Driver struct {
	next   object.Driver
	small  *semaphore.Weighted
	window window
}

// New returns a driver that asks next for no more than that at once.
func New(next object.Driver, o Options) *Driver {
	if o.Uploads <= 0 {
		o.Uploads = DefaultUploads
	}
	if o.Small <= 0 {
		o.Small = DefaultSmall
	}
	d := &Driver{next: next, small: semaphore.NewWeighted(int64(o.Small))}
	d.window.most, d.window.size = o.Uploads, min(begin, o.Uploads)
	return d
}

// Unwrap returns the decorated driver.
func (d *Driver) Unwrap() object.Driver { return d.next }

// Uploads returns how many uploads may go on at once at the moment.
func (d *Driver) Uploads() int {
	d.window.mu.Lock()
	defer d.window.mu.Unlock()
	return d.window.size
}

// A window is how many uploads may go on. Who waits is served in order.
type window struct {
	mu        sync.Mutex
	size      int
	most      int
	busy      int
	waiting   []chan struct{}
	succeeded int  // in a row, since the size changed
	full      bool // all that are allowed went on at once since the size changed
	reduced   time.Time
}

func (w *window) enter(ctx context.Context) error {
	w.mu.Lock()
	if w.busy < w.size && len(w.waiting) == 0 {
		w.busy++
		w.full = w.full || w.busy == w.size
		w.mu.Unlock()
		return nil
	}
	w.full = true
	turn := make(chan struct{})
	w.waiting = append(w.waiting, turn)
	w.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, x := range w.waiting {
		if x == turn {
			w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	w.busy-- // it came at the same moment
	w.wake()
	return ctx.Err()
}

// leave ends an upload that began at a time.
func (w *window) leave(begun time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy--
	switch {
	case errors.Is(err, object.ErrThrottled), errors.Is(err, object.ErrUnavailable):
		// Those that began before the window shrank say nothing new.
		if begun.After(w.reduced) {
			w.size, w.succeeded, w.full, w.reduced = max(1, w.size/2), 0, false, time.Now()
		}
	case err == nil:
		if w.succeeded++; w.succeeded >= w.size && w.full && w.size < w.most {
			w.size, w.succeeded, w.full = w.size+1, 0, false
		}
	}
	w.wake()
}

func (w *window) wake() {
	for w.busy < w.size && len(w.waiting) > 0 {
		w.busy++
		close(w.waiting[0])
		w.waiting = w.waiting[1:]
	}
	w.full = w.full || w.busy == w.size
}

func (d *Driver) smallOne(ctx context.Context, f func() error) error {
	if err := d.small.Acquire(ctx, 1); err != nil {
		return err
	}
	defer d.small.Release(1)
	return f()
}

// Put implements object.Driver.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if size < Bulk {
		return d.smallOne(ctx, func() error { return d.next.Put(ctx, name, body, size) })
	}
	if err := d.window.enter(ctx); err != nil {
		return err
	}
	begun := time.Now()
	err := d.next.Put(ctx, name, body, size)
	d.window.leave(begun, err)
	return err
}

// Get implements object.Driver.
func (d *Driver) Get(ctx context.Context, name string, offset, length int64) (body io.ReadCloser, err error) {
	err = d.smallOne(ctx, func() error {
		body, err = d.next.Get(ctx, name, offset, length)
		return err
	})
	return body, err
}

// Stat implements object.Driver.
func (d *Driver) Stat(ctx context.Context, name string) (info object.Info, err error) {
	err = d.smallOne(ctx, func() error {
		info, err = d.next.Stat(ctx, name)
		return err
	})
	return info, err
}

// List implements object.Driver.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) (page []object.Info, more bool, err error) {
	err = d.smallOne(ctx, func() error {
		page, more, err = d.next.List(ctx, prefix, after, limit)
		return err
	})
	return page, more, err
}

// Delete implements object.Driver.
func (d *Driver) Delete(ctx context.Context, name string) error {
	return d.smallOne(ctx, func() error { return d.next.Delete(ctx, name) })
}
