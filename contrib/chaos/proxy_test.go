package chaos_test

import (
	"strings"
	"testing"
	"time"

	"jetkeep/service/natstest"
)

// A way is how an instance gets to the servers: by a proxy for each, which can
// be cut.
type way []*natstest.Proxy

func newWay(t *testing.T, cluster *natstest.Cluster) way {
	t.Helper()
	var w way
	for _, node := range cluster.Nodes {
		w = append(w, natstest.NewProxy(t, strings.TrimPrefix(node.URL(), "nats://")))
	}
	return w
}

func (w way) url() string {
	var all []string
	for _, p := range w {
		all = append(all, "nats://"+p.Addr())
	}
	return strings.Join(all, ",")
}

// cut closes every connection and lets none be made until mend.
func (w way) cut() {
	for _, p := range w {
		p.Cut()
	}
}

func (w way) mend() {
	for _, p := range w {
		p.Mend()
	}
}

// troubles are what connections suffer from.
var troubles = []natstest.Trouble{
	{Latency: 150 * time.Millisecond, Jitter: 100 * time.Millisecond},
	{Hold: true, End: 300 * time.Millisecond, Reset: true},
	{Limit: 30_000},
	{Up: true, Limit: 30_000},
	// Connections stay open and nothing comes through.
	{Up: true, Hold: true},
}

func (w way) suffer(i int) {
	for _, p := range w {
		p.Disturb(troubles[i])
	}
}
