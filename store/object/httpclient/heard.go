package httpclient

import (
	"context"
	"net/http"
	"sync/atomic"
)

type heardKey struct{}

// Hear returns a context whose requests through a Listener leave the last
// answer's header, for clients that do not hand it on.
func Hear(ctx context.Context) context.Context {
	return context.WithValue(ctx, heardKey{}, new(atomic.Pointer[http.Header]))
}

// Heard returns the header of the last answer to a request of ctx or of a
// context made of it, nil if there is none.
func Heard(ctx context.Context) http.Header {
	if at, ok := ctx.Value(heardKey{}).(*atomic.Pointer[http.Header]); ok && at.Load() != nil {
		return *at.Load()
	}
	return nil
}

// A Listener remembers the headers of answers.
type Listener struct{ Next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l *Listener) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.Next.RoundTrip(req)
	if at, ok := req.Context().Value(heardKey{}).(*atomic.Pointer[http.Header]); ok && err == nil {
		at.Store(&resp.Header)
	}
	return resp, err
}
