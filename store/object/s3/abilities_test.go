package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/objecttest"
	"jetkeep/store/object/s3"
)

// hasChecksum says whether a request has a checksum for the store to keep.
func hasChecksum(r *http.Request) bool {
	for name := range r.Header {
		if strings.Contains(name, "Checksum") {
			return true
		}
	}
	return false
}

func hasCondition(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }

func completes(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

// refusing has a proxy refuse what is like that, as stores do that know no such
// header.
func refusing(p *proxy, status int, code string, like func(*http.Request) bool) {
	p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if !like(r) {
			return false
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>Unsupported header received for this API call.</Message></Error>", code)
		return true
	}
}

// What a store does not know is found out by trying, remembered, and left out,
// and nothing else is.
func TestStoresWithoutExtras(t *testing.T) {
	t.Parallel()
	either := func(r *http.Request) bool { return hasChecksum(r) || hasCondition(r) }
	for what, c := range map[string]struct {
		status int
		code   string
		like   func(*http.Request) bool
	}{
		"checksums, as Backblaze B2":   {http.StatusBadRequest, "InvalidArgument", hasChecksum},
		"checksums, not implemented":   {http.StatusNotImplemented, "NotImplemented", hasChecksum},
		"checksums and conditions":     {http.StatusBadRequest, "InvalidArgument", either},
		"either, not implemented":      {http.StatusNotImplemented, "NotImplemented", either},
		"conditions":                   {http.StatusNotImplemented, "NotImplemented", hasCondition},
		"conditions of uploads":        {http.StatusNotImplemented, "NotImplemented", func(r *http.Request) bool { return hasCondition(r) && completes(r) }},
		"checksums of parts":           {http.StatusNotImplemented, "NotImplemented", func(r *http.Request) bool { return hasChecksum(r) && isPart(r) }},
		"checksums of uploads' begins": {http.StatusBadRequest, "InvalidRequest", func(r *http.Request) bool { return hasChecksum(r) && beginsUpload(r) }},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := objectserver.S3(t, objectserver.MinIO)
			for _, first := range [][]byte{large(), random(1000)} {
				o, p := behind(t, s)
				refusing(p, c.status, c.code, c.like)
				d := open(t, o)
				if err := put(t.Context(), d, first); err != nil {
					t.Fatal(err)
				}
				if err := put(t.Context(), d, first); !errors.Is(err, object.ErrExist) {
					t.Error("put again:", err)
				}
				if err := d.Put(t.Context(), "packs/large", bytes.NewReader(large()), int64(len(large()))); err != nil {
					t.Fatal(err)
				}
				if err := d.Put(t.Context(), "packs/small", strings.NewReader("x"), 1); err != nil {
					t.Fatal(err)
				}
				before := p.count(c.like)
				for _, content := range [][]byte{large(), random(10)} {
					if err := d.Put(t.Context(), fmt.Sprintf("packs/%d", len(content)), bytes.NewReader(content), int64(len(content))); err != nil {
						t.Error(err)
					}
				}
				if n := p.count(c.like) - before; n != 0 {
					t.Errorf("it was not remembered: %d more requests", n)
				}
				if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, first) {
					t.Errorf("%d bytes: %v", len(got), err)
				}
				if open := uploads(t, s, o.Bucket); len(open) != 0 {
					t.Error("uploads are left:", open)
				}
			}
		})
	}
}

// All that a driver does works on a store that refuses all extras with the options
// as they are.
func TestConformanceUntold(t *testing.T) {
	t.Parallel()
	s := objectserver.S3(t, objectserver.Versitygw)
	o, p := behind(t, s)
	refusing(p, http.StatusBadRequest, "InvalidArgument", func(r *http.Request) bool { return hasChecksum(r) || hasCondition(r) })
	objecttest.Run(t, func(t *testing.T) object.Driver {
		o.Prefix = "p/" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "#", "-").Replace(t.Name()))
		return open(t, o)
	})
}

// A store that refuses for another reason is sent its checksums still; one that is
// to have them gets nothing without. The error says what to do.
func TestChecksumsKept(t *testing.T) {
	t.Parallel()
	s := objectserver.S3(t, objectserver.MinIO)
	o, p := behind(t, s)
	o.ConditionalWrites = s3.ConditionalYes
	d := open(t, o)
	refusing(p, http.StatusBadRequest, "InvalidRequest", isObject)
	err := put(t.Context(), d, []byte("content"))
	if !errors.Is(err, object.ErrUnexpected) || !strings.Contains(err.Error(), "checksum: none") {
		t.Error("want a kind and a hint:", err)
	}
	p.meddle = nil
	if err := put(t.Context(), d, []byte("content")); err != nil {
		t.Fatal(err)
	}
	if n := p.count(func(r *http.Request) bool { return isObject(r) && hasChecksum(r) }); n != 2 {
		t.Errorf("%d requests with checksums", n)
	}
	o.Checksum = s3.ChecksumSHA256
	d = open(t, o)
	refusing(p, http.StatusBadRequest, "InvalidArgument", hasChecksum)
	for _, content := range [][]byte{random(10), large()} {
		if err := d.Put(t.Context(), "packs/other", bytes.NewReader(content), int64(len(content))); !errors.Is(err, object.ErrUnexpected) {
			t.Error("sent without what it is to have:", err)
		}
	}
}
