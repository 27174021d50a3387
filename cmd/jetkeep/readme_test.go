package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"jetkeep/service/natstest"
	"jetkeep/store/freeport"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/testenv"
)

// With -update the outputs that the README shows are replaced by today's.
var update = flag.Bool("update", false, "write the outputs of commands into the README")

// root is the project's directory, seen from this package's.
const root = "../.."

// A shown command is one of the README's code blocks, with its output; or a
// file, if it has a name.
type shown struct {
	command string
	file    string
	output  []string // nil in a block that shows no output
	line    int      // of the command in the file
}

// readmeCommands reads the blocks marked sh, one command a line, and console,
// where commands start with "$ " and everything else is output. A block whose
// first line is "# NAME.conf" is a file.
func readmeCommands(lines []string) (all []shown) {
	block := ""
	for n, line := range lines {
		switch {
		case strings.HasPrefix(line, "```"):
			block = strings.TrimPrefix(line, "```")
		case strings.HasPrefix(line, "# ") && strings.HasSuffix(line, ".conf") && strings.HasPrefix(lines[n-1], "```"):
			block = "file"
			all = append(all, shown{file: line[2:], output: []string{}, line: n})
		case block == "file":
			last := &all[len(all)-1]
			last.output = append(last.output, line)
		case block == "sh" && line != "":
			all = append(all, shown{command: line, line: n})
		case block == "console" && strings.HasPrefix(line, "$ "):
			all = append(all, shown{command: line[2:], output: []string{}, line: n})
		case block == "console":
			last := &all[len(all)-1]
			last.output = append(last.output, line)
		}
	}
	return all
}

// reader runs the README's commands in order, in one directory.
type reader struct {
	t     *testing.T
	dir   string
	env   []string
	path  string            // of the command under test
	ids   map[string]string // of the README, and what they are here
	serve *served
	ports *strings.Replacer // of the README, to those here
}

// TestReadme runs every command of the README and compares what it writes with
// what the README shows; durations, sizes, times and ids may differ.
func TestReadme(t *testing.T) {
	t.Parallel()
	file := filepath.Join(root, "README.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	commands := readmeCommands(lines)
	if len(commands) < 10 {
		t.Fatalf("the README shows %d commands", len(commands))
	}
	command := binary(t)
	r := &reader{t: t, dir: t.TempDir(), path: command, ids: map[string]string{}}
	r.env = append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir(), "TMPDIR="+t.TempDir(),
		"PATH="+strings.Join([]string{filepath.Dir(command), filepath.Dir(natstest.Tool(t, natstest.CLI)), os.Getenv("PATH")}, ":"))
	r.env = append(r.env, s3Env(objectserver.S3(t, objectserver.Versitygw))...)
	r.env = append(r.env, swiftEnv(objectserver.Swift(t, objectserver.SwiftOptions{}))...)
	outputs := make([][]string, len(commands))
	for i, c := range commands {
		if c.file != "" {
			outputs[i] = c.output
			if err := os.WriteFile(filepath.Join(r.dir, c.file), []byte(strings.Join(c.output, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		outputs[i] = r.run(c)
		switch {
		case c.output == nil:
		case *update:
			r.learn(c.output, outputs[i])
		default:
			r.compare(c, outputs[i])
		}
	}
	if *update && !t.Failed() {
		for i, c := range slices.Backward(commands) {
			lines[c.line] = r.here(lines[c.line])
			if c.output != nil {
				lines = slices.Replace(lines, c.line+1, c.line+1+len(c.output), shorten(c.output, outputs[i])...)
			}
		}
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// run runs a command and returns its output's lines.
func (r *reader) run(c shown) []string {
	r.t.Helper()
	command := r.here(c.command)
	if data, ok := strings.CutPrefix(command, "jetkeep serve --embedded --data "); ok {
		data, shown, _ := strings.Cut(data, " --metrics ")
		port, err := freeport.Get()
		if err != nil {
			r.t.Fatal(err)
		}
		r.ports = strings.NewReplacer("127.0.0.1:"+shown, fmt.Sprintf("127.0.0.1:%d", port))
		r.serve = startServe(r.t, r.path, filepath.Join(r.dir, data), "--metrics", strconv.Itoa(port))
		r.env = append(r.env, "NATS_URL="+r.serve.url)
		// The README's directory and port are those of a usual machine.
		first := strings.ReplaceAll(r.serve.first, r.dir, "/srv")
		return []string{strings.ReplaceAll(first, r.serve.url, "nats://127.0.0.1:4222")}
	}
	if r.ports != nil {
		command = r.ports.Replace(command)
	}
	cmd := exec.Command("bash", "-c", command)
	cmd.Dir, cmd.Env = r.dir, r.env
	switch {
	case strings.HasPrefix(command, "make "):
		// This test is itself a part of what make does: look, do not do.
		cmd = exec.Command("make", append([]string{"--dry-run"}, strings.Fields(command)[1:]...)...)
		cmd.Dir = root
	case strings.HasPrefix(command, "go run "):
		cmd.Dir = root
	case strings.HasPrefix(command, "nats req "):
		cmd.Env = append(slices.Clone(r.env), "NATS_TIMEOUT="+testenv.Hang.String()) // its 5 s a slow machine may need
	}
	timer := time.AfterFunc(2*testenv.Hang, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	// What a failing command writes is compared as well, if the README shows it.
	if exit := new(exec.ExitError); err != nil && (len(out) == 0 || c.output == nil || !errors.As(err, &exit)) {
		r.t.Errorf("README: %s: %v\n%s", c.command, err, out)
	}
	if text := strings.Trim(string(out), "\n"); text != "" {
		return strings.Split(text, "\n")
	}
	return nil
}

// here puts this run's ids in the place of the README's.
func (r *reader) here(text string) string {
	return sessionID.ReplaceAllStringFunc(text, func(id string) string {
		if now, ok := r.ids[id]; ok {
			return now
		}
		return id
	})
}

// skipped stands in the README for lines that are left out.
const skipped = "..."

// compare compares outputs without regard to the order of lines: what runs at
// the same time ends in any order.
func (r *reader) compare(c shown, got []string) {
	r.t.Helper()
	r.learn(c.output, got)
	want, have := masked(strings.Join(c.output, "\n")), masked(strings.Join(got, "\n"))
	partly := slices.Contains(want, skipped)
	for _, line := range want {
		i := slices.Index(have, line)
		switch {
		case line == skipped:
		case i < 0:
			r.t.Errorf("README: %s: shows\n%s\nbut writes\n%s\n(masked: %q)", c.command, strings.Join(c.output, "\n"), strings.Join(got, "\n"), line)
			return
		default:
			have = slices.Delete(have, i, i+1)
		}
	}
	have = slices.DeleteFunc(have, slowLine.MatchString)
	if len(have) > 0 && !partly {
		r.t.Errorf("README: %s: does not show\n%s", c.command, strings.Join(have, "\n"))
	}
}

// slowLine is what is written besides on a slow machine: there is time for lines of
// progress, and an answer may come so late that it is asked for again.
var slowLine = regexp.MustCompile(`^(backup|restore|verify|drill|prune) \d+% |^no answer from the service, still waiting: `)

// learn finds out which id of this run stands for which of the README.
func (r *reader) learn(want, got []string) {
	old := sessionID.FindAllString(strings.Join(want, "\n"), -1)
	now := sessionID.FindAllString(strings.Join(got, "\n"), -1)
	for i := range min(len(old), len(now)) {
		if _, known := r.ids[old[i]]; !known {
			r.ids[old[i]] = now[i]
		}
	}
}

// shorten keeps the README's omissions when outputs are updated: what follows
// the first "..." is taken to be at the end.
func shorten(old, now []string) []string {
	i := slices.Index(old, skipped)
	if i < 0 || i >= len(now) {
		return now
	}
	tail := len(old) - i - 1
	return slices.Concat(now[:i], []string{skipped}, now[len(now)-tail:])
}

// TestMasks: what must not be compared is masked, and nothing else.
func TestMasks(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"backup 20261122T214246Z-yu7jlc2f succeeded: 8 streams, 52,427 messages, 40.4 MiB in 0.80s": "backup ID succeeded: 8 streams, 52,427 messages, SIZE in DURATION",
		"5 objects, 5 of them read (9 KiB)": "OBJECTS read (SIZE)",
		"at nats://127.0.0.1:4222":          "at nats://ADDRESS",
		`{"bytes":12,"messages":3}`:         `{"bytes":0,"messages":3}`,
		"2026-11-22 21:42:46Z  7 left":      "TIME 7 left",
	} {
		if got := strings.Join(masked(in), "\n"); got != want {
			t.Errorf("%q is masked as %q", in, got)
		}
	}
	if fmt.Sprint(readmeCommands(strings.Split("text\n```console\n$ a\nb\n$ c\n```\n```sh\nd\n```\n```go\ne\n```", "\n"))) != "[{a  [b] 2} {c  [] 4} {d  [] 7}]" {
		t.Error("commands are not found")
	}
}
