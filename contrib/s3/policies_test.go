package s3_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"jetkeep/service/config"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

// A site is a bucket with a repository, made by its owner.
type site struct {
	server *objectserver.S3Server
	bucket string
	mode   string // of retention
	// versions has who opens it delete all of them.
	versions bool
	retain   time.Duration
}

func newSite(t *testing.T, kind string, b objectserver.BucketOptions) *site {
	t.Helper()
	s := objectserver.S3(t, kind)
	x := &site{server: s, bucket: s.NewBucket(t, b)}
	owner := x.open(t, s.Owner())
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
	o := s3.Options{
		Endpoint: x.server.Endpoint, Region: x.server.Region, Bucket: x.bucket, Addressing: s3.AddressingPath,
		AccessKey: u.AccessKey, SecretKey: u.SecretKey, SessionToken: u.SessionToken, PartSize: 5 << 20, DeleteVersions: x.versions,
	}
	if x.mode != "" {
		o.RetainMode, o.RetainFor = x.mode, x.retain
	}
	d, err := s3.Open(t.Context(), o)
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

// A bucket with object lock: what the writer stored nobody can delete before its
// time, the pruner neither; then the pruner can.
func TestLockedBucket(t *testing.T) {
	for _, kind := range objectserver.S3Kinds() {
		for _, mode := range []string{"governance", "compliance"} {
			t.Run(kind+"/"+mode, func(t *testing.T) {
				t.Parallel() // it waits
				s := objectserver.S3(t, kind)
				x := &site{server: s, bucket: s.NewBucket(t, objectserver.BucketOptions{Lock: true}), mode: mode, retain: time.Hour}
				x.keeps(t)
				brief := *x
				brief.retain = 2 * time.Second
				brief.lets(t)
			})
		}
	}
}

// keeps tries to delete what is retained for long.
func (x *site) keeps(t *testing.T) {
	t.Helper()
	const name = "packs/ab/new"
	writer := x.as(t, "writer-lock.json")
	write(t, writer)
	if err := writer.Delete(t.Context(), name); err == nil {
		t.Error("the writer may delete")
	}
	r, ok := writer.Retainer()
	if !ok {
		t.Fatal("nothing is retained")
	}
	until := time.Now().Add(2 * time.Hour)
	if err := r.Retain(t.Context(), name, until); err != nil {
		t.Fatal(err)
	}
	if err := r.Retain(t.Context(), name, time.Now().Add(time.Minute)); err != nil {
		t.Error("a shorter retention is no error:", err)
	}
	if got, err := r.Retention(t.Context(), name); err != nil || got.Before(until) {
		t.Errorf("retained until %s instead of %s: %v", got, until, err)
	}
	pruner := x.as(t, "pruner-lock.json")
	if err := pruner.Delete(t.Context(), name); !errors.Is(err, object.ErrRetained) {
		t.Error("deleted before its time:", err)
	}
	if b, err := pruner.ReadAll(t.Context(), name, 10); string(b) != "new" || err != nil {
		t.Error("the refused deletion hid it:", string(b), err)
	}
	if got := outcomes(t, pruner); got != "write ok, read ok, list ok, delete retained" {
		t.Error(got)
	}
}

// lets deletes what is retained for a short while.
func (x *site) lets(t *testing.T) {
	t.Helper()
	const early, late = "packs/cd/early", "packs/cd/late"
	writer := x.as(t, "writer-lock.json")
	for _, name := range []string{early, late} {
		// Servers refuse a retention that is over when it arrives.
		testenv.Until(t, "an object that is retained for a short while", func() error {
			return writer.PutBytes(t.Context(), name, []byte("new"))
		})
	}
	r, _ := writer.Retainer()
	until, err := r.Retention(t.Context(), late)
	if err != nil || until.IsZero() {
		t.Fatal("not retained:", err)
	}
	pruner := x.as(t, "pruner-lock.json")
	testenv.Until(t, "the end of a retention", func() error {
		err := pruner.Delete(t.Context(), late)
		if err != nil && !errors.Is(err, object.ErrRetained) {
			t.Fatal(err)
		}
		return err
	})
	if now := time.Now(); now.Before(until) {
		t.Errorf("deleted at %s, and retained until %s", now, until)
	}
	// Nothing retains this one any more either.
	if err := writer.Delete(t.Context(), early); !errors.Is(err, object.ErrNotWritable) && !errors.Is(err, object.ErrPermission) {
		t.Error("the writer may delete:", err)
	}
	if err := pruner.Delete(t.Context(), early); err != nil {
		t.Error(err)
	}
	for _, name := range []string{early, late} {
		if _, err := pruner.Stat(t.Context(), name); !errors.Is(err, object.ErrNotExist) {
			t.Error("it is there:", err)
		}
	}
	for v := range x.server.Root().ListObjectsIter(t.Context(), x.bucket, minio.ListObjectsOptions{Prefix: "packs/cd/", WithVersions: true, Recursive: true}) {
		t.Errorf("a version is left: %+v", v)
	}
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
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, newSite(t, kind, objectserver.BucketOptions{}))
		})
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
		for _, err := range b.DeleteAll(t.Context(), []string{"packs/ab/old", "packs/ab/new", "packs/ab/missing"}) {
			refused(t, err, "s3:DeleteObject")
		}
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
		for _, err := range b.DeleteAll(t.Context(), []string{"packs/ab/new", "packs/ab/large", "packs/ab/missing"}) {
			if err != nil {
				t.Error(err)
			}
		}
		if got := outcomes(t, b); got != "write ok, read ok, list ok, delete ok" {
			t.Error(got)
		}
	})
}

// In a bucket with versions the pruner of locked ones deletes all of them.
func TestPrunerOfVersions(t *testing.T) {
	for _, kind := range objectserver.S3Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			x := newSite(t, kind, objectserver.BucketOptions{Versioning: true})
			refused(t, x.as(t, "writer.json").Delete(t.Context(), "packs/ab/old"), "s3:DeleteObject")
			x.versions = true
			pruner := x.as(t, "pruner-lock.json")
			write(t, pruner)
			for _, name := range []string{"packs/ab/old", "packs/ab/new", "packs/ab/large"} {
				if err := pruner.Delete(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
			if got := outcomes(t, pruner); got != "write ok, read ok, list ok, delete ok" {
				t.Error(got)
			}
			for v := range x.server.Root().ListObjectsIter(t.Context(), x.bucket, minio.ListObjectsOptions{Prefix: "packs/", Recursive: true, WithVersions: true}) {
				t.Errorf("a version is left: %+v", v)
			}
		})
	}
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
			AccessKey: u.AccessKey, SecretKey: u.SecretKey, SessionToken: u.SessionToken,
		})
		if err == nil {
			b := object.NewBucket(d)
			defer b.Close()
			_, err = b.ReadAll(t.Context(), "jetkeep.json", 1<<20)
			refused(t, err, "s3:GetObject")
			return
		}
		refused(t, err, "s3:ListBucket")
	})
}

// The configurations that the readme shows are read.
func TestReadmeConfigurations(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"GCS_HMAC_KEY", "GCS_HMAC_SECRET", "B2_KEY_ID", "B2_APPLICATION_KEY"} {
		t.Setenv(name, "of-"+name)
	}
	blocks := strings.Split(string(text), "```")
	if len(blocks) != 5 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for _, block := range []string{blocks[1], blocks[3]} {
		file := filepath.Join(t.TempDir(), "jetkeep.conf")
		if err := os.WriteFile(file, []byte("repositories {"+block+"}\nstaging { dir: /srv/staging }\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := config.ReadFile(file)
		if err != nil {
			t.Fatalf("%s: %v", block, err)
		}
		r := f.Config.Repositories[0]
		if r.Kind != config.KindS3 || !strings.HasPrefix(r.S3.AccessKey, "of-") || !strings.HasPrefix(r.S3.SecretKey.Reveal(), "of-") {
			t.Errorf("%s is read as %+v", block, r)
		}
	}
}
