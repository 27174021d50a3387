// Package gatewaytest starts Debian's prometheus-pushgateway on the loopback
// interface for a test, and ends it. It fails the test if it is not installed.
package gatewaytest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"syscall"
	"testing"

	"jetkeep/store/freeport"
	"jetkeep/store/testenv"
)

// A Gateway is one that runs.
type Gateway struct {
	URL    string
	client http.Client
}

// Start starts a Pushgateway at any free port; it ends with the test.
func Start(t testing.TB) *Gateway {
	t.Helper()
	port, err := freeport.Get()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "prometheus-pushgateway", "--web.listen-address="+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start pushgateway: %v; `make tools` installs it", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	g := &Gateway{URL: "http://" + address, client: http.Client{Timeout: testenv.Hang, Transport: &http.Transport{DisableKeepAlives: true}}}
	testenv.Until(t, "a pushgateway that is ready", func() error {
		_, err := g.get(t.Context(), "/-/ready")
		return err
	})
	return g
}

func (g *Gateway) get(ctx context.Context, path string) (string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL+path, nil)
	if err != nil {
		return "", fmt.Errorf("ask pushgateway: %w", err)
	}
	r, err := g.client.Do(q)
	if err != nil {
		return "", fmt.Errorf("ask pushgateway: %w", err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("pushgateway answers %s", r.Status)
	}
	return string(b), err
}

// Metrics returns what the gateway shows.
func (g *Gateway) Metrics(t testing.TB) string {
	t.Helper()
	text, err := g.get(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	return text
}
