//go:build unix

package staging

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile locks a file until it is closed, or fails with ErrLocked.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// takesFiles says whether this process may make files in a directory.
func takesFiles(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }

// diskFull tells of errors that this system alone has.
func diskFull(error) bool { return false }
