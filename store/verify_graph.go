package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"jetkeep/store/object"
	"jetkeep/store/seqset"
)

// A chainCheck verifies the restore points of one chain. What they need and
// who needs it is a graph: restore points and the lists and tables that they
// share are holders, which name objects.
type chainCheck struct {
	v       *verifier
	chain   string // empty in format 1
	points  []*pointCheck
	holders []holder
	needs   map[string]*need
	order   []*need // as they were found
	lists   map[string]int32
	tables  map[string]*tableCheck
	found   map[string]*finding // by object; under v.mu
	late    []*entry            // whose commit records are missing

	unlisted []*need // lists of what is used that cannot be read
}

// A holder names objects: a restore point, or what is shared between some.
type holder struct {
	point   *pointCheck // nil for a list or table
	parents []int32
}

// A need is an object that must be there.
type need struct {
	name   string
	size   int64
	owners []int32 // holders that name it
	named  []int32 // those of them that are restore points' lists of uses
	read   bool    // was read and hashed already
	gone   bool    // is missing
	// aside says that restores do without it: proofs, which only the next backup
	// needs, and lists of what is used, where the tables say the same.
	aside bool
	uses  []packUse
	proof Blob // of a pack
}

// A finding is what is wrong with an object.
type finding struct {
	problem string
	points  map[*pointCheck]bool
}

// A pointCheck is a restore point that is being verified.
type pointCheck struct {
	id     string
	name   string // of the object that says what it holds
	number uint64 // of its entry in the chain's log
	holder int32
	point  Point
	locked bool // what it holds cannot be read without a key
	beside bool // no restore point of the log, though its commit record is there
	listed bool // it lists its uses, so tables need not be read for them

	overlaps bool // segments of it overlap
	dead     *seqset.Packed
	extra    *seqset.Packed // dead ones that the digest counts all the same
	skip     bool           // no use in counting its records: something is missing

	tally tally // of what the segments hold; under v.mu
}

func newChainCheck(v *verifier, chain string) *chainCheck {
	return &chainCheck{v: v, chain: chain, needs: map[string]*need{}, lists: map[string]int32{}, tables: map[string]*tableCheck{}, found: map[string]*finding{}}
}

func (c *chainCheck) addPoint(p *pointCheck) {
	p.holder = c.addHolder(p)
	c.points = append(c.points, p)
}

func (c *chainCheck) addHolder(p *pointCheck) int32 {
	c.holders = append(c.holders, holder{point: p})
	return int32(len(c.holders) - 1)
}

// share makes from a holder of what the holder list names. It says whether the
// list is new.
func (c *chainCheck) share(from int32, list string) (int32, bool) {
	h, known := c.lists[list]
	if !known {
		h = c.addHolder(nil)
		c.lists[list] = h
	}
	if !slices.Contains(c.holders[h].parents, from) {
		c.holders[h].parents = append(c.holders[h].parents, from)
	}
	return h, !known
}

// need notes that a holder names an object.
func (c *chainCheck) need(from int32, name string, size int64) *need {
	n := c.needs[name]
	if n == nil {
		n = &need{name: name, size: size}
		c.needs[name] = n
		c.order = append(c.order, n)
	}
	if n.size != size {
		c.fail(name, []int32{from}, "is said to have %d and %d bytes", n.size, size)
	}
	if k := len(n.owners); k == 0 || n.owners[k-1] != from && !slices.Contains(n.owners, from) {
		n.owners = append(n.owners, from)
	}
	return n
}

// uses notes that a restore point, by itself or by a list, says that it uses an
// object.
func (c *chainCheck) uses(from int32, name string, size int64) *need {
	n := c.need(from, name, size)
	if !slices.Contains(n.named, from) {
		n.named = append(n.named, from)
	}
	return n
}

// reached returns the restore points that holders stand for.
func (c *chainCheck) reached(from []int32) map[*pointCheck]bool {
	seen, points := map[int32]bool{}, map[*pointCheck]bool{}
	todo := slices.Clone(from)
	for len(todo) > 0 {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[h] {
			continue
		}
		seen[h] = true
		if p := c.holders[h].point; p != nil {
			points[p] = true
		}
		todo = append(todo, c.holders[h].parents...)
	}
	return points
}

// holds says whether a restore point needs what these holders name.
func (c *chainCheck) holds(p *pointCheck, owners []int32) bool {
	for _, h := range owners {
		if h == p.holder || slices.Contains(c.holders[h].parents, p.holder) {
			return true
		}
	}
	return c.reached(owners)[p]
}

// fail reports a problem of an object and the restore points that it reaches.
// Of several problems of one object the first is told, for all points.
func (c *chainCheck) fail(object string, owners []int32, format string, args ...any) {
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	f := c.found[object]
	if f == nil {
		f = &finding{problem: fmt.Sprintf(format, args...), points: map[*pointCheck]bool{}}
		c.found[object] = f
		c.v.progress.Problems++
	}
	if n := c.needs[object]; n != nil && n.aside {
		return
	}
	for p := range c.reached(owners) {
		f.points[p] = true
	}
}

// failErr is fail by an error: damage names its object; anything else is an
// error of the store, which proves nothing. Too many of those end it all, as
// does the end of the context.
func (c *chainCheck) failErr(ctx context.Context, name string, owners []int32, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var damage *DamageError
	if errors.As(err, &damage) {
		// The same object may be in use by more than who asked for it now.
		if n := c.needs[damage.Object]; n != nil {
			owners = append(slices.Clone(owners), n.owners...)
		}
		c.fail(damage.Object, owners, "%s", damage.text())
		return nil
	}
	if errors.Is(err, ErrNewerFormat) || errors.Is(err, errMalformed) {
		c.fail(name, owners, "%s", err.Error())
		return nil
	}
	c.fail(name, owners, "cannot be read: %s", err.Error())
	if c.v.failed() {
		return fmt.Errorf("give up after %d errors of the store, the last: %w", maxFailures, err)
	}
	return nil
}

// text says what is wrong, without the object's name.
func (e *DamageError) text() string {
	if e.Err == nil || errors.Is(e.Err, object.ErrNotExist) {
		return e.Problem
	}
	return e.Problem + ": " + e.Err.Error()
}

// damaged says whether anything was found that reaches the restore point.
func (c *chainCheck) damaged(p *pointCheck) bool {
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	for _, f := range c.found {
		if f.points[p] {
			return true
		}
	}
	return false
}

// finish hands in what was found, except about restore points that are gone.
func (c *chainCheck) finish(gone map[string]bool) {
	r := c.v.report
	for object, f := range c.found {
		var ids []string
		for p := range f.points {
			if !gone[p.id] {
				ids = append(ids, p.id)
				c.v.damaged[p.id] = true
			}
		}
		if len(ids) == 0 && len(f.points) > 0 {
			continue
		}
		slices.Sort(ids)
		c.v.add(Problem{Object: object, Problem: f.problem, Points: ids})
	}
	for _, p := range c.points {
		if !gone[p.id] && !p.beside {
			r.Points++
		}
	}
	for _, n := range c.order {
		if !n.gone {
			c.v.present++
			c.v.presentBytes += n.size
		}
	}
}
