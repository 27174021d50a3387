package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/restore"
	"jetkeep/service/session"
	"jetkeep/store"
)

// restoring is a request for a restore, understood.
type restoring struct {
	target, repository string
	server             string
	backup             string // set if all points are of one
	points             []store.Point
	plan               restore.Plan
}

func (s *Service) restorePlan(ctx context.Context, q *api.RestoreRequest) (*api.RestorePlanResponse, error) {
	x, err := s.prepareRestore(ctx, q)
	if err != nil {
		return nil, err
	}
	r := &api.RestorePlanResponse{
		Repository: x.repository, Target: x.target, Server: x.server, Refused: x.plan.Refused(), Streams: []api.StreamPlan{},
	}
	times := map[string]time.Time{}
	for _, p := range x.points {
		times[p.ID] = p.Time
	}
	for _, p := range x.plan.Streams {
		r.Messages += p.Messages
		r.Bytes += p.Bytes
		r.Streams = append(r.Streams, api.StreamPlan{
			Stream: p.Stream, RestorePoint: p.Point, Time: times[p.Point], Action: p.Action, Method: string(p.Method),
			After: p.After, Messages: p.Messages, Bytes: p.Bytes, Consumers: p.Consumers,
			Problems: findings(p.Problems), Warnings: findings(p.Warnings),
		})
	}
	return r, nil
}

func findings(list []restore.Finding) []api.Finding {
	var out []api.Finding
	for _, f := range list {
		out = append(out, api.Finding{ErrCode: f.Code, Description: f.Text, Hint: f.Hint, Messages: f.Messages})
	}
	return out
}

func (s *Service) restoreCreate(ctx context.Context, q *api.RestoreRequest) (*api.Accepted, error) {
	x, err := s.prepareRestore(ctx, q)
	if err != nil {
		return nil, err
	}
	if x.plan.Refused() {
		return nil, refusal(x.plan)
	}
	if err := s.notBeingRestored(ctx, x.target, x.plan); err != nil {
		return nil, err
	}
	tasks := make([]*session.Task, len(x.plan.Streams))
	var warnings []string
	for i, p := range x.plan.Streams {
		tasks[i] = &session.Task{
			Stream: p.Stream, RestorePoint: p.Point, After: p.After, SkipVerify: q.Verify != nil && !*q.Verify,
			Progress: toDo(p.Messages, p.Bytes),
		}
		for _, w := range p.Warnings {
			warnings = append(warnings, fmt.Sprintf("%s: %s", p.Stream, w.Text))
		}
	}
	accepted, err := s.startSession(ctx, &session.Session{
		Kind: api.KindRestore, Target: x.target, Repository: x.repository, Backup: x.backup, IdentitySealed: q.Identity,
	}, tasks)
	if err != nil {
		return nil, err
	}
	accepted.Warnings = firstOf(warnings, maxWarnings)
	return accepted, nil
}

// notBeingRestored refuses a stream that another session is about to bring: of
// two restores of one stream at once, servers may end both with an error.
func (s *Service) notBeingRestored(ctx context.Context, target string, plan restore.Plan) error {
	wanted := map[string]bool{}
	for _, p := range plan.Streams {
		wanted[p.Stream] = true
	}
	sessions, err := s.store.Sessions(ctx)
	if err != nil {
		return err
	}
	for _, ses := range sessions {
		if ses.Kind != api.KindRestore || ses.State.Final() || ses.Target != target {
			continue
		}
		tasks, err := s.store.Tasks(ctx, ses.ID)
		if err != nil {
			return err
		}
		for _, t := range tasks {
			if wanted[t.Stream] && !t.State.Final() {
				return api.Errorf(api.CodeConflict, "stream %s is being restored by session %s; wait for its end or cancel it", t.Stream, ses.ID)
			}
		}
	}
	return nil
}

// maxWarnings keeps an answer readable; restore.plan has them all.
const maxWarnings = 20

func firstOf(list []string, most int) []string {
	if len(list) <= most {
		return list
	}
	return append(slices.Clone(list[:most]), fmt.Sprintf("and %d more, see restore.plan", len(list)-most))
}

// refusal names the first problem of each stream that has one. If all streams have
// the same one, that they exist or that the user may not, the error says so in its code.
func refusal(p restore.Plan) error {
	var texts []string
	exists, denied := true, true
	for _, st := range p.Streams {
		if len(st.Problems) > 0 {
			texts = append(texts, fmt.Sprintf("%s: %s", st.Stream, st.Problems[0].Text))
			exists = exists && st.Problems[0].Code == restore.CodeExists
			denied = denied && st.Problems[0].Code == restore.CodePermission
		}
	}
	code := api.CodePlanRefused
	switch {
	case exists:
		code = api.CodeStreamExists
	case denied:
		code = api.CodePermission
	}
	return api.Errorf(code, "%s", strings.Join(firstOf(texts, 10), "; "))
}

// prepareRestore finds the restore points that a request means and plans.
func (s *Service) prepareRestore(ctx context.Context, q *api.RestoreRequest) (*restoring, error) {
	x := new(restoring)
	var err error
	if x.target, err = s.targetName(ctx, q.Target); err != nil {
		return nil, err
	}
	if x.repository, err = s.repositoryName(ctx, q.Repository); err != nil {
		return nil, err
	}
	repo, err := s.openReadable(ctx, x.repository, q.Identity)
	if err != nil {
		return nil, err
	}
	if q.Backup != "" {
		x.points, err = pointsOfBackup(ctx, repo, x.repository, q)
	} else {
		x.points, err = newestPoints(ctx, repo, x.repository, x.target, q)
	}
	if err != nil {
		return nil, err
	}
	x.backup = x.points[0].Backup
	for _, p := range x.points {
		if p.Backup != x.backup {
			x.backup = ""
		}
	}
	conn, err := s.dial(ctx, x.target)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	x.server = conn.ServerVersion()
	x.plan, err = restore.Prepare(ctx, conn, restore.FromRepository(repo), restore.Request{SkipVerify: q.Verify != nil && !*q.Verify}, x.points)
	if err != nil {
		return nil, fmt.Errorf("plan restore into target %s: %w", x.target, err)
	}
	return x, nil
}

func pointsOfBackup(ctx context.Context, repo *store.Repository, name string, q *api.RestoreRequest) ([]store.Point, error) {
	listed, err := repo.PointsOf(ctx, q.Backup)
	if err != nil {
		return nil, err
	}
	if len(listed) == 0 {
		return nil, api.Errorf(api.CodeBackupNotFound, "repository %s has no backup %s", name, q.Backup)
	}
	byStream := map[string]store.Point{}
	for _, l := range listed {
		if l.Err != nil && mayConcern(l, q, "", nil) {
			return nil, fmt.Errorf("backup %s: restore point %s: %w", q.Backup, l.ID, l.Err)
		}
		if l.Err != nil {
			continue
		}
		byStream[l.Point.Stream] = l.Point
	}
	return choose(byStream, q)
}

// newestPoints takes each stream's newest restore point at or before the
// request's time.
func newestPoints(ctx context.Context, repo *store.Repository, name, target string, q *api.RestoreRequest) ([]store.Point, error) {
	listed, err := repo.Points(ctx)
	if err != nil {
		return nil, err
	}
	from := q.From
	if from == "" {
		from = target
	}
	newest := map[string]store.Point{}
	for _, l := range listed {
		p := l.Point
		if l.Err != nil || p.Target != from || q.At != nil && p.Time.After(*q.At) {
			continue
		}
		if have, ok := newest[p.Stream]; !ok || p.Time.After(have.Time) {
			newest[p.Stream] = p
		}
	}
	if len(newest) == 0 {
		when := ""
		if q.At != nil {
			when = " at or before " + q.At.UTC().Format(time.RFC3339)
		}
		return nil, noneOf(listed, from, api.Errorf(api.CodeBackupNotFound, "repository %s has no backup of target %s%s", name, from, when))
	}
	points, err := choose(newest, q)
	if err != nil {
		return nil, elsewhere(listed, from, q.Streams, err)
	}
	return points, hidden(listed, points, from, q)
}

// mayConcern says whether a restore point that cannot be read may be one of those
// that a request means. One that is only not trusted concerns what it says of
// itself: the stream of a target. Of any other it is not known. target is empty
// if it does not matter.
func mayConcern(l store.Listed, q *api.RestoreRequest, target string, chosen []store.Point) bool {
	p := l.Point
	if !errors.Is(l.Err, store.ErrUntrusted) || p.Stream == "" {
		return true
	}
	// It may lie of its stream and not of its place, where backups build on it.
	if slices.ContainsFunc(chosen, func(c store.Point) bool { return c.Chain == p.Chain }) {
		return true
	}
	if target != "" && p.Target != target {
		return false
	}
	for _, pattern := range q.Exclude {
		if api.Match(pattern, p.Stream) {
			return false
		}
	}
	return len(q.Streams) == 0 && !api.Reserved(p.Stream) || slices.ContainsFunc(q.Streams, func(pattern string) bool {
		return pattern == p.Stream || api.IsPattern(pattern) && api.Match(pattern, p.Stream) && !api.Reserved(p.Stream)
	})
}

// noneOf completes the error that there is no backup of a target by what there is.
func noneOf(listed []store.Listed, from string, e *api.Error) error {
	var oldest time.Time
	var others []string
	locked := 0
	for _, l := range listed {
		switch p := l.Point; {
		case isLocked(l.Err):
			locked++
		case l.Err != nil:
		case p.Target == from && (oldest.IsZero() || p.Time.Before(oldest)):
			oldest = p.Time
		case p.Target != from && !slices.Contains(others, p.Target):
			others = append(others, p.Target)
		}
	}
	switch {
	case !oldest.IsZero(): // so that a time was given
		e.Description += "; the oldest is of " + oldest.UTC().Format(time.RFC3339Nano)
		return e.WithHint("Ask for a time from then on with \"at\".")
	case len(others) > 0:
		e.Description += "; there are backups of " + named(others)
		return e.WithHint(hintFrom)
	case locked > 0:
		e.Description += fmt.Sprintf("; %d restore points are sealed, and the identity in use does not open them", locked)
	}
	return e
}

// elsewhere completes the error that a stream was not found by the targets that there
// are restore points of it of.
func elsewhere(listed []store.Listed, from string, streams []string, err error) error {
	var e *api.Error
	if !errors.As(err, &e) || e.ErrCode != api.CodeStreamNotFound {
		return err
	}
	var others []string
	for _, l := range listed {
		if p := l.Point; l.Err == nil && p.Target != from && slices.Contains(streams, p.Stream) && !slices.Contains(others, p.Target) {
			others = append(others, p.Target)
		}
	}
	if len(others) == 0 {
		return err
	}
	e.Description += " of target " + from + "; of streams that are named there are restore points of " + named(others)
	return e.WithHint(hintFrom)
}

const hintFrom = "Name the target that was backed up with \"from\", which jetkeep restore takes as --from."

// named lists names, the first ones if they are many.
func named(names []string) string {
	const most = 10
	slices.Sort(names)
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// hidden fails if a restore point that cannot be read might be newer than one
// that was chosen: an older state must not be restored without a word.
func hidden(listed []store.Listed, chosen []store.Point, target string, q *api.RestoreRequest) error {
	at := q.At
	oldest := slices.MinFunc(chosen, func(a, b store.Point) int { return strings.Compare(a.ID, b.ID) })
	for _, l := range listed {
		if l.Err == nil || l.ID < oldest.ID {
			continue
		}
		if at != nil && l.ID > at.UTC().Format("20060102T150405Z")+"~" {
			continue // begun after the time that is asked for
		}
		if !mayConcern(l, q, target, chosen) {
			continue
		}
		e := mapError(l.Err)
		if l.Point.Stream != "" {
			return api.Errorf(e.ErrCode, "restore point %s, which says that it is of stream %s: %s", l.ID, l.Point.Stream, e.Description).
				WithHint("It might be the newest one of its stream. Leave the stream out with \"exclude\", or name the backup to restore with \"backup\".")
		}
		return e.WithHint("Restore point %s cannot be read and might be the newest one of its stream. Name the backup to restore with \"backup\".", l.ID)
	}
	return nil
}

func choose(byStream map[string]store.Point, q *api.RestoreRequest) ([]store.Point, error) {
	names := make([]string, 0, len(byStream))
	for n := range byStream {
		names = append(names, n)
	}
	streams, err := selectStreams(names, q.Streams, q.Exclude)
	if err != nil {
		return nil, err
	}
	points := make([]store.Point, len(streams))
	for i, n := range streams {
		points[i] = byStream[n]
	}
	return points, nil
}
