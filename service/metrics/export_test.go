package metrics

import "time"

// NewPusherAgain returns a pusher that tries again after that long.
func NewPusherAgain(m *Metrics, url, instance string, again time.Duration) *Pusher {
	p := NewPusher(m, url, instance)
	p.again = again
	return p
}
