//go:build !linux

package objectserver

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
