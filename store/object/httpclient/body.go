package httpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A Body is what a request sends of an object. It ends with its context, for
// what was cancelled must not be sent to its last byte, and remembers what was
// wrong with what it reads, which a client takes for a fault of the network. It
// can be read once, so that no client sends it again by itself; who means to
// takes it from its beginning by Again.
type Body struct {
	ctx       context.Context // of the request that it is the body of
	r         io.Reader
	of        io.ReaderAt
	off, size int64
	wrong     *wrong // of all that read the same
}

type wrong struct {
	mu  sync.Mutex
	err error
}

// NewBody returns size bytes of r at off as the body of a request of ctx.
func NewBody(ctx context.Context, r io.ReaderAt, off, size int64) *Body {
	return &Body{ctx: ctx, r: io.NewSectionReader(r, off, size), of: r, off: off, size: size, wrong: &wrong{}}
}

// Again returns the body from its beginning. Either may still be read meanwhile,
// and Or of both knows what was wrong with any.
func (b *Body) Again() *Body {
	again := NewBody(b.ctx, b.of, b.off, b.size)
	again.wrong = b.wrong
	return again
}

type bodyKey struct{}

// WithBody returns a context for one request with that body.
func WithBody(ctx context.Context, b *Body) context.Context {
	return context.WithValue(ctx, bodyKey{}, b)
}

// BodyOf returns the body of a context's request, nil if it has none that can be
// taken again.
func BodyOf(ctx context.Context) *Body {
	b, _ := ctx.Value(bodyKey{}).(*Body)
	return b
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if cerr := b.ctx.Err(); cerr != nil {
		return 0, cerr
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.wrong.mu.Lock()
		b.wrong.err = err
		b.wrong.mu.Unlock()
	}
	return n, err
}

// Or returns what was wrong with what was read, if a request failed for that,
// and the request's error otherwise.
func (b *Body) Or(err error) error {
	b.wrong.mu.Lock()
	defer b.wrong.mu.Unlock()
	if err != nil && b.wrong.err != nil {
		return fmt.Errorf("read body: %w", b.wrong.err)
	}
	return err
}

// Copy writes size bytes of r at off to w, no fewer, unless ctx ends.
func Copy(ctx context.Context, w io.Writer, r io.ReaderAt, off, size int64) error {
	n, err := io.CopyBuffer(w, NewBody(ctx, r, off, size), make([]byte, min(256<<10, size+1)))
	if err == nil && n != size {
		err = fmt.Errorf("body ended after %d of %d bytes: %w", off+n, off+size, io.ErrUnexpectedEOF)
	}
	return err
}
