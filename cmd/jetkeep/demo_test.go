package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
)

// playDemo starts the demo in a process of its own, with a temporary directory
// of its own, and returns once a line of its output matches.
func playDemo(t *testing.T, until *regexp.Regexp, args ...string) (match string, tmp string, stop func(os.Signal) (int, string)) {
	t.Helper()
	tmp = t.TempDir()
	cmd := exec.Command(binary(t), append([]string{"demo"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	timer := time.AfterFunc(90*time.Second, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop(); _ = cmd.Process.Kill(); _ = r.Close() })
	var output bytes.Buffer
	lines := bufio.NewScanner(r)
	for match == "" && lines.Scan() {
		output.WriteString(lines.Text() + "\n")
		match = until.FindString(lines.Text())
	}
	if match == "" {
		t.Fatalf("no line of the output matches %s:\n%s", until, output.String())
	}
	return match, tmp, func(sig os.Signal) (int, string) {
		_ = cmd.Process.Signal(sig)
		for lines.Scan() {
			output.WriteString(lines.Text() + "\n")
		}
		exit := new(exec.ExitError)
		if err := cmd.Wait(); errors.As(err, &exit) {
			return exit.ExitCode(), output.String()
		}
		return 0, output.String()
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("the demo left %v", entries)
	}
}

// TestKeptDemoLetsLookAround: the server stays and holds what the demo tells of.
func TestKeptDemoLetsLookAround(t *testing.T) {
	line, tmp, stop := playDemo(t, regexp.MustCompile(`export NATS_URL=.*`), "--keep")
	nc, err := nats.Connect(strings.TrimPrefix(line, "export NATS_URL="))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	list := request[api.BackupListResponse](t, nc, api.BackupList, `{}`)
	if list.Total != 1 || list.Backups[0].Streams != 8 {
		t.Errorf("backups: %+v", list)
	}
	code, output := stop(syscall.SIGINT)
	if code != exitOK {
		t.Errorf("exit code %d:\n%s", code, output)
	}
	wantEmpty(t, tmp)
}

// TestInterruptedDemoLeavesNothing interrupts it while it works.
func TestInterruptedDemoLeavesNothing(t *testing.T) {
	for _, line := range []string{"  backup ", "every stream deleted"} {
		_, tmp, stop := playDemo(t, regexp.MustCompile(line))
		if code, output := stop(syscall.SIGINT); code != exitInterrupted {
			t.Errorf("exit code %d after %q:\n%s", code, line, output)
		}
		wantEmpty(t, tmp)
	}
}
