package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
)

// How many objects are asked for, and read, at once.
const (
	verifyAsks  = 16
	verifyReads = 4
)

func (o *VerifyOptions) readers() int {
	if o.Workers > 0 {
		return min(o.Workers, verifyReads)
	}
	return verifyReads
}

// objects looks whether each object is there with its size, and reads those
// that are to be read here: all but the packs whose records are read later.
func (c *chainCheck) objects(ctx context.Context) error {
	var ask, read []*need
	for _, n := range c.order {
		c.v.report.Objects++
		c.v.report.Bytes += n.size
		switch {
		case n.read, c.forRecords(n):
		case c.v.opt.Level >= VerifyData && c.v.opt.selected(n.name):
			read = append(read, n)
			c.v.planned(1, n.size)
		default:
			ask = append(ask, n)
			c.v.planned(1, 0)
		}
	}
	if err := c.each(ctx, verifyAsks, ask, func(ctx context.Context, n *need) error { return c.v.repo.checkSize(ctx, n.name, n.size) }); err != nil {
		return err
	}
	return c.each(ctx, c.v.opt.readers(), read, func(ctx context.Context, n *need) error { return c.v.repo.checkHash(ctx, n.name, n.size) })
}

// forRecords says whether a pack is read for its records.
func (c *chainCheck) forRecords(n *need) bool {
	return c.v.opt.Level >= VerifyRecords && len(n.uses) > 0 && c.v.opt.selected(n.name)
}

// each checks objects, so many at once.
func (c *chainCheck) each(ctx context.Context, limit int, needs []*need, check func(context.Context, *need) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(limit)
	reading := limit != verifyAsks
	for _, n := range needs {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := check(gctx, n)
			if err = c.failErr(gctx, n.name, n.owners, err); err != nil {
				return err
			}
			if reading {
				c.v.done(n.size)
			} else {
				c.v.done(0)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err //nolint:wrapcheck // our own
	}
	return context.Cause(ctx)
}

// checkSize looks whether an object is there with its size.
func (r *Repository) checkSize(ctx context.Context, name string, size int64) error {
	info, err := r.bucket.Stat(ctx, name)
	switch {
	case errors.Is(err, object.ErrNotExist):
		return damaged(name, nil, "missing")
	case err != nil:
		return err //nolint:wrapcheck // says which object
	case info.Size != size:
		return damaged(name, nil, "has %d bytes instead of %d", info.Size, size)
	}
	return nil
}

// checkHash reads an object, piece by piece, and compares its hash with its
// name.
func (r *Repository) checkHash(ctx context.Context, name string, size int64) error {
	if err := r.checkSize(ctx, name, size); err != nil {
		return err
	}
	body, err := r.bucket.Open(ctx, name, 0, size)
	if err != nil {
		return err //nolint:wrapcheck // says which object
	}
	h := sha256.New()
	n, err := io.Copy(h, body)
	if err = errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("read object %s: %w", name, err)
	}
	if n != size || hex.EncodeToString(h.Sum(nil)) != path.Base(name) {
		return damaged(name, nil, "content does not match its name")
	}
	return nil
}
