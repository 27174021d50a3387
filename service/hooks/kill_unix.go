//go:build unix

package hooks

import (
	"os/exec"
	"syscall"
)

// killAll gives a command a group of processes of its own, all of which is killed
// when the command's context ends.
func killAll(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
