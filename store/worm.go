package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
)

// retains is how many retentions are asked for or extended at once.
const retains = 16

// maxRetained bounds the retentions that are remembered, at some 100 bytes each.
const maxRetained = 1 << 18

// A retained remembers until when objects are kept at least. Retentions are
// never shortened, so what is remembered stays true; only who may bypass them,
// in governance mode, can prove it wrong, which verification finds.
type retained struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (r *retained) get(name string) time.Time {
	if r == nil {
		return time.Time{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.until[name]
}

func (r *retained) set(name string, until time.Time) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil || len(r.until) >= maxRetained {
		r.until = map[string]time.Time{}
	}
	r.until[name] = until
}

// noteStored remembers the retention of an object that was put, beginning at a
// time.
func (r *Repository) noteStored(name string, begun time.Time) {
	if keeper, ok := r.bucket.Retainer(); ok {
		d := keeper.RetainFor()
		r.retained.set(name, begun.Add(d+object.RetainLead(d)))
	}
}

// promise returns until when a restore point that is committed now is kept, the
// zero time in a store that promises nothing.
func (r *Repository) promise() time.Time {
	keeper, ok := r.bucket.Retainer()
	if !ok {
		return time.Time{}
	}
	return time.Now().Add(keeper.RetainFor()).UTC().Truncate(time.Second)
}

// keepAll has the store keep, until at least then, all that a restore point of
// a chain needs, from its packs to the repository's keys, up to an entry of the
// log. Nothing counts before that: a restore point whose parts could be deleted
// sooner than it promises is none.
func (r *Repository) keepAll(ctx context.Context, chain string, last uint64, uses Uses, until time.Time) error {
	keeper, ok := r.bucket.Retainer()
	if !ok || until.IsZero() {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(retains)
	keep := func(name string) {
		if !r.retained.get(name).Before(until) {
			return
		}
		g.Go(func() error { return r.keepOne(gctx, keeper, name, until) })
	}
	err := r.eachUse(ctx, chain, uses, func(o Used) bool {
		keep(o.Name)
		return true
	})
	for n := uint64(1); n <= last && gctx.Err() == nil; n++ {
		keep(entryName(chain, n))
	}
	keep(markerName)
	keep(readmeName)
	if err == nil {
		for info, lerr := range r.bucket.List(gctx, keyPrefix) {
			if err = lerr; err != nil {
				break
			}
			keep(info.Name)
		}
	}
	if werr := g.Wait(); werr != nil {
		err = werr // what came first, not that the listing was ended by it
	}
	if err != nil {
		return fmt.Errorf("have the store keep what is needed until %s: %w", until.Format(time.RFC3339), err)
	}
	return nil
}

// keepOne extends one retention: further than asked for, so that the next
// restore points find it long enough.
func (r *Repository) keepOne(ctx context.Context, keeper object.Retainer, name string, until time.Time) error {
	there, err := keeper.Retention(ctx, name)
	if err == nil && there.Before(until) {
		there = until.Add(object.RetainLead(keeper.RetainFor()))
		err = keeper.Retain(ctx, name, there)
	}
	if errors.Is(err, object.ErrNotExist) && (name == readmeName || strings.HasPrefix(name, keyPrefix)) {
		return nil // of these none is needed by name
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.retained.set(name, there)
	return nil
}
