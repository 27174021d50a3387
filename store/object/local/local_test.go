package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/objecttest"
)

func open(t *testing.T) *Driver {
	t.Helper()
	d, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestConformance(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) object.Driver { return open(t) })
}

// A file system without hard links, as exFAT or some network shares.
func TestConformanceWithoutLinks(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) object.Driver {
		d := open(t)
		d.link = func(from, to string) error {
			return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.ENOTSUP}
		}
		return d
	})
}

// Whether creation is atomic is tried before anything relies on it.
func TestAtomicCreateTries(t *testing.T) {
	d := open(t)
	if ok, err := d.AtomicCreate(t.Context()); !ok || err != nil {
		t.Error("a file system with links:", ok, err)
	}
	none := open(t)
	none.link = func(string, string) error { return syscall.EPERM }
	if ok, err := none.AtomicCreate(t.Context()); ok || err != nil {
		t.Error("one without links:", ok, err)
	}
	full := open(t)
	full.link = func(string, string) error { return syscall.EDQUOT }
	if _, err := full.AtomicCreate(t.Context()); !errors.Is(err, object.ErrNoSpace) {
		t.Error("one where it cannot be tried:", err)
	}
	full.link = full.root.Link
	if ok, err := full.AtomicCreate(t.Context()); !ok || err != nil {
		t.Error("tried again:", ok, err)
	}
	for _, d := range []*Driver{d, none, full} {
		if left, err := fs.Glob(d.root.FS(), tempDir+"/*"); err != nil || len(left) > 0 {
			t.Error("left behind:", left, err)
		}
	}
}

// Over NFS a link's answer can be lost, and the same request that is sent again
// finds the name taken: by us, or by somebody else.
func TestLinkWhoseAnswerIsLost(t *testing.T) {
	d := open(t)
	taken := &os.LinkError{Op: "link", Err: syscall.EEXIST}
	d.link = func(from, to string) error {
		if err := d.root.Link(from, to); err != nil {
			return err
		}
		return taken
	}
	if err := d.Put(t.Context(), "packs/ours", strings.NewReader("ours"), 4); err != nil {
		t.Error("ours:", err)
	}
	d.link = func(_, to string) error {
		if err := d.root.WriteFile(to, []byte("theirs"), 0o600); err != nil {
			return err
		}
		return taken
	}
	if err := d.Put(t.Context(), "packs/theirs", strings.NewReader("ours"), 4); !errors.Is(err, object.ErrExist) {
		t.Error("theirs:", err)
	}
	if b, err := d.root.ReadFile("packs/theirs"); string(b) != "theirs" {
		t.Errorf("theirs is %q, %v", b, err)
	}
}

func TestModesAndNoLeftovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := object.NewBucket(d)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = d.Put(ctx, "packs/ab/cancelled", bytes.NewReader(make([]byte, 10)), 10)
	if err := b.PutBytes(t.Context(), "packs/ab/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := b.PutBytes(t.Context(), "packs/ab/x", []byte("x")); !errors.Is(err, object.ErrExist) {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		wantMode := fs.FileMode(0o600)
		if e.IsDir() {
			wantMode = 0o700
		} else {
			files++
		}
		if info.Mode().Perm() != wantMode {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || files != 1 {
		t.Errorf("%d files left, %v", files, err)
	}
}

func TestStaleTemporariesGoLate(t *testing.T) {
	dir := t.TempDir()
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), "a", bytes.NewReader(nil), 0); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	old, fresh := filepath.Join(dir, tempDir, "old"), filepath.Join(dir, tempDir, "fresh")
	for _, f := range []string{old, fresh} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-staleAfter - time.Minute)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stale file is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("a file that may be in use was removed: %v", err)
	}
}

func TestForeignFilesAreNotListed(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{".hidden", "with space", "ok"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0); err != nil {
		t.Fatal(err)
	}
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	page, more, err := d.List(t.Context(), "", "", 10)
	if err != nil || more || len(page) != 1 || page[0].Name != "ok" {
		t.Errorf("listed %v, %v, %v", page, more, err)
	}
}

func TestOpenMissing(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "no")); !errors.Is(err, object.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file was opened as a directory")
	}
	if _, err := Create(filepath.Join(file, "below")); err == nil {
		t.Error("a directory below a file was made")
	}
}

func TestEscapeThroughSymlinkIsRefused(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "packs")); err != nil {
		t.Fatal(err)
	}
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Put(t.Context(), "packs/x", strings.NewReader("x"), 1); err == nil {
		t.Error("wrote outside of the directory")
	}
}

func TestErrorMapping(t *testing.T) {
	pathErr := func(e syscall.Errno) error { return &fs.PathError{Op: "write", Path: "x", Err: e} }
	for errno, want := range map[syscall.Errno]error{
		syscall.ENOSPC: object.ErrNoSpace, syscall.EDQUOT: object.ErrNoSpace,
		syscall.EROFS: object.ErrNotWritable, syscall.EACCES: object.ErrNotWritable, syscall.EPERM: object.ErrNotWritable,
		syscall.EFBIG: object.ErrTooLarge,
	} {
		if err := writeError(pathErr(errno)); !errors.Is(err, want) || !errors.Is(err, errno) {
			t.Errorf("write %v became %v", errno, err)
		}
	}
	if err := readError(pathErr(syscall.EACCES)); !errors.Is(err, object.ErrPermission) {
		t.Errorf("read EACCES became %v", err)
	}
	if err := readError(pathErr(syscall.ENOTDIR)); !errors.Is(err, object.ErrNotExist) {
		t.Errorf("read ENOTDIR became %v", err)
	}
}
