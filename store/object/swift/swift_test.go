package swift_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/objecttest"
	"jetkeep/store/object/swift"
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

func options(s *objectserver.SwiftServer) swift.Options {
	return swift.Options{
		AuthURL: s.AuthURL, AuthVersion: 1, User: s.User, Key: s.Key, Container: fmt.Sprintf("test-%016x", rand.Uint64()),
	}
}

func keystone(s *objectserver.SwiftServer) swift.Options {
	k := s.Keystone
	return swift.Options{
		AuthURL: k.AuthURL, AuthVersion: 3, User: k.User, Key: k.Password, Project: k.Project, Domain: k.Domain, Region: k.Region,
		Container: fmt.Sprintf("test-%016x", rand.Uint64()),
	}
}

func create(t *testing.T, o swift.Options) *swift.Driver {
	t.Helper()
	d, err := swift.Create(t.Context(), o)
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

func conformance(t *testing.T, o swift.Options) {
	objecttest.Run(t, func(t *testing.T) object.Driver {
		o.Prefix = fmt.Sprintf("p/%016x", rand.Uint64())
		return create(t, o)
	})
}

func TestConformance(t *testing.T) {
	conformance(t, options(objectserver.Swift(t, objectserver.SwiftOptions{})))
}

// With segments, for whatever is larger than 1 MiB.
func TestConformanceInSegments(t *testing.T) {
	o := options(objectserver.Swift(t, objectserver.SwiftOptions{}))
	o.SegmentSize = swift.MinSegmentSize
	conformance(t, o)
}

func TestConformanceWithKeystone(t *testing.T) {
	conformance(t, keystone(objectserver.Swift(t, objectserver.SwiftOptions{Keystone: true})))
}
