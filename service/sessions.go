package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/session"
)

// startSession writes a session and its tasks and puts the tasks to work.
// Tasks need their stream and what is special about them; the rest is filled
// in.
func (s *Service) startSession(ctx context.Context, ses *session.Session, tasks []*session.Task) (*api.Accepted, error) {
	if len(tasks) > session.MaxTasks {
		return nil, api.Errorf(api.CodeTooManyStreams, "%d streams match, a session holds %d", len(tasks), session.MaxTasks)
	}
	now := time.Now()
	ses.State, ses.Created, ses.Tasks = api.StatePending, now.UTC(), len(tasks)
	if ses.ID == "" {
		ses.ID = session.NewID(now)
	}
	if ses.Kind == api.KindBackup {
		ses.Backup = ses.ID
	}
	for i, t := range tasks {
		t.ID, t.Session, t.Kind, t.State = session.TaskID(ses.ID, i+1), ses.ID, ses.Kind, api.StatePending
		t.Target, t.Repository = ses.Target, ses.Repository
	}
	nameOrigins(tasks)
	n := len(tasks)
	for _, when := range []string{session.HookBefore, session.HookAfter} {
		if names := s.hooks.For(ses, when); len(names) > 0 {
			ses.Hooks = append(ses.Hooks, when)
			tasks = append(tasks, &session.Task{
				ID: session.HookID(ses.ID, when), Session: ses.ID, Kind: ses.Kind, State: api.StatePending,
				Target: ses.Target, Repository: ses.Repository, Hook: when, Hooks: names,
			})
		}
	}
	if err := s.store.Create(ctx, ses, tasks); err != nil {
		return nil, err
	}
	// From here on the session exists and goes its way, whether the caller
	// gets to know it or not: what is not submitted now is by a sweep.
	if err := s.worker.Conductor.Start(ctx, tasks); err != nil {
		s.log.Warn("submit tasks", "session", ses.ID, "error", err)
	}
	s.log.Info("session accepted", "session", ses.ID, "kind", ses.Kind, "target", ses.Target, "tasks", n)
	return &api.Accepted{
		Session: ses.ID, Kind: ses.Kind, State: ses.State, Backup: ses.Backup,
		Target: ses.Target, Repository: ses.Repository, Tasks: n,
	}, nil
}

// nameOrigins turns the streams that tasks wait for into those streams' tasks.
func nameOrigins(tasks []*session.Task) {
	byStream := map[string]string{}
	for _, t := range tasks {
		var after []string
		for _, stream := range t.After {
			if id := byStream[stream]; id != "" {
				after = append(after, id)
			}
		}
		t.After = after
		byStream[t.Stream] = t.ID
	}
}

func (s *Service) sessionList(ctx context.Context, q *api.SessionListRequest) (*api.SessionListResponse, error) {
	all, err := s.store.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(x *session.Session) bool {
		return q.Kind != "" && x.Kind != q.Kind || len(q.States) > 0 && !slices.Contains(q.States, x.State)
	})
	part, next := page(all, func(x *session.Session) string { return x.ID }, descending, q.Cursor, q.Limit)
	r := &api.SessionListResponse{Total: len(all), Sessions: []api.SessionView{}, Next: next}
	for _, x := range part {
		var tasks []*session.Task
		if !x.State.Final() {
			if tasks, err = s.store.Tasks(ctx, x.ID); err != nil {
				return nil, err
			}
		}
		r.Sessions = append(r.Sessions, x.View(tasks))
	}
	return r, nil
}

func (s *Service) sessionInfo(ctx context.Context, q *api.SessionInfoRequest) (*api.SessionInfoResponse, error) {
	x, err := s.findSession(ctx, q.Session)
	if err != nil {
		return nil, err
	}
	tasks, err := s.store.Tasks(ctx, x.ID)
	if err != nil {
		return nil, err
	}
	part, next := page(tasks, func(t *session.Task) string { return t.ID }, ascending, q.Cursor, q.Limit)
	r := &api.SessionInfoResponse{SessionView: x.View(tasks), TaskList: []api.TaskView{}, Next: next}
	for _, t := range part {
		r.TaskList = append(r.TaskList, t.View())
	}
	return r, nil
}

func (s *Service) findSession(ctx context.Context, id string) (*session.Session, error) {
	x, err := s.store.Session(ctx, id)
	if errors.Is(err, session.ErrNotFound) {
		return nil, api.Errorf(api.CodeSessionNotFound, "there is no session %s", id)
	}
	return x, err
}

func (s *Service) sessionCancel(ctx context.Context, q *api.SessionCancelRequest) (*api.SessionCancelResponse, error) {
	if _, err := s.findSession(ctx, q.Session); err != nil {
		return nil, err
	}
	x, err := s.store.UpdateSession(ctx, q.Session, func(x *session.Session) error { return x.RequestCancel(q.Reason) })
	if errors.Is(err, session.ErrTransition) {
		return nil, api.Errorf(api.CodeSessionFinal, "session %s is %s", q.Session, x.State)
	}
	if err != nil {
		return nil, err
	}
	// The flag is what counts; that the rest could not be done at once is for
	// the sweep.
	if x, err = s.worker.Conductor.Advance(ctx, q.Session); err != nil {
		return nil, fmt.Errorf("cancel session %s: %w", q.Session, err)
	}
	return &api.SessionCancelResponse{Session: q.Session, State: x.State}, nil
}
