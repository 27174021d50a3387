package s3_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
	"jetkeep/store/testenv"
)

// versions returns what an object is and was, and its markers, newest first.
func versions(t *testing.T, s *objectserver.S3Server, bucket, key string) (all []minio.ObjectInfo) {
	t.Helper()
	for v := range s.Root().ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{Prefix: key, WithVersions: true, Recursive: true}) {
		if v.Err != nil {
			t.Fatal(v.Err)
		}
		if v.Key == key {
			all = append(all, v)
		}
	}
	return all
}

// overwrite does what the driver never does.
func overwrite(t *testing.T, s *objectserver.S3Server, bucket, key, content string) {
	t.Helper()
	_, err := s.Root().PutObject(t.Context(), bucket, key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// What is put is retained, by the server and not by the driver's word, and its
// time is only ever made longer.
func TestRetention(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		for _, mode := range []string{s3.RetainGovernance, s3.RetainCompliance} {
			for _, content := range [][]byte{random(1000), large()} {
				o, _ := behind(t, s)
				o.Bucket, o.RetainMode, o.RetainFor = s.NewBucket(t, objectserver.BucketOptions{Lock: true}), mode, time.Hour
				d := open(t, o)
				begun := time.Now()
				if err := put(t.Context(), d, content); err != nil {
					t.Fatal(mode, err)
				}
				first, err := d.Retention(t.Context(), name)
				if err != nil || first.Before(begun.Add(time.Hour-time.Second)) || first.After(begun.Add(2*time.Hour)) {
					t.Errorf("%s: retained until %s: %v", mode, first, err)
				}
				all := versions(t, s, o.Bucket, name)
				if len(all) != 1 {
					t.Fatalf("%d versions", len(all))
				}
				got, _, err := s.Root().GetObjectRetention(t.Context(), o.Bucket, name, all[0].VersionID)
				if s.Kind == objectserver.MinIO && (err != nil || !strings.EqualFold(got.String(), mode)) {
					t.Errorf("retained by %v: %v", got, err)
				}
				if err := d.Retain(t.Context(), name, begun.Add(time.Minute)); err != nil {
					t.Error("to retain for a shorter time is to do nothing:", err)
				}
				if got, err := d.Retention(t.Context(), name); err != nil || !got.Equal(first) {
					t.Errorf("%s: %s became %s: %v", mode, first, got, err)
				}
				longer := first.Add(90*time.Minute + 300*time.Millisecond)
				if err := d.Retain(t.Context(), name, longer); err != nil {
					t.Error(mode, err)
				}
				if got, err := d.Retention(t.Context(), name); err != nil || got.Before(longer) || got.After(longer.Add(time.Second)) {
					t.Errorf("%s: want %s: %s, %v", mode, longer, got, err)
				}
				if err := d.Delete(t.Context(), name); !errors.Is(err, object.ErrRetained) {
					t.Error(mode, "deleted:", err)
				}
				if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %d bytes: %v", mode, len(got), err)
				}
				if now := versions(t, s, o.Bucket, name); len(now) != 1 || now[0].IsDeleteMarker {
					t.Errorf("%s: %+v", mode, now)
				}
				err = s.Root().RemoveObject(t.Context(), o.Bucket, name, minio.RemoveObjectOptions{VersionID: all[0].VersionID})
				if err == nil {
					t.Error(mode, "the server deletes what is retained")
				}
				if err := d.Retain(t.Context(), "packs/missing", longer); !errors.Is(err, object.ErrNotExist) {
					t.Error("retain what is not there:", err)
				}
			}
		}
	})
}

// When its time is over an object can be deleted, and nothing of it is left. An
// older version whose time is not over stays.
func TestRetentionEnds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		o.Bucket, o.RetainMode, o.RetainFor = s.NewBucket(t, objectserver.BucketOptions{Lock: true}), s3.RetainCompliance, time.Hour
		d := open(t, o)
		if err := put(t.Context(), d, []byte("content")); err != nil {
			t.Fatal(err)
		}
		overwrite(t, s, o.Bucket, name, "something else") // and not retained
		if err := d.Delete(t.Context(), name); !errors.Is(err, object.ErrRetained) {
			t.Error("deleted:", err)
		}
		if got, err := get(t, d, 0, -1); err != nil || string(got) != "content" {
			t.Errorf("what was retained is not what is there: %q, %v", got, err)
		}
		o.RetainFor, o.Prefix = 2*time.Second, "brief"
		d = open(t, o)
		// A server refuses a retention that is over when it arrives.
		testenv.Until(t, "an object that is retained for a short while", func() error { return put(t.Context(), d, []byte("content")) })
		until, err := d.Retention(t.Context(), name)
		if err != nil || until.IsZero() {
			t.Fatal("not retained:", err)
		}
		overwrite(t, s, o.Bucket, "brief/"+name, "something else")
		testenv.Until(t, "the end of a retention", func() error {
			err := d.Delete(t.Context(), name)
			if err != nil && !errors.Is(err, object.ErrRetained) {
				t.Fatal(err)
			}
			return err
		})
		if now := time.Now(); now.Before(until) {
			t.Errorf("deleted at %s, and retained until %s", now, until)
		}
		if left := versions(t, s, o.Bucket, "brief/"+name); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
	})
}

// A bucket without object lock promises nothing, and that is said.
func TestRetentionWithoutLock(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		plain := open(t, o)
		if err := put(t.Context(), plain, []byte("content")); err != nil {
			t.Fatal(err)
		}
		if until, err := plain.Retention(t.Context(), name); err != nil || !until.IsZero() {
			t.Errorf("retained until %s: %v", until, err)
		}
		o.RetainMode, o.RetainFor = s3.RetainCompliance, time.Hour
		d, err := s3.Open(t.Context(), o)
		if err == nil {
			defer d.Close()
			err = d.Put(t.Context(), "packs/ab/new", strings.NewReader("x"), 1)
		}
		if err == nil || errors.Is(err, object.ErrUnavailable) || !strings.Contains(err.Error(), "missing ObjectLockConfiguration") {
			t.Error("want that the bucket has no object lock:", err)
		}
	})
}

// Deleting leaves a marker and what was, unless all versions are to go.
func TestVersions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		o.Bucket = s.NewBucket(t, objectserver.BucketOptions{Versioning: true})
		hides := open(t, o)
		o.DeleteVersions = true
		deletes := open(t, o)
		const neighbour = name + "-2"
		if err := deletes.Put(t.Context(), neighbour, strings.NewReader("neighbour"), 9); err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			err := put(t.Context(), hides, []byte("content"))
			if round > 0 && s.Kind == objectserver.Versitygw {
				// It takes what was deleted for what is there.
				if err == nil || errors.Is(err, object.ErrExist) || !strings.Contains(err.Error(), "delete_versions") {
					t.Error("put what was deleted:", err)
				}
				break
			}
			if err != nil {
				t.Fatal(round, err)
			}
			overwrite(t, s, o.Bucket, name, "something else")
			before := len(versions(t, s, o.Bucket, name))
			if err := hides.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			all := versions(t, s, o.Bucket, name)
			if len(all) != before+1 || !all[0].IsDeleteMarker {
				t.Errorf("%d: %+v", round, all)
			}
			if _, err := hides.Stat(t.Context(), name); !errors.Is(err, object.ErrNotExist) {
				t.Error(err)
			}
			if err := hides.Delete(t.Context(), name); err != nil {
				t.Error("delete again:", err)
			}
		}
		page, _, err := hides.List(t.Context(), "", "", 10)
		if err != nil || len(page) != 1 || page[0].Name != neighbour {
			t.Errorf("listed %v: %v", page, err)
		}
		for range 2 {
			if err := deletes.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if left := versions(t, s, o.Bucket, name); len(left) != 0 {
				t.Errorf("left: %+v", left)
			}
		}
		if all := versions(t, s, o.Bucket, neighbour); len(all) != 1 {
			t.Errorf("neighbour: %+v", all)
		}
		if err := put(t.Context(), deletes, []byte("content")); err != nil {
			t.Error("put what was deleted:", err)
		}
	})
}
