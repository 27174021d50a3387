package store

import (
	"context"
	"errors"
	"fmt"

	"jetkeep/store/object"
)

// Head returns a stream's chain and the end of its log, to be remembered
// outside the store: what was there once must be there for ever.
func (r *Repository) Head(ctx context.Context, target, stream string) (chain string, h Head, err error) {
	if chain, err = r.Chain(target, stream); err != nil {
		return "", Head{}, err
	}
	tail, _, err := r.tailOf(ctx, chain)
	return chain, tail.Head, err
}

// Continues says whether a log still has what was its end once. If not, the
// log was cut, rewritten, or brought back from an older copy of the store.
func (r *Repository) Continues(ctx context.Context, chain string, known Head) (bool, error) {
	if known.Number == 0 {
		return true, nil
	}
	e, err := r.readEntry(ctx, chain, known.Number)
	if errors.Is(err, object.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read entry %d of log %s: %w", known.Number, chain, err)
	}
	return e.hash == known.Hash, nil
}
