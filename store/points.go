package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
)

// listReads is how many commit records are read at once.
const listReads = 16

// largeCommit is more than a commit record has whose stream has no huge
// configuration, tags or notes. Decoded it can take twenty times as much.
const largeCommit = 128 << 10

// Listed is one commit record that a listing found: a restore point, or why it
// cannot be read. One that is only locked, ErrLocked, or not trusted,
// ErrUntrusted, has in Point what is known of it.
type Listed struct {
	ID    string
	Point Point
	Err   error
}

// Point reads one restore point. With ErrLocked what is public of it is
// returned, too.
func (r *Repository) Point(ctx context.Context, id string) (Point, error) {
	if !idPattern.MatchString(id) {
		return Point{}, fmt.Errorf("read restore point %q: %w", id, ErrNoPoint)
	}
	name := commitName(id)
	data, err := r.bucket.ReadAll(ctx, name, maxCommit)
	if errors.Is(err, object.ErrNotExist) {
		return Point{}, fmt.Errorf("read restore point %s: %w", id, ErrNoPoint)
	}
	if errors.Is(err, object.ErrTooLarge) {
		return Point{}, damaged(name, err, "too large")
	}
	if err != nil {
		return Point{}, fmt.Errorf("read restore point %s: %w", id, err)
	}
	if r.marker.Format == 1 {
		return r.decodeCommit1(id, data)
	}
	e, err := r.decodeEntry(name, data)
	if err != nil {
		return Point{}, err
	}
	if e.task != id {
		return Point{}, damaged(name, nil, "is the commit record of %s", e.task)
	}
	return r.decodePoint(name, e)
}

// Points reads all restore points, in order of their ids. One that cannot be
// read is there with its error. The newest one of a stream whose writer ended
// before it could be found by its id is made to be found, where the store can be
// written; this is looked at once for each stream. What was read before is not read
// again, so the caller must not change it.
func (r *Repository) Points(ctx context.Context) ([]Listed, error) {
	listed, err := r.points(ctx, "")
	if err == nil && r.mendListed(ctx, listed) {
		listed, err = r.points(ctx, "")
	}
	return listed, err
}

// PointsOf reads the restore points of one backup that can be found by their ids.
func (r *Repository) PointsOf(ctx context.Context, backup string) ([]Listed, error) {
	if !idPattern.MatchString(backup) {
		return nil, nil
	}
	return r.points(ctx, backup+".")
}

func (r *Repository) points(ctx context.Context, prefix string) ([]Listed, error) {
	var (
		out  []Listed
		keys []pointKey
	)
	for info, err := range r.bucket.List(ctx, commitPrefix+prefix) {
		if err != nil {
			return nil, fmt.Errorf("list restore points: %w", err)
		}
		id := strings.TrimPrefix(info.Name, commitPrefix)
		out = append(out, Listed{ID: id})
		keys = append(keys, r.pointKey(id, info))
	}
	var g errgroup.Group
	g.SetLimit(listReads)
	var large sync.Mutex // of these one at a time is in memory
	for i := range out {
		p, ok := r.cache.point(keys[i])
		if ok {
			out[i].Point = p
			continue
		}
		g.Go(func() error {
			if keys[i].size > largeCommit {
				large.Lock()
				defer large.Unlock()
			}
			out[i].Point, out[i].Err = r.Point(ctx, out[i].ID)
			if out[i].Err == nil {
				r.cache.setPoint(keys[i], out[i].Point)
			}
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list restore points: %w", err)
	}
	return out, nil
}

// Latest returns the newest restore point of a stream that is not forgotten, as
// its chain's log has it, whatever a listing may lack. Without one it is
// ErrNoPoint; one that is not trusted is passed over.
func (r *Repository) Latest(ctx context.Context, target, stream string) (Point, error) {
	if err := r.writable(); err != nil {
		return Point{}, err
	}
	chain, err := r.Chain(target, stream)
	if err != nil {
		return Point{}, err
	}
	p, err := r.latest(ctx, chain)
	if err != nil {
		return Point{}, fmt.Errorf("find newest restore point of stream %s: %w", stream, err)
	}
	return p, nil
}

func (r *Repository) latest(ctx context.Context, chain string) (Point, error) {
	tail, e, err := r.tailOf(ctx, chain)
	forgotten := map[string]bool{}
	for err == nil && e != nil {
		switch {
		case e.untrusted != nil:
		case e.kind == entryPoint && !forgotten[e.task]:
			return r.decodePoint(entryName(chain, e.number), e)
		case e.kind == entryForget:
			var ids []string
			ids, err = decodeForget(e)
			for _, id := range ids {
				forgotten[id] = true
			}
		}
		if err == nil {
			tail, e, err = r.tailAt(ctx, chain, tail.Number-1)
		}
	}
	if err != nil {
		return Point{}, err
	}
	return Point{}, ErrNoPoint
}
