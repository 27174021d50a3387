package local

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"jetkeep/store/object"
)

// What passes is worth another try, and what does not is not.
func TestErrnosThatPass(t *testing.T) {
	pathErr := func(e syscall.Errno) error { return &fs.PathError{Op: "read", Path: "x", Err: e} }
	for errno, want := range map[syscall.Errno]error{
		syscall.EIO: object.ErrUnavailable, syscall.ESTALE: object.ErrUnavailable, syscall.EMFILE: object.ErrUnavailable,
		syscall.ETIMEDOUT: object.ErrUnavailable, syscall.EHOSTDOWN: object.ErrUnavailable,
		syscall.EISDIR: object.ErrUnexpected, syscall.ENAMETOOLONG: object.ErrUnexpected, syscall.EINVAL: object.ErrUnexpected,
	} {
		for what, err := range map[string]error{"read": readError(pathErr(errno)), "write": writeError(pathErr(errno))} {
			if !errors.Is(err, want) || !errors.Is(err, errno) {
				t.Errorf("%s: %v became %v", what, errno, err)
			}
		}
	}
}

// What a read of an open file ends with has its kind, too.
func TestReadErrorsHaveAKind(t *testing.T) {
	f, err := os.Open(t.TempDir()) // a directory cannot be read
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &fileReader{ctxReader{t.Context(), f}, f}
	if _, err := io.ReadAll(r); !errors.Is(err, object.ErrUnexpected) || !errors.Is(err, syscall.EISDIR) {
		t.Error(err)
	}
}

// A link that cannot be followed for now is not said to be no object.
func TestLinkThatCannotBeFollowed(t *testing.T) {
	dir := t.TempDir()
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Symlink("elsewhere", filepath.Join(dir, "x")); err != nil {
		t.Fatal(err)
	}
	for errno, want := range map[syscall.Errno]error{
		syscall.ENOENT: object.ErrNotExist, syscall.ELOOP: object.ErrNotExist, syscall.ENXIO: object.ErrNotExist,
		syscall.EACCES: object.ErrPermission, syscall.EIO: object.ErrUnavailable, syscall.ESTALE: object.ErrUnavailable,
	} {
		err := d.unopened("x", &fs.PathError{Op: "openat", Path: "x", Err: errno})
		if !errors.Is(err, want) || errors.Is(err, object.ErrNotExist) && !errors.Is(want, object.ErrNotExist) {
			t.Errorf("%v became %v", errno, err)
		}
	}
}
