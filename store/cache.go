package store

import (
	"sync"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/seal"
)

// maxCached bounds the restore points that are kept in memory, by the size of
// their commit records.
const maxCached = 16 << 20

// A cache remembers what cannot change: how far logs reached, and commit
// records. A nil cache remembers nothing.
type cache struct {
	mu     sync.Mutex
	heads  map[string]logTail
	behind map[string]bool // logs that were looked at behind their newest copy
	points map[pointKey]Point
	size   int64
	// keeps is whether the store, or what we may do there, lets no copy be deleted.
	keeps bool
}

// A pointKey stands for one commit record as one set of keys reads it. One that
// was forgotten and made again has another time or size.
type pointKey struct {
	id       string
	size     int64
	modified time.Time
	sealer   *seal.Sealer
}

func newCache() *cache {
	return &cache{heads: map[string]logTail{}, behind: map[string]bool{}, points: map[pointKey]Point{}}
}

func (c *cache) head(chain string) logTail {
	if c == nil {
		return newTail(chain)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.heads[chain]; ok {
		return t
	}
	return newTail(chain)
}

// setHead notes how far a log reaches; it never goes back.
func (c *cache) setHead(t logTail) {
	if c == nil || t.Number == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Number > c.heads[t.chain].Number {
		c.heads[t.chain] = t
	}
}

// lookBehind says, once, whether a log is still to be looked at for an entry
// that has no copy.
func (c *cache) lookBehind(chain string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.behind[chain] {
		return false
	}
	c.behind[chain] = true
	return true
}

// undeletable says whether copies were found not to be deletable.
func (c *cache) undeletable() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keeps
}

func (c *cache) setUndeletable() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keeps = true
}

func (r *Repository) pointKey(id string, info object.Info) pointKey {
	return pointKey{id: id, size: info.Size, modified: info.Modified, sealer: r.sealer}
}

func (c *cache) point(k pointKey) (Point, bool) {
	if c == nil {
		return Point{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.points[k]
	return p, ok
}

func (c *cache) setPoint(k pointKey, p Point) {
	if c == nil || k.size > maxCached/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.points[k]; ok {
		return
	}
	for old := range c.points { // any will do
		if c.size+k.size <= maxCached {
			break
		}
		delete(c.points, old)
		c.size -= old.size
	}
	c.points[k] = p
	c.size += k.size
}
