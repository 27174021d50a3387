package s3_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/objecttest"
	"jetkeep/store/object/s3"
)

// some runs a test on a server, and in a campaign on each.
func some(t *testing.T, test func(t *testing.T, s *objectserver.S3Server)) {
	t.Helper()
	on(t, objectserver.SomeS3Kinds(), test)
}

// each runs a test on every server, as it is MinIO alone that has what it is about:
// tokens, versions that are put again, retentions whose mode it tells, classes and
// keys that it encrypts with.
func each(t *testing.T, test func(t *testing.T, s *objectserver.S3Server)) {
	t.Helper()
	on(t, objectserver.S3Kinds(), test)
}

func on(t *testing.T, kinds []string, test func(t *testing.T, s *objectserver.S3Server)) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { test(t, objectserver.S3(t, kind)) })
	}
}

func options(t *testing.T, s *objectserver.S3Server) s3.Options {
	t.Helper()
	return s3.Options{
		Endpoint: s.Endpoint, Region: s.Region, Bucket: s.NewBucket(t, objectserver.BucketOptions{}),
		AccessKey: s.AccessKey, SecretKey: s.SecretKey, Addressing: s3.AddressingPath,
	}
}

func open(t *testing.T, o s3.Options) *s3.Driver {
	t.Helper()
	d, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestConformance(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		objecttest.Run(t, func(t *testing.T) object.Driver {
			o.Prefix = fmt.Sprintf("p/%016x", rand.Uint64())
			return open(t, o)
		})
	})
}

// In parts, for whatever is larger than 10 MiB.
func TestConformanceInParts(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		o.PartSize = s3.MinPartSize
		objecttest.Run(t, func(t *testing.T) object.Driver {
			o.Prefix = fmt.Sprintf("p/%016x", rand.Uint64())
			return open(t, o)
		})
	})
}

// As on stores that know neither If-None-Match nor checksums and keep every
// version, such as Backblaze B2 and, without versions, Google Cloud Storage.
func TestConformanceWithoutExtras(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o, p := behind(t, s)
		p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
			for name := range r.Header {
				if name == "If-None-Match" || strings.Contains(name, "Checksum") {
					t.Errorf("%s %s has %s", r.Method, r.URL, name)
					w.WriteHeader(http.StatusNotImplemented)
					return true
				}
			}
			return false
		}
		for _, versions := range []bool{false, true} {
			o.Bucket = s.NewBucket(t, objectserver.BucketOptions{Versioning: versions})
			o.Checksum, o.ConditionalWrites, o.DeleteVersions = s3.ChecksumNone, s3.ConditionalNo, versions
			t.Run(fmt.Sprintf("versions %t", versions), func(t *testing.T) {
				objecttest.Run(t, func(t *testing.T) object.Driver {
					o.Prefix = fmt.Sprintf("p/%016x", rand.Uint64())
					return open(t, o)
				})
			})
			d, content := open(t, o), large()
			if err := put(t.Context(), d, content); err != nil {
				t.Fatal(err)
			}
			if err := put(t.Context(), d, content); !errors.Is(err, object.ErrExist) {
				t.Error("put again:", err)
			}
			p.answer = func(r *http.Response) {
				if r.Request.Method == http.MethodGet {
					r.Body = &flipped{r.Body, 100}
				}
			}
			if _, err := get(t, d, 0, -1); !errors.Is(err, object.ErrChecksum) {
				t.Error("one bit is another one:", err)
			}
			p.answer = nil
			if err := d.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			known := p.meddle
			p.meddle = func(_ http.ResponseWriter, r *http.Request) bool {
				if isPart(r) {
					r.Body = &flipped{r.Body, 100}
				}
				return false
			}
			if err := put(t.Context(), d, content); !errors.Is(err, object.ErrChecksum) {
				t.Error("one bit is another one:", err)
			}
			p.meddle = known
		}
	})
}
