package swift_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/ncw/swift/v2"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/retry"
	"jetkeep/store/object/swift"
)

const mib = 1 << 20

// content is what does not compress, the same for each size.
func content(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// raw is a connection of the account's owner, to look behind the driver.
func raw(t *testing.T, s *objectserver.SwiftServer) *client.Connection {
	t.Helper()
	c := &client.Connection{AuthUrl: s.AuthURL, AuthVersion: 1, UserName: s.User, ApiKey: s.Key}
	if err := c.Authenticate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// names lists a container, segments and all.
func names(t *testing.T, c *client.Connection, container string) []string {
	t.Helper()
	list, err := c.ObjectNamesAll(t.Context(), container, nil)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func segmented(t *testing.T) (*objectserver.SwiftServer, swift.Options) {
	t.Helper()
	s := objectserver.Swift(t, objectserver.SwiftOptions{})
	o := options(s)
	o.SegmentSize, o.Prefix = swift.MinSegmentSize, "p"
	return s, o
}

// The token expires while a large object is uploaded, several times.
func TestTokenRenewedDuringUpload(t *testing.T) {
	t.Parallel()
	s, o := segmented(t)
	create(t, o)
	var puts, expired, logins atomic.Int32
	o.AuthURL = between(t, s.URL, func(*http.Request) { logins.Add(1) }, nil) + "/auth/v1.0"
	o.StorageURL = between(t, s.URL, func(r *http.Request) {
		if r.Method == http.MethodPut && puts.Add(1)%4 == 0 {
			expired.Add(1)
			r.Header.Set("X-Auth-Token", "AUTH_tkexpired")
		}
	}, nil) + "/v1/AUTH_test"
	b := object.NewBucket(create(t, o))
	begun := logins.Load()
	data := content(12 * mib)
	if err := b.PutBytes(t.Context(), "packs/large", data); err != nil {
		t.Fatal(err)
	}
	if expired.Load() < 3 || logins.Load() == begun {
		t.Errorf("%d tokens expired, %d logins", expired.Load(), logins.Load()-begun)
	}
	if got, err := b.ReadAll(t.Context(), "packs/large", 20*mib); err != nil || !bytes.Equal(got, data) {
		t.Error(len(got), err)
	}
}

// An upload that is ended leaves nothing, and deleting a large object leaves
// none of its segments.
func TestNoSegmentsAreLeft(t *testing.T) {
	t.Parallel()
	s, o := segmented(t)
	c := raw(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var puts atomic.Int32
	ended := o
	ended.StorageURL = between(t, s.URL, func(r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/0000") && puts.Add(1) == 6 {
			cancel()
		}
	}, nil) + "/v1/AUTH_test"
	b := object.NewBucket(create(t, ended))
	if err := b.PutBytes(ctx, "packs/large", content(12*mib)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := puts.Load(); n < 6 {
		t.Error(n, "segments were sent")
	}
	if left := names(t, c, o.Container); len(left) != 0 {
		t.Error("a cancelled upload left", left)
	}
	b = object.NewBucket(create(t, o))
	if err := b.PutBytes(t.Context(), "packs/large", content(5*mib)); err != nil {
		t.Fatal(err)
	}
	if there := names(t, c, o.Container); len(there) != 6 {
		t.Error("a manifest and five segments are", there)
	}
	if err := b.Delete(t.Context(), "packs/large"); err != nil {
		t.Error(err)
	}
	if left := names(t, c, o.Container); len(left) != 0 {
		t.Error("deleting left", left)
	}
}

// A large object with a segment that is gone, or is another, cannot be read as
// if it were whole.
func TestBrokenSegments(t *testing.T) {
	for name, spoil := range map[string]func(c *client.Connection, container, segment string) error{
		"missing": func(c *client.Connection, container, segment string) error {
			return c.ObjectDelete(context.Background(), container, segment)
		},
		"another": func(c *client.Connection, container, segment string) error {
			return c.ObjectPutBytes(context.Background(), container, segment, make([]byte, mib), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, o := segmented(t)
			b := object.NewBucket(create(t, o))
			if err := b.PutBytes(t.Context(), "packs/large", content(4*mib)); err != nil {
				t.Fatal(err)
			}
			c := raw(t, s)
			for _, n := range names(t, c, o.Container) {
				if strings.HasSuffix(n, "/00000002") {
					if err := spoil(c, o.Container, n); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got, err := b.ReadAll(t.Context(), "packs/large", 20*mib); err == nil {
				t.Errorf("%d bytes were read", len(got))
			}
		})
	}
}

// Listings lag; what was stored is there all the same.
func TestLaggingListing(t *testing.T) {
	s, o := segmented(t)
	b := object.NewBucket(create(t, o))
	if err := b.PutBytes(t.Context(), "packs/before", []byte("before")); err != nil {
		t.Fatal(err)
	}
	list := func() (out []string) {
		t.Helper()
		for info, err := range b.List(t.Context(), "packs/") {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, info.Name)
		}
		return out
	}
	if got := list(); len(got) != 1 {
		t.Fatal(got)
	}
	thaw := s.Freeze(t)
	if err := b.PutBytes(t.Context(), "packs/after", []byte("after")); err != nil {
		t.Fatal(err)
	}
	if got, err := b.ReadAll(t.Context(), "packs/after", 10); string(got) != "after" || err != nil {
		t.Error(string(got), err)
	}
	if _, err := b.Stat(t.Context(), "packs/after"); err != nil {
		t.Error(err)
	}
	if err := b.PutBytes(t.Context(), "packs/after", []byte("again")); !errors.Is(err, object.ErrExist) {
		t.Error(err)
	}
	thaw()
	if got := list(); len(got) != 1 {
		t.Error("the listing does not lag:", got)
	}
	s.Update(t)
	if got := list(); len(got) != 2 {
		t.Error(got)
	}
}

func TestQuota(t *testing.T) {
	s, o := segmented(t)
	b := object.NewBucket(create(t, o))
	if err := raw(t, s).ContainerUpdate(t.Context(), o.Container, client.Headers{"X-Container-Meta-Quota-Bytes": "900000"}); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100_000, mib, 5 * mib} {
		name := fmt.Sprintf("packs/%d", size)
		err := b.PutBytes(t.Context(), name, content(size))
		if size < mib && err != nil || size >= mib && !errors.Is(err, object.ErrNoSpace) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if left := names(t, raw(t, s), o.Container); len(left) != 1 {
		t.Error("there are", left)
	}
}

// Nothing that is stored has an end, and what was given one is noticed.
func TestObjectsHaveNoEnd(t *testing.T) {
	s, o := segmented(t)
	b := object.NewBucket(create(t, o))
	c := raw(t, s)
	for name, size := range map[string]int{"packs/small": 10, "packs/large": 3 * mib} {
		if err := b.PutBytes(t.Context(), name, content(size)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range names(t, c, o.Container) {
		_, headers, err := c.Object(t.Context(), o.Container, n)
		if err != nil || headers["X-Delete-At"] != "" {
			t.Error(n, headers, err)
		}
	}
	if err := c.ObjectUpdate(t.Context(), o.Container, "p/packs/small", client.Headers{"X-Delete-After": "86400"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stat(t.Context(), "packs/small"); err == nil || !strings.Contains(err.Error(), "X-Delete-At") {
		t.Error(err)
	}
}

// between is a proxy that changes what passes.
func between(t *testing.T, to string, request func(*http.Request), answer func(*http.Response) error) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			if request != nil {
				request(r.Out)
			}
		},
		ModifyResponse: answer,
		// Swift ends some answers with bytes that belong to no answer.
		Transport: &http.Transport{DisableKeepAlives: true},
	})
	t.Cleanup(s.Close)
	return s.URL
}

// A flipped reader changes one byte.
type flipped struct {
	io.ReadCloser
	done bool
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 && !f.done {
		p[n/2] ^= 1
		f.done = true
	}
	return n, err
}

// What is changed on the way, up or down, is noticed.
func TestChangedOnTheWay(t *testing.T) {
	s, o := segmented(t)
	o.Retry = retry.Policy{Attempts: 2, Base: time.Millisecond}
	good := object.NewBucket(create(t, o))
	var up, down atomic.Bool
	o.StorageURL = between(t, s.URL, func(r *http.Request) {
		if up.Load() && r.Method == http.MethodPut && r.Body != nil && !r.URL.Query().Has("multipart-manifest") {
			r.Body = &flipped{ReadCloser: r.Body}
		}
	}, func(r *http.Response) error {
		if down.Load() && r.Request.Method == http.MethodGet {
			r.Body = &flipped{ReadCloser: r.Body}
		}
		return nil
	}) + "/v1/AUTH_test"
	b := object.NewBucket(create(t, o))
	for _, size := range []int{1000, 3 * mib} {
		name := fmt.Sprintf("packs/%d", size)
		up.Store(true)
		if err := b.PutBytes(t.Context(), name, content(size)); !errors.Is(err, object.ErrChecksum) {
			t.Errorf("%d bytes up: %v", size, err)
		}
		if _, err := good.Stat(t.Context(), name); !errors.Is(err, object.ErrNotExist) {
			t.Errorf("%d bytes are there: %v", size, err)
		}
		up.Store(false)
		if err := b.PutBytes(t.Context(), name, content(size)); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		if _, err := b.ReadAll(t.Context(), name, 20*mib); !errors.Is(err, object.ErrChecksum) {
			t.Errorf("%d bytes down: %v", size, err)
		}
		down.Store(false)
		if got, err := b.ReadAll(t.Context(), name, 20*mib); err != nil || !bytes.Equal(got, content(size)) {
			t.Error(len(got), err)
		}
	}
}

// The server's bulk delete is used, and says for each object what became of it.
func TestBulkDelete(t *testing.T) {
	s, o := segmented(t)
	d := create(t, o)
	b := object.NewBucket(d)
	all := []string{"packs/a", "packs/b c", "packs/large", "packs/none"}
	for i, name := range all[:3] {
		if err := d.Put(t.Context(), name, bytes.NewReader(content(max(10, (i-1)*3*mib))), int64(max(10, (i-1)*3*mib))); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw(t, s).ContainerUpdate(t.Context(), o.Container, client.Headers{"X-Container-Read": s.Reader}); err != nil {
		t.Fatal(err)
	}
	reader := o
	reader.User, reader.Key, reader.StorageURL = s.Reader, "testing3", s.URL+"/v1/AUTH_test"
	errs, err := create(t, reader).DeleteMany(t.Context(), all)
	for i, e := range errs {
		var refused *object.PermissionError
		if i < 3 && !errors.As(e, &refused) || i == 3 && e != nil {
			t.Errorf("%s, by who may only read: %v", all[i], e)
		}
	}
	if err != nil || len(errs) != 4 {
		t.Error(errs, err)
	}
	if left := names(t, raw(t, s), o.Container); len(left) != 6 {
		t.Error("some are gone:", left)
	}
	errs, err = d.DeleteMany(t.Context(), all)
	if err != nil || len(errs) != 4 || errors.Join(errs...) != nil {
		t.Error(errs, err)
	}
	if left := names(t, raw(t, s), o.Container); len(left) != 0 {
		t.Error("left are", left)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
