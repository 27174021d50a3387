package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"jetkeep/store/object"
)

// The margins that a prune is meant to run with. Nothing that lives depends on
// them: they are there for whoever reads a restore point that was forgotten
// meanwhile, and for backups that would have to be made again.
const (
	// DefaultGrace lies between condemning and deleting. A restore or
	// verification that began before is over by then.
	DefaultGrace = 24 * time.Hour
	// DefaultOrphanAge is how old an object must be to count as left behind. A
	// backup that takes longer may have to be made again.
	DefaultOrphanAge = 7 * 24 * time.Hour
)

// PruneOptions say how to prune.
type PruneOptions struct {
	Grace     time.Duration
	OrphanAge time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Suppose are restore points that are taken for forgotten, to see what
	// forgetting them would free. Such a plan cannot be carried out.
	Suppose []string
}

// A PrunePlan says what Prune will do. It is good for one Prune.
type PrunePlan struct {
	Time   time.Time
	Chains []ChainPlan
	// Problems say which chains are left alone and why.
	Problems []string

	repo *Repository
	opt  PruneOptions
	used atomic.Bool
}

// A ChainPlan is what is to be done in one chain.
type ChainPlan struct {
	Chain           string
	Live, Forgotten int // restore points
	// Unused are used by forgotten restore points only, Orphans by none at all.
	// Both will be condemned.
	Unused, Orphans []Used
	// Condemned are prune entries that have not been carried out.
	Condemned []Condemned
	// Missing are restore points whose record is not found by id and is copied
	// from the log again, Stale are forgotten ones whose copy is still there.
	Missing, Stale []string
}

// Condemned is what a prune entry condemned and that may be deleted from Due on.
type Condemned struct {
	Number  uint64
	Due     time.Time
	Objects int
	Bytes   int64
}

// PlanPrune finds out what can be deleted. It changes nothing. Listings only
// suggest what may be left over; what is in use is read from the logs by name.
func (r *Repository) PlanPrune(ctx context.Context, opt PruneOptions) (*PrunePlan, error) {
	p, err := r.planPrune(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("plan prune: %w", err)
	}
	return p, nil
}

func (r *Repository) planPrune(ctx context.Context, opt PruneOptions) (*PrunePlan, error) {
	if err := r.current(); err != nil {
		return nil, err
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	plan := &PrunePlan{Time: opt.Now().UTC(), repo: r, opt: opt}
	// Copies first: each that is listed was in its log before.
	copies, err := r.listCopies(ctx)
	if err != nil {
		return nil, err
	}
	chains, err := r.chains(ctx)
	if err != nil {
		return nil, err
	}
	look := planning{PrunePlan: plan, copies: copies, seen: map[string]bool{}}
	for _, chain := range chains {
		if err := look.chain(ctx, chain); err != nil {
			return nil, err
		}
	}
	return plan, look.strangers(ctx)
}

// planning is one call of PlanPrune.
type planning struct {
	*PrunePlan
	copies map[string]bool // records by id that no log has had yet
	seen   map[string]bool // chains
}

// chain plans one chain, or notes why that cannot be done.
func (p *planning) chain(ctx context.Context, chain string) error {
	p.seen[chain] = true
	c, err := p.look(ctx, chain)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		p.Problems = append(p.Problems, fmt.Sprintf("chain %s is left alone: %v", chain, err))
		return nil
	}
	p.Chains = append(p.Chains, c)
	return nil
}

// listCopies lists the records by id; each is struck out when its log has it.
func (r *Repository) listCopies(ctx context.Context) (map[string]bool, error) {
	copies := map[string]bool{}
	for info, err := range r.bucket.List(ctx, commitPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list restore points: %w", err)
		}
		copies[strings.TrimPrefix(info.Name, commitPrefix)] = true
	}
	return copies, nil
}

// look finds out what can be done in one chain.
func (p *planning) look(ctx context.Context, chain string) (ChainPlan, error) {
	c := ChainPlan{Chain: chain}
	listed, err := p.repo.listLog(ctx, chain)
	if err != nil {
		return c, err
	}
	s, err := p.repo.readState(ctx, chain)
	if err != nil {
		return c, err
	}
	if listed.last > s.tail.Number {
		return c, damaged(entryName(chain, s.tail.Number+1), nil, "missing, though entry %d is there", listed.last)
	}
	s.suppose(p.opt.Suppose)
	c.Live, c.Forgotten = s.counts()
	uses, err := s.inUse(ctx)
	if err != nil {
		return c, err
	}
	if c.Unused, err = s.unused(ctx, uses); err != nil {
		return c, err
	}
	if err := s.findDone(ctx, listed.done); err != nil {
		return c, err
	}
	for _, e := range s.prunes {
		if !e.done {
			c.Condemned = append(c.Condemned, Condemned{Number: e.number, Due: e.time.Add(p.opt.Grace), Objects: len(e.objects), Bytes: total(e.objects)})
		}
	}
	if c.Orphans, err = p.orphans(ctx, s, uses, c.Unused); err != nil {
		return c, err
	}
	return c, p.compare(ctx, s, &c)
}

// orphans finds objects that a listing shows, that are old, and that nothing in
// the log uses or is about to delete. Those that were condemned and deleted may
// have been stored again by a backup that failed since.
func (p *planning) orphans(ctx context.Context, s *chainState, uses map[string]bool, unused []Used) ([]Used, error) {
	known := map[string]bool{}
	for _, o := range unused {
		known[o.Name] = true
	}
	for _, e := range s.prunes {
		for _, o := range e.objects {
			known[o.Name] = known[o.Name] || !e.done
		}
	}
	before := p.Time.Add(-p.opt.OrphanAge)
	var out []Used
	for _, prefix := range []string{metaPrefix, packsPrefix} {
		for info, err := range p.repo.bucket.List(ctx, prefix+s.tail.chain+"/") {
			if err != nil {
				return nil, fmt.Errorf("list objects of chain %s: %w", s.tail.chain, err)
			}
			if known[info.Name] || uses[info.Name] || !isObjectOf(s.tail.chain, info.Name) || info.Modified.IsZero() || info.Modified.After(before) {
				continue
			}
			// A listing may still show what was deleted.
			info, err := p.repo.bucket.Stat(ctx, info.Name)
			if errors.Is(err, object.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			out = append(out, Used{Name: info.Name, Size: info.Size})
		}
	}
	return out, nil
}

// compare compares the records that are found by id with the log.
func (p *planning) compare(ctx context.Context, s *chainState, c *ChainPlan) error {
	for _, id := range slices.Sorted(maps.Keys(s.byID)) {
		listed := p.copies[id]
		delete(p.copies, id)
		if !s.live(id) {
			if listed {
				c.Stale = append(c.Stale, id)
			}
			continue
		}
		if listed {
			continue
		}
		_, err := p.repo.bucket.Stat(ctx, commitName(id))
		if errors.Is(err, object.ErrNotExist) {
			c.Missing = append(c.Missing, id)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// strangers looks at the records that no log has had. Their chain may not have
// been listed; else its log must have lost an entry, and the chain is left
// alone, for what the lost ones use is not known.
func (p *planning) strangers(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(p.copies)) {
		e, err := p.repo.copyOf(ctx, id)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var damage *DamageError
		switch {
		case errors.Is(err, ErrNoPoint):
			continue
		case errors.As(err, &damage):
			p.Problems = append(p.Problems, fmt.Sprintf("no log has restore point %s: %v", id, err))
			continue
		case err != nil:
			return err
		}
		if !p.seen[e.chain] {
			if err := p.chain(ctx, e.chain); err != nil {
				return err
			}
		}
		at := slices.IndexFunc(p.Chains, func(c ChainPlan) bool { return c.Chain == e.chain })
		if at < 0 || !p.copies[id] {
			continue
		}
		p.Chains = slices.Delete(p.Chains, at, at+1)
		p.Problems = append(p.Problems, fmt.Sprintf("chain %s is left alone: its log lacks entry %d, restore point %s", e.chain, e.number, id))
	}
	return nil
}

func total(objects []Used) int64 {
	var n int64
	for _, o := range objects {
		n += o.Size
	}
	return n
}

// Empty says whether there is nothing to do.
func (p *PrunePlan) Empty() bool {
	return !slices.ContainsFunc(p.Chains, func(c ChainPlan) bool {
		return len(c.Unused)+len(c.Orphans)+len(c.Condemned)+len(c.Missing)+len(c.Stale) > 0
	})
}

// String says in words what will be done, each object on a line of its own.
func (p *PrunePlan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "prune plan of %s: objects are deleted %s after they are condemned, orphans count from an age of %s\n", p.Time.Format(time.RFC3339), p.opt.Grace, p.opt.OrphanAge)
	for _, s := range p.Problems {
		fmt.Fprintf(&b, "%s\n", s)
	}
	for i := range p.Chains {
		p.Chains[i].print(&b, p.Time)
	}
	if p.Empty() {
		b.WriteString("nothing to do\n")
	}
	return b.String()
}

func (c *ChainPlan) print(b *strings.Builder, now time.Time) {
	fmt.Fprintf(b, "chain %s: %d live restore points, %d forgotten\n", c.Chain, c.Live, c.Forgotten)
	for _, part := range []struct {
		why     string
		objects []Used
	}{{"only forgotten restore points use it", c.Unused}, {"no restore point uses it", c.Orphans}} {
		for _, o := range part.objects {
			fmt.Fprintf(b, "  condemn %s, %d bytes: %s\n", o.Name, o.Size, part.why)
		}
	}
	for _, e := range c.Condemned {
		what := "delete"
		if e.Due.After(now) {
			what = "wait until " + e.Due.UTC().Format(time.RFC3339) + " for"
		}
		fmt.Fprintf(b, "  %s %d objects, %d bytes: condemned by entry %d\n", what, e.Objects, e.Bytes, e.Number)
	}
	for _, id := range c.Missing {
		fmt.Fprintf(b, "  copy the record of restore point %s from the log: it is not found by its id\n", id)
	}
	for _, id := range c.Stale {
		fmt.Fprintf(b, "  delete the record of restore point %s: it is forgotten\n", id)
	}
}
