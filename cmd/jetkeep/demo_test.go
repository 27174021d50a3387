package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/service/api"
	"jetkeep/store/testenv"
)

// A played demo runs in a process of its own, with a temporary directory of
// its own.
type played struct {
	t      *testing.T
	tmp    string
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	output strings.Builder
}

func playDemo(t *testing.T, args ...string) *played {
	t.Helper()
	return play(t, exec.Command(binary(t), append([]string{"demo"}, args...)...))
}

// playHeld plays a demo that stops after a line which matches, until it is
// interrupted or what is returned is closed.
func playHeld(t *testing.T, line string, args ...string) (*played, io.Closer) {
	t.Helper()
	cmd := exec.Command(heldCommand, append([]string{"demo"}, args...)...)
	let, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return play(t, cmd, holdVariable+"="+line), let
}

func play(t *testing.T, cmd *exec.Cmd, env ...string) *played {
	t.Helper()
	p := &played{t: t, tmp: t.TempDir(), cmd: cmd}
	p.cmd.Env = append(append(os.Environ(), "TMPDIR="+p.tmp), env...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	timer := time.AfterFunc(testenv.Hang, func() { _ = p.cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop(); _ = p.cmd.Process.Kill(); _ = r.Close() })
	p.lines = bufio.NewScanner(r)
	return p
}

// until reads the output to the line that matches and returns the match.
func (p *played) until(pattern string) string {
	p.t.Helper()
	want := regexp.MustCompile(pattern)
	for p.lines.Scan() {
		p.output.WriteString(p.lines.Text() + "\n")
		if match := want.FindString(p.lines.Text()); match != "" {
			return match
		}
	}
	p.t.Fatalf("no line of the output matches %s:\n%s", pattern, p.output.String())
	return ""
}

// end waits for the end, checks that nothing is left behind, and returns the
// exit code and all output.
func (p *played) end() (int, string) {
	p.t.Helper()
	for p.lines.Scan() {
		p.output.WriteString(p.lines.Text() + "\n")
	}
	code := 0
	if err := p.cmd.Wait(); err != nil {
		code = -1
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			code = exit.ExitCode()
		}
	}
	entries, err := os.ReadDir(p.tmp)
	if err != nil || len(entries) > 0 {
		p.t.Errorf("the demo left %v, %v", entries, err)
	}
	return code, p.output.String()
}

// TestDemoComparesEverything: the README's test sees the table, this one what
// programs are given.
func TestDemoComparesEverything(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mine")
	code, output := playDemo(t, "--json", "--dir", dir).end()
	var result demoResult
	start := strings.Index(output, "{\n")
	if code != exitOK || start < 0 || json.Unmarshal([]byte(output[start:]), &result) != nil {
		t.Fatalf("exit code %d:\n%s", code, output)
	}
	if !result.Equal || result.Differences == nil || len(result.Differences) > 0 || len(result.Streams) != len(sample.Streams()) {
		t.Errorf("the result is %+v", result)
	}
	for _, s := range result.Streams {
		if s.Messages == 0 || s.StoredBytes == 0 || s.BackupSeconds <= 0 || s.RestoreSeconds <= 0 || s.Compared <= int(s.Messages) {
			t.Errorf("the result of %s is %+v", s.Stream, s)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "repository")); err != nil {
		t.Errorf("the directory that was named is not kept: %v", err)
	}
}

// TestDemoFindsADifference changes a restored stream before it is compared.
func TestDemoFindsADifference(t *testing.T) {
	t.Parallel()
	const restored = `restore .* succeeded`
	p, let := playHeld(t, restored)
	nc, err := nats.Connect(p.until(`nats://[0-9.:]+`))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	p.until(restored)
	stream, err := js.Stream(t.Context(), "WORK")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), stream.CachedInfo().State.LastSeq-1); err != nil {
		t.Fatal(err)
	}
	_ = let.Close()
	code, output := p.end()
	if code != exitFailed || !strings.Contains(output, "WORK: message 1999: was present, is absent") || !strings.Contains(output, "DIFFERENT") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
}

// TestKeptDemoLetsLookAround: the server stays and holds what the demo tells of.
func TestKeptDemoLetsLookAround(t *testing.T) {
	t.Parallel()
	p := playDemo(t, "--keep")
	line := p.until(`export NATS_URL=.*`)
	nc, err := nats.Connect(strings.TrimPrefix(line, "export NATS_URL="))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	list := request[api.BackupListResponse](t, nc, api.BackupList, `{}`)
	if list.Total != 1 || list.Backups[0].Streams != len(sample.Streams()) {
		t.Errorf("backups: %+v", list)
	}
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	if code, output := p.end(); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, output)
	}
}

// TestInterruptedDemoLeavesNothing interrupts it while it works.
func TestInterruptedDemoLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"  backup ", "every stream deleted"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			p, _ := playHeld(t, line)
			p.until(line)
			_ = p.cmd.Process.Signal(syscall.SIGINT)
			if code, output := p.end(); code != exitInterrupted {
				t.Errorf("exit code %d:\n%s", code, output)
			}
		})
	}
}

// TestDemoElsewhere: the repository is where --store says, and is gone after.
func TestDemoElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const backedUp = `backup .* succeeded`
	p, let := playHeld(t, backedUp, "--store", "file://"+dir)
	place := p.until(`the repository is /.*/jetkeep-demo-[0-9TZ]+-[0-9a-z]{8}$`)
	place = strings.TrimPrefix(place, "the repository is ")
	p.until(backedUp)
	if _, err := os.Stat(filepath.Join(place, "jetkeep.json")); err != nil || filepath.Dir(place) != dir {
		t.Errorf("the repository is not in %s: %v", place, err)
	}
	_ = let.Close()
	code, output := p.end()
	if code != exitOK || !strings.Contains(output, " identical\n") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
