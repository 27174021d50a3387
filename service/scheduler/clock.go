package scheduler

import (
	"context"
	"sync"
	"time"
)

const (
	// clockAge is for how long it is known how far the server's clock is away.
	clockAge = 2 * time.Minute
	// askFor is how long to wait for the server to tell: others wait, too.
	askFor = 5 * time.Second
	// clockExact is how far it is away if it is the same.
	clockExact = time.Second
)

// A serverClock knows how far the clock of the server is ahead of this instance's.
// All that is decided about a schedule is decided by the server's: otherwise an
// instance whose clock is ahead would cancel what takes no longer than it may, and
// leave out slots for whose start it is not too late.
type serverClock struct {
	mu    sync.Mutex
	asked time.Time // zero: never
	ahead time.Duration
}

// now returns what tells the server's time.
func (s *Scheduler) now(ctx context.Context) (func() time.Time, error) {
	c := &s.server
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.IsZero() || time.Since(c.asked) > clockAge {
		asked := time.Now()
		before := s.clock()
		ctx, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		t, err := s.store.Now(ctx)
		if err != nil {
			return nil, err
		}
		took := time.Since(asked)
		c.asked, c.ahead = asked, t.Sub(before.Add(took/2))
		if c.ahead.Abs() <= clockExact+took {
			c.ahead = 0
		}
	}
	ahead := c.ahead
	return func() time.Time { return s.clock().Add(ahead) }, nil
}

// local returns when a time of the server's is by this instance's clock.
func (s *Scheduler) local(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	return t.Add(-s.server.ahead)
}
