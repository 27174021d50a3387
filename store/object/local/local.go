// Package local keeps objects as files below a directory.
//
// An object is written to a temporary file in the same file system, synced,
// linked under its name, and the directory is synced: after Put returns it
// survives a power cut, and before that its name does not exist. Files are
// 0600 and directories 0700, unless Options say otherwise. On a file system without hard links a file is
// renamed instead, and creation is atomic only within one process; AtomicCreate
// tries that.
//
// NFS needs no locks here. Linking is atomic between hosts; an answer that was
// lost, so that the repeated request finds the name taken, is told from
// somebody else's file by what the two names refer to. A host may see names
// that another made only when its cache of the directory ends, after some
// seconds, which costs a second upload of the same bytes and never an object:
// what exists is decided by the link. The server must not export with async.
//
// Temporary files of writers that were killed are removed by a later Open,
// when they have not changed for a day.
package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"jetkeep/store/object"
)

const (
	tempDir = ".tmp"
	// staleAfter is the age of a temporary file that no writer can still be
	// busy with: it is touched with every block written.
	staleAfter = 24 * time.Hour
	copyBlock  = 1 << 20
)

// A Driver keeps objects below one directory.
type Driver struct {
	root    *os.Root
	mode    fs.FileMode // of files; 0 for what is made for the owner alone
	link    func(from, to string) error
	tried   atomic.Bool // whether there are links
	noLinks atomic.Bool
	rename  sync.Mutex // held from look to rename where links are missing
}

// Options say where a repository is and who may use it.
type Options struct {
	Dir string
	// Mode, if it is not 0, is what the files that are made may be used for by
	// whom, whatever the process's umask: 0660 for a group that reads and writes.
	// Directories that are made can be entered by who may read, and hand their
	// group on to what is made in them. What is there already stays as it is.
	Mode fs.FileMode
}

// Create makes the directory, unless it exists, and opens it.
func Create(dir string) (*Driver, error) { return CreateWith(Options{Dir: dir}) }

// Open opens a directory that exists.
func Open(dir string) (*Driver, error) { return OpenWith(Options{Dir: dir}) }

// CreateWith is Create with more options. Directories above the one that it makes
// are made for the owner alone.
func CreateWith(o Options) (*Driver, error) {
	_, missing := os.Stat(o.Dir)
	err := os.MkdirAll(o.Dir, 0o700)
	if err == nil && missing != nil && o.Mode != 0 {
		err = os.Chmod(o.Dir, directoryMode(o.Mode))
	}
	if err != nil {
		return nil, fmt.Errorf("create directory %s: %w", o.Dir, writeError(err))
	}
	return OpenWith(o)
}

// directoryMode returns the mode of directories of files of a mode.
func directoryMode(files fs.FileMode) fs.FileMode {
	mode := files | files&0o444>>2
	if files&0o070 != 0 {
		mode |= fs.ModeSetgid // or files would be of the group of who made them
	}
	return mode
}

// OpenWith is Open with more options.
func OpenWith(o Options) (*Driver, error) {
	root, err := os.OpenRoot(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", o.Dir, readError(err))
	}
	d := &Driver{root: root, mode: o.Mode}
	d.link = root.Link
	d.removeStale()
	return d, nil
}

// Close gives the directory back.
func (d *Driver) Close() error { return d.root.Close() }

// AtomicCreate says whether the file system has hard links. It tries, once, and
// fails where nothing can be written.
func (d *Driver) AtomicCreate(ctx context.Context) (bool, error) {
	if d.tried.Load() {
		return !d.noLinks.Load(), nil
	}
	temp, err := d.writeTemp(ctx, bytes.NewReader(nil), 0)
	if err != nil {
		return false, writeError(err)
	}
	defer d.root.Remove(temp) //nolint:errcheck // removed late
	to := temp + ".link"
	err = d.link(temp, to)
	_ = d.root.Remove(to)
	switch {
	case linksMissing(err):
		d.noLinks.Store(true)
	case err != nil:
		return false, writeError(err)
	}
	d.tried.Store(true)
	return !d.noLinks.Load(), nil
}

// removeStale is best effort: what cannot be removed now can be the next time,
// and a read-only repository must open.
func (d *Driver) removeStale() {
	dir, err := d.open(tempDir)
	if err != nil {
		return
	}
	defer dir.Close()
	entries, _ := dir.ReadDir(-1)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = d.root.Remove(path.Join(tempDir, e.Name()))
		}
	}
}

// Put creates an object.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if _, err := d.root.Lstat(name); err == nil {
		return d.exists(name) // spares the copy; the link below decides
	}
	temp, err := d.writeTemp(ctx, body, size)
	if err != nil {
		return writeError(err)
	}
	err = d.publish(ctx, temp, name)
	_ = d.root.Remove(temp) // renamed away, or removed late if this fails: the object's fate is decided
	return writeError(err)
}

// writeTemp writes and syncs a temporary file; on an error it leaves none.
func (d *Driver) writeTemp(ctx context.Context, body io.ReaderAt, size int64) (_ string, err error) {
	temp := path.Join(tempDir, rand.Text())
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.mkdirs(tempDir); err != nil {
			return "", err
		}
		f, err = d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = d.root.Remove(temp)
		}
	}()
	if d.mode != 0 {
		if err := f.Chmod(d.mode); err != nil { // the umask may have taken from what it was made with
			return "", err
		}
	}
	n, err := io.CopyBuffer(onlyWriter{f}, &ctxReader{ctx, io.NewSectionReader(body, 0, size)}, make([]byte, min(copyBlock, size+1)))
	if err != nil {
		return "", err
	}
	if n != size {
		return "", fmt.Errorf("body ended after %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return temp, f.Close()
}

// publish gives the temporary file its name, durably or not at all.
func (d *Driver) publish(ctx context.Context, temp, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := d.create(temp, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.mkdirs(path.Dir(name)); err != nil {
			return err
		}
		err = d.create(temp, name)
	}
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return d.exists(name)
		}
		return err
	}
	if err := d.syncDir(path.Dir(name)); err != nil {
		// Not known to be durable, so it must not be found by a later attempt.
		_ = d.root.Remove(name)
		return err
	}
	return nil
}

// exists is ErrExist, once the name is durable: whoever has just made it may not
// have come to that yet, and who is told that it exists relies on it.
func (d *Driver) exists(name string) error {
	if err := d.syncDir(path.Dir(name)); err != nil {
		return writeError(err)
	}
	return object.ErrExist
}

// create links the temporary file under the name, or renames it where the file
// system has no links.
func (d *Driver) create(temp, name string) error {
	if !d.noLinks.Load() {
		err := d.link(temp, name)
		if err != nil && d.linked(temp, name) {
			return nil
		}
		if !linksMissing(err) {
			return err
		}
		d.noLinks.Store(true)
	}
	d.rename.Lock()
	defer d.rename.Unlock()
	if _, err := d.root.Lstat(name); err == nil {
		return fs.ErrExist
	}
	return d.root.Rename(temp, name)
}

// linked says whether both names are of one file: over NFS the answer to a link
// may be lost, and the request that follows it fails.
func (d *Driver) linked(temp, name string) bool {
	a, err := d.root.Lstat(temp)
	if err != nil {
		return false
	}
	b, err := d.root.Lstat(name)
	return err == nil && os.SameFile(a, b)
}

func linksMissing(err error) bool {
	for _, e := range []error{syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EPERM, syscall.EMLINK} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// mkdirs makes a directory and those above it, each one durable.
func (d *Driver) mkdirs(dir string) error {
	if dir == "." {
		return nil
	}
	if _, err := d.root.Stat(dir); err == nil {
		return nil
	}
	if err := d.mkdirs(path.Dir(dir)); err != nil {
		return err
	}
	err := d.root.Mkdir(dir, 0o700)
	if err == nil && d.mode != 0 {
		err = d.root.Chmod(dir, directoryMode(d.mode))
		if err != nil {
			_ = d.root.Remove(dir) // or it would shut others out for good
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.syncDir(path.Dir(dir))
}

func (d *Driver) syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be flushed there; NTFS has a journal of them
	}
	f, err := d.open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get reads a range of an object.
func (d *Driver) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, d.unopened(name, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = object.ErrNotExist
	}
	if err == nil && offset > 0 {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, readError(err)
	}
	var r io.Reader = f
	if length >= 0 {
		r = io.LimitReader(f, length)
	}
	return &fileReader{ctxReader{ctx, r}, f}, nil
}

// open opens for reading and does not wait: to open a pipe that nobody writes
// into would never end.
func (d *Driver) open(name string) (*os.File, error) {
	return d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// unopened is the error of a name that cannot be opened. One that leads out of
// the directory, or to what is no file, is of no object. That a file cannot be had
// for another reason says nothing of what it is.
func (d *Driver) unopened(name string, err error) error {
	var errno syscall.Errno
	// That a name leads out of the directory is found out without a call that fails.
	leads := !errors.As(err, &errno) || errno == syscall.ENOENT || errno == syscall.ELOOP || errno == syscall.ENXIO
	if info, e := d.root.Lstat(name); leads && e == nil && info.Mode().Type()&^fs.ModeDir != 0 {
		return fmt.Errorf("%w: it is no regular file: %w", object.ErrNotExist, err)
	}
	return readError(err)
}

// Stat describes an object.
func (d *Driver) Stat(_ context.Context, name string) (object.Info, error) {
	info, err := d.root.Stat(name)
	if err != nil {
		return object.Info{}, d.unopened(name, err)
	}
	if !info.Mode().IsRegular() {
		return object.Info{}, object.ErrNotExist
	}
	return object.Info{Name: name, Size: info.Size(), Modified: info.ModTime()}, nil
}

// Delete removes an object. Its directory stays: removing it would race with
// a Put that has just made it.
func (d *Driver) Delete(_ context.Context, name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(readError(err), object.ErrNotExist) {
		return writeError(err)
	}
	if err := d.syncDir(path.Dir(name)); err != nil && !errors.Is(readError(err), object.ErrNotExist) {
		return writeError(err)
	}
	return nil
}

type fileReader struct {
	ctxReader
	f *os.File
}

func (r *fileReader) Read(p []byte) (int, error) {
	n, err := r.ctxReader.Read(p)
	return n, readError(err)
}

func (r *fileReader) Close() error { return r.f.Close() }

// A ctxReader stops a copy between two blocks when the context ends.
type ctxReader struct {
	ctx context.Context // lives as long as the one call it serves
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	return n, err
}

// onlyWriter hides ReadFrom, which would copy past the context's checks.
type onlyWriter struct{ io.Writer }

func writeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", object.ErrNoSpace, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", object.ErrNotWritable, err)
	case errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w", object.ErrTooLarge, err)
	}
	return broken(err)
}

// broken gives what the operating system says of a disk or network file system
// that does not work its kind: what may work again later, and what will not.
func broken(err error) error {
	var errno syscall.Errno
	switch {
	case !errors.As(err, &errno):
		return err
	case passes(errno):
		return fmt.Errorf("%w: %w", object.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", object.ErrUnexpected, err)
}

// passes says whether an error may be gone later: of a disk or network that is
// away, or of a machine that has too little of something for now.
func passes(errno syscall.Errno) bool {
	switch errno {
	case syscall.EIO, syscall.ESTALE, syscall.EAGAIN, syscall.EBUSY, syscall.EINTR, syscall.ENOLCK,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS,
		syscall.ETIMEDOUT, syscall.ENOTCONN, syscall.ESHUTDOWN, syscall.EPIPE, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.ENETRESET, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED:
		return true
	}
	return runtime.GOOS == "windows" // whose calls give other numbers
}

func readError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", object.ErrNotExist, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", object.ErrPermission, err)
	}
	return broken(err)
}
