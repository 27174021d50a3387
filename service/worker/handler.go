package worker

import (
	"context"
	"log/slog"

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
