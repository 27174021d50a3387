package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/ncw/swift/v2"

	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/service/api"
	"jetkeep/store/object/objectserver"
)

// s3Env is what a command needs in its environment to reach an S3 server of the
// tests.
func s3Env(x *objectserver.S3Server) []string {
	return []string{
		"AWS_ENDPOINT_URL=" + x.Endpoint, "AWS_REGION=" + x.Region, "AWS_ACCESS_KEY_ID=" + x.AccessKey, "AWS_SECRET_ACCESS_KEY=" + x.SecretKey,
	}
}

// swiftEnv is the same for Swift.
func swiftEnv(x *objectserver.SwiftServer) []string {
	return []string{"ST_AUTH=" + x.AuthURL, "ST_USER=" + x.User, "ST_KEY=" + x.Key}
}

// TestDemoOnS3 plays the whole demo with its repository on a real S3 server.
// Afterwards nothing is left there.
func TestDemoOnS3(t *testing.T) {
	t.Parallel()
	server := objectserver.S3(t, objectserver.Versitygw)
	bucket := fmt.Sprintf("demo-%x", time.Now().UnixNano())
	playOn(t, "s3://"+bucket+"/some/prefix", server.SecretKey, s3Env(server))
	left := 0
	for o := range server.Root().ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		left++
	}
	if left > 0 {
		t.Errorf("%d objects are left", left)
	}
}

// TestDemoOnSwift plays it on a real Swift.
func TestDemoOnSwift(t *testing.T) {
	t.Parallel()
	server := objectserver.Swift(t, objectserver.SwiftOptions{})
	name := fmt.Sprintf("demo-%x", time.Now().UnixNano())
	playOn(t, "swift://"+name+"/some/prefix", server.Key, swiftEnv(server))
	c := &swift.Connection{AuthUrl: server.AuthURL, UserName: server.User, ApiKey: server.Key, AuthVersion: 1}
	containers, err := c.ContainersAll(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, x := range containers {
		seen = seen || x.Name == name
		if strings.HasPrefix(x.Name, name) && x.Count > 0 {
			t.Errorf("%d objects are left in %s", x.Count, x.Name)
		}
	}
	if !seen {
		t.Errorf("there is no container %s", name)
	}
}

// TestImportIntoSwiftIsAlone: without a service there is no lock, so that a
// store which needs one takes a promise instead.
func TestImportIntoSwiftIsAlone(t *testing.T) {
	t.Parallel()
	server := objectserver.Swift(t, objectserver.SwiftOptions{})
	dir := t.TempDir()
	place := fmt.Sprintf("swift://import-%x/p", time.Now().UnixNano())
	data, exported := filepath.Join(dir, "data"), filepath.Join(dir, "exported")
	s := startServe(t, binary(t), data)
	nc := s.connect()
	if err := sample.Fill(t.Context(), nc, small(), 1); err != nil {
		t.Fatal(err)
	}
	accepted := request[api.Accepted](t, nc, api.BackupCreate, `{"streams":["KV_settings"]}`)
	if info := ended(t, nc, accepted.Session); info.State != api.StateSucceeded {
		t.Fatalf("%+v", info)
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"export --path " + filepath.Join(data, "repository") + " " + exported, exitOK, "KV_settings"},
		{"repository init --path " + place, exitOK, "made in " + place},
		{"repository info --path " + place, exitOK, "usable"},
		{"import --path " + place + " " + exported, exitFailed, "give --sole-writer if nobody else"},
		{"import --sole-writer --path " + place + " " + exported, exitOK, "imported from"},
		{"verify --level records --path " + place, exitOK, "1 restore point verified"},
	} {
		cmd := exec.Command(binary(t), strings.Fields(c.args)...)
		cmd.Env = append(os.Environ(), swiftEnv(server)...)
		out, err := cmd.CombinedOutput()
		code := 0
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != c.code || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: exit code %d\n%s", c.args, code, out)
		}
	}
}

func playOn(t *testing.T, store, secret string, env []string) {
	t.Helper()
	begin := time.Now()
	code, output := play(t, exec.Command(binary(t), "demo", "--store", store), env...).end()
	deleted := regexp.MustCompile(`[1-9][0-9]+ objects deleted in ` + regexp.QuoteMeta(store) + `/jetkeep-demo-`)
	if code != exitOK || strings.Count(output, " identical\n") != 9 || !deleted.MatchString(output) {
		t.Fatalf("exit code %d:\n%s", code, output)
	}
	if strings.Contains(output, "Unsolicited response") {
		t.Errorf("the library's log is shown:\n%s", output)
	}
	if secret == "" || strings.Contains(output, secret) {
		t.Errorf("a secret is shown:\n%s", output)
	}
	t.Logf("the demo on %s took %.1fs", strings.SplitN(store, ":", 2)[0], time.Since(begin).Seconds())
}
