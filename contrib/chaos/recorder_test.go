package chaos_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// A recorder hands requests on to a store and remembers what was uploaded. It can
// hold uploads back once there are so many bytes.
type recorder struct {
	*httptest.Server
	pass *httputil.ReverseProxy

	mu     sync.Mutex
	bytes  int64         // that the store took
	limit  int64         // from which on uploads are held
	held   int           // uploads, so far
	opened chan struct{} // closed when none are held, nil if that is so
}

func newRecorder(t *testing.T, store string) *recorder {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	r := new(recorder)
	r.pass = &httputil.ReverseProxy{
		Rewrite:      func(q *httputil.ProxyRequest) { q.SetURL(u); q.Out.Host = q.In.Host }, // which is signed
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ModifyResponse: func(a *http.Response) error {
			q := a.Request
			if q.Method != http.MethodPut || a.StatusCode != http.StatusOK {
				return nil
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.bytes += q.ContentLength
			return nil
		},
	}
	r.Server = httptest.NewServer(r)
	t.Cleanup(func() {
		r.open()
		r.CloseClientConnections()
		r.Close()
	})
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.Method == http.MethodPut && !r.admit(q.Context()) {
		panic(http.ErrAbortHandler)
	}
	r.pass.ServeHTTP(w, q)
}

// admit waits while uploads are held.
func (r *recorder) admit(ctx context.Context) bool {
	r.mu.Lock()
	opened := r.opened
	if opened == nil || r.bytes < r.limit {
		r.mu.Unlock()
		return true
	}
	r.held++
	r.mu.Unlock()
	select {
	case <-opened:
		return true
	case <-ctx.Done():
		return false
	}
}

// holdAfter holds uploads when so many more bytes are there.
func (r *recorder) holdAfter(more int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit, r.held, r.opened = r.bytes+more, 0, make(chan struct{})
}

// holds tells whether an upload is or was held.
func (r *recorder) holds() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held > 0
}

// open lets those pass that are held, and all that come.
func (r *recorder) open() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opened != nil {
		close(r.opened)
		r.opened = nil
	}
}

func (r *recorder) uploaded() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}
