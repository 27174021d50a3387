package store

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
)

// A restore point exists with its entry in the log, and is found by id by the
// copy that its writer makes next. A writer that ends between the two leaves an
// entry without a copy. Whoever appends to the log makes the copy of its last
// entry first, so that only the last entry of a log can lack one, and whoever
// lists or verifies makes it, too. Likewise who forgets deletes the copy after the
// entry that says so, and who appends, prunes or verifies next does it if that is
// left to do. Who lists deletes nothing: a listing does not follow the log, and one
// entry alone proves nothing.

// mendCopy makes the copy of a restore point's entry if there is none and none is
// due, for the restore point was forgotten, and says whether it did. The entry is
// trusted.
func (r *Repository) mendCopy(ctx context.Context, e *entry) (bool, error) {
	name := commitName(e.task)
	if _, err := r.bucket.Stat(ctx, name); !errors.Is(err, object.ErrNotExist) {
		return false, err //nolint:wrapcheck // says which object
	}
	if e.body == nil {
		again, err := r.readEntry(ctx, e.chain, e.number)
		if err != nil {
			return false, err
		}
		if again.hash != e.hash {
			return false, damaged(entryName(e.chain, e.number), nil, "is not what it was")
		}
		e = again
	}
	forget, next, err := r.forgetAfter(ctx, e, e.number+1)
	if forget != nil || err != nil {
		return false, err
	}
	// Of an id that was used again another entry's copy may have come meanwhile.
	if err := r.putCopy(ctx, e); err != nil && !errors.Is(err, ErrPointExists) {
		return false, err
	}
	// It may have been forgotten while its copy was made.
	forget, _, err = r.forgetAfter(ctx, e, next)
	if forget == nil || err != nil {
		return err == nil, err
	}
	_, err = r.deleteCopy(ctx, forget, e.task)
	return false, err
}

// forgetAfter returns the entry, from number n on, that forgets a restore point, if
// there is one, and else the number that the log's next entry gets.
func (r *Repository) forgetAfter(ctx context.Context, e *entry, n uint64) (forget *entry, next uint64, err error) {
	for ; ; n++ {
		later, err := r.readEntry(ctx, e.chain, n)
		if errors.Is(err, object.ErrNotExist) {
			return nil, n, nil
		}
		if err != nil {
			return nil, n, err
		}
		if later.kind != entryForget || !later.trusted() {
			continue
		}
		ids, err := decodeForget(later)
		if err != nil {
			return nil, n, err
		}
		if slices.Contains(ids, e.task) {
			return later, n, nil
		}
	}
}

// deleteCopy deletes the copy of a restore point that an entry forgets, if it is
// there, and says whether it did. A copy of what the log does not have stays: it
// may be all that is left of a lost entry.
func (r *Repository) deleteCopy(ctx context.Context, forget *entry, id string) (bool, error) {
	there, err := r.copyOf(ctx, id)
	if errors.Is(err, ErrNoPoint) || err == nil && (there.chain != forget.chain || there.number > forget.number) {
		return false, nil
	}
	if err == nil {
		var in *entry
		in, err = r.readEntry(ctx, there.chain, there.number)
		if errors.Is(err, object.ErrNotExist) || errors.As(err, new(*DamageError)) || err == nil && in.hash != there.hash {
			return false, nil
		}
	}
	if err == nil {
		err = r.bucket.Delete(ctx, commitName(id))
	}
	if errors.Is(err, object.ErrRetained) {
		return false, nil // a prune deletes it later
	}
	return err == nil, err
}

// mend does what is left to do of an entry that its log ends with.
func (r *Repository) mend(ctx context.Context, e *entry) error {
	switch {
	case !e.trusted():
		return nil
	case e.kind == entryPoint:
		_, err := r.mendCopy(ctx, e)
		return err
	case e.kind == entryForget:
		return r.deleteCopies(ctx, e)
	}
	return nil
}

// deleteCopies deletes the copies that are left of what an entry forgets, unless
// nothing can be deleted here.
func (r *Repository) deleteCopies(ctx context.Context, forget *entry) error {
	if r.cache.undeletable() {
		return nil
	}
	ids, err := decodeForget(forget)
	if err != nil {
		return err
	}
	g, deleting := errgroup.WithContext(ctx)
	g.SetLimit(mendReads)
	for _, id := range ids {
		g.Go(func() error {
			_, err := r.deleteCopy(deleting, forget, id)
			return err
		})
	}
	err = g.Wait()
	if errors.Is(err, object.ErrNotWritable) {
		r.cache.setUndeletable()
	}
	return err //nolint:wrapcheck // our own
}

// mendLast does what is left to do of the entry that a log ends with, before
// another is appended. last is that entry if it is known.
func (r *Repository) mendLast(ctx context.Context, t *logTail, last *entry) error {
	if t.Number == 0 {
		return nil
	}
	if last == nil || last.number != t.Number {
		var err error
		if _, last, err = r.tailAt(ctx, t.chain, t.Number); err != nil {
			return err
		}
	}
	err := r.mend(ctx, last)
	if last.kind == entryForget && context.Cause(ctx) == nil {
		return nil // who only adds to the repository may not delete
	}
	return err
}

// mendReads is how many logs, or copies, are looked at at once.
const mendReads = 16

// mendListed makes the copies that the last entries of logs lack, as far as it
// can, and says whether it made any. It looks behind the newest restore point that
// a listing found of each log, once: what cannot be found out or put right here is
// told by those who need it.
func (r *Repository) mendListed(ctx context.Context, listed []Listed) bool {
	if r.marker.Format == 1 || r.cache == nil {
		return false
	}
	newest := map[string]uint64{}
	for i := range listed {
		if err := listed[i].Err; err == nil || errors.Is(err, ErrLocked) {
			p := &listed[i].Point
			newest[p.Chain] = max(newest[p.Chain], p.Number)
		}
	}
	var (
		g    errgroup.Group
		made atomic.Bool
	)
	g.SetLimit(mendReads)
	for chain, n := range newest {
		if n >= maxNumber || !r.cache.lookBehind(chain) {
			continue
		}
		g.Go(func() error {
			if ok, err := r.mendBehind(ctx, chain, n); err == nil && ok {
				made.Store(true)
			}
			return nil
		})
	}
	_ = g.Wait() // never fails
	return made.Load()
}

// mendBehind makes the copy that the last entry of a log lacks, if it is behind
// entry n, and says whether it did.
func (r *Repository) mendBehind(ctx context.Context, chain string, n uint64) (bool, error) {
	_, err := r.bucket.Stat(ctx, entryName(chain, n+1))
	if errors.Is(err, object.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err //nolint:wrapcheck // nobody reads it
	}
	head, err := r.headNumber(ctx, chain)
	if err != nil || head <= n {
		return false, err
	}
	e, err := r.readEntry(ctx, chain, head)
	if err != nil || e.kind != entryPoint || !e.trusted() {
		return false, err
	}
	return r.mendCopy(ctx, e)
}
