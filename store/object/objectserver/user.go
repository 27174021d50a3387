package objectserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const mcTool = "mc-cf909e1063a9"

// A User of an S3 server.
type User struct{ AccessKey, SecretKey string }

// NewUser makes a user of whom a policy, a JSON document as AWS's, says what is
// allowed in a bucket, and nothing else is. MinIO has policies of users.
// versitygw has them of buckets only, so that there the bucket gets that
// policy, for that user.
func (x *S3Server) NewUser(t testing.TB, bucket string, policy []byte) User {
	t.Helper()
	u := User{AccessKey: fmt.Sprintf("user%016x", rand.Uint64()), SecretKey: fmt.Sprintf("secret%016x", rand.Uint64())}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var err error
	switch x.Kind {
	case MinIO:
		err = x.minioUser(ctx, t.TempDir(), u, policy)
	default:
		err = x.versityUser(ctx, u, bucket, policy)
	}
	if err != nil {
		t.Fatalf("make a user: %v", err)
	}
	return u
}

func (x *S3Server) minioUser(ctx context.Context, dir string, u User, policy []byte) error {
	file := filepath.Join(dir, "policy.json")
	if err := os.WriteFile(file, policy, 0o600); err != nil {
		return err
	}
	host := strings.Replace(x.Endpoint, "://", "://"+x.AccessKey+":"+x.SecretKey+"@", 1)
	for _, args := range [][]string{
		{"policy", "create", "x", u.AccessKey, file},
		{"user", "add", "x", u.AccessKey, u.SecretKey},
		{"policy", "attach", "x", u.AccessKey, "--user", u.AccessKey},
	} {
		if err := runTool(ctx, mcTool, []string{"MC_HOST_x=" + host}, append([]string{"--config-dir", dir, "admin"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

func (x *S3Server) versityUser(ctx context.Context, u User, bucket string, policy []byte) error {
	err := runTool(ctx, versitygwTool, nil, "admin", "--access", x.AccessKey, "--secret", x.SecretKey, "--endpoint-url", x.Endpoint,
		"create-user", "--access", u.AccessKey, "--secret", u.SecretKey, "--role", "user")
	if err != nil {
		return err
	}
	var doc struct {
		Version   string
		Statement []map[string]any
	}
	if err := json.Unmarshal(policy, &doc); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	for _, s := range doc.Statement {
		s["Principal"] = map[string]any{"AWS": []string{u.AccessKey}}
	}
	of, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return x.client.SetBucketPolicy(ctx, bucket, string(of))
}

// runTool runs one of the tools to its end.
func runTool(ctx context.Context, name string, env []string, args ...string) error {
	binary, err := tool(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = dieWithParent()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
