package main

import (
	"errors"
	"os"
	"path/filepath"

	"jetkeep/store/staging"
)

const (
	importPrefix  = "jetkeep-import-"
	importStaging = 256 << 20
)

// importArea makes a staging area in the directory for temporary files, and
// removes those of imports of this user that were killed. remove removes it.
func importArea() (area *staging.Area, remove func(), err error) {
	removeStale(os.TempDir())
	for {
		dir, err := os.MkdirTemp("", importPrefix)
		if err != nil {
			return nil, nil, err
		}
		area, err := staging.Open(dir, importStaging)
		if err == nil {
			// Another import may have taken it for a stale one, and removed it, in
			// the moment before it was ours.
			if _, err = os.Stat(dir); err == nil {
				return area, func() { _ = os.RemoveAll(dir) }, nil
			}
			_ = area.Close()
		}
		if !errors.Is(err, staging.ErrLocked) && !errors.Is(err, os.ErrNotExist) {
			_ = os.RemoveAll(dir)
			return nil, nil, err
		}
	}
}

// removeStale removes the areas that no process has any more: the lock of one
// ends with its process.
func removeStale(temp string) {
	found, _ := filepath.Glob(filepath.Join(temp, importPrefix+"*")) // fails for bad patterns only
	for _, dir := range found {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !ownedByUs(info) {
			continue
		}
		if area, err := staging.Open(dir, importStaging); err == nil {
			_ = os.RemoveAll(dir)
			_ = area.Close() // only now may another take it
		}
	}
}
