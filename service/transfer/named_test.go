package transfer_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"jetkeep/service/transfer"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/staging"
)

// Directories that cannot be read keep nobody from a stream that is named and there.
func TestBadDirectoriesBesideANamedStream(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"no backup.json": func(t *testing.T, dir string) { put(t, dir, "notes.txt", []byte("x")) },
		"no JSON":        func(t *testing.T, dir string) { put(t, dir, "backup.json", []byte("{")) },
		"empty":          func(t *testing.T, dir string) { put(t, dir, "backup.json", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			repo, err := store.Init(t.Context(), object.NewBucket(mem.New()), store.InitOptions{})
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "account")
			if _, err := transfer.Export(t.Context(), repo, []store.Point{pointOf(t, repo, nil)}, dir, transfer.V1, true); err != nil {
				t.Fatal(err)
			}
			bad := filepath.Join(dir, "BAD")
			if err := os.Mkdir(bad, 0o700); err != nil {
				t.Fatal(err)
			}
			spoil(t, bad)
			area, err := staging.Open(t.TempDir(), 64<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer area.Close()
			from := func(streams ...string) (int, error) {
				points, err := transfer.Import(t.Context(), repo, dir, transfer.ImportOptions{Target: "other", Staging: area, Streams: streams})
				return len(points), err
			}
			unreadable := func(err error) bool {
				return errors.Is(err, transfer.ErrNotABackup) || errors.As(err, new(*transfer.IncompleteError))
			}
			if n, err := from("S"); n != 1 || err != nil {
				t.Errorf("the named one: %d, %v", n, err)
			}
			if n, err := from("S", "BAD"); n != 0 || !errors.Is(err, transfer.ErrNoStream) || !unreadable(err) {
				t.Errorf("one that is not there: %d, %v", n, err)
			}
			for _, streams := range [][]string{nil, {"*"}, {"S", "B*"}} {
				if n, err := from(streams...); n != 0 || !unreadable(err) {
					t.Errorf("%q: %d, %v", streams, n, err)
				}
			}
		})
	}
}
