package natstest

import "syscall"

// dieWithParent lets the kernel kill a server whose test binary was killed
// itself, which runs no cleanup.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
