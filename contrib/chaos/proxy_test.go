package chaos_test

import (
	"context"
	"strings"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"jetkeep/service/natstest"
)

// A way is how an instance gets to the servers: by a proxy for each, which can
// be cut.
type way struct {
	t       *testing.T
	proxies []*toxiproxy.Proxy
}

func newWay(t *testing.T, cluster *natstest.Cluster) *way {
	t.Helper()
	w := &way{t: t}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for _, node := range cluster.Nodes {
		p := toxiproxy.NewProxy(server, "nats", "127.0.0.1:0", strings.TrimPrefix(node.URL(), "nats://"))
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Stop)
		w.proxies = append(w.proxies, p)
	}
	return w
}

func (w *way) url() string {
	var all []string
	for _, p := range w.proxies {
		all = append(all, "nats://"+p.Listen)
	}
	return strings.Join(all, ",")
}

// cut closes every connection and lets none be made until mend.
func (w *way) cut() {
	for _, p := range w.proxies {
		p.Stop()
	}
}

func (w *way) mend() {
	w.t.Helper()
	for _, p := range w.proxies {
		p.Toxics.ResetToxics(context.Background())
		if !p.Enabled {
			if err := p.Start(); err != nil {
				w.t.Errorf("mend the way: %v", err)
			}
		}
	}
}

// toxics are what connections suffer from.
var toxics = []string{
	`{"name":"x","type":"latency","stream":"downstream","attributes":{"latency":150,"jitter":100}}`,
	`{"name":"x","type":"reset_peer","stream":"downstream","attributes":{"timeout":300}}`,
	`{"name":"x","type":"limit_data","stream":"downstream","attributes":{"bytes":30000}}`,
	`{"name":"x","type":"limit_data","stream":"upstream","attributes":{"bytes":30000}}`,
	// Connections stay open and nothing comes through.
	`{"name":"x","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`,
}

func (w *way) suffer(i int) {
	w.t.Helper()
	for _, p := range w.proxies {
		if _, err := p.Toxics.AddToxicJson(strings.NewReader(toxics[i])); err != nil {
			w.t.Errorf("add a toxic: %v", err)
		}
	}
}
