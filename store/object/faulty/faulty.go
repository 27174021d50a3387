// Package faulty is a driver that fails as planned, for tests. A planned fault
// that never happened fails the test: it proved nothing.
package faulty

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"jetkeep/store/object"
)

// ErrInjected is what a fault without an error of its own returns.
var ErrInjected = errors.New("injected fault")

// An Op names a driver's method.
type Op string

// The operations of a driver.
const (
	Put    Op = "put"
	Get    Op = "get"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
)

// A Kind says how an operation fails.
type Kind int

const (
	// Refuse fails before anything is done.
	Refuse Kind = iota
	// LoseReply does it and reports failure.
	LoseReply
	// Cut reads half of what was asked for: a Get's reader fails there, a Put's
	// body is consumed to there and nothing is stored.
	Cut
	// CutClean is a Get whose reader ends halfway as if the object ended there.
	CutClean
	// Flip is a Get that delivers one bit wrong.
	Flip
	// Hang waits until the context ends.
	Hang
	// Hide is a List that leaves out every object.
	Hide
)

// A Fault is one planned failure.
type Fault struct {
	Op     Op
	Prefix string // of the object's name; empty for any
	Skip   int    // matching operations to let through first
	Times  int    // how often to fail; 0 means once, negative for ever
	Kind   Kind
	Err    error // ErrInjected if nil
}

// TB is the part of testing.TB that is needed.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Cleanup(f func())
}

// A Driver decorates another.
type Driver struct {
	next object.Driver
	mu   sync.Mutex
	plan []*planned
	puts []string
}

type planned struct {
	Fault
	seen int
	hits int
}

// New returns a driver that fails as planned and tells t of faults never hit.
func New(t TB, next object.Driver, faults ...Fault) *Driver {
	t.Helper()
	d := &Driver{next: next}
	for _, f := range faults {
		if f.Err == nil {
			f.Err = ErrInjected
		}
		if f.Times == 0 {
			f.Times = 1
		}
		d.plan = append(d.plan, &planned{Fault: f})
	}
	t.Cleanup(func() {
		for _, p := range d.plan {
			if p.hits == 0 {
				t.Errorf("planned fault was never hit: %s %q kind %d after %d, seen %d", p.Op, p.Prefix, p.Kind, p.Skip, p.seen)
			}
		}
	})
	return d
}

// Unwrap returns the decorated driver.
func (d *Driver) Unwrap() object.Driver { return d.next }

// Puts returns the names of all Puts that reached the decorated driver.
func (d *Driver) Puts() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.puts...)
}

// next fault for the operation, nil if it shall succeed.
func (d *Driver) fault(op Op, name string) *Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	var hit *Fault
	for _, p := range d.plan {
		if p.Op != op || !strings.HasPrefix(name, p.Prefix) {
			continue
		}
		p.seen++
		if hit == nil && p.seen > p.Skip && (p.Times < 0 || p.hits < p.Times) {
			p.hits++
			f := p.Fault
			hit = &f
		}
	}
	return hit
}

// before returns the error of a fault that acts instead of the operation.
func before(ctx context.Context, f *Fault) error {
	if f == nil {
		return nil
	}
	switch f.Kind {
	case Refuse:
		return f.Err
	case Hang:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// after returns the error of a fault that acts once the operation succeeded.
func after(f *Fault) error {
	if f != nil && f.Kind == LoseReply {
		return f.Err
	}
	return nil
}

// Put creates an object.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	f := d.fault(Put, name)
	if err := before(ctx, f); err != nil {
		return err
	}
	if f != nil && f.Kind == Cut {
		if _, err := io.Copy(io.Discard, io.NewSectionReader(body, 0, size/2)); err != nil {
			return fmt.Errorf("read body: %w", err)
		}
		return f.Err
	}
	d.mu.Lock()
	d.puts = append(d.puts, name)
	d.mu.Unlock()
	if err := d.next.Put(ctx, name, body, size); err != nil {
		return err
	}
	return after(f)
}

// Get reads a range of an object.
func (d *Driver) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	f := d.fault(Get, name)
	if err := before(ctx, f); err != nil {
		return nil, err
	}
	r, err := d.next.Get(ctx, name, offset, length)
	if err != nil || f == nil {
		return r, err
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close(), after(f)); err != nil {
		return nil, err
	}
	half := bytes.NewReader(data[:len(data)/2])
	switch f.Kind {
	case Cut:
		return io.NopCloser(io.MultiReader(half, failingReader{f.Err})), nil
	case CutClean:
		return io.NopCloser(half), nil
	case Flip:
		if len(data) > 0 {
			data[len(data)/2] ^= 1
		}
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// Stat describes an object.
func (d *Driver) Stat(ctx context.Context, name string) (object.Info, error) {
	f := d.fault(Stat, name)
	if err := before(ctx, f); err != nil {
		return object.Info{}, err
	}
	info, err := d.next.Stat(ctx, name)
	if err != nil {
		return info, err
	}
	return info, after(f)
}

// List returns a page of objects.
func (d *Driver) List(ctx context.Context, prefix, from string, limit int) ([]object.Info, bool, error) {
	f := d.fault(List, prefix)
	if err := before(ctx, f); err != nil {
		return nil, false, err
	}
	if f != nil && f.Kind == Hide {
		return nil, false, nil
	}
	page, more, err := d.next.List(ctx, prefix, from, limit)
	if err != nil {
		return nil, false, err
	}
	return page, more, after(f)
}

// Delete removes an object.
func (d *Driver) Delete(ctx context.Context, name string) error {
	f := d.fault(Delete, name)
	if err := before(ctx, f); err != nil {
		return err
	}
	if err := d.next.Delete(ctx, name); err != nil {
		return err
	}
	return after(f)
}
