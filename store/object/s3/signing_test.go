package s3_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
)

// An issuer gives who shows a token the next of some keys.
type issuer struct {
	keys []credentials.Value
	at   atomic.Int64 // how many were given
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	k := i.keys[(i.at.Add(1)-1)%int64(len(i.keys))]
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
		`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration>`+
		`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
		k.AccessKeyID, k.SecretAccessKey, k.SessionToken, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

// rotated returns options for a store behind a proxy, and keys of it that take
// turns at each request for some.
func rotated(t *testing.T, s *objectserver.S3Server) (s3.Options, *proxy, *issuer) {
	t.Helper()
	o := bare(t, s, s3.CredentialsWebIdentity)
	p := newProxy(t, s)
	o.Endpoint, o.PartSize, o.Parallel = p.URL, partSize, 2
	i := &issuer{keys: []credentials.Value{keys(t, s), keys(t, s)}}
	if i.keys[0].AccessKeyID == i.keys[1].AccessKeyID {
		t.Fatal("the keys are the same")
	}
	sts := httptest.NewServer(i)
	t.Cleanup(sts.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("the token"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
	return o, p, i
}

func signedBy(r *http.Request, k credentials.Value) bool {
	return strings.Contains(r.Header.Get("Authorization"), "Credential="+k.AccessKeyID+"/")
}

// Whatever is being done when the store takes its keys no more goes on with new
// ones, though nothing is above the driver that tries again.
func TestKeysEndMeanwhile(t *testing.T) {
	s := objectserver.S3(t, objectserver.MinIO)
	for code, status := range map[string]int{
		"ExpiredToken": http.StatusBadRequest, "TokenRefreshRequired": http.StatusBadRequest, "InvalidToken": http.StatusBadRequest,
		"InvalidTokenId": http.StatusForbidden, "InvalidAccessKeyId": http.StatusForbidden, "SignatureDoesNotMatch": http.StatusForbidden,
	} {
		t.Run(code, func(t *testing.T) {
			o, p, i := rotated(t, s)
			d := open(t, o)
			content := large()
			steps := []struct {
				what string
				do   func() error
			}{
				{"put in parts", func() error { return put(t.Context(), d, content) }},
				{"put", func() error { return d.Put(t.Context(), "packs/small", strings.NewReader("x"), 1) }},
				{"stat", func() error { _, err := d.Stat(t.Context(), name); return err }},
				{"get", func() error {
					got, err := get(t, d, 0, -1)
					if err == nil && !bytes.Equal(got, content) {
						err = fmt.Errorf("got %d other bytes", len(got))
					}
					return err
				}},
				{"list", func() error { _, _, err := d.List(t.Context(), "", "", 10); return err }},
				{"delete many", func() error {
					errs, err := d.DeleteMany(t.Context(), []string{"packs/small"})
					return errors.Join(append(errs, err)...)
				}},
				{"delete", func() error { return d.Delete(t.Context(), name) }},
			}
			for _, step := range steps {
				over := i.keys[(i.at.Load()-1)%2]
				given := i.at.Load()
				p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
					if !signedBy(r, over) {
						return false
					}
					w.WriteHeader(status)
					fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no more</Message></Error>", code)
					return true
				}
				if err := step.do(); err != nil {
					t.Errorf("%s: %v", step.what, err)
				}
				if n := i.at.Load() - given; n < 1 || n%2 == 0 {
					t.Errorf("%s: new keys were asked for %d times", step.what, n)
				}
			}
		})
	}
}

// A store that takes no keys at all is not asked for ever, and is said to be
// refusing them.
func TestKeysNeverGood(t *testing.T) {
	s := objectserver.S3(t, objectserver.MinIO)
	o, p, _ := rotated(t, s)
	d := open(t, o)
	p.meddle = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<Error><Code>InvalidAccessKeyId</Code></Error>")
		return true
	}
	before := p.count(func(*http.Request) bool { return true })
	_, err := get(t, d, 0, -1)
	refusedCredentials(t, err)
	if n := p.count(func(*http.Request) bool { return true }) - before; n != 3 {
		t.Errorf("asked %d times", n)
	}
}

// A clock that is wrong by some hours, or is set in between, fails nothing. By
// years it is said to be wrong.
func TestClockCorrected(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		server, g := newGateway(t, s)
		o := options(t, s)
		o.Endpoint, o.PartSize, o.Parallel = server.URL+gatewayPath, partSize, 2
		g.skew.Store(int64(5 * time.Hour))
		d, content := open(t, o), large()
		for _, skew := range []time.Duration{5 * time.Hour, 0, -5 * time.Hour} {
			g.skew.Store(int64(skew))
			before := g.asked.Load()
			if _, err := d.Stat(t.Context(), name); !errors.Is(err, object.ErrNotExist) {
				t.Error("stat:", err)
			}
			if n := g.asked.Load() - before; n > 2 {
				t.Errorf("%d requests for one", n)
			}
			g.skew.Store(int64(skew + time.Hour)) // again, while there is something to send
			if err := put(t.Context(), d, content); err != nil {
				t.Error("put:", err)
			}
			g.skew.Store(int64(skew))
			if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
				t.Errorf("get %d bytes: %v", len(got), err)
			}
			if err := d.Delete(t.Context(), name); err != nil {
				t.Error("delete:", err)
			}
		}
		g.skew.Store(int64(200 * 24 * time.Hour))
		_, err := get(t, d, 0, -1)
		var p *object.PermissionError
		if !errors.As(err, &p) || !strings.Contains(p.Action, "clock") || !strings.Contains(p.Action, "behind") || !strings.Contains(p.Action, "h") {
			t.Error("want that the clock is to blame, and by how much:", err)
		}
	})
}

// gatewayPath is where a gateway has its store.
const gatewayPath = "/storage/v1/s3"

// A gateway hands on what is below its path, once the signature is right, which
// must be over the whole path that was asked for. So do Supabase and others.
type gateway struct {
	t    *testing.T
	s    *objectserver.S3Server
	pass http.Handler
	// skew is how far its clock is before that of the test, in nanoseconds.
	skew, asked atomic.Int64
}

func newGateway(t *testing.T, s *objectserver.S3Server) (*httptest.Server, *gateway) {
	t.Helper()
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, s: s}
	g.pass = &httputil.ReverseProxy{ModifyResponse: func(r *http.Response) error {
		r.Header.Set("Date", g.date())
		return nil
	}, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Path, r.Out.URL.RawPath = strings.TrimPrefix(r.In.URL.Path, gatewayPath), ""
		r.SetURL(u)
		r.Out.Header.Del("Authorization")
		for name := range r.Out.Header { // what a proxy adds or takes away is not signed
			if !strings.HasPrefix(name, "X-Amz-") && name != "If-None-Match" && name != "Content-Md5" && name != "Content-Type" && name != "Range" {
				r.Out.Header.Del(name)
			}
		}
		*r.Out = *signer.SignV4(*r.Out, s.AccessKey, s.SecretKey, "", s.Region)
	}}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	return server, g
}

func (g *gateway) now() time.Time { return time.Now().Add(time.Duration(g.skew.Load())) }

func (g *gateway) date() string { return g.now().UTC().Format(http.TimeFormat) }

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if got, want := r.Header.Get("Authorization"), g.signature(r); !strings.HasSuffix(got, "Signature="+want) {
		g.t.Errorf("%s %s: the signature is not over the path", r.Method, r.URL)
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<Error><Code>SignatureDoesNotMatch</Code></Error>")
		return
	}
	g.asked.Add(1)
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || at.Sub(g.now()).Abs() > 15*time.Minute {
		w.Header().Set("Date", g.date())
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<Error><Code>RequestTimeTooSkewed</Code></Error>")
		return
	}
	if !strings.HasPrefix(r.URL.Path, gatewayPath+"/") {
		g.t.Errorf("%s %s is not below the gateway's path", r.Method, r.URL)
		w.WriteHeader(http.StatusNotFound)
		return
	}
	g.pass.ServeHTTP(w, r)
}

// signature is what a request's should be.
func (g *gateway) signature(r *http.Request) string {
	auth := r.Header.Get("Authorization")
	_, names, _ := strings.Cut(auth, "SignedHeaders=")
	names, _, _ = strings.Cut(names, ",")
	lines := ""
	for _, n := range strings.Split(names, ";") {
		v := r.Header.Get(n)
		switch n {
		case "host":
			v = r.Host
		case "content-length":
			v = fmt.Sprint(r.ContentLength)
		}
		lines += n + ":" + v + "\n"
	}
	date := r.Header.Get("X-Amz-Date")
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	sum := sha256.Sum256([]byte(strings.Join([]string{r.Method, r.URL.EscapedPath(), query, lines, names, r.Header.Get("X-Amz-Content-Sha256")}, "\n")))
	mac := func(k []byte, text string) []byte {
		h := hmac.New(sha256.New, k)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	k := []byte("AWS4" + g.s.SecretKey)
	for _, part := range []string{date[:8], g.s.Region, "s3", "aws4_request"} {
		k = mac(k, part)
	}
	return hex.EncodeToString(mac(k, strings.Join([]string{"AWS4-HMAC-SHA256", date, date[:8] + "/" + g.s.Region + "/s3/aws4_request", hex.EncodeToString(sum[:])}, "\n")))
}

// An endpoint may have a path.
func TestEndpointWithPath(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		g, _ := newGateway(t, s)
		for _, slash := range []string{"", "/"} {
			o := options(t, s)
			o.Endpoint, o.Prefix, o.PartSize = g.URL+gatewayPath+slash, "of/a=b+c@d", partSize
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
				if err := put(t.Context(), d, content); !errors.Is(err, object.ErrExist) {
					t.Error("put again:", err)
				}
				if errs, err := d.DeleteMany(t.Context(), []string{name}); err != nil || errs[0] != nil {
					t.Error("delete:", errs, err)
				}
			}
			o.Bucket = "missing-bucket"
			if _, err := s3.Open(t.Context(), o); !errors.Is(err, object.ErrNotExist) {
				t.Error("a bucket that is not there:", err)
			}
		}
	})
	for endpoint, word := range map[string]string{
		"https://x.example.net/a/../b": "dots", "https://x.example.net/a//b": "empty parts", "https://x.example.net/?a=b": "end with", "https://x.example.net/a#b": "end with",
	} {
		err := s3.Options{Bucket: "bucket", Endpoint: endpoint}.Validate()
		if err == nil || !strings.Contains(err.Error(), "endpoint: ") || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	err := s3.Options{Bucket: "bucket", Endpoint: "https://x.example.net/a", Addressing: s3.AddressingVirtual}.Validate()
	if err == nil || !strings.Contains(err.Error(), "endpoint: ") || !strings.Contains(err.Error(), "addressing") {
		t.Error(err)
	}
}
