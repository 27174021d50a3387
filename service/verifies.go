package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/session"
	"jetkeep/service/worker"
	"jetkeep/store"
)

func (s *Service) backupVerify(ctx context.Context, q *api.BackupVerifyRequest) (*api.Accepted, error) {
	name, err := s.repositoryName(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	repo, err := s.repositories.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	ids, err := chosen(ctx, repo, name, q.Backup, q.Points)
	if err == nil && q.Backup == "" {
		err = there(ctx, repo, name, ids)
	}
	if err != nil {
		return nil, err
	}
	return s.startVerify(ctx, name, q.Backup, q.Identity, session.Verify{
		Points: q.Points, Level: q.Level, Part: q.Part, Parts: q.Parts, Percent: q.Percent,
	})
}

func (s *Service) repositoryVerify(ctx context.Context, q *api.RepositoryVerifyRequest) (*api.Accepted, error) {
	name, err := s.repositoryName(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	if _, err := s.repositories.Open(ctx, name); err != nil {
		return nil, err
	}
	return s.startVerify(ctx, name, "", q.Identity, session.Verify{
		Level: q.Level, Part: q.Part, Parts: q.Parts, Percent: q.Percent,
	})
}

// startVerify starts a verification. What it takes to read messages is known
// now and not when the task runs.
func (s *Service) startVerify(ctx context.Context, repository, backup, sealed string, v session.Verify) (*api.Accepted, error) {
	if v.Level == api.LevelRecords || sealed != "" {
		if _, err := s.openReadable(ctx, repository, sealed); err != nil {
			return nil, err
		}
	}
	return s.startSession(ctx, &session.Session{
		Kind: api.KindVerify, Repository: repository, Backup: backup, Verify: &v, IdentitySealed: sealed,
	}, []*session.Task{{}})
}

// verifyHandler looks whether restore points are whole.
type verifyHandler struct{ s *Service }

// Run implements worker.Handler.
func (h verifyHandler) Run(ctx context.Context, t session.Task, run worker.Run) (session.Result, error) {
	v := run.Session.Verify
	if v == nil {
		return session.Result{}, errors.New("session does not say what to verify")
	}
	repo, err := h.open(ctx, t.Repository, run.Session)
	if err != nil {
		return session.Result{}, err
	}
	level, err := store.ParseVerifyLevel(string(v.Level))
	if err != nil {
		return session.Result{}, err
	}
	points := v.Points
	if run.Session.Backup != "" {
		if points, err = chosen(ctx, repo, t.Repository, run.Session.Backup, nil); err != nil {
			return session.Result{}, err
		}
	}
	id := repo.Marker().ID
	heads, err := h.s.state.Heads(ctx, id)
	if err != nil {
		return session.Result{}, err
	}
	report, err := repo.Verify(ctx, store.VerifyOptions{
		Level: level, Points: points, Heads: heads, Part: v.Part, Parts: v.Parts, Percent: float64(v.Percent), Seed: run.Session.ID,
		OnProgress: func(p store.VerifyProgress) {
			run.Progress.SetTotal(0, uint64(p.BytesTotal))
			run.Progress.Set(0, uint64(p.Bytes))
		},
	})
	if err != nil {
		return session.Result{}, err
	}
	if err := h.remember(ctx, id, v, points, report); err != nil {
		run.Log.Warn("remember verification", "error", err)
	}
	run.Progress.Set(report.Records, uint64(report.ReadBytes))
	out := session.Result{Verification: VerificationOf(report), Notes: report.Notes}
	if !report.OK() {
		p := report.Problems[0]
		return out, api.Errorf(api.CodeDamaged, "%d problems reach %d restore points; the first one: %s: %s",
			out.Verification.ProblemCount, len(report.Damaged), p.Object, p.Problem).
			WithHint("session.info lists the problems and the restore points that they reach; the others can be restored.")
	}
	return out, nil
}

func (h verifyHandler) open(ctx context.Context, name string, ses session.Session) (*store.Repository, error) {
	if ses.Verify.Level == api.LevelRecords || ses.IdentitySealed != "" {
		return h.s.openReadable(ctx, name, ses.IdentitySealed)
	}
	return h.s.repositories.Open(ctx, name)
}

// remember keeps for later what was found: how far the logs have come, unless
// something is wrong with them, and which restore points are damaged.
func (h verifyHandler) remember(ctx context.Context, id string, v *session.Verify, points []string, report *store.VerifyReport) error {
	if report.OK() {
		for chain, head := range report.Heads {
			if err := h.s.state.AdvanceHead(ctx, id, chain, head); err != nil {
				return err
			}
		}
	}
	looked := map[string]bool{}
	for _, p := range points {
		looked[p] = true
	}
	// Only a look at all of its data shows that a restore point is good again.
	whole := v.Level != api.LevelStructure && v.Parts <= 1 && (v.Percent == 0 || v.Percent == 100)
	return h.s.state.NoteDamaged(ctx, id, report.Damaged, func(point string) bool {
		return whole && (len(points) == 0 || looked[point])
	})
}

// VerificationOf bounds a report to what fits into a task.
func VerificationOf(r *store.VerifyReport) *api.Verification {
	v := &api.Verification{
		Level: api.Level(r.Level.String()), Points: r.Points, Objects: r.Objects, Read: r.Read, Bytes: uint64(r.ReadBytes),
		Records: r.Records, Damaged: len(r.Damaged), DamagedList: firstFew(r.Damaged), ProblemCount: len(r.Problems) + r.Omitted,
		Orphans: r.Orphans, OrphanBytes: uint64(r.OrphanBytes),
	}
	if c := r.Census; c != nil {
		v.Census = &api.Census{
			Points: c.Points, Objects: c.Objects, Retained: c.Retained, Until: moment(c.Until), Short: len(c.Short), ShortList: firstFew(c.Short),
		}
	}
	for _, p := range r.Problems[:min(len(r.Problems), api.MaxProblems)] {
		v.Problems = append(v.Problems, api.VerificationProblem{Object: p.Object, Problem: bounded(p.Problem), Points: firstFew(p.Points)})
	}
	return v
}

// moment leaves out a time that is none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func firstFew(list []string) []string { return list[:min(len(list), api.MaxProblems)] }

// bounded shortens a text that comes from elsewhere.
func bounded(s string) string {
	if len(s) <= api.MaxText {
		return s
	}
	return fmt.Sprintf("%.*s…", api.MaxText, s)
}
