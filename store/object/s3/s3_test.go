package s3_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/objecttest"
	"jetkeep/store/object/s3"
)

// each runs a test on every server.
func each(t *testing.T, test func(t *testing.T, s *objectserver.S3Server)) {
	t.Helper()
	for _, kind := range objectserver.S3Kinds() {
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
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		objecttest.Run(t, func(t *testing.T) object.Driver {
			o.Prefix = fmt.Sprintf("p/%016x", rand.Uint64())
			return open(t, o)
		})
	})
}

// In parts, for whatever is larger than 10 MiB.
func TestConformanceInParts(t *testing.T) {
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		o.PartSize = s3.MinPartSize
		objecttest.Run(t, func(t *testing.T) object.Driver {
			o.Prefix = fmt.Sprintf("p/%016x", rand.Uint64())
			return open(t, o)
		})
	})
}
