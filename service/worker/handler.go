package worker

import (
	"context"
	"log/slog"

	"jetkeep/service/api"
	"jetkeep/service/progress"
	"jetkeep/service/session"
)

// A Handler does the work of the tasks of one kind. Only a nil error makes the
// task succeed. An error that is or wraps an *api.Error is shown as it is;
// others go through the worker's error mapping.
//
// The context ends when the session is cancelled, when the claim on the task is
// lost, and when the service stops; the handler then returns soon, whatever
// error, and leaves nothing that only it knows of. After a crash or a stop the
// same task comes again, with a higher Attempt.
type Handler interface {
	Run(ctx context.Context, t session.Task, run Run) (session.Result, error)
}

// Hooks are run around tasks. Each call is bounded in time by itself, tells in
// notes what is worth knowing, and may be made again for a later attempt.
type Hooks interface {
	// Session runs those that the task t of a session names; its error fails
	// the session.
	Session(ctx context.Context, ses *session.Session, t *session.Task) (notes []string, err error)
	// Before runs those before an attempt at a task; its error fails the task.
	Before(ctx context.Context, ses *session.Session, t *session.Task) (notes []string, err error)
	// After runs those after an attempt that ended so: succeeded, failed for a
	// reason, cancelled, or pending if the task was given back.
	After(ctx context.Context, ses *session.Session, t *session.Task, end api.State, why *api.Error) (notes []string)
}

type noHooks struct{}

func (noHooks) Session(context.Context, *session.Session, *session.Task) ([]string, error) {
	return nil, api.Errorf(api.CodeHookFailed, "this instance has no hooks; give all instances the same configuration")
}

func (noHooks) Before(context.Context, *session.Session, *session.Task) ([]string, error) {
	return nil, nil
}

func (noHooks) After(context.Context, *session.Session, *session.Task, api.State, *api.Error) []string {
	return nil
}

// A Run is what a handler is given besides its task. All of it may be used
// from several goroutines.
type Run struct {
	Session  session.Session
	Progress *progress.Tracker
	// Fence must be called right before the write that makes the result visible
	// to others: a restore point's commit record, or the request that makes a
	// restored stream appear. It moves the task to committing by
	// compare-and-set, and fails if the task belongs to another instance by now
	// or the session was cancelled; then the write must not happen. Calling it
	// again is allowed.
	Fence func(ctx context.Context) error
	Log   *slog.Logger
}
