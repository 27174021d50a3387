package store

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"
)

// A Memory bounds what is held at once of packs that are being read and of
// records that are larger than MaxSegment, by all who read and write the
// repositories that share it. Who finds no room waits. What is larger than a
// whole share waits until it has the share to itself.
//
// What else a Reader or a Writer holds has a fixed size: a few segments of at
// most MaxSegment for each of its workers.
//
// Who has a part of packs may wait for one of records, in the order in which it
// reads them, and who has one of records or of frames waits for no memory before
// it gives that back. So nobody waits for somebody who waits for him, unless a
// caller reads two restore points in turn: those need a Memory each.
type Memory struct {
	packs   *budget // read, as they are stored
	records *budget // decompressed, being read
	frames  *budget // being written

	// Buffers that nobody has, of packs, of large records and of their frames.
	// Without them each would be made anew before the collector has found that
	// the one before is in use no more. It may take them at any time.
	packBuffers, recordBuffers, pieces sync.Pool
}

// The shares of NewMemory, in bytes.
const (
	// usualPack is more than a pack has that is no single large record.
	usualPack = maxPackStored + 256<<10
	// packMemory is for two readers, or for as many packs as Verify reads at once.
	packMemory = 4 * usualPack
	// recordMemory and frameMemory hold one record of the largest kind that a
	// server takes, or several that are smaller.
	recordMemory = 64<<20 + 256<<10
	frameMemory  = 64<<20 + 1<<20
)

// NewMemory returns the bound that a process has by itself. What reads has 129 MiB
// of it, what writes 65 MiB.
func NewMemory() *Memory { return newMemory(packMemory, recordMemory, frameMemory) }

func newMemory(packs, records, frames int64) *Memory {
	return &Memory{packs: newBudget(packs), records: newBudget(records), frames: newBudget(frames)}
}

// shares returns the repository's; of one that was put together without, nothing
// is bounded.
func (r *Repository) shares() *Memory {
	if r.memory == nil {
		return &Memory{}
	}
	return r.memory
}

// bufferOf returns a buffer, empty if there is none.
func bufferOf(p *sync.Pool) []byte {
	if b, ok := p.Get().(*[]byte); ok {
		return *b
	}
	return nil
}

// recycle keeps a buffer for others, unless it is too small for most.
func recycle(p *sync.Pool, b []byte) {
	if cap(b) > MaxSegment {
		b = b[:0]
		p.Put(&b)
	}
}

// A budget is so many bytes, of which each taker has a part.
type budget struct {
	limit int64
	sem   *semaphore.Weighted

	mu         sync.Mutex // guards what follows
	held, most int64
}

func newBudget(limit int64) *budget { return &budget{limit: limit, sem: semaphore.NewWeighted(limit)} }

// take waits for n bytes, or for all that there are if n is more. It returns
// what give gives back.
func (b *budget) take(ctx context.Context, n int64) (int64, error) {
	if b == nil {
		return n, nil
	}
	n = min(n, b.limit)
	if err := b.sem.Acquire(ctx, n); err != nil {
		return 0, fmt.Errorf("wait for memory: %w", context.Cause(ctx))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held += n
	b.most = max(b.most, b.held)
	return n, nil
}

func (b *budget) give(n int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.held -= n
	b.mu.Unlock()
	b.sem.Release(n)
}

// An account is what one reader or writer has taken of a budget, so that
// nothing stays taken however it ends.
type account struct {
	of *budget

	mu   sync.Mutex // guards held
	held int64
}

func (a *account) take(ctx context.Context, n int64) (int64, error) {
	n, err := a.of.take(ctx, n)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held += n
	return n, err
}

func (a *account) give(n int64) {
	a.mu.Lock()
	n = min(n, a.held)
	a.held -= n
	a.mu.Unlock()
	if n > 0 {
		a.of.give(n)
	}
}

// close gives back all that is left. Nobody may take or give any more.
func (a *account) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held > 0 {
		a.of.give(a.held)
	}
	a.held = 0
}
