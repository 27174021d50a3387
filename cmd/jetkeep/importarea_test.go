package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"jetkeep/store/staging"
)

// What imports that were killed left in the directory for temporary files goes
// with the next; what one that runs has there, or somebody else put there, stays.
func TestImportRemovesStaleAreas(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	killed := filepath.Join(temp, importPrefix+"killed")
	if err := os.Mkdir(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", "stage-A", "stage-B"} {
		if err := os.WriteFile(filepath.Join(killed, name), []byte("left"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "stage-C"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(temp, importPrefix+"link")); err != nil {
		t.Fatal(err)
	}
	running, err := staging.Open(filepath.Join(temp, importPrefix+"running"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	area, remove, err := importArea()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed import left is there: %v", err)
	}
	for _, name := range []string{filepath.Join(other, "stage-C"), filepath.Join(temp, importPrefix+"running")} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	if err := area.Close(); err != nil {
		t.Error(err)
	}
	remove()
	if left, _ := filepath.Glob(filepath.Join(temp, importPrefix+"*")); len(left) != 2 {
		t.Errorf("%v are left", left)
	}
}
