// Package mem keeps objects in memory, for tests and for trying things out.
// They live as long as the driver. Puts of one name are atomic.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"jetkeep/store/object"
)

// A Driver holds objects in memory.
type Driver struct {
	mu      sync.Mutex
	objects map[string]entry
}

type entry struct {
	data     []byte
	modified time.Time
}

// New returns an empty driver.
func New() *Driver { return &Driver{objects: map[string]entry{}} }

// AtomicCreate reports that creation is atomic.
func (d *Driver) AtomicCreate(context.Context) (bool, error) { return true, nil }

// Put creates an object.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	data := make([]byte, size)
	r := io.NewSectionReader(body, 0, size)
	const step = 1 << 20
	for off := int64(0); off < size; off += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, data[off:min(off+step, size)]); err != nil {
			return fmt.Errorf("read body: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.objects[name]; ok {
		return object.ErrExist
	}
	d.objects[name] = entry{data: data, modified: time.Now()}
	return nil
}

// Get reads a range of an object.
func (d *Driver) Get(_ context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	e, err := d.get(name)
	if err != nil {
		return nil, err
	}
	data := e.data[min(offset, int64(len(e.data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Stat describes an object.
func (d *Driver) Stat(_ context.Context, name string) (object.Info, error) {
	e, err := d.get(name)
	if err != nil {
		return object.Info{}, err
	}
	return object.Info{Name: name, Size: int64(len(e.data)), Modified: e.modified}, nil
}

// List returns a page of objects.
func (d *Driver) List(_ context.Context, prefix, after string, limit int) ([]object.Info, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var page []object.Info
	for _, name := range slices.Sorted(maps.Keys(d.objects)) {
		if name <= after || !strings.HasPrefix(name, prefix) {
			continue
		}
		if len(page) == limit {
			return page, true, nil
		}
		e := d.objects[name]
		page = append(page, object.Info{Name: name, Size: int64(len(e.data)), Modified: e.modified})
	}
	return page, false, nil
}

// Delete removes an object.
func (d *Driver) Delete(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.objects, name)
	return nil
}

// Corrupt replaces an object's bytes by what change returns, for tests of what
// notices. It says whether the object was there.
func (d *Driver) Corrupt(name string, change func([]byte) []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.objects[name]
	if ok {
		e.data = change(slices.Clone(e.data))
		d.objects[name] = e
	}
	return ok
}

func (d *Driver) get(name string) (entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.objects[name]
	if !ok {
		return entry{}, object.ErrNotExist
	}
	return e, nil
}
