package staging

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// A directory that disappears is made again, what was open in it stays good, and
// the area is still this process's alone.
func TestDirectoryDisappears(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "staging")
	a, err := Open(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	before, err := a.Create(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(before, "kept"); err != nil {
		t.Fatal(err)
	}
	for _, again := range []func() error{
		func() error {
			f, err := a.Create(t.Context(), 10)
			if err != nil {
				return err
			}
			return f.Close()
		},
		a.Check,
	} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := again(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, 100); !errors.Is(err, ErrLocked) {
			t.Errorf("another process takes the directory: %v", err)
		}
	}
	b := make([]byte, 4)
	if _, err := before.ReadAt(b, 0); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if err := before.Close(); err != nil || a.Used() != 0 {
		t.Errorf("%v, %d bytes still reserved", err, a.Used())
	}
}

// A directory that cannot be made again is a named error, for who writes and who
// looks.
func TestDirectoryCannotBeMadeAgain(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "below", "staging")
	a, err := Open(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Check(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(parent, "below")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, "below"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Create(t.Context(), 10); !errors.Is(err, ErrNotWritable) || a.Used() != 0 {
		t.Errorf("create: %v, %d bytes reserved", err, a.Used())
	}
	if err := a.Check(); !errors.Is(err, ErrNotWritable) {
		t.Errorf("check: %v", err)
	}
}
