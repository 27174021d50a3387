package s3_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"jetkeep/store/object/objectserver"
)

// A proxy between the driver and a server remembers what was asked for, and may
// meddle with it.
type proxy struct {
	*httptest.Server
	// meddle, if set, is asked about each request and returns whether it
	// answered it.
	meddle func(w http.ResponseWriter, r *http.Request) bool
	// answer, if set, may change what the server answers.
	answer func(*http.Response)
	pass   *httputil.ReverseProxy

	mu   sync.Mutex
	seen []*http.Request
}

// newProxy returns a proxy that begins when it is started.
func newProxy(t *testing.T, s *objectserver.S3Server) *proxy {
	t.Helper()
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	quiet := log.New(io.Discard, "", 0)
	p.pass = &httputil.ReverseProxy{
		// The signature is over the host that the client asked for.
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host },
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16},
		ErrorLog:  quiet,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // the connection breaks
		},
		ModifyResponse: func(r *http.Response) error {
			if p.answer != nil {
				p.answer(r)
			}
			return nil
		},
	}
	p.Server = httptest.NewServer(p)
	p.Config.ErrorLog = quiet
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
		p.pass.Transport.(*http.Transport).CloseIdleConnections()
	})
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r.Clone(r.Context()))
	p.mu.Unlock()
	if p.meddle != nil && p.meddle(w, r) {
		return
	}
	p.pass.ServeHTTP(w, r)
}

// count returns how many requests there were like that.
func (p *proxy) count(like func(*http.Request) bool) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.seen {
		if like(r) {
			n++
		}
	}
	return n
}

// isPart says whether a request sends a part of an object.
func isPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}

// isObject says whether a request sends a whole object.
func isObject(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.RawQuery == ""
}

// beginsUpload says whether a request begins an object in parts.
func beginsUpload(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploads")
}

// A flipped body is another one in one bit of the byte at a place.
type flipped struct {
	io.ReadCloser
	at int64
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if 0 <= f.at && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}
