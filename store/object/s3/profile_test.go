package s3_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
)

// A role is asked for at a server's STS with the keys of another profile, and
// what that gives is used.
func TestRoleOfProfile(t *testing.T) {
	s := objectserver.S3(t, objectserver.MinIO)
	o := bare(t, s, s3.CredentialsProfile)
	config := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("[profile backup]\nrole_arn = arn:aws:iam::123456789012:role/backup\nsource_profile = base\nduration_seconds = 900\n"+
		"[profile base]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s.AccessKey, s.SecretKey)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", config)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.Endpoint)
	p := newProxy(t, s)
	o.Endpoint, o.Profile = p.URL, "backup"
	works(t, o)
	if n := len(p.seen); n == 0 {
		t.Fatal("nothing was asked")
	}
	for _, r := range p.seen {
		if r.Header.Get("X-Amz-Security-Token") == "" {
			t.Errorf("%s %s is not signed for the role", r.Method, r.URL)
		}
	}
}
