package objectserver_test

import (
	"bytes"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/ncw/swift/v2"

	"jetkeep/store/object/objectserver"
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

func TestS3(t *testing.T) {
	for _, kind := range objectserver.S3Kinds() {
		t.Run(kind, func(t *testing.T) {
			s := objectserver.S3(t, kind)
			if again := objectserver.S3(t, kind); again != s {
				t.Error("a second server was started")
			}
			bucket := s.NewBucket(t, objectserver.BucketOptions{Lock: true})
			put := func(name string) error {
				c, err := s.Client(s.Owner())
				if err != nil {
					return err
				}
				o := minio.PutObjectOptions{DisableMultipart: true}
				o.SetMatchETagExcept("*")
				_, err = c.PutObject(t.Context(), bucket, name, bytes.NewReader([]byte("x")), 1, o)
				return err
			}
			if err := put("a"); err != nil {
				t.Fatal(err)
			}
			if err := put("a"); minio.ToErrorResponse(err).StatusCode != http.StatusPreconditionFailed {
				t.Errorf("an object was put over another: %v", err)
			}
		})
	}
}

func roundTrip(t *testing.T, c *swift.Connection) {
	t.Helper()
	ctx := t.Context()
	if err := c.Authenticate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.ContainerCreate(ctx, "c", nil); err != nil {
		t.Fatal(err)
	}
	if err := c.ObjectPutString(ctx, "c", "a", "text", ""); err != nil {
		t.Fatal(err)
	}
	if got, err := c.ObjectGetString(ctx, "c", "a"); err != nil || got != "text" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestSwift(t *testing.T) {
	s := objectserver.Swift(t, objectserver.SwiftOptions{})
	c := &swift.Connection{AuthUrl: s.AuthURL, UserName: s.User, ApiKey: s.Key, AuthVersion: 1}
	roundTrip(t, c)
	names := func() []string {
		t.Helper()
		list, err := c.ObjectNames(t.Context(), "c", nil)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	thaw := s.Freeze(t)
	if err := c.ObjectPutString(t.Context(), "c", "late", "text", ""); err != nil {
		t.Fatal(err)
	}
	thaw()
	if list := names(); len(list) != 1 {
		t.Errorf("listed %v, where listings should lag", list)
	}
	if got, err := c.ObjectGetString(t.Context(), "c", "late"); err != nil || got != "text" {
		t.Errorf("read %q, %v", got, err)
	}
	s.Update(t)
	if list := names(); len(list) != 2 {
		t.Errorf("listed %v, where listings should be current", list)
	}
}

func TestKeystone(t *testing.T) {
	s := objectserver.Swift(t, objectserver.SwiftOptions{Keystone: true, TokenLife: time.Hour})
	k := s.Keystone
	roundTrip(t, &swift.Connection{
		AuthUrl: k.AuthURL, UserName: k.User, ApiKey: k.Password, Tenant: k.Project, Domain: k.Domain, Region: k.Region, AuthVersion: 3,
	})
	reader := &swift.Connection{
		AuthUrl: k.AuthURL, UserName: k.Reader, ApiKey: k.ReaderPassword, Tenant: k.Project, Domain: k.Domain, Region: k.Region, AuthVersion: 3,
	}
	if _, err := reader.ContainerNames(t.Context(), nil); err == nil {
		t.Error("a user without rights lists containers")
	}
}
