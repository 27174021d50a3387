package local

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"jetkeep/store/object"
)

// List returns a page of objects. Files whose names no object can have are
// not ours and are passed over.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) ([]object.Info, bool, error) {
	l := lister{d: d, prefix: prefix, after: after, limit: limit}
	dir := "."
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		dir = prefix[:i]
	}
	err := l.walk(ctx, dir)
	if errors.Is(err, errPageFull) {
		return l.page, true, nil
	}
	if err != nil {
		return nil, false, readError(err)
	}
	return l.page, false, nil
}

var errPageFull = errors.New("page is full")

type lister struct {
	d      *Driver
	prefix string
	after  string
	limit  int
	page   []object.Info
}

// walk visits a directory in byte order of whole names: a directory sorts as
// its name with a slash behind it.
func (l *lister) walk(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := l.read(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if object.CheckName(name) != nil || dir == "." && name == "lost+found" {
			continue
		}
		if !e.IsDir() {
			err = l.file(name, e)
		} else if l.mayHold(name + "/") {
			err = l.walk(ctx, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mayHold says whether names below a directory can be on the page.
func (l *lister) mayHold(dir string) bool {
	n := min(len(dir), len(l.prefix))
	if dir[:n] != l.prefix[:n] {
		return false
	}
	return dir > l.after || strings.HasPrefix(l.after, dir)
}

func (l *lister) file(name string, e fs.DirEntry) error {
	if name <= l.after || !strings.HasPrefix(name, l.prefix) {
		return nil
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted since the directory was read
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	if len(l.page) == l.limit {
		return errPageFull
	}
	l.page = append(l.page, object.Info{Name: name, Size: info.Size(), Modified: info.ModTime()})
	return nil
}

func (l *lister) read(dir string) ([]fs.DirEntry, error) {
	f, err := l.d.open(dir)
	if err != nil {
		if errors.Is(readError(err), object.ErrNotExist) {
			return nil, nil // no such directory: no such objects
		}
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.IsDir() {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(sortName(a), sortName(b)) })
	return entries, nil
}

func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}
