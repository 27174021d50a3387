package objectserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"jetkeep/store/testenv"
)

// A User of an S3 server, with the token that MinIO's have.
type User struct{ AccessKey, SecretKey, SessionToken string }

// sessionLife is how long a user of MinIO is one, in seconds: longer than any test.
const sessionLife = 24 * 60 * 60

// NewUser makes a user of whom a policy, a JSON document as AWS's, says what is
// allowed in a bucket, and nothing else is. MinIO gives the root account's role
// with that policy for the session. versitygw has policies of buckets only, so
// that there the bucket gets that policy, for that user.
func (x *S3Server) NewUser(t testing.TB, bucket string, policy []byte) User {
	t.Helper()
	if x.Kind == MinIO {
		v, err := x.assumeRole(string(policy))
		if err != nil {
			t.Fatalf("make a user: %v", err)
		}
		return User{AccessKey: v.AccessKeyID, SecretKey: v.SecretAccessKey, SessionToken: v.SessionToken}
	}
	u := User{AccessKey: fmt.Sprintf("user%016x", rand.Uint64()), SecretKey: fmt.Sprintf("secret%016x", rand.Uint64())}
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	if err := x.versityUser(ctx, u, bucket, policy); err != nil {
		t.Fatalf("make a user: %v", err)
	}
	return u
}

func (x *S3Server) versityUser(ctx context.Context, u User, bucket string, policy []byte) error {
	err := runTool(ctx, versitygwTool, "admin", "--access", x.AccessKey, "--secret", x.SecretKey, "--endpoint-url", x.Endpoint,
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
func runTool(ctx context.Context, name string, args ...string) error {
	binary, err := tool(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.SysProcAttr = dieWithParent()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
