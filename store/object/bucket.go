package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// A Bucket is the portable store over a Driver.
type Bucket struct {
	driver Driver
}

// NewBucket returns a bucket over d.
func NewBucket(d Driver) *Bucket { return &Bucket{driver: d} }

// Atomic says whether of concurrent Puts of one name exactly one succeeds. It
// may have to try it in the store, once.
func (b *Bucket) Atomic(ctx context.Context) (bool, error) {
	a, ok := As[AtomicCreator](b.driver)
	if !ok {
		return false, nil
	}
	atomic, err := a.AtomicCreate(ctx)
	if err != nil {
		return false, fmt.Errorf("try whether creation is atomic: %w", known(err))
	}
	return atomic, nil
}

// Retainer returns the store's ability to retain objects, if it promises to
// retain any.
func (b *Bucket) Retainer() (Retainer, bool) {
	r, ok := As[Retainer](b.driver)
	return r, ok && r.RetainFor() > 0
}

// Close releases what the driver holds, if anything.
func (b *Bucket) Close() error {
	if c, ok := As[io.Closer](b.driver); ok {
		return c.Close()
	}
	return nil
}

// Put creates an object from the first size bytes of body. It fails with
// ErrExist if the name is taken, whatever the content.
func (b *Bucket) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	err := b.check(ctx, name)
	switch {
	case err != nil:
	case size < 0:
		err = fmt.Errorf("size %d", size)
	case size > MaxSize:
		err = fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, int64(MaxSize))
	default:
		err = b.driver.Put(ctx, name, body, size)
	}
	return wrap("put", name, err)
}

// PutBytes is Put of a byte slice.
func (b *Bucket) PutBytes(ctx context.Context, name string, data []byte) error {
	return b.Put(ctx, name, bytes.NewReader(data), int64(len(data)))
}

// Stat describes an object.
func (b *Bucket) Stat(ctx context.Context, name string) (Info, error) {
	if err := b.check(ctx, name); err != nil {
		return Info{}, wrap("stat", name, err)
	}
	info, err := b.driver.Stat(ctx, name)
	if err == nil && (info.Name != name || info.Size < 0) {
		err = fmt.Errorf("driver described %q of %d bytes", info.Name, info.Size)
	}
	return info, wrap("stat", name, err)
}

// Open reads exactly length bytes from offset. The reader fails with
// io.ErrUnexpectedEOF if the object ends sooner.
func (b *Bucket) Open(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	err := b.check(ctx, name)
	if err == nil && (offset < 0 || length < 0 || offset > MaxSize || length > MaxSize) {
		err = fmt.Errorf("range of %d bytes from %d", length, offset)
	}
	if err != nil {
		return nil, wrap(opGet, name, err)
	}
	r, err := b.driver.Get(ctx, name, offset, length)
	if err != nil {
		return nil, wrap(opGet, name, err)
	}
	return &exactReader{r: r, name: name, left: length}, nil
}

// ReadAll reads a whole object of at most limit bytes; a larger one is
// ErrTooLarge.
func (b *Bucket) ReadAll(ctx context.Context, name string, limit int64) ([]byte, error) {
	if err := b.check(ctx, name); err != nil {
		return nil, wrap(opGet, name, err)
	}
	r, err := b.driver.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, wrap(opGet, name, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	err = errors.Join(err, r.Close())
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	if err != nil {
		return nil, wrap(opGet, name, err)
	}
	return data, nil
}

// ReadInto reads a whole object into buf, which must have exactly its length:
// a shorter object is io.ErrUnexpectedEOF, a longer one ErrTooLarge.
func (b *Bucket) ReadInto(ctx context.Context, name string, buf []byte) error {
	if err := b.check(ctx, name); err != nil {
		return wrap(opGet, name, err)
	}
	r, err := b.driver.Get(ctx, name, 0, -1)
	if err != nil {
		return wrap(opGet, name, err)
	}
	_, err = io.ReadFull(r, buf)
	if errors.Is(err, io.EOF) && len(buf) > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		var more [1]byte
		switch _, e := io.ReadFull(r, more[:]); {
		case e == nil:
			err = fmt.Errorf("%w: more than %d bytes", ErrTooLarge, len(buf))
		case !errors.Is(e, io.EOF):
			err = e
		}
	}
	return wrap(opGet, name, errors.Join(err, r.Close()))
}

// Delete removes an object; that it is gone already is no error.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	err := b.check(ctx, name)
	if err == nil {
		err = b.driver.Delete(ctx, name)
	}
	return wrap("delete", name, err)
}

// deletes is how many single requests to delete go on at once.
const deletes = 8

// DeleteAll deletes objects, by few requests where the store can, and returns
// for each of them what Delete would.
func (b *Bucket) DeleteAll(ctx context.Context, names []string) []error {
	out := make([]error, 0, len(names))
	for part := range slices.Chunk(names, BulkDeletes) {
		out = append(out, b.deleteSome(ctx, part)...)
	}
	return out
}

func (b *Bucket) deleteSome(ctx context.Context, names []string) []error {
	out := make([]error, len(names))
	bulk, ok := As[BulkDeleter](b.driver)
	for _, name := range names {
		ok = ok && b.check(ctx, name) == nil // else let Delete say it
	}
	if ok && len(names) > 1 {
		errs, err := bulk.DeleteMany(ctx, names)
		if err == nil && len(errs) != len(names) {
			err = fmt.Errorf("driver answered for %d of %d objects", len(errs), len(names))
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			for i, name := range names {
				e := err
				if err == nil {
					e = errs[i]
				}
				out[i] = wrap("delete", name, e)
			}
			return out
		}
	}
	var g errgroup.Group
	g.SetLimit(deletes)
	for i, name := range names {
		g.Go(func() error {
			out[i] = b.Delete(ctx, name)
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	return out
}

// List yields the objects whose names begin with prefix, in rising order. An
// error ends it; what came before may be only a part.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		fail := func(err error) { yield(Info{}, fmt.Errorf("list objects %s: %w", prefix, known(err))) }
		if err := checkPrefix(prefix); err != nil {
			fail(err)
			return
		}
		after := ""
		for {
			if err := ctx.Err(); err != nil {
				fail(err)
				return
			}
			page, more, err := b.driver.List(ctx, prefix, after, PageSize)
			if err != nil {
				fail(err)
				return
			}
			for _, info := range page {
				if info.Name <= after || !strings.HasPrefix(info.Name, prefix) {
					fail(fmt.Errorf("driver listed %q after %q", info.Name, after))
					return
				}
				after = info.Name
				if !yield(info, nil) {
					return
				}
			}
			if !more {
				return
			}
			if len(page) == 0 {
				fail(errors.New("driver listed an empty page and promised more"))
				return
			}
		}
	}
}

// check refuses a cancelled context before anything is done, and a bad name.
func (b *Bucket) check(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return CheckName(name)
}

const opGet = "get"

func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if op == opGet && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return fmt.Errorf("%s object %s: %w", op, name, err) // it is shorter than it was said to be
	}
	return fmt.Errorf("%s object %s: %w", op, name, known(err))
}

// known sees to it that whatever a driver returns can be told by its sentinel:
// ErrUnexpected if it has none.
func known(err error) error {
	for _, e := range []error{
		ErrNotExist, ErrExist, ErrNoSpace, ErrNotWritable, ErrPermission, ErrInvalidName, ErrTooLarge, ErrUnavailable, ErrThrottled,
		ErrRetained, ErrUnexpected, ErrChecksum, errors.ErrUnsupported,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, e) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnexpected, err)
}

// An exactReader turns an early end into an error: a connection that closes in
// the middle of an object must never look like a short object.
type exactReader struct {
	r    io.ReadCloser
	name string
	left int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if errors.Is(err, io.EOF) {
		if e.left == 0 {
			return n, io.EOF
		}
		err = fmt.Errorf("%w, %d bytes missing", io.ErrUnexpectedEOF, e.left)
	}
	return n, wrap(opGet, e.name, err)
}

func (e *exactReader) Close() error {
	if err := e.r.Close(); err != nil {
		return wrap(opGet, e.name, err)
	}
	return nil
}
