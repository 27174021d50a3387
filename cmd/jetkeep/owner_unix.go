//go:build unix

package main

import (
	"os"
	"syscall"
)

// ownedByUs says whether this user made a file.
func ownedByUs(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
