package hooks

import (
	"errors"
	"os/exec"
	"strconv"
)

// killAll lets the end of a command's context kill the command and what it
// started. Windows has no groups of processes that could be killed at once; its
// own tool follows who started whom.
func killAll(cmd *exec.Cmd) {
	cmd.Cancel = func() error {
		err := exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(cmd.Process.Pid)).Run() //nolint:gosec,noctx // a number; it must outlive the context that ended
		if err == nil {
			return nil
		}
		return errors.Join(err, cmd.Process.Kill())
	}
}
