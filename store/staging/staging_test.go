package staging

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func area(t *testing.T, limit int64) *Area {
	t.Helper()
	a, err := Open(t.TempDir(), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := a.Used(); n != 0 {
			t.Errorf("%d bytes are still reserved", n)
		}
		_ = a.Close()
	})
	return a
}

func files(t *testing.T, dir string) int {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, filePrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(m)
}

func TestWriteReadClose(t *testing.T) {
	a := area(t, 100)
	f, err := a.Create(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if a.Used() != 60 || a.Limit() != 100 {
		t.Errorf("used %d of %d", a.Used(), a.Limit())
	}
	for _, s := range []string{"hello ", "staging"} {
		if _, err := io.WriteString(f, s); err != nil {
			t.Fatal(err)
		}
	}
	f.Finish()
	if a.Used() != 13 || f.Size() != 13 {
		t.Errorf("used %d, size %d after finish", a.Used(), f.Size())
	}
	if _, err := f.Write([]byte("x")); !errors.Is(err, ErrReserved) {
		t.Errorf("write after finish: %v", err)
	}
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil || string(got) != "hello staging" {
		t.Errorf("read %q, %v", got, err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := files(t, a.dir); n != 0 || a.Used() != 0 {
		t.Errorf("%d files, %d bytes left", n, a.Used())
	}
}

func TestTooLargeAlone(t *testing.T) {
	a := area(t, 100)
	if _, err := a.Create(t.Context(), 101); !errors.Is(err, ErrLimit) {
		t.Errorf("got %v", err)
	}
	f, err := a.Create(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 11)); !errors.Is(err, ErrReserved) {
		t.Errorf("outgrown: %v", err)
	}
}

func TestFullBlocksAndGoesOn(t *testing.T) {
	a := area(t, 100)
	synctest.Test(t, func(t *testing.T) {
		first, err := a.Create(t.Context(), 80)
		if err != nil {
			t.Fatal(err)
		}
		var second *File
		done := false
		go func() {
			second, err = a.Create(t.Context(), 50)
			done = true
		}()
		synctest.Wait()
		if done {
			t.Fatal("did not wait for space")
		}
		_ = first.Close()
		synctest.Wait()
		if !done || err != nil {
			t.Fatalf("did not go on: %v", err)
		}
		_ = second.Close()
	})
}

func TestWaitEndsWithContext(t *testing.T) {
	a := area(t, 100)
	f, err := a.Create(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := a.Create(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	_ = f.Close()
	if f, err = a.Create(t.Context(), 100); err != nil {
		t.Fatalf("the given up wait kept something: %v", err)
	}
	_ = f.Close()
	cancelled, stop := context.WithCancel(t.Context())
	stop()
	if _, err := a.Create(cancelled, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

func TestNeverBeyondLimit(t *testing.T) {
	const limit = 1000
	a := area(t, limit)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 50 {
				n := int64((w*131+i*37)%limit + 1)
				f, err := a.Create(t.Context(), n)
				if err != nil {
					t.Error(err)
					return
				}
				if u := a.Used(); u > limit {
					t.Errorf("%d bytes reserved, the limit is %d", u, limit)
				}
				_, err = f.Write(make([]byte, n/2))
				f.Finish()
				if err = errors.Join(err, f.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestLeftoversGoAndOthersStay(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{filePrefix + "CRASHED", "letter.txt"} {
		if err := os.WriteFile(filepath.Join(dir, n), bytes.Repeat([]byte("x"), 10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := Open(dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if n := files(t, dir); n != 0 {
		t.Errorf("%d leftovers", n)
	}
	if _, err := os.Stat(filepath.Join(dir, "letter.txt")); err != nil {
		t.Errorf("a file that is not ours is gone: %v", err)
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	a, err := Open(dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, 10); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a, err = Open(dir, 10); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open(t.TempDir(), 0); err == nil {
		t.Error("a limit of nothing was accepted")
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "x"), 1); err == nil {
		t.Error("a directory below a file was opened")
	}
}

// /dev/full answers every write with ENOSPC.
func TestDiskFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := area(t, 100)
	f, err := a.Create(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	real := f.file
	f.file = full
	if _, err := f.Write([]byte("x")); !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	_ = full.Close()
	f.file = real
	_ = f.Close()
}

// A limit on file sizes makes the real file fail in the middle of a write.
func TestFileSizeLimit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	a := area(t, 1<<20)
	f, err := a.Create(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4096, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 1<<20))
	if rerr := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	_ = f.Close()
}

func TestTypedErrors(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.ENOSPC: ErrNoSpace, syscall.EDQUOT: ErrNoSpace, syscall.EROFS: ErrNotWritable, syscall.EACCES: ErrNotWritable,
	} {
		if err := typed(&fs.PathError{Op: "open", Path: "x", Err: errno}); !errors.Is(err, want) {
			t.Errorf("%v became %v", errno, err)
		}
	}
}
