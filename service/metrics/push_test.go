package metrics_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"jetkeep/service/metrics"
	"jetkeep/service/metrics/gatewaytest"
)

// TestPush: what was asked for before the end arrives at a real gateway.
func TestPush(t *testing.T) {
	g := gatewaytest.Start(t)
	p := metrics.NewPusher(filled(time.Now()), g.URL, "one")
	p.Wake()
	p.Wake()
	ctx, end := context.WithCancel(t.Context())
	end()
	p.Run(ctx, func(err error) { t.Error(err) })
	want := `jetkeep_sessions_total{instance="one",job="jetkeep",kind="backup",result="succeeded"} 1`
	if text := g.Metrics(t); !strings.Contains(text, want) {
		t.Errorf("%s is not in %s", want, text)
	}
}

// TestPushFails: a gateway that is not there delays nobody who asks, and is
// counted.
func TestPushFails(t *testing.T) {
	m := filled(time.Now())
	p := metrics.NewPusher(m, "http://127.0.0.1:1", "one")
	begun := time.Now()
	for range 1000 {
		p.Wake()
	}
	if d := time.Since(begun); d > 20*time.Second {
		t.Errorf("asking took %s", d)
	}
	ctx, end := context.WithCancel(t.Context())
	end()
	failed := 0
	p.Run(ctx, func(error) { failed++ })
	if failed != 1 || !strings.Contains(scrape(t, m.Handler()), `jetkeep_pushes_total{result="failed"} 1`) {
		t.Errorf("%d failures were told", failed)
	}
}
