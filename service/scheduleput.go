package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/scheduler"
)

// countTimeout bounds the look into a repository for what a schedule made.
const countTimeout = 3 * time.Second

// schedulePut makes a schedule, or changes what is given of one. It reads the body
// itself: what is given and what is not makes the difference.
func (s *Service) schedulePut(ctx context.Context, body []byte) (any, error) {
	q := new(api.SchedulePutRequest)
	if err := api.Decode(body, q); err != nil {
		return nil, err
	}
	m, err := scheduler.ReadMerge(body, q)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var d *scheduler.Definition
	become := func(old *api.Schedule) (v *api.Schedule, err error) {
		v, d, err = s.become(ctx, m, old)
		return v, err
	}
	var changed *scheduler.Changed
	if q.DryRun {
		changed, err = s.supposeSchedule(ctx, q, become)
	} else {
		changed, err = s.schedules.Change(ctx, q.Name, q.Revision, now, become)
	}
	var other *scheduler.RevisionError
	if errors.As(err, &other) {
		return nil, api.Errorf(api.CodeConflict, "%v", other).WithField("revision").
			WithHint("Somebody else has changed it: look at it with schedule.info, and decide anew.")
	}
	if err != nil {
		return nil, err
	}
	r, err := scheduleAnswer(changed, d, now)
	if err != nil {
		return nil, err
	}
	if r.DryRun = q.DryRun; !q.DryRun {
		s.log.Info("schedule put", "schedule", d.Name, "cron", d.Cron, "zone", d.Zone, "paused", d.Paused, "changes", len(r.Changes))
	}
	r.Policy = s.schedulePolicy(ctx, changed.New)
	return r, nil
}

// become makes of a schedule, nil if there is none, what a request wants.
func (s *Service) become(ctx context.Context, m *scheduler.Merge, old *api.Schedule) (*api.Schedule, *scheduler.Definition, error) {
	v, err := m.Apply(old)
	if err != nil {
		return nil, nil, err
	}
	if v.Cron == "" {
		e := api.Errorf(api.CodeInvalidRequest, "field cron: is required").WithField("cron")
		if old == nil {
			e = e.WithHint("There is no schedule of that name yet: say when it is due.")
		}
		return nil, nil, e
	}
	if old == nil || v.Target != old.Target {
		if v.Target, err = s.targetName(ctx, v.Target); err != nil {
			return nil, nil, err
		}
	}
	if old == nil || v.Repository != old.Repository {
		if v.Repository, err = s.repositoryName(ctx, v.Repository); err != nil {
			return nil, nil, err
		}
	}
	if r := v.Retry; r != nil && r.Count == 0 {
		if *r != (api.ScheduleRetry{}) {
			return nil, nil, api.Errorf(api.CodeInvalidRequest, "field retry.count: is required beside a delay or backoff").WithField("retry.count").
				WithHint("To try nothing again, reset retry.")
		}
		v.Retry = nil
	}
	d, err := scheduler.Parse(*v)
	return v, d, err
}

// supposeSchedule says what a change would do.
func (s *Service) supposeSchedule(ctx context.Context, q *api.SchedulePutRequest, become func(*api.Schedule) (*api.Schedule, error)) (*scheduler.Changed, error) {
	old, revision, err := s.schedules.Look(ctx, q.Name)
	if err != nil {
		return nil, err
	}
	if q.Revision != nil && *q.Revision != revision {
		return nil, &scheduler.RevisionError{Name: q.Name, Is: revision, Want: *q.Revision}
	}
	v, err := become(old)
	if err != nil {
		return nil, err
	}
	return &scheduler.Changed{Old: old, New: v, Revision: revision}, nil
}

func scheduleAnswer(c *scheduler.Changed, d *scheduler.Definition, now time.Time) (*api.SchedulePutResponse, error) {
	changes, err := scheduler.Changes(c.Old, c.New)
	if err != nil {
		return nil, err
	}
	return &api.SchedulePutResponse{
		Name: d.Name, Created: c.Old == nil, Revision: c.Revision, Changes: changes, Schedule: *c.New, Next: d.Slots(now, shownSlots),
	}, nil
}

// schedulePolicy says who forgets what a schedule makes.
func (s *Service) schedulePolicy(ctx context.Context, v *api.Schedule) *api.SchedulePolicy {
	p := &api.SchedulePolicy{Policy: api.PolicyNone, Text: "Nothing forgets by itself what this schedule makes."}
	switch {
	case v.Keep != nil:
		p.Policy = api.PolicySchedule
		p.Text = fmt.Sprintf("After each run that succeeds, its policy forgets restore points of target %s that this schedule made (tag %s=%s), and no others",
			v.Target, api.ScheduleTag, v.Name)
	case s.prunesItself(v.Repository):
		p.Policy = api.PolicyRepository
		p.Text = fmt.Sprintf("What this schedule makes falls under the policy of repository %s, together with what no schedule made", v.Repository)
	default:
		return p
	}
	n, err := s.countMade(ctx, v)
	switch {
	case err != nil:
		s.log.Warn("restore points of a schedule are not counted", "schedule", v.Name, "error", err)
		p.Text += "."
	case n == 0:
		p.Points = &n
		p.Text += ". There are none yet."
	default:
		p.Points = &n
		p.Text += fmt.Sprintf(". There are %d of this schedule, or of an earlier one of its name.", n)
	}
	return p
}

// prunesItself says whether a repository is pruned by a policy of its own.
func (s *Service) prunesItself(repository string) bool {
	for i := range s.config.Repositories {
		if r := &s.config.Repositories[i]; r.Name == repository {
			return r.Keep != nil && r.Prune != nil && !r.Prune.Off
		}
	}
	return false
}

// countMade returns how many restore points there are that a schedule made.
func (s *Service) countMade(ctx context.Context, v *api.Schedule) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	repo, err := s.repositories.Open(ctx, v.Repository)
	if err != nil {
		return 0, err
	}
	listed, err := repo.Points(ctx)
	if err != nil {
		return 0, err
	}
	of := ofSchedule(v.Keep, v.Name, v.Target)
	for _, l := range listed {
		if l.Err == nil && of.other(l.Point) == "" {
			n++
		}
	}
	return n, nil
}
