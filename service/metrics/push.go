package metrics

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/push"
)

// pushTimeout bounds one push.
const pushTimeout = 10 * time.Second

// A Pusher replaces an instance's group at a Pushgateway.
type Pusher struct {
	m    *Metrics
	push *push.Pusher
	wake chan struct{}
}

// NewPusher pushes under the job "jetkeep" and the instance's name.
func NewPusher(m *Metrics, url, instance string) *Pusher {
	p := push.New(url, "jetkeep").Grouping("instance", instance).Gatherer(m.reg).
		Client(&http.Client{Timeout: pushTimeout, Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}})
	return &Pusher{m: m, push: p, wake: make(chan struct{}, 1)}
}

// Wake asks for a push soon and never waits. What is asked for while one is
// under way becomes one push after it.
func (p *Pusher) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run pushes when it is asked to, until ctx is done and what was asked for
// before is pushed. A push that fails is counted, and told to failed.
func (p *Pusher) Run(ctx context.Context, failed func(error)) {
	for {
		select {
		case <-p.wake:
			p.once(ctx, failed)
			continue
		case <-ctx.Done():
		}
		select {
		case <-p.wake:
			p.once(ctx, failed)
		default:
		}
		return
	}
}

func (p *Pusher) once(ctx context.Context, failed func(error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pushTimeout)
	defer cancel()
	if err := p.push.PushContext(ctx); err != nil {
		p.m.pushes.WithLabelValues(resultFailed).Inc()
		failed(fmt.Errorf("push metrics: %w", err))
		return
	}
	p.m.pushes.WithLabelValues(resultOK).Inc()
}
