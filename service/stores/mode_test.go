//go:build unix

package stores

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"jetkeep/service/config"
	"jetkeep/store/object"
)

// What the service makes and writes in a directory has the mode that its
// configuration says.
func TestMode(t *testing.T) {
	for mode, want := range map[string]fs.FileMode{"": 0o600, "0660": 0o660} {
		r := &config.Repository{Kind: config.KindLocal, Path: filepath.Join(t.TempDir(), "r"), Mode: mode}
		made, err := Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := Open(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for name, d := range map[string]object.Driver{"first": made, "second": opened} {
			b := object.NewBucket(d)
			if err := b.PutBytes(t.Context(), name, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if info, err := os.Stat(filepath.Join(r.Path, name)); err != nil || info.Mode().Perm() != want {
				t.Errorf("mode %q: %s is %v: %v", mode, name, info.Mode(), err)
			}
		}
	}
	if err := Check(&config.Repository{Kind: config.KindLocal, Path: "/r", Mode: "0777"}); err == nil {
		t.Error("a mode that is none is accepted")
	}
}
