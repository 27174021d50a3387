package swift_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/swift"
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

// A site is a container with a repository, made by its owner.
type site struct {
	owner          swift.Options
	env            []string // of the owner, for the swift command
	reader, writer swift.Options
	// as the lists name them
	readerName, writerName string
}

func tempauth(t *testing.T) *site {
	t.Helper()
	s := objectserver.Swift(t, objectserver.SwiftOptions{})
	x := &site{
		owner: swift.Options{AuthURL: s.AuthURL, AuthVersion: 1, User: s.User, Key: s.Key},
		env:   []string{"ST_AUTH=" + s.AuthURL, "ST_USER=" + s.User, "ST_KEY=" + s.Key},
	}
	url := s.URL + "/v1/AUTH_test"
	x.reader = swift.Options{AuthURL: s.AuthURL, AuthVersion: 1, User: s.Reader, Key: "testing3", StorageURL: url}
	x.writer = swift.Options{AuthURL: s.AuthURL, AuthVersion: 1, User: s.Writer, Key: "testing2", StorageURL: url}
	x.readerName, x.writerName = s.Reader, s.Writer
	return x
}

func keystone(t *testing.T) *site {
	t.Helper()
	k := objectserver.Swift(t, objectserver.SwiftOptions{Keystone: true}).Keystone
	x := &site{owner: swift.Options{
		AuthURL: k.AuthURL, AuthVersion: 3, User: k.User, Key: k.Password, Project: k.Project, Domain: k.Domain, Region: k.Region,
	}}
	x.env = []string{
		"OS_AUTH_URL=" + k.AuthURL, "OS_IDENTITY_API_VERSION=3", "OS_USERNAME=" + k.User, "OS_PASSWORD=" + k.Password,
		"OS_PROJECT_NAME=" + k.Project, "OS_USER_DOMAIN_NAME=" + k.Domain, "OS_PROJECT_DOMAIN_NAME=" + k.Domain, "OS_REGION_NAME=" + k.Region,
	}
	x.reader = x.owner
	x.reader.User, x.reader.Key = k.Reader, k.ReaderPassword
	x.readerName = k.Project + ":" + k.Reader
	x.writer, x.writerName = x.reader, x.readerName // there is one without rights
	return x
}

func onEach(t *testing.T, test func(t *testing.T, x *site)) {
	t.Helper()
	for name, make := range map[string]func(*testing.T) *site{"tempauth": tempauth, "keystone": keystone} {
		t.Run(name, func(t *testing.T) {
			x := make(t)
			container := fmt.Sprintf("test-%016x", rand.Uint64())
			for _, o := range []*swift.Options{&x.owner, &x.reader, &x.writer} {
				o.Container, o.SegmentSize = container, swift.MinSegmentSize
			}
			d, err := swift.Create(t.Context(), x.owner)
			if err != nil {
				t.Fatal(err)
			}
			owner := object.NewBucket(d)
			t.Cleanup(func() { _ = owner.Close() })
			if _, err := store.Init(t.Context(), owner, store.InitOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := owner.PutBytes(t.Context(), "packs/ab/old", make3()); err != nil {
				t.Fatal(err)
			}
			test(t, x)
		})
	}
}

// make3 returns 3 MiB, which is several segments.
func make3() []byte {
	b := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func (x *site) grant(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "./grant.sh", append([]string{x.owner.Container}, args...)...)
	cmd.Env = append(os.Environ(), x.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("grant.sh: %v\n%s", err, out)
	}
}

func open(t *testing.T, o swift.Options) *object.Bucket {
	t.Helper()
	d, err := swift.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b := object.NewBucket(d)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func outcomes(t *testing.T, b *object.Bucket) string {
	t.Helper()
	var out []string
	for _, step := range store.Probe(t.Context(), b) {
		out = append(out, step.Name+" "+step.Outcome)
	}
	return strings.Join(out, ", ")
}

func refused(t *testing.T, err error, access string) {
	t.Helper()
	var p *object.PermissionError
	if !errors.As(err, &p) || p.Action != access {
		t.Errorf("want a refusal that names %s: %v", access, err)
	}
}

func TestReader(t *testing.T) {
	onEach(t, func(t *testing.T, x *site) {
		if _, err := swift.Open(t.Context(), x.reader); err == nil {
			t.Fatal("may read before anything is granted")
		} else {
			refused(t, err, "X-Container-Read")
		}
		x.grant(t, x.readerName)
		b := open(t, x.reader)
		refused(t, b.PutBytes(t.Context(), "packs/ab/new", []byte("new")), "X-Container-Write")
		refused(t, b.PutBytes(t.Context(), "packs/ab/new", make3()), "X-Container-Write")
		refused(t, b.Delete(t.Context(), "packs/ab/old"), "X-Container-Write")
		if got, err := b.ReadAll(t.Context(), "packs/ab/old", 4<<20); err != nil || !bytes.Equal(got, make3()) {
			t.Error(len(got), err)
		}
		if got := outcomes(t, b); got != "write denied, read ok, list ok, delete skipped" {
			t.Error(got)
		}
		if _, err := store.Open(t.Context(), b, store.OpenOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestWriter(t *testing.T) {
	onEach(t, func(t *testing.T, x *site) {
		x.grant(t, "nobody:nobody", x.writerName)
		b := open(t, x.writer)
		for _, content := range [][]byte{[]byte("new"), make3()} {
			name := fmt.Sprintf("packs/ab/new%d", len(content))
			if err := b.PutBytes(t.Context(), name, content); err != nil {
				t.Error(err)
			}
			if got, err := b.ReadAll(t.Context(), name, 4<<20); err != nil || !bytes.Equal(got, content) {
				t.Error(len(got), err)
			}
		}
		if got := outcomes(t, b); got != "write ok, read ok, list ok, delete ok" {
			t.Error(got)
		}
	})
}
