package service

import (
	"context"
	"sync"
	"sync/atomic"

	"jetkeep/service/natsconn"
)

// turns lets a single server take in one restored stream at a time. A server
// of 2.15 goes through the account's streams without a lock when it takes one
// in, so that two at once may crash it (seen with the race detector). In a
// cluster it does not go that way. What comes before and after, reading the
// repository and verifying, goes on side by side.
type turns struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

// turn returns the turn of a restore into a target.
func (s *Service) turn(target string, conn *natsconn.Conn) *turn {
	if conn.NC.ConnectedClusterName() != "" {
		return &turn{}
	}
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	if s.turns.busy == nil {
		s.turns.busy = map[string]chan struct{}{}
	}
	busy := s.turns.busy[target]
	if busy == nil {
		busy = make(chan struct{}, 1)
		s.turns.busy[target] = busy
	}
	return &turn{busy: busy}
}

// A turn is one restore's.
type turn struct {
	busy chan struct{} // nil if there is nothing to wait for
	mine atomic.Bool
}

// begin waits for the turn; once it is ours it does nothing.
func (t *turn) begin(ctx context.Context) error {
	if t.busy == nil || t.mine.Load() {
		return nil
	}
	select {
	case t.busy <- struct{}{}:
		t.mine.Store(true)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end gives the turn to the next one. It may be called at any time.
func (t *turn) end() {
	if t.mine.CompareAndSwap(true, false) {
		<-t.busy
	}
}
