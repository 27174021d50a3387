package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	scrapeTimeout   = 10 * time.Second
	readTimeout     = 5 * time.Second
	idleTimeout     = time.Minute
	shutdownTimeout = 3 * time.Second
	maxHeader       = 16 << 10
)

// Checks say how an instance is; an error says why it is not well. They must
// not block.
type Checks struct {
	Healthy func() error
	Ready   func() error
	// Details are lines that follow "ok" where an instance is ready; it may be nil.
	Details func() []string
}

// Address completes an address to listen at: a port alone, or without a host,
// is one of the loopback interface. Who wants all interfaces says 0.0.0.0 or [::].
func Address(s string) (string, error) {
	if !strings.Contains(s, ":") {
		s = ":" + s
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%q is no address, give PORT or HOST:PORT: %w", s, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("port %q is not between 0 and 65535", port)
	} else if host == "" {
		host = "127.0.0.1"
		port = strconv.FormatUint(n, 10)
	}
	return net.JoinHostPort(host, port), nil
}

// A Server answers /metrics, /healthz and /readyz.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen binds the address, so that whoever cannot have it hears at once. Call
// Run or Close afterwards.
func Listen(ctx context.Context, address string, m *Metrics, c Checks) (*Server, error) {
	address, err := Address(address)
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.Handle("GET /healthz", answer(c.Healthy, nil))
	mux.Handle("GET /readyz", answer(c.Ready, c.Details))
	return &Server{listener: l, http: &http.Server{
		Handler: mux, ReadTimeout: readTimeout, WriteTimeout: scrapeTimeout + readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}}, nil
}

func answer(check func() error, details func() []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
		if details != nil {
			for _, line := range details() {
				_, _ = fmt.Fprintln(w, line)
			}
		}
	})
}

// Addr returns where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close gives the address back without having served.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx is done, and then lets requests end for a few seconds.
func (s *Server) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve metrics: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := s.http.Shutdown(end); err != nil {
		_ = s.http.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
