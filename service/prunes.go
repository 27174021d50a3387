package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/session"
	"jetkeep/service/worker"
	"jetkeep/store"
	"jetkeep/store/retain"
)

func (s *Service) repositoryPrune(ctx context.Context, q *api.RepositoryPruneRequest) (*api.RepositoryPruneResponse, error) {
	name, p, err := s.pruneAsked(ctx, q)
	if err != nil {
		return nil, err
	}
	repo, err := s.repositories.OpenToWrite(ctx, name)
	if err != nil {
		return nil, err
	}
	if q.DryRun {
		plan, err := s.prunePlan(ctx, repo, name, p, q)
		return &api.RepositoryPruneResponse{Repository: name, Schedule: q.Schedule, DryRun: true, Plan: plan}, err
	}
	if err := s.notBeingPruned(ctx, name); err != nil {
		return nil, err
	}
	a, err := s.startSession(ctx, &session.Session{Kind: api.KindPrune, Repository: name, Prune: &p}, []*session.Task{{}})
	if err != nil {
		return nil, err
	}
	return &api.RepositoryPruneResponse{Repository: name, Schedule: q.Schedule, Session: a.Session, Kind: a.Kind, State: a.State, Tasks: a.Tasks}, nil
}

// pruneAsked finds out which repository a request is about, and whose policy
// decides about what.
func (s *Service) pruneAsked(ctx context.Context, q *api.RepositoryPruneRequest) (name string, p session.Prune, err error) {
	if err := checkPrune(&p, q); err != nil {
		return "", p, err
	}
	var spec *api.Schedule
	name = q.Repository
	if q.Schedule != "" {
		spec, err = s.findSchedule(ctx, q.Schedule)
		if err != nil && (q.Keep == nil || !api.HasCode(err, api.CodeScheduleNotFound)) {
			return "", p, err // one that is gone has left restore points, but no policy
		}
		if err == nil && name == "" {
			name = spec.Repository
		}
	}
	if name, err = s.repositoryName(ctx, name); err != nil {
		return "", p, err
	}
	switch {
	case q.Schedule != "" && q.Keep != nil:
		p.Own = &session.OwnPolicy{Keep: q.Keep, Schedule: q.Schedule}
	case q.Schedule != "":
		p.Own, err = ownPolicy(spec, name)
	case q.Keep != nil:
		p.Keep = q.Keep
	default:
		p.Own = &session.OwnPolicy{Keep: s.configuredKeep(name)}
	}
	return name, p, err
}

// ownPolicy returns the policy of a schedule, for a repository that it must back
// up into.
func ownPolicy(spec *api.Schedule, repository string) (*session.OwnPolicy, error) {
	switch {
	case spec.Keep == nil:
		return nil, api.Errorf(api.CodeInvalidRequest, "field schedule: schedule %s has no policy of its own", spec.Name).WithField("schedule").
			WithHint("Give one with \"keep\", which decides about its restore points this once.")
	case spec.Repository != repository:
		return nil, api.Errorf(api.CodeInvalidRequest, "field repository: schedule %s backs up into repository %s, not into %s", spec.Name, spec.Repository, repository).
			WithField("repository").WithHint("Give a policy with \"keep\" for what it made there before.")
	}
	return &session.OwnPolicy{Keep: spec.Keep, Schedule: spec.Name, Target: spec.Target}, nil
}

func (s *Service) configuredKeep(name string) *api.Keep {
	for _, r := range s.config.Repositories {
		if r.Name == name {
			return r.Keep
		}
	}
	return nil
}

// checkPrune understands the policy and the waits.
func checkPrune(p *session.Prune, q *api.RepositoryPruneRequest) error {
	if q.Keep != nil {
		policy, err := config.PolicyOf(*q.Keep)
		if err != nil {
			return invalidPolicy(err)
		}
		if policy.Empty() {
			return api.Errorf(api.CodeInvalidRequest, "field keep: a policy without a rule keeps everything").WithField("keep")
		}
	}
	var err error
	if p.Grace, err = waitOf("grace", q.Grace); err != nil {
		return err
	}
	p.OrphanAge, err = waitOf("orphan_age", q.OrphanAge)
	return err
}

func invalidPolicy(err error) error {
	at := "keep"
	field := new(retain.FieldError)
	if errors.As(err, &field) {
		at += "." + field.Field
	}
	return api.Errorf(api.CodeInvalidRequest, "field %s: %v", at, err).WithField(at)
}

func waitOf(field, text string) (*time.Duration, error) {
	if text == "" {
		return nil, nil
	}
	d, err := retain.ParseDuration(text)
	if err != nil || d < 0 {
		return nil, api.Errorf(api.CodeInvalidRequest, "field %s: %q is no duration, such as 36h, 7d or 2w", field, text).WithField(field)
	}
	return &d, nil
}

func (s *Service) notBeingPruned(ctx context.Context, repository string) error {
	sessions, err := s.store.Sessions(ctx)
	if err != nil {
		return err
	}
	for _, ses := range sessions {
		if ses.Kind == api.KindPrune && ses.Repository == repository && !ses.State.Final() {
			return api.Errorf(api.CodeConflict, "session %s prunes repository %s; wait for its end or cancel it", ses.ID, repository)
		}
	}
	return nil
}

// A verdict is what a policy says about each restore point.
type verdict struct {
	decisions []api.PruneDecided // the newest first
	keep      int
	forget    []string
	covered   int // what the policy decided about
	unread    int
}

// judge applies a policy to what it covers. What cannot be read is kept: nobody
// knows of which stream it is, whether a backup of it is good, and who made it.
func (s *Service) judge(ctx context.Context, repo *store.Repository, of coverage, now time.Time) (*verdict, error) {
	listed, err := repo.Points(ctx)
	if err != nil {
		return nil, err
	}
	pins, err := repo.Pins(ctx)
	if err != nil {
		return nil, err
	}
	bad, err := s.state.Damaged(ctx, repo.Marker().ID)
	if err != nil {
		return nil, err
	}
	v := new(verdict)
	points := map[string]store.Point{}
	var items []retain.Item
	for _, l := range listed {
		if l.Err != nil {
			v.unread++
			v.decide(l, true, "it cannot be read: "+unreadable(l.Err))
			continue
		}
		if of.keep == nil {
			v.decide(l, true, "no policy is given")
			continue
		}
		if other := of.other(l.Point); other != "" {
			v.decide(l, true, other)
			continue
		}
		_, isPinned := pinned(pins, l.ID)
		points[l.ID] = l.Point
		items = append(items, retain.Item{
			ID: l.ID, Group: l.Point.Target + "\x00" + l.Point.Stream, Time: l.Point.Time, Tags: l.Point.Tags,
			Pinned: isPinned, Good: !slices.Contains(bad, l.ID),
		})
	}
	v.covered = len(items)
	if err := v.apply(ctx, repo, of.keep, items, points, now); err != nil {
		return nil, err
	}
	slices.SortFunc(v.decisions, func(a, b api.PruneDecided) int { return cmp.Compare(b.Point, a.Point) })
	return v, nil
}

// apply decides about items by a policy, if there is one, and by what the store
// promised.
func (v *verdict) apply(ctx context.Context, repo *store.Repository, keep *api.Keep, items []retain.Item, points map[string]store.Point, now time.Time) error {
	if keep == nil {
		return nil
	}
	policy, err := config.PolicyOf(*keep)
	if err != nil {
		return invalidPolicy(err)
	}
	for _, d := range retain.Apply(policy, items, now) {
		p := points[d.ID]
		if !d.Keep {
			until, err := repo.RetainedUntil(ctx, p)
			if err != nil {
				return err
			}
			if until.After(now) {
				d.Keep, d.Reasons = true, []string{"the store keeps it until " + until.UTC().Format(time.RFC3339) + ", as promised"}
			}
		}
		v.decide(store.Listed{ID: d.ID, Point: p}, d.Keep, d.Reasons...)
	}
	return nil
}

func unreadable(err error) string {
	if isLocked(err) {
		return "it is sealed"
	}
	return mapError(err).Description
}

func (v *verdict) decide(l store.Listed, keep bool, reasons ...string) {
	if keep {
		v.keep++
	} else {
		v.forget = append(v.forget, l.ID)
	}
	v.decisions = append(v.decisions, api.PruneDecided{
		Point: l.ID, Target: l.Point.Target, Stream: l.Point.Stream, Time: l.Point.Time, Keep: keep, Reasons: reasons,
	})
}

func pruneOptions(p session.Prune) store.PruneOptions {
	o := store.PruneOptions{Grace: store.DefaultGrace, OrphanAge: store.DefaultOrphanAge}
	if p.Grace != nil {
		o.Grace = *p.Grace
	}
	if p.OrphanAge != nil {
		o.OrphanAge = *p.OrphanAge
	}
	return o
}

func (s *Service) prunePlan(ctx context.Context, repo *store.Repository, name string, p session.Prune, q *api.RepositoryPruneRequest) (*api.PrunePlan, error) {
	of, err := s.coverageOf(ctx, name, p, nil)
	if err != nil {
		return nil, err
	}
	v, err := s.judge(ctx, repo, of, time.Now())
	if err != nil {
		return nil, err
	}
	o := pruneOptions(p)
	o.Suppose = v.forget
	plan, err := repo.PlanPrune(ctx, o)
	if err != nil {
		return nil, err
	}
	objects, size := going(plan)
	part, next := page(v.decisions, func(d api.PruneDecided) string { return d.Point }, descending, q.Cursor, q.Limit)
	return &api.PrunePlan{
		Points: v.keep + len(v.forget), Keep: v.keep, Forget: len(v.forget), Covered: v.covered, Unread: v.unread,
		Objects: objects, Bytes: size, Decisions: part, Next: next, Text: lines(plan.String()),
	}, nil
}

// going counts what a plan's objects come to, those condemned before included.
func going(plan *store.PrunePlan) (objects int, size uint64) {
	for i := range plan.Chains {
		c := &plan.Chains[i]
		for _, o := range slices.Concat(c.Unused, c.Orphans) {
			objects++
			size += uint64(o.Size)
		}
		for _, e := range c.Condemned {
			objects += e.Objects
			size += uint64(e.Bytes)
		}
	}
	return objects, size
}

// lines bounds a text for people.
func lines(text string) []string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := range all {
		all[i] = bounded(all[i])
	}
	return firstOf(all, api.MaxProblems)
}

// pruneHandler forgets by a policy and deletes what nobody needs.
type pruneHandler struct{ s *Service }

// Run implements worker.Handler.
func (h pruneHandler) Run(ctx context.Context, t session.Task, run worker.Run) (session.Result, error) {
	p := run.Session.Prune
	if p == nil {
		return session.Result{}, errors.New("session does not say what to prune")
	}
	repo, err := h.s.repositories.OpenToWrite(ctx, t.Repository)
	if err != nil {
		return session.Result{}, err
	}
	of, err := h.s.coverageOf(ctx, t.Repository, *p, run.Session.Tags)
	if err != nil {
		return session.Result{}, err
	}
	v, err := h.s.judge(ctx, repo, of, time.Now())
	if err != nil {
		return session.Result{}, err
	}
	if err := run.Fence(ctx); err != nil {
		return session.Result{}, err
	}
	out := session.Result{Pruned: &api.Pruned{
		Points: v.keep, Covered: v.covered, Forgotten: len(v.forget), ForgetList: firstFew(v.forget), Unread: v.unread,
	}}
	if err := h.forget(ctx, repo, t.Repository, v.forget, run.Log); err != nil {
		return session.Result{}, err
	}
	plan, err := repo.PlanPrune(ctx, pruneOptions(*p))
	if err != nil {
		return out, err
	}
	_, size := going(plan)
	run.Progress.SetTotal(0, size)
	report, err := repo.Prune(ctx, plan)
	if err != nil {
		return out, err
	}
	run.Progress.SetTotal(0, uint64(report.DeletedBytes))
	run.Progress.Set(0, uint64(report.DeletedBytes))
	addReport(out.Pruned, report)
	if n := len(report.Problems); n > 0 {
		out.Notes = firstOf(report.Problems, api.MaxProblems)
		return out, api.Errorf(api.CodeDamaged, "everything was pruned but what has problems, of which there are %d; the first one: %s", n, bounded(report.Problems[0])).
			WithHint("repository.verify says what is damaged. What has problems is kept as it is.")
	}
	return out, nil
}

// forget forgets what a policy does not keep. What somebody else has forgotten
// meanwhile is forgotten.
func (h pruneHandler) forget(ctx context.Context, repo *store.Repository, name string, ids []string, log *slog.Logger) error {
	if len(ids) == 0 {
		return nil
	}
	err := repo.Forget(ctx, ids)
	if errors.Is(err, store.ErrNoPoint) {
		log.Warn("restore points were forgotten meanwhile", "error", err)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("prune repository %s: %w", name, err)
	}
	log.Info("restore points forgotten", "repository", name, "count", len(ids))
	return nil
}

func addReport(p *api.Pruned, r store.PruneReport) {
	p.Condemned, p.Deleted, p.Waiting, p.DeletedBytes = r.Condemned, r.Deleted, r.Waiting, uint64(r.DeletedBytes)
	if !r.Next.IsZero() {
		p.Text = append(p.Text, "what waits goes with a prune after "+r.Next.UTC().Format(time.RFC3339))
	}
	addKept(p, r)
	if r.Copied > 0 {
		p.Text = append(p.Text, fmt.Sprintf("%d records of restore points were not found by their id and were copied from the log", r.Copied))
	}
	if r.Removed > 0 {
		p.Text = append(p.Text, fmt.Sprintf("%d records of forgotten restore points were left over and went", r.Removed))
	}
}

// addKept says what was to be deleted and is retained.
func addKept(p *api.Pruned, r store.PruneReport) {
	if r.Retained == 0 {
		return
	}
	p.Retained, p.RetainedBytes = r.Retained, uint64(r.RetainedBytes)
	var last time.Time
	for _, k := range r.Kept {
		p.RetainedList = append(p.RetainedList, k.Name)
		if k.Until.After(last) {
			last = k.Until
		}
	}
	p.RetainedList, p.RetainedUntil = firstFew(p.RetainedList), moment(last)
	text := fmt.Sprintf("%d objects of %d bytes are retained by the store and go with a prune after that", r.Retained, r.RetainedBytes)
	if !last.IsZero() {
		text = fmt.Sprintf("%d objects of %d bytes are retained by the store, the first of them until %s, and go with a prune after that",
			r.Retained, r.RetainedBytes, last.Format(time.RFC3339))
	}
	p.Text = append(p.Text, text)
}
