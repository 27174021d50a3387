//go:build !linux

package natstest

import "syscall"

// dieWithParent has no equal outside Linux: a killed test binary leaves its
// servers behind there.
func dieWithParent() *syscall.SysProcAttr { return nil }
