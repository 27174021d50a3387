package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/hooks"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// TestMain gives all tests one environment, which none of them may change: they
// run at the same time.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "jetkeep-service-test-")
	if err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(os.Setenv("XDG_CONFIG_HOME", dir), os.Setenv(tokenVariable, tokenSecret)); err != nil {
		log.Fatal(err)
	}
	goleak.VerifyTestMain(m, append(natstest.LibraryLeaks(), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))...)
}

// patience ends a test that would hang.
const patience = testenv.Hang

// The environment that TestMain makes has the token of TestEveryLogin.
const (
	tokenVariable = "JETKEEP_TEST_TOKEN"
	tokenSecret   = "token-secret"
)

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
	testenv.Until(t, "the service to be ready", func() error {
		select {
		case <-svc.Ready():
			return nil
		case err := <-i.done:
			i.done = nil
			t.Fatal(err)
		default:
		}
		return errors.New("it is not ready")
	})
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
	c, err := client.New(nc, client.Options{Timeout: testenv.Hang})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wait waits for the end of a session and checks its state.
func wait(t *testing.T, c *client.Client, session string, want api.State) *api.SessionInfoResponse {
	t.Helper()
	r := ended(t, c, session)
	if r.State != want {
		t.Fatalf("session %s is %s, not %s: %v; tasks: %+v", session, r.State, want, r.Error, r.TaskList)
	}
	return r
}

// ended waits for the end of a session, whatever it is.
func ended(t *testing.T, c *client.Client, session string) *api.SessionInfoResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	r, err := c.Wait(ctx, session, nil)
	if err != nil {
		t.Fatalf("session %s hangs: %v\n%s", session, err, testenv.Report())
	}
	return r
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	testenv.True(t, what, so)
}

// settled waits until a notification's every event was sent or left out, and the
// server knows: what it was to publish has been published then.
func settled(t *testing.T, nc *nats.Conn, notification string) {
	t.Helper()
	eventually(t, "notification "+notification+" has nothing to do", func() bool {
		for _, c := range natstest.Consumers(t, nc, api.StreamEvents) {
			if c.Name == hooks.Consumer(notification) {
				return c.NumPending == 0 && c.NumAckPending == 0
			}
		}
		return false
	})
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("decode %s: %v", b, err)
	}
}
