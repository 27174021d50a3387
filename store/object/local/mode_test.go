//go:build unix

package local

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/objecttest"
)

// What a repository's mode says holds for all that is made, whatever the umask;
// without it all is the owner's.
func TestMode(t *testing.T) {
	old := syscall.Umask(0o077) // of the whole process: no test of this package is parallel
	defer syscall.Umask(old)
	for _, c := range []struct{ files, wantFiles, wantDirs fs.FileMode }{
		{0, 0o600, 0o700},
		{0o600, 0o600, 0o700},
		{0o640, 0o640, 0o750 | fs.ModeSetgid},
		{0o660, 0o660, 0o770 | fs.ModeSetgid},
		{0o644, 0o644, 0o755 | fs.ModeSetgid},
	} {
		for _, umask := range []int{0, 0o077, 0o027} {
			syscall.Umask(umask)
			parent := t.TempDir()
			dir := filepath.Join(parent, "above", "repository")
			d, err := CreateWith(Options{Dir: dir, Mode: c.files})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"config", "packs/ab/first", "packs/ab/second"} {
				if err := d.Put(t.Context(), name, bytes.NewReader([]byte("x")), 1); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := d.AtomicCreate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			seen := 0
			err = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				seen++
				info, err := e.Info()
				want := c.wantFiles
				if e.IsDir() {
					want = c.wantDirs
				}
				if got := info.Mode() & (fs.ModePerm | fs.ModeSetgid); err != nil || got != want {
					t.Errorf("mode %o, umask %o: %s is %v, want %v: %v", c.files, umask, name, got, want, err)
				}
				return nil
			})
			if err != nil || seen < 7 {
				t.Errorf("%d files and directories: %v", seen, err)
			}
			if info, err := os.Stat(filepath.Join(parent, "above")); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("the directory above: %v, %v", info.Mode(), err)
			}
		}
	}
}

// Opening changes nothing that is there.
func TestModeOfWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := CreateWith(Options{Dir: dir, Mode: 0o660})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestConformanceWithMode(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) object.Driver {
		d, err := CreateWith(Options{Dir: t.TempDir(), Mode: 0o660})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	})
}
