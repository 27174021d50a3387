//go:build unix

package term

import (
	"os"

	"golang.org/x/sys/unix"
)

func terminalWidth(file *os.File) (int, bool) {
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}
