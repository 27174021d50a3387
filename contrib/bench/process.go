package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A sample is what one run of one case took. cpu and rss are those of the
// client or service alone, not of nats-server.
type sample struct {
	name   string
	wall   time.Duration
	cpu    time.Duration
	rss    int64 // peak, bytes
	stored int64 // bytes on disk afterwards
	moved  int64 // bytes of messages that it was about, if they are counted
}

// A process is a child that lives longer than one call.
type process struct {
	cmd *exec.Cmd
	log *os.File
}

func start(logPath, name string, args ...string) (*process, error) {
	f, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		f.Close()
		return nil, err
	}
	return &process{cmd: cmd, log: f}, nil
}

// stop ends the child.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-done
	}
	p.log.Close()
}

func usage(ps *os.ProcessState) (cpu time.Duration, rss int64) {
	if ru, ok := ps.SysUsage().(*syscall.Rusage); ok {
		rss = ru.Maxrss << 10
	}
	return ps.UserTime() + ps.SystemTime(), rss
}

// command runs a child to its end and measures it.
func command(ctx context.Context, name, path string, args ...string) (sample, error) {
	return commandEnv(ctx, name, nil, path, args...)
}

func commandEnv(ctx context.Context, name string, env []string, path string, args ...string) (sample, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), env...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return sample{}, fmt.Errorf("%s %s: %w\n%s", path, strings.Join(args, " "), err, out.String())
	}
	s := sample{name: name, wall: time.Since(begin)}
	s.cpu, s.rss = usage(cmd.ProcessState)
	return s, nil
}

// cpuOf reads what a running child has used so far, by its stat file.
func cpuOf(pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	const hz = 100 // USER_HZ, fixed on Linux
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	sys, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+sys) * time.Second / hz
}

// peakOf reads the most memory that a running child had, by its status file. What
// the kernel says of a child that has ended is at least what its parent had.
func peakOf(pid int) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, _ := strconv.ParseInt(kib, 10, 64)
	return n << 10
}

func sizeOf(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
