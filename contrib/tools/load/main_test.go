package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each run is made, also after one that failed, beside as many busy processes as
// said; none is left behind.
func TestRunsBesideLoad(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "load")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	notes := filepath.Join(dir, "notes")
	script := `for f in /proc/[0-9]*/cmdline; do if tr '\0' ' ' < $f | grep -q '^` + binary + ` -spin'; then echo $f; fi; done > ` + notes + `.pids; ` +
		`wc -l < ` + notes + `.pids >> ` + notes + `; false`
	out, err := exec.Command(binary, "-times", "1", "-runs", "2", "--", "bash", "-c", script).CombinedOutput()
	if err == nil || strings.Count(string(out), "exit status 1") < 2 {
		t.Errorf("ended with %v:\n%s", err, out)
	}
	got, err := os.ReadFile(notes)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Fields(string(got))
	if len(lines) != 2 || lines[0] != lines[1] || lines[0] == "0" {
		t.Errorf("busy processes during the runs: %q", lines)
	}
	pids, err := os.ReadFile(notes + ".pids")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range strings.Fields(string(pids)) {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), binary) {
			t.Errorf("%s: the process is still there", file)
		}
	}
}
