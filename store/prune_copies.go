package store

import (
	"context"
	"errors"
	"fmt"

	"jetkeep/store/object"
)

// putDone marks a prune entry as carried out.
func (r *Repository) putDone(ctx context.Context, chain string, number uint64) error {
	err := r.bucket.PutBytes(ctx, doneName(chain, number), []byte(doneMark))
	if errors.Is(err, object.ErrExist) {
		return nil
	}
	return err
}

// copies puts the records right that are found by id: those of live restore
// points are copied from the log, those of forgotten ones are deleted.
func (x *pruning) copies(ctx context.Context, s *chainState, c *ChainPlan) error {
	for _, id := range c.Missing {
		if err := x.copyAgain(ctx, s, id); err != nil {
			return err
		}
	}
	for _, id := range c.Stale {
		if s.live(id) {
			continue // made again meanwhile
		}
		e, err := x.repo.copyOf(ctx, id)
		if errors.Is(err, ErrNoPoint) {
			continue
		}
		if err != nil {
			return err
		}
		if e.chain != s.tail.chain || !s.forgot(e) {
			continue
		}
		switch err := x.repo.bucket.Delete(ctx, commitName(id)); {
		case errors.Is(err, object.ErrRetained):
			x.kept(ctx, Used{Name: commitName(id), Size: int64(len(e.encode()))})
			continue
		case err != nil:
			return err
		}
		x.report.Removed++
	}
	return nil
}

// copyAgain copies the newest record of a live restore point.
func (x *pruning) copyAgain(ctx context.Context, s *chainState, id string) error {
	points := s.byID[id]
	if len(points) == 0 || points[len(points)-1].forgotten {
		return nil
	}
	e, err := x.repo.readEntry(ctx, s.tail.chain, points[len(points)-1].number)
	if err == nil {
		err = x.repo.putCopy(ctx, e)
	}
	if errors.Is(err, ErrPointExists) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("copy record of %s: %w", id, err)
	}
	x.report.Copied++
	return nil
}

// forgot says whether the log forgets the restore point of this very entry.
func (s *chainState) forgot(e *entry) bool {
	for _, p := range s.byID[e.task] {
		if p.number == e.number {
			return p.forgotten
		}
	}
	return false
}
