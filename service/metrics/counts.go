package metrics

import (
	"sync"
	"time"
)

// Forgot tells that restore points of a repository were forgotten, by what had ended
// at a moment.
func (m *Metrics) Forgot(repository string, n int, ended time.Time) {
	if left, known := m.counts.forgot(repository, n, ended); known {
		m.kept.WithLabelValues(repository).Set(float64(left))
	}
}

// Counted tells whether it is known how many restore points a repository has.
func (m *Metrics) Counted(repository string) bool {
	m.counts.mu.Lock()
	defer m.counts.mu.Unlock()
	return m.counts.of(repository).known
}

// counts is how many restore points repositories have: as many as there were when one
// was looked into, and what was heard of since.
type counts struct {
	mu  sync.Mutex
	all map[string]*count
}

type count struct {
	known bool
	begun time.Time // of the look
	there int
	heard map[string]time.Time // restore points that were made, by id, and when
}

// maxHeard bounds what is remembered by id until the next look.
const maxHeard = 10_000

func (c *counts) of(repository string) *count {
	if c.all == nil {
		c.all = map[string]*count{}
	}
	x := c.all[repository]
	if x == nil {
		x = &count{heard: map[string]time.Time{}}
		c.all[repository] = x
	}
	return x
}

func (x *count) value() int { return x.there + len(x.heard) }

// made counts a restore point that was made, once.
func (c *counts) made(p Point) (n int, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.of(p.Repository)
	if p.ID != "" {
		if len(x.heard) >= maxHeard {
			x.there += len(x.heard)
			clear(x.heard)
		}
		x.heard[p.ID] = p.Ended
	}
	return x.value(), x.known
}

// forgot takes restore points off that were there at the last look.
func (c *counts) forgot(repository string, n int, ended time.Time) (left int, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.of(repository)
	if ended.After(x.begun) {
		x.there = max(x.there-n, -len(x.heard))
	}
	return x.value(), x.known
}

// surveyed takes what a look found that was begun at a moment. What was made since,
// and is not among it, stays counted.
func (c *counts) surveyed(repository string, begun time.Time, all []Point) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.of(repository)
	x.known, x.begun, x.there = true, begun, len(all)
	for _, p := range all {
		delete(x.heard, p.ID)
	}
	for id, ended := range x.heard {
		if !ended.After(begun) { // it is forgotten
			delete(x.heard, id)
		}
	}
	return x.value()
}
