package service

import (
	"context"
	"fmt"

	"jetkeep/service/api"
	"jetkeep/service/scheduler"
	"jetkeep/service/session"
	"jetkeep/store"
)

// A coverage is a policy and the restore points that it decides about. It
// forgets no others.
type coverage struct {
	keep *api.Keep // nil: nothing is forgotten
	// other says why the policy does not decide about a restore point; empty if it
	// does.
	other func(store.Point) string
}

// everything is what a policy decides about that somebody asked for.
func everything(keep *api.Keep) coverage {
	return coverage{keep, func(store.Point) string { return "" }}
}

// coverageOf finds out what a prune of a repository decides about. tags are those
// of its session, which a schedule's has a name in.
func (s *Service) coverageOf(ctx context.Context, repository string, p session.Prune, tags map[string]string) (coverage, error) {
	schedule := tags[api.ScheduleTag]
	switch {
	case p.Own != nil && p.Own.Schedule != "":
		return ofSchedule(p.Own.Keep, p.Own.Schedule, p.Own.Target), nil
	case p.Own != nil:
		return s.ofRepository(ctx, repository, p.Own.Keep)
	case schedule != "": // an earlier version started it
		return ofSchedule(p.Keep, schedule, ""), nil
	}
	return everything(p.Keep), nil
}

// ofSchedule covers what a schedule made of a target, or of any if that is empty.
func ofSchedule(keep *api.Keep, schedule, target string) coverage {
	return coverage{keep, func(p store.Point) string {
		switch by := p.Tags[api.ScheduleTag]; {
		case by == "":
			return fmt.Sprintf("not made by schedule %s", schedule)
		case by != schedule:
			return fmt.Sprintf("made by schedule %s, not by %s", by, schedule)
		case target != "" && p.Target != target:
			return fmt.Sprintf("of target %s, and schedule %s backs up %s", p.Target, schedule, target)
		}
		return ""
	}}
}

// ofRepository covers what no schedule made, and what those made that have no
// policy of their own. What a schedule made that is not there (any more, or on this
// service: others may share the repository) is nobody's, for nobody knows how
// long it was to be kept.
func (s *Service) ofRepository(ctx context.Context, repository string, keep *api.Keep) (coverage, error) {
	if keep == nil {
		return everything(nil), nil
	}
	owners, err := s.schedules.Owners(ctx)
	if err != nil {
		return coverage{}, err
	}
	return coverage{keep, func(p store.Point) string { return ownedBy(owners, repository, p) }}, nil
}

// ownedBy says whose a restore point is that is not its repository's.
func ownedBy(owners map[string]scheduler.Owner, repository string, p store.Point) string {
	const ask = "; a prune that names it or a policy decides about it"
	by := p.Tags[api.ScheduleTag]
	if by == "" {
		return ""
	}
	switch o, there := owners[by]; {
	case !there:
		return fmt.Sprintf("made by schedule %s, which is not there%s", by, ask)
	case o.Unknown:
		return fmt.Sprintf("made by schedule %s, which cannot be read", by)
	case o.Repository != repository:
		return fmt.Sprintf("made by schedule %s, which backs up into repository %s now%s", by, o.Repository, ask)
	case o.Target != p.Target:
		return fmt.Sprintf("made by schedule %s, which backs up target %s now%s", by, o.Target, ask)
	case o.Keep != nil:
		return fmt.Sprintf("schedule %s has a policy of its own", by)
	}
	return ""
}
