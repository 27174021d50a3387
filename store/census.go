package store

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"jetkeep/store/object"
)

// A Census compares what restore points promise with what the store keeps. A
// promise whose time is over counts no more.
type Census struct {
	// Points is how many restore points promise anything still.
	Points int
	// Objects is how many objects they need, each counted once, and Retained how
	// many of those the store keeps as long as promised; Until is when the first
	// of these may go, zero if there is none.
	Objects, Retained int
	Until             time.Time
	// Short are the restore points, in order, of which something may be deleted
	// before its time. They are whole, so far.
	Short []string
}

// A promised object is kept for the restore points that need it.
type promised struct {
	longest *pointCheck   // of these the one that promises most
	points  []*pointCheck // whose promises are not over
}

func (o *promised) add(p *pointCheck) {
	o.points = append(o.points, p)
	if o.longest == nil || o.longest.point.Retained.Before(p.point.Retained) {
		o.longest = p
	}
}

// A census is one run of comparing.
type census struct {
	v       *verifier
	keeper  object.Retainer
	points  promised // all of them
	short   map[string]bool
	objects int // under v.mu, as all below
	kept    int
	until   time.Time
}

// newCensus returns nil in a store that promises nothing.
func newCensus(v *verifier) *census {
	keeper, ok := v.repo.bucket.Retainer()
	if !ok {
		return nil
	}
	return &census{v: v, keeper: keeper, short: map[string]bool{}}
}

// chain looks at what the restore points of a chain need: their objects, the
// copies of their entries, and the log up to the last of them.
func (n *census) chain(ctx context.Context, c *chainCheck) error {
	if n == nil {
		return nil
	}
	running := map[*pointCheck]bool{}
	now := time.Now()
	for _, p := range c.points {
		if !p.beside && p.point.Retained.After(now) {
			running[p] = true
			n.points.add(p)
		}
	}
	objects := map[string]*promised{}
	add := func(name string, p *pointCheck) {
		if objects[name] == nil {
			objects[name] = new(promised)
		}
		objects[name].add(p)
	}
	for _, o := range c.order {
		if o.gone {
			continue
		}
		for p := range c.reached(o.owners) {
			if running[p] {
				add(o.name, p)
			}
		}
	}
	for p := range running {
		add(commitName(p.id), p)
	}
	n.log(c.chain, slices.Collect(maps.Keys(running)), objects)
	return n.look(ctx, c, objects)
}

// log adds the entries of a log, each for all restore points from it on.
func (n *census) log(chain string, points []*pointCheck, objects map[string]*promised) {
	slices.SortFunc(points, func(a, b *pointCheck) int { return cmp.Compare(b.number, a.number) })
	for i, p := range points {
		first := uint64(0)
		if i+1 < len(points) {
			first = points[i+1].number
		}
		some := promised{points: points[:i+1]}
		for _, p := range some.points {
			if some.longest == nil || some.longest.point.Retained.Before(p.point.Retained) {
				some.longest = p
			}
		}
		for number := p.number; number > first; number-- {
			objects[entryName(chain, number)] = &some
		}
	}
}

// shared looks at what every restore point needs: the marker and the keys.
func (n *census) shared(ctx context.Context) error {
	if n == nil || len(n.points.points) == 0 {
		return nil
	}
	objects := map[string]*promised{markerName: &n.points}
	for info, err := range n.v.repo.bucket.List(ctx, keyPrefix) {
		if err != nil {
			return err
		}
		objects[info.Name] = &n.points
	}
	c := newChainCheck(n.v, "")
	if err := n.look(ctx, c, objects); err != nil {
		return err
	}
	c.finish(nil)
	return nil
}

// look asks the store about objects. One that is missing is for others to
// report.
func (n *census) look(ctx context.Context, c *chainCheck, objects map[string]*promised) error {
	needs := make([]*need, 0, len(objects))
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		needs = append(needs, &need{name: name})
	}
	return c.each(ctx, verifyAsks, needs, func(ctx context.Context, o *need) error {
		until, err := n.keeper.Retention(ctx, o.name)
		if errors.Is(err, object.ErrNotExist) {
			return nil
		}
		if err == nil {
			n.take(c, o.name, until, objects[o.name])
		}
		return err
	})
}

// take counts an object.
func (n *census) take(c *chainCheck, name string, until time.Time, o *promised) {
	longest := o.longest
	if until.Before(longest.point.Retained) {
		short := "is not retained"
		if !until.IsZero() {
			short = "is retained only until " + until.UTC().Format(time.RFC3339)
		}
		c.fail(name, nil, "%s; restore point %s was promised until %s", short, longest.id, longest.point.Retained.Format(time.RFC3339))
	}
	n.v.mu.Lock()
	defer n.v.mu.Unlock()
	n.objects++
	if !until.Before(longest.point.Retained) {
		n.kept++
		if n.until.IsZero() || until.Before(n.until) {
			n.until = until
		}
		return
	}
	for _, p := range o.points {
		if until.Before(p.point.Retained) {
			n.short[p.id] = true
		}
	}
}

// report returns what was found, nil in a store that promises nothing.
func (n *census) report() *Census {
	if n == nil {
		return nil
	}
	return &Census{
		Points: len(n.points.points), Objects: n.objects, Retained: n.kept, Until: n.until.UTC(),
		Short: slices.Sorted(maps.Keys(n.short)),
	}
}
