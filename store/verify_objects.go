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
		case n.read:
			c.v.report.Read++
			c.v.report.ReadBytes += n.size
		case c.forRecords(n):
		case c.v.opt.Level >= VerifyData && c.v.opt.selected(n.name):
			read = append(read, n)
			c.v.planned(1, n.size)
		default:
			ask = append(ask, n)
			c.v.planned(1, 0)
		}
	}
	err := c.each(ctx, verifyAsks, ask, func(ctx context.Context, n *need) error { return c.v.repo.checkSize(ctx, n.name, n.size) })
	if err != nil {
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
			n.gone = errors.Is(err, object.ErrNotExist)
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
		return err
	}
	return context.Cause(ctx)
}

// checkSize looks whether an object is there with its size.
func (r *Repository) checkSize(ctx context.Context, name string, size int64) error {
	info, err := r.bucket.Stat(ctx, name)
	switch {
	case errors.Is(err, object.ErrNotExist):
		return damaged(name, err, "missing")
	case err != nil:
		return err
	case info.Size != size:
		return damaged(name, nil, "has %d bytes instead of %d", info.Size, size)
	}
	return nil
}

// checkHash reads an object, piece by piece, and compares its hash with its
// name. What differs is read once more: the store is to be judged, and not
// what was between.
func (r *Repository) checkHash(ctx context.Context, name string, size int64) error {
	if err := r.checkSize(ctx, name, size); err != nil {
		return err
	}
	for again := false; ; again = true {
		body, err := r.bucket.Open(ctx, name, 0, size)
		if err != nil {
			return err
		}
		h := sha256.New()
		n, err := io.Copy(h, body)
		if err = errors.Join(err, body.Close()); err != nil {
			return fmt.Errorf("read object %s: %w", name, err)
		}
		if n == size && hex.EncodeToString(h.Sum(nil)) == path.Base(name) {
			return nil
		}
		if again {
			return damaged(name, nil, "content does not match its name")
		}
	}
}

// readHashed reads a whole object and compares its hash with its name, twice
// if need be. It takes data for it if that is large enough.
func (r *Repository) readHashed(ctx context.Context, name string, size int64, data []byte) ([]byte, error) {
	for again := false; ; again = true {
		var err error
		if data, err = r.readStored(ctx, name, size, data); err != nil {
			return nil, err
		}
		if fmt.Sprintf("%x", sha256.Sum256(data)) == path.Base(name) {
			return data, nil
		}
		if again {
			return nil, damaged(name, nil, "content does not match its name")
		}
	}
}

// orphans counts what no restore point needs: what a listing shows beyond what
// was found by name. It informs and decides nothing, as listings may lag.
func (v *verifier) orphans(ctx context.Context) error {
	count, size := -v.present, -v.presentBytes
	for _, prefix := range []string{"packs/", "meta/"} {
		for info, err := range v.repo.bucket.List(ctx, prefix) {
			if err != nil {
				return err
			}
			count++
			size += info.Size
		}
	}
	v.report.Orphans, v.report.OrphanBytes = max(count, 0), max(size, 0)
	return nil
}
