package service_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"jetkeep/service"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/freeport"
	"jetkeep/store/testenv"
)

// closing accepts connections and closes them at once, as a load balancer does
// that has nothing behind it.
func closing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close() // whatever it wanted
		}
	}()
	t.Cleanup(func() {
		_ = l.Close() // ends the loop
		<-done
	})
	return "nats://" + l.Addr().String()
}

// TestServiceWaitsForNATS: a service that begins before NATS waits for it, and
// says so to who probes it. It needs no restart.
func TestServiceWaitsForNATS(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*testing.T, *natstest.Server) string{
		"nobody listens":                 func(*testing.T, *natstest.Server) string { return "" },
		"nothing is behind what listens": func(t *testing.T, _ *natstest.Server) string { return closing(t) + "," },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := natstest.Start(t)
			server.Stop()
			cfg := setup(t, server)
			cfg.Control.URL = before(t, server) + server.URL()
			port, err := freeport.Get()
			if err != nil {
				t.Fatal(err)
			}
			cfg.Metrics.Listen = fmt.Sprintf("127.0.0.1:%d", port)
			type result struct {
				service *service.Service
				err     error
			}
			made := make(chan result, 1)
			go func() {
				s, err := service.New(t.Context(), cfg, service.Deps{})
				made <- result{s, err}
			}()
			at := "http://" + cfg.Metrics.Listen
			testenv.Until(t, "the service to say that it waits", func() error {
				r, err := http.Get(at + "/healthz")
				if err != nil {
					return err
				}
				_ = r.Body.Close()
				code, body := fetch(t, at+"/readyz")
				if r.StatusCode != http.StatusOK || code != 503 || !strings.Contains(body, "waits for NATS") {
					return fmt.Errorf("healthz %d, readyz %d %s", r.StatusCode, code, body)
				}
				return nil
			})
			server.Start()
			got := testenv.Receive(t, "the service to find NATS", made)
			if got.err != nil {
				t.Fatal(got.err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- got.service.Run(ctx) }()
			soon(t, at+"/readyz", 200, "ok")
			stop()
			if err := testenv.Receive(t, "the service to end", ended); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWhatIsNotWaitedFor: what does not mend itself is told at once.
func TestWhatIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t, natstest.Config(`authorization { user: a, password: b }`))
	cfg := setup(t, server)
	if _, err := service.New(t.Context(), cfg, service.Deps{}); err == nil || !strings.Contains(err.Error(), "demands a login") {
		t.Errorf("without a login: %v", err)
	}
	forbidden := natstest.Start(t, natstest.Config(`accounts { A { jetstream: enabled, users: [{ user: a, password: b,
		permissions: { publish: { deny: ["$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.INFO.KV_JETKEEP_STATE"] } } }] } }`))
	less := setup(t, forbidden)
	less.Control.User, less.Control.Password = "a", natsconn.Secret("b")
	if _, err := service.New(t.Context(), less, service.Deps{}); err == nil || !strings.Contains(err.Error(), "KV_JETKEEP_STATE") {
		t.Errorf("without a permission: %v", err)
	}
	cfg.Control.TLS.First = true
	if _, err := service.New(t.Context(), cfg, service.Deps{}); err == nil {
		t.Error("TLS where none is spoken was accepted")
	}
	// Who gives up while NATS is waited for is told what it was waited for.
	cfg.Control = natsconn.Options{URL: closing(t)}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("no more"))
	defer cancel()
	if _, err := service.New(ctx, cfg, service.Deps{}); err == nil || !strings.Contains(err.Error(), "control account") {
		t.Errorf("given up: %v", err)
	}
}
