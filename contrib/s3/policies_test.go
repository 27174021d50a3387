package s3_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

// A site is a bucket with a repository, made by its owner.
type site struct {
	server *objectserver.S3Server
	bucket string
}

func newSite(t *testing.T, kind string, b objectserver.BucketOptions) *site {
	t.Helper()
	s := objectserver.S3(t, kind)
	x := &site{server: s, bucket: s.NewBucket(t, b)}
	owner := x.open(t, objectserver.User{AccessKey: s.AccessKey, SecretKey: s.SecretKey})
	if _, err := store.Init(t.Context(), owner, store.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := owner.PutBytes(t.Context(), "packs/ab/old", []byte("old")); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *site) open(t *testing.T, u objectserver.User) *object.Bucket {
	t.Helper()
	d, err := s3.Open(t.Context(), s3.Options{
		Endpoint: x.server.Endpoint, Region: x.server.Region, Bucket: x.bucket, Addressing: s3.AddressingPath,
		AccessKey: u.AccessKey, SecretKey: u.SecretKey, PartSize: 5 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	b := object.NewBucket(d)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// as returns the bucket as somebody sees it whom a policy file describes.
func (x *site) as(t *testing.T, file string) *object.Bucket {
	t.Helper()
	policy, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return x.open(t, x.server.NewUser(t, x.bucket, bytes.ReplaceAll(policy, []byte("BUCKET"), []byte(x.bucket))))
}

// outcomes are those of a probe's steps.
func outcomes(t *testing.T, b *object.Bucket) string {
	t.Helper()
	var out []string
	for _, step := range store.Probe(t.Context(), b) {
		out = append(out, step.Name+" "+step.Outcome)
	}
	return strings.Join(out, ", ")
}

// refused wants an error that names the permission.
func refused(t *testing.T, err error, action string) {
	t.Helper()
	var p *object.PermissionError
	if !errors.As(err, &p) || p.Action != action {
		t.Errorf("want a refusal that names %s: %v", action, err)
	}
}

func onEach(t *testing.T, test func(t *testing.T, x *site)) {
	t.Helper()
	for _, kind := range objectserver.S3Kinds() {
		t.Run(kind, func(t *testing.T) { test(t, newSite(t, kind, objectserver.BucketOptions{})) })
	}
}

// write stores a small and a large object.
func write(t *testing.T, b *object.Bucket) {
	t.Helper()
	if err := b.PutBytes(t.Context(), "packs/ab/new", []byte("new")); err != nil {
		t.Error(err)
	}
	large := make([]byte, 12<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large)
	if err := b.PutBytes(t.Context(), "packs/ab/large", large); err != nil {
		t.Error(err)
	}
	if atomic, err := b.Atomic(t.Context()); err != nil || !atomic {
		t.Error("creation is atomic:", atomic, err)
	}
	if got, err := b.ReadAll(t.Context(), "packs/ab/large", 20<<20); err != nil || !bytes.Equal(got, large) {
		t.Error("large object:", len(got), err)
	}
}

func TestWriter(t *testing.T) {
	onEach(t, func(t *testing.T, x *site) {
		b := x.as(t, "writer.json")
		write(t, b)
		refused(t, b.Delete(t.Context(), "packs/ab/old"), "s3:DeleteObject")
		if _, err := b.Stat(t.Context(), "packs/ab/old"); err != nil {
			t.Error("it is gone:", err)
		}
		if got := outcomes(t, b); got != "write ok, read ok, list ok, delete denied" {
			t.Error(got)
		}
		if _, err := store.Open(t.Context(), b, store.OpenOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestPruner(t *testing.T) {
	onEach(t, func(t *testing.T, x *site) {
		b := x.as(t, "pruner.json")
		write(t, b)
		if err := b.Delete(t.Context(), "packs/ab/old"); err != nil {
			t.Error(err)
		}
		if got := outcomes(t, b); got != "write ok, read ok, list ok, delete ok" {
			t.Error(got)
		}
	})
}

func TestRestorer(t *testing.T) {
	onEach(t, func(t *testing.T, x *site) {
		b := x.as(t, "restorer.json")
		refused(t, b.PutBytes(t.Context(), "packs/ab/new", []byte("new")), "s3:PutObject")
		refused(t, b.Delete(t.Context(), "packs/ab/old"), "s3:DeleteObject")
		if got, err := b.ReadAll(t.Context(), "packs/ab/old", 10); err != nil || string(got) != "old" {
			t.Error(string(got), err)
		}
		if got := outcomes(t, b); got != "write denied, read ok, list ok, delete skipped" {
			t.Error(got)
		}
		if _, err := store.Open(t.Context(), b, store.OpenOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// Without the permission to list, a missing object is told from a missing
// permission by nobody, and the error says which is missing.
func TestNothingAllowed(t *testing.T) {
	onEach(t, func(t *testing.T, x *site) {
		u := x.server.NewUser(t, x.bucket, []byte(strings.ReplaceAll(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow",
			"Action":["s3:GetBucketLocation"],"Resource":["arn:aws:s3:::BUCKET"]}]}`, "BUCKET", x.bucket)))
		d, err := s3.Open(t.Context(), s3.Options{
			Endpoint: x.server.Endpoint, Region: x.server.Region, Bucket: x.bucket, Addressing: s3.AddressingPath,
			AccessKey: u.AccessKey, SecretKey: u.SecretKey,
		})
		if err == nil {
			b := object.NewBucket(d)
			defer b.Close() //nolint:errcheck // test
			_, err = b.ReadAll(t.Context(), "jetkeep.json", 1<<20)
			refused(t, err, "s3:GetObject")
			return
		}
		refused(t, err, "s3:ListBucket")
	})
}
