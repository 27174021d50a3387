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
	asking chan struct{} // holds one while the server is asked

	mu     sync.Mutex
	asked  time.Time // zero: never
	here   time.Time // what this instance's clock showed then
	ahead  time.Duration
	failed time.Time // when it was last asked in vain, and why
	err    error
}

// now returns what tells the server's time.
func (s *Scheduler) now(ctx context.Context) (func() time.Time, error) {
	c := &s.server
	begun := time.Now()
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	asked, here, ahead, failed, err := c.asked, c.here, c.ahead, c.failed, c.err
	c.mu.Unlock()
	age := time.Since(asked)
	switch {
	case !asked.IsZero() && age <= clockAge && (s.clock().Round(0).Sub(here)-age).Abs() <= clockExact: // it was not set meanwhile
	case failed.After(begun):
		return nil, err // who waited for that does not wait once more
	default:
		if ahead, err = s.ask(ctx); err != nil {
			return nil, err
		}
	}
	return func() time.Time { return s.clock().Add(ahead) }, nil
}

// ask asks the server for its time.
func (s *Scheduler) ask(ctx context.Context) (time.Duration, error) {
	asked := time.Now()
	before := s.clock()
	actx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	t, err := s.store.Now(actx)
	took := time.Since(asked)
	c := &s.server
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil { // and not because nobody wants to know any more
			c.failed, c.err = time.Now(), err
		}
		return 0, err
	}
	c.asked, c.here, c.ahead = asked, before.Round(0), t.Sub(before.Add(took/2))
	if c.ahead.Abs() <= clockExact+took {
		c.ahead = 0
	}
	return c.ahead, nil
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
