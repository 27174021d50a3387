package retry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"jetkeep/store/object"
)

// A Driver tries another's operations again.
type Driver struct {
	next   object.Driver
	policy Policy
}

// New returns a driver that tries what next does again by the policy.
func New(next object.Driver, p Policy) *Driver {
	return &Driver{next: next, policy: p.withDefaults()}
}

// Unwrap returns the decorated driver.
func (d *Driver) Unwrap() object.Driver { return d.next }

// Put implements object.Driver. An object that is found after a try whose end
// is not known is compared with body.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	t := d.policy.begin("put", name)
	unknown := false
	for {
		err := d.next.Put(ctx, name, body, size)
		if errors.Is(err, object.ErrExist) && unknown {
			same, cerr := d.same(ctx, name, body, size)
			switch {
			case same:
				return nil
			case cerr == nil:
				return err
			case errors.Is(cerr, object.ErrNotExist):
				// It is gone again: somebody deleted what was there.
				err = fmt.Errorf("%w: %w", object.ErrUnavailable, cerr)
			default:
				return fmt.Errorf("%w, and cannot be compared: %w", err, cerr)
			}
		}
		if err == nil {
			return nil
		}
		unknown = unknown || MayPass(err)
		if err := t.failed(ctx, err); err != nil {
			return err
		}
	}
}

// compareBlock is how much is compared at once.
const compareBlock = 256 << 10

// same says whether an object is size bytes of body.
func (d *Driver) same(ctx context.Context, name string, body io.ReaderAt, size int64) (bool, error) {
	info, err := d.Stat(ctx, name)
	if err != nil || info.Size != size {
		return false, err
	}
	r, err := d.Get(ctx, name, 0, -1)
	if err != nil {
		return false, err
	}
	defer r.Close()
	there, ours := make([]byte, compareBlock), make([]byte, compareBlock)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, there)
		if n > 0 {
			if off+int64(n) > size {
				return false, nil
			}
			if _, err := io.ReadFull(io.NewSectionReader(body, off, int64(n)), ours[:n]); err != nil {
				return false, fmt.Errorf("read body: %w", err)
			}
			if !bytes.Equal(there[:n], ours[:n]) {
				return false, nil
			}
			off += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return off == size, nil
		case err != nil:
			return false, err
		}
	}
}

// Stat implements object.Driver.
func (d *Driver) Stat(ctx context.Context, name string) (info object.Info, err error) {
	err = d.policy.Do(ctx, "stat", name, func(ctx context.Context) error {
		info, err = d.next.Stat(ctx, name)
		return err
	})
	return info, err
}

// List implements object.Driver.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) (page []object.Info, more bool, err error) {
	err = d.policy.Do(ctx, "list", prefix, func(ctx context.Context) error {
		page, more, err = d.next.List(ctx, prefix, after, limit)
		return err
	})
	return page, more, err
}

// Delete implements object.Driver.
func (d *Driver) Delete(ctx context.Context, name string) error {
	return d.policy.Do(ctx, "delete", name, func(ctx context.Context) error { return d.next.Delete(ctx, name) })
}

// DeleteMany implements object.BulkDeleter: it tries again those that may pass.
func (d *Driver) DeleteMany(ctx context.Context, names []string) ([]error, error) {
	bulk, ok := object.As[object.BulkDeleter](d.next)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	out := make([]error, len(names))
	left := make([]int, len(names))
	for i := range names {
		left[i] = i
	}
	for t := d.policy.begin("delete", fmt.Sprintf("%d objects", len(names))); ; {
		some := make([]string, len(left))
		for i, at := range left {
			some[i] = names[at]
		}
		errs, err := bulk.DeleteMany(ctx, some)
		if err == nil {
			again := left[:0:0]
			for i, at := range left {
				if out[at] = errs[i]; MayPass(errs[i]) {
					again, err = append(again, at), errs[i]
				}
			}
			left = again
		}
		if err == nil {
			return out, nil
		}
		ferr := t.failed(ctx, err)
		switch {
		case ferr == nil:
		case errors.Is(err, errors.ErrUnsupported):
			return nil, err
		default:
			for _, at := range left {
				out[at] = ferr
			}
			return out, nil
		}
	}
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
	return d.policy.Do(ctx, "retain", name, func(ctx context.Context) error { return r.Retain(ctx, name, until) })
}

// Retention implements object.Retainer.
func (d *Driver) Retention(ctx context.Context, name string) (until time.Time, err error) {
	r, ok := object.As[object.Retainer](d.next)
	if !ok {
		return time.Time{}, errors.ErrUnsupported
	}
	err = d.policy.Do(ctx, "retention", name, func(ctx context.Context) error {
		until, err = r.Retention(ctx, name)
		return err
	})
	return until, err
}

// Get implements object.Driver.
func (d *Driver) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	r := &reader{driver: d, ctx: ctx, name: name, offset: offset, left: length, tries: d.policy.begin("get", name)}
	return r, r.open()
}

// A reader goes on after a transfer broke off. Tries are counted from the last
// byte that arrived: a large object on a bad line comes through in the end.
type reader struct {
	driver       *Driver
	ctx          context.Context // of Get, which it belongs to
	name         string
	offset, left int64 // left is negative for all there is
	body         io.ReadCloser
	tries        *tries
}

// open opens the object where the reader is.
func (r *reader) open() error {
	for {
		body, err := r.driver.next.Get(r.ctx, r.name, r.offset, r.left)
		if err == nil {
			r.body = body
			return nil
		}
		if err := r.tries.failed(r.ctx, err); err != nil {
			return err
		}
	}
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		if r.body == nil {
			if err := r.open(); err != nil {
				return 0, err
			}
		}
		n, err := r.body.Read(p)
		if n > 0 {
			r.offset += int64(n)
			if r.left > 0 {
				r.left = max(0, r.left-int64(n))
			}
			r.tries = r.driver.policy.begin("get", r.name)
		}
		if err == nil || !MayPass(err) {
			return n, err
		}
		_ = r.body.Close() // it broke off
		r.body = nil
		if n > 0 {
			return n, nil
		}
		if err := r.tries.failed(r.ctx, err); err != nil {
			return 0, err
		}
	}
}

func (r *reader) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
