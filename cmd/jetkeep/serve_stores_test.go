package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/service/api"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/testenv"
)

// TestServeFromFileOnS3: a service that is configured by a file makes its
// repository in a bucket, finds it again after a restart, and shows its secret
// nowhere.
func TestServeFromFileOnS3(t *testing.T) {
	t.Parallel()
	server := objectserver.S3(t, objectserver.Versitygw)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(server.SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bucket := fmt.Sprintf("serve-%x", time.Now().UnixNano())
	text := fmt.Sprintf(`
repositories {
  main { kind: s3, endpoint: %q, region: %q, bucket: %q, prefix: a/b, access_key: %q, secret_key_file: %q, create: true }
}
staging { dir: %q }
`, server.Endpoint, server.Region, bucket, server.AccessKey, secret, filepath.Join(dir, "staging"))
	file := filepath.Join(dir, "jetkeep.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	place := "s3://" + bucket + "/a/b"
	out, err := exec.Command(binary(t), "serve", "--config", file, "--check").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `bucket: "`+bucket+`"`) || !strings.Contains(string(out), `secret_key: "[redacted]"`) {
		t.Errorf("check: %v\n%s", err, out)
	}

	data := filepath.Join(dir, "data")
	first := startServe(t, binary(t), data, "--config", file)
	nc := first.connect()
	if err := sample.Fill(t.Context(), nc, small(), 1); err != nil {
		t.Fatal(err)
	}
	accepted := request[api.Accepted](t, nc, api.BackupCreate, `{"streams":["ORDERS","KV_settings"]}`)
	if info := ended(t, nc, accepted.Session); info.State != api.StateSucceeded {
		t.Fatalf("%+v", info)
	}
	first.signal(syscall.SIGTERM)
	if code := first.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}

	second := startServe(t, binary(t), data, "--config", file)
	nc = second.connect()
	info := request[api.RepositoryInfoResponse](t, nc, api.RepositoryInfo, `{}`)
	if info.Location != place || info.Kind != "s3" || info.RestorePoints != 2 || info.Probe == nil || !info.Probe.Usable {
		t.Errorf("%+v, %+v", info, info.Probe)
	}
	verify := request[api.Accepted](t, nc, api.RepositoryVerify, `{"level":"records"}`)
	if info := ended(t, nc, verify.Session); info.State != api.StateSucceeded {
		t.Errorf("%+v", info)
	}
	second.signal(syscall.SIGTERM)
	second.wait()
	if !strings.Contains(second.first, "repository main in "+place) {
		t.Errorf("startup line: %s", second.first)
	}
	for name, text := range map[string]string{"the first": first.log(), "the second": second.log(), "--check": string(out)} {
		if strings.Contains(text, server.SecretKey) {
			t.Errorf("%s shows a secret:\n%s", name, text)
		}
	}
}

// TestWrongKeyIsSaid: a service whose key is refused runs, and says to those who
// ask what is the matter.
func TestWrongKeyIsSaid(t *testing.T) {
	t.Parallel()
	server := objectserver.S3(t, objectserver.Versitygw)
	dir := t.TempDir()
	file := filepath.Join(dir, "jetkeep.conf")
	text := fmt.Sprintf("repositories { main { kind: s3, endpoint: %q, bucket: %q, access_key: %q, secret_key: hidden-and-wrong } }\nstaging { dir: %q }\n",
		server.Endpoint, server.NewBucket(t, objectserver.BucketOptions{}), server.AccessKey, filepath.Join(dir, "staging"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServe(t, binary(t), filepath.Join(dir, "data"), "--config", file)
	reply, err := s.connect().Request(api.DefaultPrefix+"."+api.RepositoryInfo, nil, testenv.Hang)
	if err != nil {
		t.Fatal(err)
	}
	if code := reply.Header.Get(api.HeaderErrorCode); code == "" || !strings.Contains(string(reply.Data), string(api.CodeStorePermission)) {
		t.Errorf("%s %s", code, reply.Data)
	}
	s.signal(syscall.SIGTERM)
	s.wait()
	if all := s.log() + string(reply.Data); strings.Contains(all, "hidden-and-wrong") || !strings.Contains(all, "repository cannot be opened") {
		t.Errorf("%s", all)
	}
}
