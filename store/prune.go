package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"jetkeep/store/object"
)

// ErrPlanUsed means that a plan was carried out before.
var ErrPlanUsed = errors.New("plan was used already")

// maxCondemn is how many objects one entry condemns: about half of its bound.
const maxCondemn = 4096

// ErrSupposed means that a plan takes restore points for forgotten that are not.
var ErrSupposed = errors.New("plan is only supposed")

// A PruneReport says what a prune did.
type PruneReport struct {
	// Condemned objects are deleted by a prune that runs after Next; Waiting are
	// all those that have been condemned and are not due yet.
	Condemned, Waiting, Deleted                int
	CondemnedBytes, WaitingBytes, DeletedBytes int64
	// Retained objects were to be deleted, and the store keeps them for now, as
	// it promised. A prune after that deletes them.
	Retained      int
	RetainedBytes int64
	// Kept names the first MaxKept of them.
	Kept []Kept
	// Copied and Removed count the records found by id that were put right.
	Copied, Removed int
	// Next is when the first of what waits is due; zero if nothing waits.
	Next time.Time
	// Problems say what was left alone and why.
	Problems []string
}

// MaxKept bounds the retained objects that a report names.
const MaxKept = 100

// Kept is an object that was to be deleted and is retained.
type Kept struct {
	Name string
	Size int64
	// Until is when the store lets it go, as far as it says so; else zero.
	Until time.Time
}

// Prune carries out a plan, once. First it condemns: it adds a prune entry to
// each log, comparing what is planned with every entry up to its own. Then it
// deletes what was condemned, by whomever, at least Grace ago. It may be ended
// anywhere, be run several times at once, and be late: nothing that a restore
// point uses is ever deleted, and the next prune carries on.
func (r *Repository) Prune(ctx context.Context, plan *PrunePlan) (PruneReport, error) {
	if len(plan.opt.Suppose) > 0 {
		return PruneReport{}, fmt.Errorf("prune: %w", ErrSupposed)
	}
	if plan.used.Swap(true) {
		return PruneReport{}, fmt.Errorf("prune: %w", ErrPlanUsed)
	}
	x := pruning{repo: r, opt: plan.opt}
	x.report.Problems = slices.Clone(plan.Problems)
	for i := range plan.Chains {
		c := &plan.Chains[i]
		err := x.chain(ctx, c)
		var damage *DamageError
		switch {
		case errors.As(err, &damage):
			x.problem("chain %s is left alone: %v", c.Chain, err)
		case err != nil:
			return x.report, fmt.Errorf("prune chain %s: %w", c.Chain, err)
		}
	}
	return x.report, x.sweepProbes(ctx)
}

// pruning is one call of Prune.
type pruning struct {
	repo   *Repository
	opt    PruneOptions
	report PruneReport
}

func (x *pruning) problem(format string, args ...any) {
	x.report.Problems = append(x.report.Problems, fmt.Sprintf(format, args...))
}

func (x *pruning) chain(ctx context.Context, c *ChainPlan) error {
	s, err := x.repo.readState(ctx, c.Chain)
	if err != nil {
		return err
	}
	if err := x.copies(ctx, s, c); err != nil {
		return err
	}
	if err := s.findDone(ctx, nil); err != nil {
		return err
	}
	doomed := slices.Concat(c.Unused, c.Orphans)
	slices.SortFunc(doomed, func(a, b Used) int { return strings.Compare(a.Name, b.Name) }) // meta before packs
	for part := range slices.Chunk(doomed, maxCondemn) {
		if err := x.condemn(ctx, s, part); err != nil {
			return err
		}
	}
	for _, e := range s.prunes {
		if e.done {
			continue
		}
		if due := e.time.Add(x.opt.Grace); due.After(x.opt.Now()) {
			x.wait(e, due)
			continue
		}
		if err := x.delete(ctx, s, e); err != nil {
			return err
		}
	}
	return nil
}

func (x *pruning) wait(e *logPrune, due time.Time) {
	x.report.Waiting += len(e.objects)
	x.report.WaitingBytes += total(e.objects)
	if x.report.Next.IsZero() || due.Before(x.report.Next) {
		x.report.Next = due
	}
}

// condemn adds a prune entry. What it names is compared with all entries
// before its own: a restore point that came since the plan was made keeps what
// it uses, and one that comes after sees the entry.
func (x *pruning) condemn(ctx context.Context, s *chainState, doomed []Used) error {
	done := map[uint64]bool{}
	for _, e := range s.prunes {
		done[e.number] = e.done
	}
	var left []Used
	e, err := x.repo.appendEntry(ctx, &s.tail, s.add, func() (*entry, error) {
		uses, err := s.inUse(ctx)
		if err != nil {
			return nil, err
		}
		left = slices.DeleteFunc(slices.Clone(doomed), func(o Used) bool {
			by := s.condemned[o.Name]
			return uses[o.Name] || by > 0 && !done[by]
		})
		if len(left) == 0 {
			return nil, nil
		}
		body, err := marshal(pruneBody{Objects: left})
		if err != nil {
			return nil, err
		}
		return &entry{kind: entryPrune, task: actionID(entryPrune), time: x.opt.Now().UTC(), codec: bodyJSON, body: body}, nil
	})
	if err != nil || e == nil {
		return err
	}
	x.report.Condemned += len(left)
	x.report.CondemnedBytes += total(left)
	return s.add(e)
}

// delete deletes what an entry condemned and marks the entry as done. By the
// rules of the log no restore point can use any of it; that none does is
// looked at once more, for a writer that broke the rules must not cost data.
func (x *pruning) delete(ctx context.Context, s *chainState, e *logPrune) error {
	uses, err := s.inUse(ctx)
	if err != nil {
		return err
	}
	for _, o := range e.objects {
		if uses[o.Name] || !isObjectOf(s.tail.chain, o.Name) {
			x.problem("chain %s: entry %d condemned %s, which is in use; nothing of that entry is deleted", s.tail.chain, e.number, o.Name)
			return nil
		}
	}
	kept := 0 // by the store
	for _, prefix := range []string{metaPrefix, packsPrefix} {
		for part := range slices.Chunk(e.objects, object.BulkDeletes) {
			n, err := x.deleteSome(ctx, prefix, part)
			if kept += n; err != nil {
				return err
			}
		}
	}
	if kept > 0 {
		return nil // a later prune carries on
	}
	return x.repo.putDone(ctx, s.tail.chain, e.number)
}

// deleteSome deletes objects of a prefix and returns how many the store keeps.
func (x *pruning) deleteSome(ctx context.Context, prefix string, objects []Used) (kept int, err error) {
	objects = slices.DeleteFunc(slices.Clone(objects), func(o Used) bool { return !strings.HasPrefix(o.Name, prefix) })
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = o.Name
	}
	for i, derr := range x.repo.bucket.DeleteAll(ctx, names) {
		switch {
		case derr == nil:
			x.report.Deleted++
			x.report.DeletedBytes += objects[i].Size
		case errors.Is(derr, object.ErrRetained):
			kept++
			x.kept(ctx, objects[i])
		case err == nil:
			err = derr
		}
	}
	return kept, err
}

// kept counts and names an object that the store did not delete.
func (x *pruning) kept(ctx context.Context, o Used) {
	x.report.Retained++
	x.report.RetainedBytes += o.Size
	if len(x.report.Kept) == MaxKept {
		return
	}
	k := Kept{Name: o.Name, Size: o.Size}
	if keeper, ok := x.repo.bucket.Retainer(); ok {
		// It is retained, whatever becomes of this question.
		if until, err := keeper.Retention(ctx, o.Name); err == nil {
			k.Until = until.UTC()
		}
	}
	x.report.Kept = append(x.report.Kept, k)
}
