package objectserver

import "syscall"

// dieWithParent lets the kernel kill a server whose test binary was killed
// itself.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
