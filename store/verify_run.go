package store

import (
	"context"
	"errors"
	"fmt"
)

func (v *verifier) run(ctx context.Context) error {
	listed, err := v.repo.verifyPoints(ctx, v.opt.Points)
	if err != nil {
		return err
	}
	c := newChainCheck(v)
	for _, l := range listed {
		p := &pointCheck{id: l.ID, name: commitName(l.ID), point: l.Point}
		c.addPoint(p)
		if l.Err != nil {
			p.skip = true
			if err := c.failErr(ctx, p.name, []int32{p.holder}, l.Err); err != nil {
				return err
			}
			continue
		}
		if err := c.readTables(ctx, p); err != nil {
			return err
		}
	}
	if err := c.check(ctx); err != nil {
		return err
	}
	c.finish(func(*pointCheck) bool { return false })
	return nil
}

// check looks at everything that the restore points need.
func (c *chainCheck) check(ctx context.Context) error {
	if err := c.objects(ctx); err != nil {
		return err
	}
	return c.records(ctx)
}

// verifyPoints reads the restore points to verify.
func (r *Repository) verifyPoints(ctx context.Context, ids []string) ([]Listed, error) {
	if len(ids) == 0 {
		return r.Points(ctx)
	}
	var out []Listed
	for _, id := range ids {
		p, err := r.Point(ctx, id)
		if err != nil && (ctx.Err() != nil || errors.Is(err, ErrNoPoint)) {
			return nil, fmt.Errorf("verify %s: %w", id, err)
		}
		out = append(out, Listed{ID: id, Point: p, Err: err})
	}
	return out, nil
}
