package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// Every loop of a running service comes around, and each that does not is what
// /healthz names.
func TestHealthOfLoops(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	dir := t.TempDir()
	s, err := New(t.Context(), config.Config{
		Control:      natsconn.Options{URL: server.URL()},
		Repositories: []config.Repository{{Name: "r", Path: dir + "/r", Create: true}},
		Staging:      config.Staging{Dir: dir + "/s"}, Sweep: 200 * time.Millisecond,
		Metrics: config.Metrics{Listen: "0"},
	}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-s.Ready()
	health := func() (int, string) {
		t.Helper()
		c := &http.Client{Timeout: testenv.Hang, Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := c.Get("http://" + s.MetricsAddr() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b := make([]byte, 1000)
		n, _ := r.Body.Read(b)
		return r.StatusCode, string(b[:n])
	}
	testenv.Until(t, "every loop to come around", func() error {
		for _, l := range s.vitals.loops() {
			if l.ticked.Load() == 0 {
				return errors.New(l.name)
			}
		}
		return nil
	})
	// Each is waited for: on a machine that stood still another loop may be late.
	says := func(want int, part string) {
		t.Helper()
		testenv.Until(t, "an answer", func() error {
			code, text := health()
			if code != want || !strings.Contains(text, part) {
				return fmt.Errorf("%d %s, not %d with %q", code, text, want, part)
			}
			return nil
		})
	}
	says(200, "")
	for _, l := range s.vitals.loops() {
		most := l.most
		l.most = -1
		says(503, l.name)
		l.most = most
	}
	s.vitals.slots = -1
	says(503, " tasks looks for one since")
}
