package httpclient

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"jetkeep/store/object"
)

var errSaid = errors.New("what the store said")

func TestStatus(t *testing.T) {
	for status, want := range map[int]error{
		429: object.ErrThrottled, 503: object.ErrUnavailable, 500: object.ErrUnavailable, 408: object.ErrUnavailable,
		507: object.ErrNoSpace, 413: object.ErrNoSpace,
	} {
		err := Status(status, http.Header{"Retry-After": {"7"}}, errSaid)
		if !errors.Is(err, want) || !errors.Is(err, errSaid) {
			t.Errorf("%d: %v", status, err)
		}
		wait := new(object.WaitError)
		full := errors.Is(err, object.ErrNoSpace)
		if errors.As(err, &wait) == full || !full && wait.After != 7*time.Second {
			t.Errorf("%d: wait %+v", status, wait)
		}
	}
	for _, status := range []int{200, 400, 403, 404, 409, 412, 416, 501} {
		if err := Status(status, nil, errSaid); err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "soon": 0, "-3": 0, "0": 0, "2": 2 * time.Second, "99999999999999": 0,
		"Mon, 23 Nov 2026 04:01:00 GMT": time.Minute, "Mon, 23 Nov 2026 03:59:00 GMT": 0,
	} {
		if got := RetryAfter(header, now); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func TestBroken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = (&net.Dialer{}).DialContext(t.Context(), "tcp", nobody)
	for _, err := range []error{err, io.ErrUnexpectedEOF, io.EOF} {
		if got := Broken(t.Context(), err); !errors.Is(got, object.ErrUnavailable) || !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got := Broken(ended, io.EOF); errors.Is(got, object.ErrUnavailable) {
		t.Errorf("a cancelled request became %v", got)
	}
	_, missing := os.Open(filepath.Join(t.TempDir(), "missing"))
	for _, err := range []error{nil, errSaid, object.ErrNotExist, missing} {
		if got := Broken(t.Context(), err); !errors.Is(got, err) || errors.Is(got, object.ErrUnavailable) {
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestOwnAuthority(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	get := func(o Options) error {
		tr, err := New(o)
		if err != nil {
			return err
		}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			return err
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	if err := get(Options{CAFile: file}); err != nil {
		t.Errorf("with the authority: %v", err)
	}
	err := get(Options{})
	if err == nil || errors.Is(Broken(t.Context(), err), object.ErrUnavailable) {
		t.Errorf("without the authority: %v", err)
	}
	if err := get(Options{CAFile: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a missing file was accepted")
	}
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get(Options{CAFile: file}); err == nil {
		t.Error("a file without certificates was accepted")
	}
}
