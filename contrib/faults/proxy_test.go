package faults_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What is done to requests. Each is counted when it has met one.
const (
	internalError = "500"
	unavailable   = "503"
	throttled     = "429 with Retry-After"
	lostAnswer    = "answer lost"     // the store did it
	lostRequest   = "connection cut"  // the store never saw it
	cutAnswer     = "answer cut off"  // in the middle of its body
	cutBody       = "request cut off" // in the middle of its body
	slowAnswer    = "answer late"
)

var kinds = []string{internalError, unavailable, throttled, lostAnswer, lostRequest, cutAnswer, cutBody, slowAnswer}

// A proxy hands requests on to a store and spoils some of them.
type proxy struct {
	*httptest.Server
	pass *httputil.ReverseProxy
	// uploaded counts the bytes of bodies that went to the store.
	uploaded atomic.Int64

	mu       sync.Mutex
	rng      *rand.Rand
	rate     float64 // of requests that are spoilt
	requests int
	counts   map[string]int
}

func newProxy(t *testing.T, store string, seed uint64) *proxy {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{rng: rand.New(rand.NewPCG(seed, 1)), counts: map[string]int{}}
	p.pass = &httputil.ReverseProxy{
		// The signature is over the host that the client asked for.
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host },
		Transport:    &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.ErrorLog = quiet
	p.Start()
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
		p.pass.Transport.(*http.Transport).CloseIdleConnections()
	})
	return p
}

// setRate says what part of requests is spoilt from now on.
func (p *proxy) setRate(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = rate
}

// draw decides about a request.
func (p *proxy) draw() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if p.rng.Float64() >= p.rate {
		return ""
	}
	return kinds[p.rng.IntN(len(kinds))]
}

func (p *proxy) count(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[kind]++
}

func (p *proxy) total() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.counts {
		n += c
	}
	return n
}

func (p *proxy) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var parts []string
	for k, n := range p.counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, k))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%d requests; %s", p.requests, strings.Join(parts, ", "))
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Body != nil {
		r.Body = &counted{r.Body, &p.uploaded}
	}
	kind := p.draw()
	if kind == cutBody && r.ContentLength <= 0 {
		kind = lostRequest
	}
	switch kind {
	case "":
		p.pass.ServeHTTP(w, r)
		return
	case internalError, unavailable, throttled:
		_, _ = io.Copy(io.Discard, r.Body)
		status := map[string]int{internalError: 500, unavailable: 503, throttled: 429}[kind]
		if kind == throttled {
			w.Header().Set("Retry-After", "1")
		}
		w.WriteHeader(status)
	case lostRequest:
		p.count(kind)
		panic(http.ErrAbortHandler)
	case lostAnswer:
		p.pass.ServeHTTP(httptest.NewRecorder(), r)
		p.count(kind)
		panic(http.ErrAbortHandler)
	case cutBody:
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		p.count(kind)
		panic(http.ErrAbortHandler)
	case cutAnswer:
		p.cutAnswer(w, r)
	case slowAnswer:
		time.Sleep(300 * time.Millisecond)
		p.pass.ServeHTTP(w, r)
	}
	p.count(kind)
}

// A counted body counts what is read of it.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// cutAnswer sends the head and half of the body of an answer.
func (p *proxy) cutAnswer(w http.ResponseWriter, r *http.Request) {
	rec := httptest.NewRecorder()
	p.pass.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	h, ok := w.(http.Hijacker)
	if !ok {
		panic("connection cannot be taken over")
	}
	conn, buf, err := h.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	fmt.Fprintf(buf, "HTTP/1.1 %d %s\r\n", rec.Code, http.StatusText(rec.Code))
	for k, v := range rec.Header() {
		if k != "Content-Length" {
			fmt.Fprintf(buf, "%s: %s\r\n", k, v[0])
		}
	}
	fmt.Fprintf(buf, "Content-Length: %d\r\n\r\n", max(len(body), 2))
	_, _ = buf.Write(body[:len(body)/2])
	_ = buf.Flush()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, and no orderly end
	}
}
