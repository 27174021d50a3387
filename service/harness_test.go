package service_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

// patience is how long tests wait for what must come. Nothing is measured by it:
// it only ends a test that would hang, so it is long enough for any machine.
const patience = 5 * time.Minute

// an instance of the service, running in the test.
type instance struct {
	t      *testing.T
	config config.Config
	svc    *service.Service
	stop   context.CancelFunc
	done   chan error
}

// setup is the configuration of a service on the server. The lease is one that an
// instance on a loaded machine can renew in time; no test here waits for its end.
func setup(t *testing.T, server *natstest.Server) config.Config {
	dir := t.TempDir()
	return config.Config{
		Instance:     "test",
		Control:      natsconn.Options{URL: server.URL()},
		Repositories: []config.Repository{{Name: "default", Kind: config.KindLocal, Path: filepath.Join(dir, "repository"), Create: true}},
		Staging:      config.Staging{Dir: filepath.Join(dir, "staging")},
		Lease:        8 * time.Second,
		Sweep:        200 * time.Millisecond,
	}
}

func run(t *testing.T, c config.Config, d service.Deps) *instance {
	t.Helper()
	if d.Log == nil {
		d.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ctx, stop := context.WithCancel(t.Context())
	svc, err := service.New(ctx, c, d)
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{t: t, config: c, svc: svc, stop: stop, done: make(chan error, 1)}
	go func() { i.done <- svc.Run(ctx) }()
	t.Cleanup(i.end)
	select {
	case <-svc.Ready():
	case err := <-i.done:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("service did not become ready")
	}
	return i
}

// end stops the instance as SIGTERM does.
func (i *instance) end() {
	if i.done == nil {
		return
	}
	i.stop()
	if err := <-i.done; err != nil {
		i.t.Errorf("run: %v", err)
	}
	i.done = nil
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func connect(t *testing.T, server *natstest.Server) *client.Client {
	t.Helper()
	return clientOf(t, server.Connect())
}

func clientOf(t *testing.T, nc *nats.Conn) *client.Client {
	t.Helper()
	c, err := client.New(nc, client.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wait waits for the end of a session and checks its state.
func wait(t *testing.T, c *client.Client, session string, want api.State) *api.SessionInfoResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := c.Wait(ctx, session, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.State != want {
		t.Fatalf("session %s is %s, not %s: %v; tasks: %+v", session, r.State, want, r.Error, r.TaskList)
	}
	return r
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("decode %s: %v", b, err)
	}
}

// newSilent returns the URL of a server that accepts connections and says
// nothing.
func newSilent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(io.Discard, c) // until the other side gives up
				_ = c.Close()
			})
		}
	})
	return "nats://" + l.Addr().String()
}
