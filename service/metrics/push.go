package metrics

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/push"
)

const (
	// pushTimeout bounds one push.
	pushTimeout = 10 * time.Second
	// pushAgain is how long after one that failed it is tried again.
	pushAgain = 30 * time.Second
)

// A Pusher replaces an instance's group at a Pushgateway.
type Pusher struct {
	m     *Metrics
	push  *push.Pusher
	wake  chan struct{}
	again time.Duration
}

// NewPusher pushes under the job "jetkeep" and the instance's name.
func NewPusher(m *Metrics, url, instance string) *Pusher {
	p := push.New(url, "jetkeep").Grouping("instance", instance).Gatherer(m.reg).
		Client(&http.Client{Timeout: pushTimeout, Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}})
	return &Pusher{m: m, push: p, wake: make(chan struct{}, 1), again: pushAgain}
}

// Wake asks for a push soon and never waits. What is asked for while one is
// under way becomes one push after it.
func (p *Pusher) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run pushes when it is asked to, and again while that fails, until ctx is done and
// what was asked for before was tried. A push that fails is counted, and told to
// failed.
func (p *Pusher) Run(ctx context.Context, failed func(error)) {
	var again <-chan time.Time // nil if all is pushed
	for {
		select {
		case <-p.wake:
		case <-again:
		case <-ctx.Done():
			select {
			case <-p.wake:
				p.once(ctx, failed)
			default:
			}
			return
		}
		if again = nil; !p.once(ctx, failed) {
			again = time.After(p.again)
		}
	}
}

// once pushes, and tells whether that succeeded.
func (p *Pusher) once(ctx context.Context, failed func(error)) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pushTimeout)
	defer cancel()
	if err := p.push.PushContext(ctx); err != nil {
		p.m.pushes.WithLabelValues(resultFailed).Inc()
		failed(fmt.Errorf("push metrics: %w", err))
		return false
	}
	p.m.pushes.WithLabelValues(resultOK).Inc()
	return true
}
