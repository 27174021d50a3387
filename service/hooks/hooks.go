// Package hooks calls others before and after sessions and tasks, and tells
// them of events.
//
// A hook is a request to a NATS subject or over HTTP, or a command. All are
// given an api.HookRequest and may answer with an api.HookReply. Those of tasks
// are called around each attempt by the instance that makes it; those of
// sessions by a task of their own, so that they are called once by whichever
// instance takes that task, and again by another if that one dies.
//
// A hook before may keep the work from being done. A hook after never changes
// how the work ended: a restore point that is complete stays so; that the hook
// failed is in the task's notes, and fails the session's task that runs hooks.
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/session"
)

// maxStreams is how many streams' names are in a request.
const maxStreams = 1000

// Counter is told of each call.
type Counter func(name, when string, err error)

// A Runner runs hooks. It implements worker.Hooks.
type Runner struct {
	Hooks    []config.Hook
	Caller   *Caller
	Store    *session.Store
	Instance string
	Log      *slog.Logger
	Count    Counter
}

// For returns the names of the hooks of sessions that concern one.
func (r *Runner) For(ses *session.Session, when string) []string {
	var names []string
	for i := range r.Hooks {
		h := &r.Hooks[i]
		if h.Of == api.HookSession && h.When == when && concerns(h, ses) {
			names = append(names, h.Name)
		}
	}
	return names
}

func concerns(h *config.Hook, ses *session.Session) bool {
	return slices.Contains(h.Kinds, string(ses.Kind)) && matches(h.Targets, ses.Target) && matches(h.Schedules, ses.Tags[api.ScheduleTag])
}

// matches tells whether a name matches. A session that no schedule started, or
// that has no target, has an empty one, which no pattern matches.
func matches(patterns []string, name string) bool {
	return len(patterns) == 0 || name != "" && slices.ContainsFunc(patterns, func(p string) bool {
		ok, _ := path.Match(p, name)
		return ok
	})
}

func (r *Runner) find(name string) *config.Hook {
	for i := range r.Hooks {
		if r.Hooks[i].Name == name {
			return &r.Hooks[i]
		}
	}
	return nil
}

// Session implements worker.Hooks.
func (r *Runner) Session(ctx context.Context, ses *session.Session, t *session.Task) ([]string, error) {
	tasks, err := r.tasks(ctx, ses.ID)
	if err != nil {
		return nil, err
	}
	q := r.about(ses)
	q.Of, q.When, q.Attempt = api.HookSession, t.Hook, t.Attempt
	counts := session.Count(tasks)
	q.Tasks = &counts
	for _, o := range tasks {
		if o.Stream != "" && len(q.Streams) < maxStreams {
			q.Streams = append(q.Streams, o.Stream)
		}
	}
	if t.Hook == session.HookAfter {
		q.State, q.Error = session.Outcome(ses, tasks)
	}
	var notes []string
	var first error
	for _, name := range t.Hooks {
		h := r.find(name)
		if h == nil {
			err = api.Errorf(api.CodeHookFailed, "this instance has no hook %s; give all instances the same configuration", name)
		} else if h.When == api.HookAfter && !wanted(h, q.State) {
			continue
		} else {
			notes, err = r.one(ctx, h, q, notes)
		}
		switch {
		case err == nil:
		case t.Hook == session.HookBefore:
			return notes, err
		case first == nil:
			first = err // the others are called all the same
		}
	}
	return notes, first
}

const (
	// readTries is how often a session's tasks are tried to be read: a bucket
	// between two leaders must not fail a session.
	readTries = 6
	readPause = time.Second
)

func (r *Runner) tasks(ctx context.Context, id string) (tasks []*session.Task, err error) {
	for range readTries {
		if tasks, err = r.Store.Tasks(ctx, id); err == nil || ctx.Err() != nil {
			return tasks, err
		}
		r.Log.Warn("read tasks for hooks", "session", id, "error", err)
		pause(ctx, readPause)
	}
	return nil, err
}

// Before implements worker.Hooks.
func (r *Runner) Before(ctx context.Context, ses *session.Session, t *session.Task) ([]string, error) {
	var notes []string
	var err error
	for h := range r.of(ses, t, api.HookBefore) {
		if notes, err = r.one(ctx, h, r.aboutTask(ses, t), notes); err != nil {
			return notes, err
		}
	}
	return notes, nil
}

// After implements worker.Hooks.
func (r *Runner) After(ctx context.Context, ses *session.Session, t *session.Task, end api.State, why *api.Error) []string {
	var notes []string
	for h := range r.of(ses, t, api.HookAfter) {
		q := r.aboutTask(ses, t)
		q.When, q.State, q.Error = api.HookAfter, end, why
		if !wanted(h, q.State) {
			continue
		}
		notes, _ = r.one(ctx, h, q, notes) // it is noted and logged
	}
	return notes
}

// of yields the hooks of a task.
func (r *Runner) of(ses *session.Session, t *session.Task, when string) func(func(*config.Hook) bool) {
	return func(yield func(*config.Hook) bool) {
		for i := range r.Hooks {
			h := &r.Hooks[i]
			if h.Of == api.HookTask && h.When == when && concerns(h, ses) && matches(h.Streams, t.Stream) && !yield(h) {
				return
			}
		}
	}
}

// wanted tells whether a hook after is called for such an end.
func wanted(h *config.Hook, s api.State) bool {
	good := s == api.StateSucceeded || s == api.StateSkipped
	switch h.Policy {
	case config.PolicySuccess:
		return good
	case config.PolicyFailure:
		return !good && s != api.StatePending
	}
	return true
}

func (r *Runner) about(ses *session.Session) api.HookRequest {
	return api.HookRequest{
		When: api.HookBefore, Session: ses.ID, Kind: ses.Kind, State: api.StateRunning, Target: ses.Target,
		Repository: ses.Repository, Backup: ses.Backup, Tags: ses.Tags, Instance: r.Instance,
	}
}

func (r *Runner) aboutTask(ses *session.Session, t *session.Task) api.HookRequest {
	q := r.about(ses)
	q.Of, q.Task, q.Stream, q.Attempt = api.HookTask, t.ID, t.Stream, t.Attempt
	return q
}

// one calls one hook. The error is one that keeps the work from being done, or
// that of a hook after.
func (r *Runner) one(ctx context.Context, h *config.Hook, q api.HookRequest, notes []string) ([]string, error) {
	now := time.Now()
	note, err := r.try(ctx, h, &q)
	log := r.Log.With("hook", h.Name, "when", q.When, "session", q.Session, "task", q.Task)
	for _, delay := range againAfter {
		if err == nil || q.When == api.HookBefore || !pause(ctx, delay) {
			break
		}
		log.Warn("hook failed, it is called again", "error", err)
		note, err = r.try(ctx, h, &q)
	}
	log = log.With("seconds", time.Since(now).Seconds())
	if note != "" {
		notes = append(notes, "hook "+h.Name+": "+note)
	}
	if err == nil {
		log.Info("hook was called")
		return notes, nil
	}
	log.Warn("hook failed", "error", err)
	if h.When == api.HookBefore && h.OnError == config.OnErrorContinue && !api.HasCode(err, api.CodeHookAborted) {
		return append(notes, err.Error()), nil
	}
	if h.When == api.HookAfter {
		notes = append(notes, err.Error())
	}
	return notes, err
}

// againAfter is how long after it failed a hook after is called again: what one
// before did would stay undone otherwise, for the want of a moment.
var againAfter = []time.Duration{time.Second, 5 * time.Second}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// try calls a hook once.
func (r *Runner) try(ctx context.Context, h *config.Hook, q *api.HookRequest) (note string, err error) {
	now := time.Now().UTC()
	q.Hook, q.Timestamp, q.Deadline = h.Name, now, now.Add(h.Timeout)
	q.Type = "io.jetkeep.hook.v1." + q.When + "_" + q.Of
	note, err = r.call(ctx, h, q)
	r.Count(h.Name, h.When, err)
	return note, err
}

func (r *Runner) call(ctx context.Context, h *config.Hook, q *api.HookRequest) (note string, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return "", fmt.Errorf("encode request of hook %s: %w", h.Name, err)
	}
	reply, err := r.Caller.ask(ctx, &h.Call, q.Target, q.Type, body)
	if err != nil {
		return "", api.Errorf(api.CodeHookFailed, "hook %s: %v", h.Name, err)
	}
	a, err := understand(reply)
	switch {
	case err != nil:
		return "", api.Errorf(api.CodeHookFailed, "hook %s: %v", h.Name, err)
	case a.Error != nil:
		return "", api.Errorf(api.CodeHookFailed, "hook %s: it answers: %s", h.Name, clip(a.Error.Description))
	case a.Abort && q.When == api.HookBefore:
		reason := clip(a.Reason)
		if reason == "" {
			reason = "it gives no reason"
		}
		return "", api.Errorf(api.CodeHookAborted, "hook %s: %s", h.Name, reason)
	}
	return clip(a.Note), nil
}

// understand reads an answer. One that begins like an object must be one: half
// of a refusal is not taken for consent.
func understand(reply []byte) (api.HookReply, error) {
	var a api.HookReply
	if reply = bytes.TrimSpace(reply); len(reply) == 0 || reply[0] != '{' {
		return a, nil
	}
	if err := json.Unmarshal(reply, &a); err != nil {
		return a, fmt.Errorf("its answer is no JSON: %w", err)
	}
	return a, nil
}
