// Package worker does tasks: it claims them from the work queue, keeps their
// state, and lets a handler of their kind do the work.
//
// At any time at most one instance passes a task's fence and keeps it: each
// claim, renewal, commit and end is a compare-and-set on the task in KV, and an
// instance whose compare-and-set fails, or that could not make one for most of
// a lease, stops the handler and writes nothing more. A task whose instance
// died is handed to another after the lease; after MaxAttempts such deaths it
// fails with api.CodeTaskAbandoned. A task that is interrupted by Run's end is
// given back and goes on elsewhere, or here after a restart.
//
// Run returns when its context has ended and all handlers have returned; it
// fails if one does not return within the drain timeout, and if the queue
// cannot be used for a minute.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/queue"
	"jetkeep/service/session"
)

const (
	// DefaultConcurrency is how many tasks of one kind an instance does at once.
	DefaultConcurrency = 2
	// DefaultMaxAttempts is how many instances may die over one task.
	DefaultMaxAttempts = 3
	// drainTimeout bounds how long Run waits for handlers at its end.
	drainTimeout = 30 * time.Second
	// writeTimeout bounds one write of state after the handler's end.
	writeTimeout = 5 * time.Second
	// finishPatience is how long the end of a task is tried to be written; after
	// that the lease is over anyway and another instance will find out.
	finishPatience = 30 * time.Second
	// missingRedeliveries is how often a task that KV does not show is looked
	// for again: a replica may lag behind its leader.
	missingRedeliveries = 5
	retryDelay          = time.Second
	// maxLimitDelay is after how long a task that is not to be done yet comes again.
	maxLimitDelay = 5 * time.Second
	// claimTries is how often a claim is tried that another write was quicker than.
	claimTries = 5
	// outdatedFor is how long it is remembered that a message of a task was outdated.
	outdatedFor = time.Hour
	// bindPatience is how long consumers are tried to be bound at the start.
	bindPatience = time.Minute
)

// Deps is what a worker works with.
type Deps struct {
	Store    *session.Store
	Queue    *queue.Queue
	Events   Publisher
	Handlers map[api.Kind]Handler
	// Hooks may be nil.
	Hooks Hooks
	// MapError says what others are shown of a handler's error.
	MapError func(error) *api.Error
	Instance string
	// Concurrency is how many tasks of one kind are done at once, Slots where it
	// is another number.
	Concurrency int
	Slots       map[api.Kind]int
	// Limit waits for a while until a task may be done, besides the slots; if it
	// is not to be done yet, the task is given back and comes again. It may be
	// nil.
	Limit         func(ctx context.Context, t *session.Task) (release func(), ok bool)
	MaxAttempts   int
	SweepInterval time.Duration
	Now           func() time.Time
	Log           *slog.Logger
	// Swept is called while sessions are swept, and after each sweep. It may be
	// nil.
	Swept func()
	// SessionEnded is told of each session whose end this instance announced:
	// one of all instances is. TaskEnded is told of each task that ended here.
	// Neither may block, and either may be nil.
	SessionEnded func(*session.Session)
	TaskEnded    func(*session.Task)
}

// A Worker does tasks.
type Worker struct {
	Deps
	Conductor *Conductor

	mu      sync.Mutex
	running map[string]time.Time
	slots   []*slot
	// outdated are tasks of which a message came that was handed out before they
	// were claimed.
	outdated map[string]seen
}

// A slot does one task of its kind after the other.
type slot struct {
	kind api.Kind
	// since is when it began to look for a task, nil while it does one.
	since atomic.Pointer[time.Time]
}

func (s *slot) look() {
	now := time.Now()
	s.since.Store(&now)
}

func (s *slot) work() { s.since.Store(nil) }

// Looking returns the slot that looks for a task for longest, and how long it
// does. With nothing to do a slot begins anew every few seconds, so that one
// which looks for a minute is stuck.
func (w *Worker) Looking() (kind api.Kind, longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.slots {
		if since := s.since.Load(); since != nil && time.Since(*since) > longest {
			kind, longest = s.kind, time.Since(*since)
		}
	}
	return kind, longest
}

// New makes a worker; Run starts it.
func New(d Deps) *Worker {
	if d.Concurrency <= 0 {
		d.Concurrency = DefaultConcurrency
	}
	if d.MaxAttempts <= 0 {
		d.MaxAttempts = DefaultMaxAttempts
	}
	if d.SweepInterval <= 0 {
		d.SweepInterval = SweepInterval
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Hooks == nil {
		d.Hooks = noHooks{}
	}
	if d.MapError == nil {
		d.MapError = func(error) *api.Error { return api.Errorf(api.CodeInternal, "internal error") }
	}
	if d.Swept == nil {
		d.Swept = func() {}
	}
	if d.SessionEnded == nil {
		d.SessionEnded = func(*session.Session) {}
	}
	if d.Limit == nil {
		d.Limit = func(context.Context, *session.Task) (func(), bool) { return func() {}, true }
	}
	if d.TaskEnded == nil {
		d.TaskEnded = func(*session.Task) {}
	}
	return &Worker{Deps: d, Conductor: newConductor(d), running: map[string]time.Time{}, outdated: map[string]seen{}}
}

// Running returns how many tasks the worker does at the moment.
func (w *Worker) Running() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.running)
}

// Run does tasks and looks after sessions until ctx is done.
func (w *Worker) Run(ctx context.Context) error {
	consumers := map[api.Kind]*queue.Consumer{}
	for kind := range w.Handlers {
		c, err := w.consumer(ctx, kind)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		consumers[kind] = c
	}
	var wg sync.WaitGroup
	wg.Go(func() { w.Conductor.Run(ctx) })
	for kind, c := range consumers {
		for range cmp.Or(w.Slots[kind], w.Concurrency) {
			s := &slot{kind: kind}
			s.look()
			w.mu.Lock()
			w.slots = append(w.slots, s)
			w.mu.Unlock()
			wg.Go(func() { w.serve(ctx, s, c) })
		}
	}
	<-ctx.Done()
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	t := time.NewTimer(drainTimeout)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return fmt.Errorf("stop worker: %d tasks did not stop within %s", w.Running(), drainTimeout)
	}
}

// consumer binds the consumer of one kind. A cluster between two leaders is
// waited for, for a while.
func (w *Worker) consumer(ctx context.Context, kind api.Kind) (*queue.Consumer, error) {
	for begun := time.Now(); ; {
		c, err := w.Queue.Consumer(ctx, kind)
		if err == nil || time.Since(begun) > bindPatience {
			return c, err
		}
		w.Log.Warn("bind consumer", "kind", kind, "error", err)
		if !pause(ctx, retryDelay) {
			return nil, err
		}
	}
}

// serve does one task after the other.
func (w *Worker) serve(ctx context.Context, s *slot, c *queue.Consumer) {
	for ctx.Err() == nil {
		s.look()
		claim, err := c.Next(ctx)
		if errors.Is(err, queue.ErrNone) {
			continue
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			w.Log.Warn("claim task", "kind", s.kind, "error", err)
			if !pause(ctx, retryDelay) {
				return
			}
			// The consumer or its stream may have been deleted.
			if again, err := w.Queue.Consumer(ctx, s.kind); err == nil {
				c = again
			}
			continue
		}
		w.do(ctx, s, claim)
	}
}

// do decides what a message means, and does the task if it is one to be done.
func (w *Worker) do(ctx context.Context, s *slot, claim *queue.Claim) {
	log := w.Log.With("task", claim.Task)
	t, ses, ok := w.look(ctx, claim, log)
	if !ok {
		return
	}
	release, ok := w.Limit(ctx, t)
	if !ok {
		// The server hands out first what comes again: if all came at once, what
		// is new would never come.
		w.giveBack(claim, min(retryDelay*time.Duration(1+claim.Deliveries/5), maxLimitDelay), log)
		return
	}
	defer release()
	for try := 1; ; try++ {
		if w.late(claim, log) {
			return
		}
		err := t.Claim(w.Instance, w.MaxAttempts, w.Now())
		if err != nil && !errors.Is(err, session.ErrAbandoned) {
			log.Error("claim task", "error", err)
			w.giveBack(claim, retryDelay, log)
			return
		}
		t.Message, t.Delivery = claim.Message, claim.Deliveries
		perr := w.Store.PutTask(ctx, t)
		if perr == nil {
			w.claimed(ctx, s, claim, ses, t, err, log)
			return
		}
		log.Debug("claim task", "error", perr)
		if !errors.Is(perr, session.ErrConflict) {
			w.giveBack(claim, retryDelay, log)
			return
		}
		// Another instance may have it, or KV may have answered from a replica
		// that lags behind: look again. The message is not given back: if another
		// has it, that would take it from him.
		if try == claimTries || !pause(ctx, retryDelay/10) {
			return
		}
		if t, ses, ok = w.look(ctx, claim, log); !ok {
			return
		}
	}
}

// look reads the task of a message and tells whether it is to be done.
func (w *Worker) look(ctx context.Context, claim *queue.Claim, log *slog.Logger) (*session.Task, *session.Session, bool) {
	t, ses, err := w.load(ctx, claim.Task)
	switch {
	case errors.Is(err, session.ErrNotFound) && claim.Deliveries >= missingRedeliveries:
		log.Warn("task is not in KV, dropped")
		w.drop(ctx, claim, log)
	case err != nil:
		log.Warn("read task", "error", err)
		w.giveBack(claim, retryDelay, log)
	case t.State.Final() || ses.State.Final():
		w.drop(ctx, claim, log)
		w.Conductor.Notify(ses.ID)
	case t.Outdates(claim.Message, claim.Deliveries) && !w.silent(t):
		// We stood still while it was handed on; whoever has it keeps it.
		log.Warn("task was handed to another instance meanwhile", "instance", t.Instance)
	default:
		return t, ses, true
	}
	return nil, nil, false
}

// silent tells whether nobody has written a task since it was asked for a lease or
// longer ago: a consumer that was made anew counts deliveries from one, and then the
// task of an owner that died looks as if it were handed to him later.
func (w *Worker) silent(t *session.Task) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.outdated[t.ID]
	if ok && s.revision == t.Revision {
		return time.Since(s.at) >= w.Queue.Lease()
	}
	maps.DeleteFunc(w.outdated, func(_ string, s seen) bool { return time.Since(s.at) > outdatedFor })
	w.outdated[t.ID] = seen{t.Revision, time.Now()}
	return false
}

// claimed does a task that is ours, or ends it if it was abandoned.
func (w *Worker) claimed(ctx context.Context, s *slot, claim *queue.Claim, ses *session.Session, t *session.Task, abandoned error, log *slog.Logger) {
	s.work()
	if abandoned == nil {
		// What came before took a part of the lease.
		if err := claim.Extend(); err != nil {
			log.Warn("extend claim", "error", err)
		}
		w.Conductor.Notify(ses.ID)
		w.run(ctx, claim, ses, t, log.With("attempt", t.Attempt, "stream", t.Stream))
		return
	}
	log.Error("task failed", "error", abandoned)
	if t.Hook == "" {
		// Whoever was told of its beginning is told of its end.
		actx, done := lingering(ctx)
		w.Hooks.After(actx, ses, t, t.State, t.Error)
		done()
	}
	w.ended(ctx, claim, ses, t, log)
}

func (w *Worker) load(ctx context.Context, id string) (*session.Task, *session.Session, error) {
	t, err := w.Store.Task(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	ses, err := w.Store.Session(ctx, t.Session)
	if err != nil {
		return nil, nil, err
	}
	return t, ses, nil
}

// ended follows a task's last write: tell, take the message out, move on.
func (w *Worker) ended(ctx context.Context, claim *queue.Claim, ses *session.Session, t *session.Task, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	w.Conductor.taskEvent(ctx, ses, t)
	w.drop(ctx, claim, log)
	if ctx.Err() == nil {
		w.Conductor.Notify(ses.ID)
	}
}

func (w *Worker) drop(ctx context.Context, claim *queue.Claim, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := claim.Done(ctx); err != nil {
		log.Warn("drop message", "error", err) // it comes again and is dropped then
	}
}

// late tells whether it took so long to decide about a message that the server
// hands it on, or has done so. Whoever gets it then would lose it if it were given
// back, and if we began would take it from us.
func (w *Worker) late(claim *queue.Claim, log *slog.Logger) bool {
	late := claim.Age() > w.Queue.Lease()*7/10
	if late {
		log.Warn("message is left to the next instance", "after", claim.Age())
	}
	return late
}

// giveBack gives back the message of a task that is not ours.
func (w *Worker) giveBack(claim *queue.Claim, delay time.Duration, log *slog.Logger) {
	if w.late(claim, log) {
		return
	}
	if err := claim.Release(delay); err != nil {
		log.Warn("release message", "error", err) // it comes again after the lease
	}
}
