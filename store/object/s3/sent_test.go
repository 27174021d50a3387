package s3_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
)

// TestMain has requests for servers with names go through virtual, for a name of
// no machine resolves nowhere. Addresses of this machine are asked directly.
func TestMain(m *testing.M) {
	proxy := httptest.NewServer(virtual)
	_ = os.Setenv("HTTP_PROXY", proxy.URL)
	code := objectserver.Main(m)
	proxy.Close()
	os.Exit(code)
}

// virtual hands on what is for <bucket>.<domain>:<port> to the server at that
// port.
var virtual = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "127.0.0.1:"+r.In.URL.Port(), r.In.Host
}}

// The bucket is in the host's name, as at Amazon.
func TestVirtualHost(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		u, err := url.Parse(s.Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		o.Endpoint, o.Addressing = "http://"+objectserver.Domain+":"+u.Port(), s3.AddressingVirtual
		o.PartSize = partSize
		d := open(t, o)
		for _, content := range [][]byte{random(1000), large()} {
			if err := put(t.Context(), d, content); err != nil {
				t.Fatal(err)
			}
			if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes: %v", len(got), err)
			}
			page, more, err := d.List(t.Context(), "packs/", "", 10)
			if err != nil || more || len(page) != 1 || page[0].Name != name {
				t.Errorf("listed %v, %t: %v", page, more, err)
			}
			if _, err := s.Root().StatObject(t.Context(), o.Bucket, name, minio.StatObjectOptions{}); err != nil {
				t.Error("it is not where it is by path:", err)
			}
			if err := d.Delete(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
		o.Bucket = "missing-bucket"
		if _, err := s3.Open(t.Context(), o); !errors.Is(err, object.ErrNotExist) {
			t.Error("open a bucket that is not there:", err)
		}
	})
}

// Prefixes keep repositories of one bucket apart.
func TestPrefixes(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		prefixes := []string{"a", "a/b", "ab", ""}
		drivers := map[string]*s3.Driver{}
		for _, prefix := range prefixes {
			o.Prefix = prefix
			drivers[prefix] = open(t, o)
			if err := put(t.Context(), drivers[prefix], []byte(prefix+".")); err != nil {
				t.Fatalf("%q: %v", prefix, err)
			}
		}
		for _, prefix := range prefixes {
			d := drivers[prefix]
			if got, err := get(t, d, 0, -1); err != nil || string(got) != prefix+"." {
				t.Errorf("%q: %q, %v", prefix, got, err)
			}
			page, _, err := d.List(t.Context(), "packs/", "", 10)
			if err != nil || len(page) != 1 || page[0].Name != name {
				t.Errorf("%q: %v, %v", prefix, page, err)
			}
		}
		if err := drivers["a"].Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if _, err := drivers["a"].Stat(t.Context(), name); !errors.Is(err, object.ErrNotExist) {
			t.Error(err)
		}
		for _, prefix := range prefixes[1:] {
			if _, err := drivers[prefix].Stat(t.Context(), name); err != nil {
				t.Errorf("%q: %v", prefix, err)
			}
		}
	})
}

// Storage class and tags arrive with objects of either size.
func TestClassAndTags(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		for _, content := range [][]byte{random(1000), large()} {
			o, p := behind(t, s)
			o.StorageClass, o.Tags = "REDUCED_REDUNDANCY", map[string]string{"team": "b: c/d", "cost-center": "4711"}
			d := open(t, o)
			if err := put(t.Context(), d, content); err != nil {
				t.Fatal(err)
			}
			wrong := o
			wrong.Tags = map[string]string{"team": "b & c"}
			if err := wrong.Validate(); err == nil || !strings.HasPrefix(err.Error(), "tags: ") {
				t.Error("want that these tags are none:", err)
			}
			tags, err := s.Root().GetObjectTagging(t.Context(), o.Bucket, name, minio.GetObjectTaggingOptions{})
			if err != nil || len(tags.ToMap()) != 2 || tags.ToMap()["team"] != "b: c/d" || tags.ToMap()["cost-center"] != "4711" {
				t.Errorf("tags %v: %v", tags, err)
			}
			sent := func(r *http.Request) bool {
				return (isObject(r) || beginsUpload(r)) && strings.HasSuffix(r.URL.Path, name) && r.Header.Get("X-Amz-Storage-Class") == o.StorageClass
			}
			if p.count(sent) != 1 {
				t.Error("storage class was not sent")
			}
			if s.Kind == objectserver.Versitygw {
				continue // has one class only
			}
			info, err := s.Root().StatObject(t.Context(), o.Bucket, name, minio.StatObjectOptions{})
			if err != nil || info.Metadata.Get("X-Amz-Storage-Class") != o.StorageClass {
				t.Errorf("stored as %v: %v", info.Metadata, err)
			}
		}
	})
}

const (
	encryptionHeader = "X-Amz-Server-Side-Encryption"
	keyHeader        = "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"
)

// MinIO encrypts with keys of its own; versitygw does not, but is asked to.
func TestEncryptionByStore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		for _, c := range []struct{ encryption, key, header string }{
			{s3.EncryptionAES256, "", "AES256"}, {s3.EncryptionKMS, "test-key", "aws:kms"},
		} {
			for _, content := range [][]byte{random(1000), large()} {
				o, p := behind(t, s)
				o.Encryption, o.KMSKey = c.encryption, c.key
				d := open(t, o)
				err := put(t.Context(), d, content)
				if s.Kind == objectserver.MinIO {
					if err != nil {
						t.Fatal(c.encryption, err)
					}
					if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s: %d bytes: %v", c.encryption, len(got), err)
					}
					info, err := s.Root().StatObject(t.Context(), o.Bucket, name, minio.StatObjectOptions{})
					if err != nil || info.Metadata.Get(encryptionHeader) != c.header || !strings.HasSuffix(info.Metadata.Get(keyHeader), c.key) {
						t.Errorf("%s: stored as %v: %v", c.encryption, info.Metadata, err)
					}
				}
				sent := func(r *http.Request) bool {
					return (isObject(r) || beginsUpload(r)) && r.Header.Get(encryptionHeader) == c.header && r.Header.Get(keyHeader) == c.key
				}
				if all := p.count(func(r *http.Request) bool { return isObject(r) || beginsUpload(r) }); all == 0 || p.count(sent) != all {
					t.Errorf("%s: asked for in %d of %d requests", c.encryption, p.count(sent), all)
				}
			}
		}
	})
}

// secure returns options for a server with TLS.
func secure(t *testing.T, kind string) (s3.Options, *objectserver.S3Server) {
	t.Helper()
	s := objectserver.S3TLS(t, kind)
	o := options(t, s)
	o.CAFile, o.PartSize = s.CAFile, partSize
	return o, s
}

// A key that each request brings goes over TLS only, and without it there is
// nothing to read.
func TestEncryptionByCustomerKey(t *testing.T) {
	t.Parallel()
	o, s := secure(t, objectserver.MinIO)
	o.Encryption, o.CustomerKey = s3.EncryptionCustomer, base64.StdEncoding.EncodeToString(random(32))
	d := open(t, o)
	for _, content := range [][]byte{random(1000), large()} {
		if err := put(t.Context(), d, content); err != nil {
			t.Fatal(err)
		}
		if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %v", len(got), err)
		}
		if got, err := get(t, d, 10, 20); err != nil || !bytes.Equal(got, content[10:30]) {
			t.Errorf("%x: %v", got, err)
		}
		if info, err := d.Stat(t.Context(), name); err != nil || info.Size != int64(len(content)) {
			t.Errorf("%+v: %v", info, err)
		}
		if _, err := s.Root().StatObject(t.Context(), o.Bucket, name, minio.StatObjectOptions{}); err == nil {
			t.Error("it is there without the key")
		}
		other := o
		other.CustomerKey = base64.StdEncoding.EncodeToString(make([]byte, 32))
		if got, err := get(t, open(t, other), 0, -1); err == nil {
			t.Errorf("%d bytes are read with another key", len(got))
		}
		if err := put(t.Context(), d, content); !errors.Is(err, object.ErrExist) {
			t.Error("put again:", err)
		}
		if err := d.Delete(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	o.Endpoint = strings.Replace(o.Endpoint, "https", "http", 1)
	if err := o.Validate(); err == nil {
		t.Error("a key may go over the network as it is")
	}
}

// The store's certificate is by an authority of its own, which is trusted if its
// file is given, and else not.
func TestTLS(t *testing.T) {
	t.Parallel()
	for _, kind := range objectserver.SomeS3Kinds() {
		t.Run(kind, func(t *testing.T) {
			o, _ := secure(t, kind)
			d, content := open(t, o), large()
			if err := put(t.Context(), d, content); err != nil {
				t.Fatal(err)
			}
			if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes: %v", len(got), err)
			}
			o.CAFile = ""
			_, err := s3.Open(t.Context(), o)
			if err == nil || errors.Is(err, object.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
				t.Error("want that the certificate is refused for good:", err)
			}
			o.CAFile = "missing.pem"
			if _, err := s3.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "ca_file") {
				t.Error(err)
			}
		})
	}
}
