package service

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// Every loop of a running service comes around, and each that does not is what
// /healthz names.
func TestHealthOfLoops(t *testing.T) {
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
		c := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := c.Get("http://" + s.MetricsAddr() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b := make([]byte, 1000)
		n, _ := r.Body.Read(b)
		return r.StatusCode, string(b[:n])
	}
	if err := natstest.Eventually(2*time.Minute, func() error {
		for _, l := range s.vitals.loops() {
			if l.ticked.Load() == 0 {
				return errorOf(l.name)
			}
		}
		return nil
	}); err != nil {
		t.Fatal("a loop never came around: ", err)
	}
	if code, text := health(); code != 200 {
		t.Fatal(code, text)
	}
	for _, l := range s.vitals.loops() {
		most := l.most
		l.most = -1
		code, text := health()
		l.most = most
		if code != 503 || !strings.Contains(text, l.name) {
			t.Errorf("%s: %d %s", l.name, code, text)
		}
	}
	s.vitals.slots = -1
	if code, text := health(); code != 503 || !strings.Contains(text, " tasks looks for one since") {
		t.Errorf("slots: %d %s", code, text)
	}
}

type errorOf string

func (e errorOf) Error() string { return string(e) }
