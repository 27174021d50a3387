package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"jetkeep/store/object"
	"jetkeep/store/object/local"
)

// A directory that has the name of an object to be made ends who would make it,
// with its name.
func TestNamesTakenByDirectories(t *testing.T) {
	chain := ""
	for name, taken := range map[string]func() string{
		"copy":  func() string { return commitName("b.0002") },
		"entry": func() string { return entryName(chain, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				d, err := local.Create(dir)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				r, err := Init(t.Context(), object.NewBucket(d), InitOptions{})
				if err != nil {
					t.Fatal(err)
				}
				mustSave(t, r, "b.0001", steps(rising(20, 20)), nil)
				if chain, err = r.Chain("default", "ORDERS"); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(filepath.Join(dir, taken()), 0o700); err != nil {
					t.Fatal(err)
				}
				_, err = save(t, r, newStaging(t, 64<<20), "b.0002", steps(rising(30, 20)), nil)
				if !errors.Is(err, object.ErrUnexpected) || !strings.Contains(fmt.Sprint(err), taken()) {
					t.Error(err)
				}
			})
		})
	}
}
