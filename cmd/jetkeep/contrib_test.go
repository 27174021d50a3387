package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"jetkeep/service/config"
)

// TestShippedConfiguration: the file that the systemd unit uses is valid, and
// stays so when what is commented out is put in.
func TestShippedConfiguration(t *testing.T) {
	name := filepath.Join(root, "contrib", "systemd", "jetkeep.conf")
	if _, err := config.ReadFile(name); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// Prose is no "name: value" or block; secrets are where systemd puts them.
	field := regexp.MustCompile(`(?m)^( *)# (( *)([a-z_]+: |[a-z_]+ \{|\}).*)$`)
	full := field.ReplaceAllString(string(text), "$1$2")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	full = regexp.MustCompile(`(_file: )/run/credentials/\S+`).ReplaceAllString(full, `$1"`+secret+`"`)
	full = regexp.MustCompile(`operator_recipients: .*`).ReplaceAllString(full, "")
	t.Setenv("OS_APPLICATION_CREDENTIAL_ID", "app")
	whole := filepath.Join(t.TempDir(), "jetkeep.conf")
	if err := os.WriteFile(whole, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := config.ReadFile(whole)
	if err != nil {
		t.Fatalf("%v in\n%s", err, full)
	}
	if c := f.Config; len(c.Repositories) != 3 || len(c.Targets) != 1 || c.Replicas != 3 || c.Control.Creds == "" || c.Repositories[1].S3.SecretKey.Reveal() != "x" {
		t.Errorf("%+v", c)
	}
	unit, err := os.ReadFile(filepath.Join(root, "contrib", "systemd", "jetkeep.service"))
	if err != nil || !strings.Contains(string(unit), "serve --config /etc/jetkeep/jetkeep.conf\n") {
		t.Errorf("the unit uses another configuration: %v", err)
	}
}
