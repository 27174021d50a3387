package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"jetkeep/service/natstest"
)

// TestOwnStreams: jetkeep's own streams, the secrets in them included, get into
// a repository and out of it only if somebody names them, and never back into a
// server by jetkeep.
func TestOwnStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	command := binary(t)
	s := startServe(t, command, filepath.Join(dir, "data"))
	nc := s.connect()
	natstest.MakeStream(t, nc, `{"name":"ORDERS","subjects":["orders"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, nc, "orders", 100, 100)
	run := func(tool string, args ...string) (string, int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir(), "NATS_URL="+s.url)
		out, err := cmd.CombinedOutput()
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := run(natstest.Tool(t, natstest.CLI), "backup", "account", "--force", "account"); code != 0 {
		t.Fatal(out)
	}
	if _, err := os.Stat(filepath.Join(dir, "account", "KV_JETKEEP_STATE", "backup.json")); err != nil {
		t.Fatalf("the nats command does not back up what this is about: %v", err)
	}
	const leftOut = "left out, as they are jetkeep's own and hold its secrets: JETKEEP_EVENTS, "
	streams := func(name string) []string {
		t.Helper()
		return list(t, filepath.Join(dir, name))
	}
	for _, c := range []struct {
		args string
		code int
		has  string
		not  string
	}{
		{"backup ORDERS", exitOK, "succeeded", ""},
		{"import --path data/repository --target default account", exitOK, leftOut, "imported from a v2 archive of the nats command\nJETKEEP"},
		{"export --path data/repository first", exitOK, "first/ORDERS", "JETKEEP"},
		{"import --path data/repository account/KV_JETKEEP_STATE", exitFailed, "give it with --stream", ""},
		{"import --path data/repository --stream NOSUCH account", exitFailed, "there is no stream NOSUCH", ""},
		{"import --path data/repository --target default --stream KV_JETKEEP_STATE account", exitOK, "KV_JETKEEP_STATE", leftOut},
		{"export --path data/repository second", exitOK, "left out, as they are jetkeep's own and hold its secrets: KV_JETKEEP_STATE; ", "second/KV_JETKEEP_STATE"},
		{"export --path data/repository --stream KV_* third", exitFailed, "left out, as they are", ""},
		{"export --path data/repository --stream ORDERS --stream NOSUCH third", exitFailed, "of stream NOSUCH", ""},
		{"export --path data/repository --stream KV_JETKEEP_STATE third", exitOK, "third/KV_JETKEEP_STATE", "left out"},
		{"backup KV_JETKEEP_STATE", exitFailed, "belongs to jetkeep itself", ""},
		{"backup KV_*", exitFailed, "no stream matches", ""},
		{"restore KV_JETKEEP_STATE", exitFailed, "belongs to jetkeep itself", ""},
		{"restore --plan KV_*", exitFailed, "no stream matches", ""},
		{"restore --plan", exitFailed, "ORDERS", "JETKEEP"},
	} {
		out, code := run(command, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.has) || c.not != "" && strings.Contains(out, c.not) {
			t.Errorf("jetkeep %s ends with %d and writes\n%s", c.args, code, out)
		}
	}
	for name, want := range map[string]string{"first": "ORDERS", "second": "ORDERS", "third": "KV_JETKEEP_STATE"} {
		if got := strings.Join(streams(name), " "); got != want {
			t.Errorf("%s holds %s", name, got)
		}
	}
}

// list returns the names in a directory.
func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
