package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/progress"
	"jetkeep/service/queue"
	"jetkeep/service/session"
)

// Why a handler's context ended.
var (
	errLost      = errors.New("claim on the task was lost")
	errCancelled = errors.New("session was cancelled")
)

const (
	// changeTries bounds how often a write is tried over one that was not seen.
	changeTries = 5
	changePause = 20 * time.Millisecond
)

// A running task: its claim, its state, and what keeps both alive.
type running struct {
	w     *Worker
	claim *queue.Claim
	ses   *session.Session
	owner session.Owner
	meter *progress.Tracker
	log   *slog.Logger
	stop  context.CancelCauseFunc

	mu   sync.Mutex // guards task, and makes its writes follow each other
	task *session.Task

	// renewed is when the last renewal that succeeded was begun.
	renewed atomic.Pointer[time.Time]

	notes []string // of hooks
}

// run lets the handler do the task and writes down how it ended.
func (w *Worker) run(ctx context.Context, claim *queue.Claim, ses *session.Session, t *session.Task, log *slog.Logger) {
	w.mark(t.ID, true)
	defer w.mark(t.ID, false)
	hctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r := &running{
		w: w, claim: claim, ses: ses, owner: t.Owner(), meter: progress.New(w.Now),
		log: log, stop: stop, task: t,
	}
	begun := time.Now()
	r.renewed.Store(&begun)
	bctx, still := context.WithCancel(hctx)
	var wg sync.WaitGroup
	wg.Go(func() { r.renew(bctx) })
	if t.Hook != session.HookAfter { // which a cancellation does not concern
		wg.Go(func() { r.watch(bctx) })
	}
	wg.Go(func() { r.report(bctx) })
	log.Info("task begins")
	var result session.Result
	var err error
	if ses.Cancel && t.Hook != session.HookAfter {
		err = errCancelled
	} else {
		result, err = r.handle(hctx)
	}
	cause := context.Cause(hctx)
	if t.Hook == "" && !errors.Is(cause, errLost) {
		end, why := r.ending(ctx, err, cause)
		actx, done := lingering(ctx)
		// They may take longer than a lease, and that of the handler is not renewed
		// any more when the session is cancelled or the service stops.
		still()
		wg.Go(func() { r.renew(actx) })
		r.note(w.Hooks.After(actx, ses, r.current(), end, why))
		done()
		cause = context.Cause(hctx) // the claim may have been lost meanwhile
	}
	still()
	wg.Wait()
	r.finish(ctx, result, err, cause)
}

// lingering returns a context that ends a while after another: so long hooks may
// take when the service stops.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(drainTimeout / 3):
			cancel()
		case <-out.Done():
		}
	})
	return out, func() {
		stop()
		cancel()
	}
}

func (w *Worker) mark(task string, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if on {
		w.running[task] = time.Now()
	} else {
		delete(w.running, task)
	}
}

// handle calls the handler. A panic is one task's failure: the instance has
// other tasks.
func (r *running) handle(ctx context.Context) (result session.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("handler panics", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("handler panics: %v", p)
		}
	}()
	t := *r.current()
	if t.Hook != "" {
		notes, err := r.w.Hooks.Session(ctx, r.ses, &t)
		r.note(notes)
		return result, err
	}
	notes, err := r.w.Hooks.Before(ctx, r.ses, &t)
	r.note(notes)
	if err != nil {
		return result, err
	}
	h := r.w.Handlers[t.Kind]
	if h == nil {
		return result, api.Errorf(api.CodeNotSupported, "this instance has no handler of %s tasks", t.Kind)
	}
	return h.Run(ctx, t, Run{Session: *r.ses, Progress: r.meter, Fence: r.fence, Log: r.log})
}

// current returns the task as it is now.
func (r *running) current() *session.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := *r.task
	return &t
}

// note keeps notes for the task's end.
func (r *running) note(notes []string) { r.notes = append(r.notes, notes...) }

// change applies a change to the task and writes it. A conflict with a write of
// our own whose answer was lost is no conflict.
func (r *running) change(ctx context.Context, change func(*session.Task) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for try := range changeTries {
		next := *r.task
		if err := change(&next); err != nil {
			return err
		}
		err := r.w.Store.PutTask(ctx, &next)
		if err == nil {
			r.task = &next
			return nil
		}
		if !errors.Is(err, session.ErrConflict) {
			return err
		}
		now, rerr := r.w.Store.Task(ctx, r.task.ID)
		if rerr != nil {
			return rerr
		}
		if now.Revision <= r.task.Revision {
			// A replica that lags behind says who had the task before, at worst
			// that we have not claimed it yet.
			if !pause(ctx, time.Duration(try+1)*changePause) {
				return err
			}
			continue
		}
		if now.Owner() != r.owner || now.State == api.StatePending {
			return fmt.Errorf("%w: %w", errLost, err)
		}
		if now.State.Final() && now.State == next.State {
			r.task = now
			return nil
		}
		r.task = now
	}
	return fmt.Errorf("write task %s: %w", r.task.ID, session.ErrConflict)
}

// fence is Run.Fence. While KV has no leader it is tried again, as long as the
// claim is ours: that all was done and can only not be said is no failure.
func (r *running) fence(ctx context.Context) error {
	for begun := time.Now(); ; {
		err := r.pass(ctx)
		switch {
		case err == nil:
			r.w.Conductor.Notify(r.ses.ID)
			return nil
		case errors.Is(err, errCancelled):
			r.stop(errCancelled)
		case isLost(err):
			r.stop(errLost)
		case ctx.Err() != nil || time.Since(begun) > finishPatience:
		case !r.held():
			r.stop(errLost)
		default:
			r.log.Warn("fence", "error", err)
			if pause(ctx, retryDelay/2) {
				continue
			}
		}
		return fmt.Errorf("fence: %w", err)
	}
}

// pass tries to pass the fence once.
func (r *running) pass(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Others write the task, too, and wait for this.
	ctx, cancel := context.WithTimeout(ctx, min(writeTimeout, r.w.Queue.Lease()/5))
	defer cancel()
	ses, err := r.w.Store.Session(ctx, r.ses.ID)
	if err != nil {
		return err
	}
	if ses.Cancel {
		return errCancelled
	}
	return r.change(ctx, func(t *session.Task) error { return t.Commit(r.owner) })
}

func isLost(err error) bool {
	return errors.Is(err, errLost) || errors.Is(err, session.ErrNotOwner) ||
		errors.Is(err, session.ErrTransition) || errors.Is(err, session.ErrNotFound)
}

// renew keeps the claim. The lease is counted on our own monotonic clock from
// before the last write that succeeded, and ends before the server's does.
func (r *running) renew(ctx context.Context) {
	lease := r.w.Queue.Lease()
	tick := time.NewTicker(lease / 5)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		begin := time.Now()
		if err := r.claim.Extend(); err != nil {
			r.log.Warn("extend claim", "error", err)
		}
		wctx, cancel := context.WithTimeout(ctx, lease/5)
		err := r.change(wctx, func(t *session.Task) error { return t.Renew(r.owner, r.meter.Snapshot()) })
		cancel()
		switch {
		case err == nil:
			r.renewed.Store(&begin)
		case isLost(err):
			r.stop(errLost)
			return
		case ctx.Err() != nil:
			return
		case !r.held():
			r.log.Warn("lease is over", "error", err)
			r.stop(errLost)
			return
		}
	}
}

// held tells whether the lease is not over yet. A process that stood still finds
// out by it before it says anything.
func (r *running) held() bool { return time.Since(*r.renewed.Load()) <= r.w.Queue.Lease()*7/10 }

// watch ends the handler when the session is cancelled.
func (r *running) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.w.Store.WatchSession(ctx, r.ses.ID, func(s *session.Session) bool {
			if s.Cancel {
				r.stop(errCancelled)
				return false
			}
			return true
		})
		if err == nil || ctx.Err() != nil {
			return
		}
		r.log.Warn("watch session", "error", err)
		pause(ctx, retryDelay)
	}
}

// report publishes progress.
func (r *running) report(ctx context.Context) {
	n := 0
	r.meter.Run(ctx, func(p api.Progress) {
		r.mu.Lock()
		v, state := r.task.View(), r.task.State
		r.mu.Unlock()
		if state.Final() || !r.held() {
			return
		}
		n++
		e := r.w.Conductor.event(r.ses, api.EventProgress)
		e.ID = fmt.Sprintf("%s.%s.%d.%d", v.Task, api.EventProgress, r.owner.Attempt, n)
		if total := v.Progress; !p.TotalKnown {
			p.TotalMessages, p.TotalBytes, p.TotalKnown = total.TotalMessages, total.TotalBytes, total.TotalKnown
		}
		v.Progress = p
		e.State, e.Task = state, &v
		r.w.Events.PublishProgress(e)
	})
}

// ending says how an attempt ends that was not lost.
func (r *running) ending(ctx context.Context, err, cause error) (api.State, *api.Error) {
	switch {
	case err == nil:
		return api.StateSucceeded, nil
	case errors.Is(cause, errCancelled) || errors.Is(err, errCancelled):
		return api.StateCancelled, api.Errorf(api.CodeCancelled, "the session was cancelled")
	case ctx.Err() != nil:
		return api.StatePending, nil //nolint:nilerr // it does not fail, but goes on elsewhere
	}
	return api.StateFailed, mapped(err, r.w.MapError)
}

// finish writes the task's end.
func (r *running) finish(ctx context.Context, result session.Result, err, cause error) {
	w := r.w
	p := r.meter.Snapshot()
	if errors.Is(cause, errLost) {
		r.log.Warn("task was lost to another instance")
		return
	}
	state, e := r.ending(ctx, err, cause)
	switch state {
	case api.StatePending:
		r.release(ctx)
		return
	case api.StateFailed:
		r.log.Error("task failed", "error", err)
	}
	change := func(t *session.Task) error {
		t.Note(r.notes...)
		if state == api.StateSucceeded {
			return t.Succeed(r.owner, result, p, w.Now())
		}
		return t.Fail(r.owner, e, result, p, w.Now())
	}
	if werr := r.write(ctx, change); werr != nil {
		r.log.Error("write the end of task", "error", werr)
		return
	}
	r.log.Info("task ended", "state", r.task.State, "messages", p.Messages, "bytes", p.Bytes, "seconds", p.Seconds)
	w.TaskEnded(r.task)
	w.ended(ctx, r.claim, r.ses, r.task, r.log)
}

// write writes a change, again and again while the connection is to blame.
func (r *running) write(ctx context.Context, change func(*session.Task) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishPatience)
	defer cancel()
	for {
		wctx, done := context.WithTimeout(ctx, writeTimeout)
		err := r.change(wctx, change)
		done()
		if err == nil || isLost(err) {
			return err
		}
		r.log.Warn("write task", "error", err)
		if !pause(ctx, retryDelay) {
			return err
		}
		_ = r.claim.Extend() // the lease goes on while we try; a failure shows in the next write
	}
}

// release gives the task back because the service stops.
func (r *running) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := r.change(ctx, func(t *session.Task) error { return t.Release(r.owner) }); err != nil {
		r.log.Warn("release task", "error", err)
		return
	}
	if err := r.claim.Release(0); err != nil {
		r.log.Warn("release message", "error", err) // it comes again after the lease
	}
	r.log.Info("task given back")
}

func mapped(err error, mapError func(error) *api.Error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	return mapError(err)
}
