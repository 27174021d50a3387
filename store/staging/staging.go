// Package staging is a bounded area of local disk between a fast source and a
// slow store.
//
// Whoever creates a file reserves its largest size first and waits while the
// area is full, so the sum of all files never passes the limit. Waiters are
// served in order, and since a file's whole size is reserved at once, writers
// cannot block one another for ever. Closing a file removes it and gives its
// bytes back.
//
// An area belongs to one process: Open fails with ErrLocked while another has
// it. What a process that was killed left behind is removed by the next Open;
// on file systems that cannot unlink open files it may stay until then. A
// directory that disappears is made again with the next file. It fails with
// ErrNoSpace when the disk is full before the limit is reached, and with
// ErrNotWritable for whatever else keeps the directory from taking files.
package staging

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/semaphore"
)

var (
	// ErrLocked means that another process uses the directory.
	ErrLocked = errors.New("staging directory is in use by another process")
	// ErrNoSpace means that the disk or a quota is full.
	ErrNoSpace = errors.New("no space left for staging")
	// ErrLimit means that one file alone is larger than the area's limit.
	ErrLimit = errors.New("larger than the staging limit")
	// ErrNotWritable means that the directory does not take files or give them
	// back: it is read-only, its disk is broken, or the process may open no more.
	ErrNotWritable = errors.New("staging directory cannot be used")
	// ErrReserved means that a file outgrew what was reserved for it.
	ErrReserved = errors.New("staging file outgrew its reservation")
)

const (
	lockName   = "lock"
	filePrefix = "stage-"
)

// An Area is a directory with a bound on the bytes in it.
type Area struct {
	dir   string
	limit int64
	sem   *semaphore.Weighted
	used  atomic.Int64

	mu   sync.Mutex // guards lock
	lock *os.File
}

// Open makes the directory, unless it exists, takes it for this process and
// empties it of what an earlier one left.
func Open(dir string, limit int64) (*Area, error) {
	if limit <= 0 {
		return nil, fmt.Errorf("open staging %s: limit of %d bytes", dir, limit)
	}
	lock, err := take(dir)
	if err != nil {
		return nil, fmt.Errorf("open staging %s: %w", dir, err)
	}
	a := &Area{dir: dir, limit: limit, lock: lock, sem: semaphore.NewWeighted(limit)}
	if err := a.clean(); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("clean staging %s: %w", dir, typed(err))
	}
	return a, nil
}

// take makes the directory, unless it exists, and locks it.
func take(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, typed(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, typed(err)
	}
	if err := lockFile(lock); err != nil {
		_ = lock.Close()
		return nil, typed(err)
	}
	return lock, nil
}

// retake makes the directory again if it has disappeared. Files that were open
// in it stay as good as they were.
func (a *Area) retake() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := os.Stat(filepath.Join(a.dir, lockName)); !errors.Is(err, fs.ErrNotExist) {
		return nil // others were quicker, or something else is wrong
	}
	lock, err := take(a.dir)
	if err != nil {
		return err
	}
	_ = a.lock.Close() // of a directory that is gone
	a.lock = lock
	return nil
}

// Check says why the area can take no files now, as far as that shows without
// writing one. A directory that has disappeared is made again.
func (a *Area) Check() error {
	info, err := os.Stat(a.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = a.retake()
	case err != nil:
		err = typed(err)
	case !info.IsDir():
		err = fmt.Errorf("%w: it is no directory", ErrNotWritable)
	default:
		if err = takesFiles(a.dir); err != nil {
			err = typed(err)
		}
	}
	if err != nil {
		return fmt.Errorf("staging %s: %w", a.dir, err)
	}
	return nil
}

// clean removes our own files only: the operator may have pointed us at a
// directory that holds something else.
func (a *Area) clean() error {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filePrefix) || !e.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(a.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close gives the directory to others. Files must be closed before.
func (a *Area) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lock.Close()
}

// Limit returns the bound in bytes.
func (a *Area) Limit() int64 { return a.limit }

// Used returns how many bytes are reserved now.
func (a *Area) Used() int64 { return a.used.Load() }

// Create reserves size bytes, waiting until they are free or ctx ends, and
// returns an empty file that may grow to that size.
func (a *Area) Create(ctx context.Context, size int64) (*File, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("create staging file: %w", err)
	}
	if size < 0 || size > a.limit {
		return nil, fmt.Errorf("create staging file: %w: %d bytes, the limit is %d", ErrLimit, size, a.limit)
	}
	if err := a.sem.Acquire(ctx, size); err != nil {
		return nil, fmt.Errorf("wait for staging: %w", err)
	}
	a.used.Add(size)
	f, err := a.create()
	if errors.Is(err, fs.ErrNotExist) {
		if err = a.retake(); err == nil {
			f, err = a.create()
		}
	}
	if err != nil {
		a.release(size)
		return nil, fmt.Errorf("create staging file: %w", typed(err))
	}
	return &File{area: a, file: f, reserved: size}, nil
}

func (a *Area) create() (*os.File, error) {
	return os.OpenFile(filepath.Join(a.dir, filePrefix+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (a *Area) release(n int64) {
	a.used.Add(-n)
	a.sem.Release(n)
}

// A File is one item in the area. One goroutine writes; when it has finished,
// any number may read.
type File struct {
	area     *Area
	file     *os.File
	size     int64
	reserved int64
	closed   bool
}

// Write appends; it fails before the file outgrows its reservation.
func (f *File) Write(p []byte) (int, error) {
	if f.size+int64(len(p)) > f.reserved {
		return 0, fmt.Errorf("write staging file: %w: %d bytes, reserved %d", ErrReserved, f.size+int64(len(p)), f.reserved)
	}
	n, err := f.file.Write(p)
	f.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write staging file: %w", typed(err))
	}
	return n, nil
}

// Finish gives back what was reserved beyond what was written. Nothing can be
// written afterwards.
func (f *File) Finish() {
	f.area.release(f.reserved - f.size)
	f.reserved = f.size
}

// ReadAt reads what was written.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.file.ReadAt(p, off)
	if err != nil && err != io.EOF { // which must stay bare
		err = fmt.Errorf("read staging file: %w", typed(err))
	}
	return n, err
}

// Size returns the number of bytes written.
func (f *File) Size() int64 { return f.size }

// Close removes the file and gives its bytes back. Closing twice is harmless.
func (f *File) Close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	err := f.file.Close() // first: Windows does not remove what is open
	if rerr := os.Remove(f.file.Name()); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr) // else it went with its directory
	}
	f.area.release(f.reserved)
	if err != nil {
		return fmt.Errorf("remove staging file: %w", typed(err))
	}
	return nil
}

// typed says what an error of the operating system means for who writes here.
func typed(err error) error {
	switch {
	case errors.Is(err, ErrNoSpace), errors.Is(err, ErrNotWritable), errors.Is(err, ErrLocked):
		return err
	case diskFull(err), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return fmt.Errorf("%w: %w", ErrNotWritable, err)
}
