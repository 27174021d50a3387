package s3_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
)

// A bucket that is not there is said to be, and one that is gone is not taken for
// one without objects.
func TestMissingBucket(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		o.Bucket = "missing-bucket"
		if _, err := s3.Open(t.Context(), o); !errors.Is(err, object.ErrNotExist) || !strings.Contains(err.Error(), "no bucket missing-bucket") {
			t.Error("open:", err)
		}
		o = options(t, s)
		o.ConditionalWrites = s3.ConditionalYes
		d := open(t, o)
		if err := s.Root().RemoveBucket(t.Context(), o.Bucket); err != nil {
			t.Fatal(err)
		}
		_, getErr := get(t, d, 0, -1)
		_, _, listErr := d.List(t.Context(), "", "", 10)
		for what, err := range map[string]error{
			"get": getErr, "list": listErr, "put": put(t.Context(), d, []byte("content")), "delete": d.Delete(t.Context(), name),
		} {
			if err == nil || errors.Is(err, object.ErrNotExist) || errors.Is(err, object.ErrUnavailable) || !strings.Contains(err.Error(), "bucket") {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// The clock of this machine is years behind the server's, which refuses that.
func TestClockSkew(t *testing.T) {
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		synctest.Test(t, func(t *testing.T) {
			if time.Now().Year() > 2001 {
				t.Fatal("the clock is not behind")
			}
			_, err := s3.Open(t.Context(), o)
			var p *object.PermissionError
			if !errors.As(err, &p) || !strings.Contains(p.Action, "clock") {
				t.Error("want that the clock is to blame:", err)
			}
		})
	})
}

func TestWrongRegion(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		o.Region = "eu-nowhere-1"
		_, err := s3.Open(t.Context(), o)
		var p *object.PermissionError
		if !errors.As(err, &p) || !strings.Contains(p.Action, "region") {
			t.Error("want that the region is to blame:", err)
		}
	})
}

// Amazon sends who asks in the wrong region elsewhere.
func TestRedirect(t *testing.T) {
	t.Parallel()
	s := objectserver.S3(t, objectserver.Versitygw)
	o, p := behind(t, s)
	p.meddle = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusMovedPermanently)
		fmt.Fprint(w, "<Error><Code>PermanentRedirect</Code><Message>The bucket must be addressed using the specified endpoint.</Message></Error>")
		return true
	}
	_, err := s3.Open(t.Context(), o)
	var denied *object.PermissionError
	if !errors.As(err, &denied) || !strings.Contains(denied.Action, "region") {
		t.Error("want that the region is to blame:", err)
	}
}

// What is no store of S3 is no store, and none without objects.
func TestNoStore(t *testing.T) {
	t.Parallel()
	s := objectserver.S3(t, objectserver.Versitygw)
	o := options(t, s)
	o.Endpoint = "http://" + nobody(t)
	if _, err := s3.Open(t.Context(), o); !errors.Is(err, object.ErrUnavailable) {
		t.Error("nobody listens:", err)
	}
	o.Endpoint = strings.Replace(s.Endpoint, "http", "https", 1)
	if _, err := s3.Open(t.Context(), o); err == nil || errors.Is(err, object.ErrNotExist) {
		t.Error("TLS for a server without:", err)
	}
	for _, page := range []string{"", "<html><body>Welcome</body></html>", "<ListBucketResult", "{}"} {
		for _, status := range []int{http.StatusOK, http.StatusNoContent, http.StatusBadRequest} {
			site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				fmt.Fprint(w, page)
			}))
			o.Endpoint = site.URL
			if _, err := s3.Open(t.Context(), o); err == nil || errors.Is(err, object.ErrNotExist) {
				t.Errorf("a site that answers %d %q: %v", status, page, err)
			}
			site.Close()
		}
	}
}

// Who answers that all is well, and is no store, has stored nothing.
func TestSomebodyElseAnswers(t *testing.T) {
	t.Parallel()
	s := objectserver.S3(t, objectserver.Versitygw)
	for what, answer := range map[string]func(http.ResponseWriter){
		"page":    func(w http.ResponseWriter) { fmt.Fprint(w, "<html><body>Log in</body></html>") },
		"nothing": func(http.ResponseWriter) {},
	} {
		for _, content := range [][]byte{random(1000), large()} {
			o, p := behind(t, s)
			d := open(t, o)
			if err := d.Put(t.Context(), "packs/ab/first", strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
			p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut || r.Method == http.MethodGet {
					answer(w)
					return true
				}
				return false
			}
			if err := put(t.Context(), d, content); !errors.Is(err, object.ErrUnavailable) {
				t.Errorf("%s: put: %v", what, err)
			}
			if page, _, err := d.List(t.Context(), "", "", 10); err == nil {
				t.Errorf("%s: listed %v", what, page)
			}
			p.meddle = nil
			nothingLeft(t, s, o.Bucket, d)
		}
	}
}

// The header that has a store create only what is not there is left out for
// stores that do not know it, and for no other reason.
func TestConditionalWrites(t *testing.T) {
	t.Parallel()
	s := objectserver.S3(t, objectserver.MinIO) // which takes requests from which a header is gone
	refuse := func(status int, code string, like func(*http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut || !like(r) {
				return false
			}
			w.WriteHeader(status)
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>refused</Message></Error>", code)
			return true
		}
	}
	header := func(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }
	all := func(*http.Request) bool { return true }
	for _, c := range []struct {
		meddle func(http.ResponseWriter, *http.Request) bool
		atomic bool
		fails  bool
	}{
		{func(http.ResponseWriter, *http.Request) bool { return false }, true, false},
		{func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("If-None-Match"); return false }, false, false},
		{refuse(http.StatusNotImplemented, "NotImplemented", header), false, false},
		{refuse(http.StatusBadRequest, "InvalidArgument", header), false, false},
		{refuse(http.StatusBadRequest, "ExpiredToken", all), false, true},
		{refuse(http.StatusBadRequest, "InvalidRequest", all), false, true},
		{refuse(http.StatusForbidden, "AccessDenied", all), false, true},
	} {
		o, p := behind(t, s)
		d := open(t, o)
		p.meddle = c.meddle
		atomic, err := d.AtomicCreate(t.Context())
		if atomic != c.atomic || (err != nil) != c.fails {
			t.Errorf("want %+v: %t, %v", c, atomic, err)
		}
		if err != nil {
			p.meddle = nil // and it is tried again
			if atomic, err := d.AtomicCreate(t.Context()); err != nil || !atomic {
				t.Error("tried again:", atomic, err)
			}
			continue
		}
		for i, want := range []error{nil, object.ErrExist} {
			if err := put(t.Context(), d, []byte("content")); !errors.Is(err, want) {
				t.Errorf("put %d: %v", i, err)
			}
		}
	}
}

// What a store does not say about many objects is not taken for done.
func TestDeleteMany(t *testing.T) {
	t.Parallel()
	s := objectserver.S3(t, objectserver.Versitygw)
	names := []string{"packs/a", "packs/b", "packs/c"}
	for _, c := range []struct {
		status int
		answer string
		want   []error
	}{
		{http.StatusOK, "", []error{object.ErrUnavailable, object.ErrUnavailable, object.ErrUnavailable}},
		{http.StatusOK, "<DeleteResult></DeleteResult>", []error{object.ErrUnavailable, object.ErrUnavailable, object.ErrUnavailable}},
		{
			http.StatusOK, `<DeleteResult><Deleted><Key>packs/a</Key></Deleted>` +
				`<Error><Key>packs/b</Key><Code>AccessDenied</Code><Message>no</Message></Error>` +
				`<Error><Key>packs/c</Key><Code>SlowDown</Code><Message>later</Message></Error></DeleteResult>`,
			[]error{nil, object.ErrNotWritable, object.ErrThrottled},
		},
		{http.StatusServiceUnavailable, "", []error{object.ErrUnavailable, object.ErrUnavailable, object.ErrUnavailable}},
		{http.StatusForbidden, "<Error><Code>AccessDenied</Code></Error>", []error{object.ErrNotWritable, object.ErrNotWritable, object.ErrNotWritable}},
	} {
		o, p := behind(t, s)
		d := open(t, o)
		for _, n := range names {
			if err := d.Put(t.Context(), n, strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
		}
		p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
			if !r.URL.Query().Has("delete") {
				return false
			}
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.answer)
			return true
		}
		for i, err := range object.NewBucket(d).DeleteAll(t.Context(), names) {
			if !errors.Is(err, c.want[i]) {
				t.Errorf("%d %s: %s: %v", c.status, c.answer, names[i], err)
			}
		}
		p.meddle = nil
		for i, err := range object.NewBucket(d).DeleteAll(t.Context(), names) {
			if err != nil {
				t.Errorf("%s: %v", names[i], err)
			}
			if _, err := d.Stat(t.Context(), names[i]); !errors.Is(err, object.ErrNotExist) {
				t.Errorf("%s is there: %v", names[i], err)
			}
		}
	}
}

// nobody returns an address that nobody listens at.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
