// Package observe tells what is asked of a store and how it went, for metrics
// and traces. It changes nothing: errors, abilities and bytes pass as they are.
package observe

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"jetkeep/store/object"
)

// Operations.
const (
	Put    = "put"
	Get    = "get"
	Stat   = "stat"
	List   = "list"
	Delete = "delete"
	Retain = "retain"
)

// Results. They are few, so that they can be labels.
const (
	OK          = "ok"
	NotFound    = "not_found"
	Exists      = "exists"
	Retained    = "retained"
	Cancelled   = "cancelled"
	Permission  = "permission"
	NoSpace     = "no_space"
	Throttled   = "throttled"
	Unavailable = "unavailable"
	Checksum    = "checksum"
	Failed      = "failed" // anything else
)

// Results returns all results.
func Results() []string {
	return []string{OK, NotFound, Exists, Retained, Cancelled, Permission, NoSpace, Throttled, Unavailable, Checksum, Failed}
}

// Operations returns all operations.
func Operations() []string { return []string{Put, Get, Stat, List, Delete, Retain} }

// An Operation is one that ended, with all its tries.
type Operation struct {
	Op     string
	Result string
	Bytes  int64 // of an object's content that were sent, or read
	Count  int   // objects: more than one of a deletion of many
	Took   time.Duration
}

// A Driver tells of another's operations.
type Driver struct {
	next object.Driver
	tell func(Operation)
}

// New returns a driver that tells of each operation of next when it has ended:
// of a Get when its reader is closed. tell is called by many goroutines at once
// and must not block.
func New(next object.Driver, tell func(Operation)) *Driver { return &Driver{next: next, tell: tell} }

// Unwrap returns the decorated driver.
func (d *Driver) Unwrap() object.Driver { return d.next }

// Result says what an error is among the results.
func Result(err error) string {
	if err == nil {
		return OK
	}
	for _, c := range []struct {
		err    error
		result string
	}{
		{context.Canceled, Cancelled},
		{context.DeadlineExceeded, Cancelled},
		{object.ErrNotExist, NotFound},
		{object.ErrExist, Exists},
		{object.ErrRetained, Retained},
		{object.ErrChecksum, Checksum},
		{object.ErrThrottled, Throttled},
		{object.ErrUnavailable, Unavailable},
		{object.ErrNoSpace, NoSpace},
		{object.ErrPermission, Permission},
		{object.ErrNotWritable, Permission},
	} {
		if errors.Is(err, c.err) {
			return c.result
		}
	}
	return Failed
}

func (d *Driver) ended(op string, begun time.Time, bytes int64, err error) {
	d.tell(Operation{Op: op, Result: Result(err), Bytes: bytes, Count: 1, Took: time.Since(begun)})
}

// Put implements object.Driver.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	begun := time.Now()
	err := d.next.Put(ctx, name, body, size)
	if err != nil {
		size = 0
	}
	d.ended(Put, begun, size, err)
	return err
}

// Get implements object.Driver.
func (d *Driver) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	begun := time.Now()
	body, err := d.next.Get(ctx, name, offset, length)
	if err != nil {
		d.ended(Get, begun, 0, err)
		return nil, err
	}
	return &reader{ReadCloser: body, driver: d, begun: begun}, nil
}

// A reader counts what is read, and waits for its end.
type reader struct {
	io.ReadCloser
	driver *Driver
	begun  time.Time
	once   sync.Once
	bytes  int64
	err    error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.bytes += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (r *reader) Close() error {
	err := r.ReadCloser.Close()
	r.once.Do(func() { r.driver.ended(Get, r.begun, r.bytes, errors.Join(r.err, err)) })
	return err
}

// Stat implements object.Driver.
func (d *Driver) Stat(ctx context.Context, name string) (object.Info, error) {
	begun := time.Now()
	info, err := d.next.Stat(ctx, name)
	d.ended(Stat, begun, 0, err)
	return info, err
}

// List implements object.Driver.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) ([]object.Info, bool, error) {
	begun := time.Now()
	page, more, err := d.next.List(ctx, prefix, after, limit)
	d.ended(List, begun, 0, err)
	return page, more, err
}

// Delete implements object.Driver.
func (d *Driver) Delete(ctx context.Context, name string) error {
	begun := time.Now()
	err := d.next.Delete(ctx, name)
	d.ended(Delete, begun, 0, err)
	return err
}

// DeleteMany implements object.BulkDeleter. It is told once for each result.
func (d *Driver) DeleteMany(ctx context.Context, names []string) ([]error, error) {
	bulk, ok := object.As[object.BulkDeleter](d.next)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	begun := time.Now()
	errs, err := bulk.DeleteMany(ctx, names)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	counts := map[string]int{}
	for _, e := range errs {
		counts[Result(e)]++
	}
	if err != nil {
		counts = map[string]int{Result(err): len(names)}
	}
	for result, n := range counts {
		d.tell(Operation{Op: Delete, Result: result, Count: n, Took: time.Since(begun)})
	}
	return errs, err
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
	begun := time.Now()
	err := r.Retain(ctx, name, until)
	d.ended(Retain, begun, 0, err)
	return err
}

// Retention implements object.Retainer.
func (d *Driver) Retention(ctx context.Context, name string) (time.Time, error) {
	r, ok := object.As[object.Retainer](d.next)
	if !ok {
		return time.Time{}, errors.ErrUnsupported
	}
	begun := time.Now()
	until, err := r.Retention(ctx, name)
	d.ended(Stat, begun, 0, err)
	return until, err
}
