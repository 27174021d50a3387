package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
)

// A restore point exists with its entry in the log, and is found by id by the
// copy that its writer makes next. A writer that ends between the two leaves an
// entry without a copy. Whoever appends to the log makes the copy of its last
// entry first, so that only the last entry of a log can lack one, and whoever
// lists or verifies makes it, too. Likewise who forgets deletes the copy after the
// entry that says so, and whoever comes next does it if that is left to do.

// mendCopy makes the copy of a restore point's entry if there is none, and says
// whether it did. The entry is trusted and was not forgotten when it was read.
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
	// Of an id that was used again another entry's copy may have come meanwhile.
	if err := r.putCopy(ctx, e); err != nil && !errors.Is(err, ErrPointExists) {
		return false, err
	}
	return true, r.unmend(ctx, e)
}

// unmend takes a copy away again whose restore point was forgotten while it was
// made.
func (r *Repository) unmend(ctx context.Context, e *entry) error {
	for n := e.number + 1; ; n++ {
		next, err := r.readEntry(ctx, e.chain, n)
		if errors.Is(err, object.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if next.kind != entryForget || !next.trusted() {
			continue
		}
		ids, err := decodeForget(next)
		if err != nil {
			return err
		}
		if slices.Contains(ids, e.task) {
			_, err := r.deleteCopy(ctx, next, e.task)
			return err
		}
	}
}

// deleteCopy deletes the copy of a restore point that an entry forgets, if it is
// there, and says whether it did.
func (r *Repository) deleteCopy(ctx context.Context, forget *entry, id string) (bool, error) {
	there, err := r.copyOf(ctx, id)
	if errors.Is(err, ErrNoPoint) || err == nil && (there.chain != forget.chain || there.number > forget.number) {
		return false, nil
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
		ids, err := decodeForget(e)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if _, err := r.deleteCopy(ctx, e, id); err != nil {
				return err
			}
		}
	}
	return nil
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

// mendReads is how many logs are looked at at once.
const mendReads = 16

// mendListed does what is left to do of the last entries of logs, as far as a
// listing shows them and it can: what is listed next is what exists. What it has
// seen once it does not look at again.
func (r *Repository) mendListed(ctx context.Context) error {
	if r.marker.Format == 1 || r.cache == nil {
		return nil
	}
	last := map[string]uint64{}
	for info, err := range r.bucket.List(ctx, chainsPrefix) {
		if err != nil {
			return fmt.Errorf("list logs: %w", err)
		}
		chain, number, _ := strings.Cut(strings.TrimPrefix(info.Name, chainsPrefix), "/")
		n, err := strconv.ParseUint(number, 10, 64)
		if err == nil && chainPattern.MatchString(chain) && info.Name == entryName(chain, n) && n > last[chain] {
			last[strings.Clone(chain)] = n
		}
	}
	var g errgroup.Group
	g.SetLimit(mendReads)
	for chain, n := range last {
		if r.cache.mended(chain) >= n {
			continue
		}
		g.Go(func() error {
			// Only what is found out matters: a damaged log, or a store in which
			// nothing can be written, is told by those who need it.
			e, err := r.readEntry(ctx, chain, n)
			if err == nil {
				err = r.mend(ctx, e)
			}
			if err == nil {
				r.cache.setMended(chain, n)
			}
			return nil
		})
	}
	return g.Wait() //nolint:wrapcheck // never fails
}
