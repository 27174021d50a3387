package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"jetkeep/service/api"
	"jetkeep/service/session"
)

const (
	// SweepInterval is how often every session that has not ended is looked
	// after, whether anything happened or not.
	SweepInterval = 5 * time.Second
	// minAdvance is the least time between two looks at one session; a session
	// of a thousand tasks is read whole each time.
	minAdvance = 50 * time.Millisecond
	// advanceShare bounds the part of the time that those looks take.
	advanceShare = 10
	// unreadyPatience is how long a session may be without its tasks before
	// its maker is taken for dead; writing 9999 tasks takes a few seconds.
	unreadyPatience = time.Minute
	// submitParallel is how many tasks are submitted at once.
	submitParallel = 64
	// maxRounds bounds how often one call looks again after a conflict.
	maxRounds = 16
)

// A Submitter is the part of the work queue that a conductor needs.
type Submitter interface {
	Submit(ctx context.Context, kind api.Kind, task string, attempt int) error
	Queued(ctx context.Context, session string) (map[string]bool, error)
}

// A Publisher takes events. Publish returns when the event is kept, or tells
// why not; PublishProgress may lose it.
type Publisher interface {
	Publish(ctx context.Context, e api.Event) error
	PublishProgress(e api.Event)
}

// A Conductor moves sessions on: it submits what can start, cancels what need
// not start, and ends what has ended. Every instance has one; they may all act
// on one session at once.
type Conductor struct {
	store    *session.Store
	queue    Submitter
	events   Publisher
	instance string
	lease    time.Duration
	sweep    time.Duration
	now      func() time.Time
	log      *slog.Logger
	ended    func(*session.Session)
	swept    func()

	mu     sync.Mutex
	dirty  map[string]bool
	wake   chan struct{}
	active map[string]*watched // sessions that are not done with
	// missing is since when a session's tasks are not all to be seen.
	missing map[string]time.Time
}

// watched is what a conductor remembers of a session between sweeps.
type watched struct {
	ready bool
	since time.Time // when it was first seen like this
	tasks map[string]seen
}

// seen is when a task was first seen at a revision.
type seen struct {
	revision uint64
	at       time.Time
}

func newConductor(d Deps) *Conductor {
	return &Conductor{
		store: d.Store, queue: d.Queue, events: d.Events, instance: d.Instance,
		lease: d.Queue.Lease(), sweep: d.SweepInterval, now: d.Now, log: d.Log, ended: d.SessionEnded, swept: d.Swept,
		dirty: map[string]bool{}, wake: make(chan struct{}, 1), active: map[string]*watched{},
		missing: map[string]time.Time{},
	}
}

// Notify asks for a look at the session soon.
func (c *Conductor) Notify(id string) {
	c.mu.Lock()
	c.dirty[id] = true
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Start submits the tasks of a session that was just created.
func (c *Conductor) Start(ctx context.Context, tasks []*session.Task) error {
	var first []*session.Task
	for _, t := range tasks {
		switch {
		case t.Hook == session.HookBefore:
			return c.submit(ctx, []*session.Task{t})
		case len(t.After) == 0 && t.Hook == "":
			first = append(first, t)
		}
	}
	return c.submit(ctx, first)
}

func (c *Conductor) submit(ctx context.Context, tasks []*session.Task) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(submitParallel)
	for _, t := range tasks {
		g.Go(func() error { return c.queue.Submit(ctx, t.Kind, t.ID, t.Attempt) })
	}
	return g.Wait()
}

// Advance does what is to be done next about a session and returns it as it is
// then.
func (c *Conductor) Advance(ctx context.Context, id string) (*session.Session, error) {
	return c.advance(ctx, id, func(ses *session.Session, t *session.Task) bool {
		waited := len(t.After) > 0 || t.Hook == session.HookAfter || t.Hook == "" && slices.Contains(ses.Hooks, session.HookBefore)
		return waited && t.State == api.StatePending
	})
}

// advance submits only tasks that pass the filter, and only if the queue does
// not hold them.
func (c *Conductor) advance(ctx context.Context, id string, filter func(*session.Session, *session.Task) bool) (*session.Session, error) {
	for range maxRounds {
		ses, err := c.store.Session(ctx, id)
		if err != nil {
			return nil, err
		}
		if ses.State.Final() {
			return ses, c.announce(ctx, ses)
		}
		// The queue before the tasks: a task that ended in between is then
		// seen as ended, and not taken for lost.
		queued, err := c.queue.Queued(ctx, id)
		if err != nil {
			return nil, err
		}
		tasks, err := c.store.Tasks(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := c.complete(ses, tasks); err != nil {
			return nil, err
		}
		a := session.Advance(ses, tasks)
		again, err := c.act(ctx, ses, tasks, a, queued, filter)
		if err != nil {
			return nil, err
		}
		if !again {
			return ses, c.announce(ctx, ses)
		}
	}
	return nil, fmt.Errorf("advance session %s: %w", id, session.ErrConflict)
}

// complete fails if tasks are missing. Only if that stays so for long are they
// taken for deleted: a replica that lags behind must not end a session.
func (c *Conductor) complete(ses *session.Session, tasks []*session.Task) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := ses.Tasks + len(ses.Hooks)
	if len(tasks) >= all {
		delete(c.missing, ses.ID)
		return nil
	}
	since, ok := c.missing[ses.ID]
	if !ok {
		since = time.Now()
		c.missing[ses.ID] = since
	}
	if ses.Ready && time.Since(since) < unreadyPatience {
		return fmt.Errorf("session %s: KV shows %d of its %d tasks", ses.ID, len(tasks), all)
	}
	return nil
}

// act carries out actions and tells whether to look again.
func (c *Conductor) act(ctx context.Context, ses *session.Session, tasks []*session.Task, a session.Actions,
	queued map[string]bool, filter func(*session.Session, *session.Task) bool,
) (bool, error) {
	for _, id := range a.Cancel {
		if err := c.endTask(ctx, ses, id, func(t *session.Task) error { return t.Cancel(ses.Reason, c.now()) }); err != nil {
			return false, err
		}
	}
	for _, id := range a.Refuse {
		if err := c.endTask(ctx, ses, id, func(t *session.Task) error { return t.Refuse(a.Why, c.now()) }); err != nil {
			return false, err
		}
	}
	var lost []*session.Task
	byID := map[string]*session.Task{}
	for _, t := range tasks {
		byID[t.ID] = t
	}
	for _, id := range a.Submit {
		if t := byID[id]; !queued[id] && filter(ses, t) {
			lost = append(lost, t)
		}
	}
	if err := c.submit(ctx, lost); err != nil {
		return false, err
	}
	if len(a.Cancel)+len(a.Refuse) > 0 {
		return true, nil
	}
	if a.State == "" {
		return false, nil
	}
	before := ses.State
	if err := ses.Move(a, tasks, c.now()); err != nil {
		return false, err
	}
	if err := c.store.PutSession(ctx, ses); err != nil {
		if errors.Is(err, session.ErrConflict) {
			return true, nil
		}
		return false, err
	}
	c.log.Info("session moved", "session", ses.ID, "from", before, "to", ses.State)
	if before == api.StatePending && !ses.State.Final() {
		counts := session.Count(tasks)
		e := c.event(ses, api.EventStarted)
		e.Tasks = &counts
		if err := c.events.Publish(ctx, e); err != nil {
			c.log.Warn("publish event", "session", ses.ID, "error", err)
		}
	}
	return !ses.State.Final(), nil
}

// endTask ends a task that nobody works on.
func (c *Conductor) endTask(ctx context.Context, ses *session.Session, id string, end func(*session.Task) error) error {
	t, err := c.store.UpdateTask(ctx, id, end)
	if errors.Is(err, session.ErrTransition) {
		return nil // somebody took it meanwhile and sees the cancellation itself
	}
	if err != nil {
		return err
	}
	c.taskEvent(ctx, ses, t)
	return nil
}

// announce publishes the end of a session unless that was done. It is repeated
// until the event is kept, so that no end goes untold.
func (c *Conductor) announce(ctx context.Context, ses *session.Session) error {
	name := api.EventOf(ses.State)
	if name == "" || ses.Announced {
		return nil
	}
	e := c.event(ses, name)
	e.Tasks, e.Progress, e.Error = ses.Counts, ses.Progress, ses.Error
	if err := c.events.Publish(ctx, e); err != nil {
		return fmt.Errorf("announce session %s: %w", ses.ID, err)
	}
	ses.Announced = true
	err := c.store.PutSession(ctx, ses)
	if errors.Is(err, session.ErrConflict) {
		return nil // another instance announced it, too; the events have one id
	}
	if err == nil {
		c.ended(ses)
	}
	return err
}

func (c *Conductor) event(ses *session.Session, name api.EventName) api.Event {
	return api.Event{
		Type: name.Type(), ID: ses.ID + "." + string(name), Timestamp: c.now().UTC(), Event: name,
		Session: ses.ID, Kind: ses.Kind, State: ses.State, Target: ses.Target, Repository: ses.Repository,
		Instance: c.instance, Tags: ses.Tags,
	}
}

// taskEvent tells that a task ended.
func (c *Conductor) taskEvent(ctx context.Context, ses *session.Session, t *session.Task) {
	e := c.event(ses, api.EventTaskCompleted)
	v := t.View()
	e.ID, e.State, e.Task, e.Error = t.ID+"."+string(api.EventTaskCompleted), t.State, &v, t.Error
	if err := c.events.Publish(ctx, e); err != nil {
		c.log.Warn("publish event", "task", t.ID, "error", err)
	}
}

// Run looks after sessions until ctx is done: after those that Notify names,
// and every so often after all.
func (c *Conductor) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.watch(ctx) })
	wg.Go(func() { c.notified(ctx) })
	tick := time.NewTicker(c.sweep)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			c.Sweep(ctx)
			c.swept()
		}
	}
	wg.Wait()
}

// notified advances the sessions that were notified, and then rests for longer
// the longer it took.
func (c *Conductor) notified(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		dirty := c.dirty
		c.dirty = map[string]bool{}
		c.mu.Unlock()
		begin := time.Now()
		for id := range dirty {
			if _, err := c.Advance(ctx, id); err != nil && ctx.Err() == nil {
				c.log.Warn("advance session", "session", id, "error", err)
			}
		}
		if !pause(ctx, max(minAdvance, advanceShare*time.Since(begin))) {
			return
		}
	}
}

// watch keeps the list of sessions that are not done with.
func (c *Conductor) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.store.WatchSessions(ctx, func(s *session.Session) bool {
			c.note(s)
			return true
		})
		if ctx.Err() == nil {
			c.log.Warn("watch sessions", "error", err)
			pause(ctx, time.Second)
		}
	}
}

func (c *Conductor) note(s *session.Session) {
	c.mu.Lock()
	w, known := c.active[s.ID]
	switch {
	case s.State.Final() && s.Announced:
		delete(c.active, s.ID)
		delete(c.missing, s.ID)
	case !known || w.ready != s.Ready:
		c.active[s.ID] = &watched{ready: s.Ready, since: time.Now(), tasks: map[string]seen{}}
	}
	c.mu.Unlock()
	if s.Cancel && !s.State.Final() || s.State.Final() && !s.Announced && !known {
		c.Notify(s.ID)
	}
}

// Sweep looks after every session that is not done with: it finds messages
// that the queue lost, and sessions whose maker died.
func (c *Conductor) Sweep(ctx context.Context) {
	c.mu.Lock()
	active := make(map[string]*watched, len(c.active))
	for id, w := range c.active {
		active[id] = w
	}
	c.mu.Unlock()
	for id, w := range active {
		c.swept()
		var err error
		if w.ready {
			_, err = c.advance(ctx, id, c.stale(w))
		} else if time.Since(w.since) > unreadyPatience {
			if err = c.store.AbortUnready(ctx, id, c.now()); err == nil {
				_, err = c.Advance(ctx, id)
			}
		}
		switch {
		case errors.Is(err, session.ErrNotFound):
			c.forget(id) // deleted before its end was announced
		case err != nil && ctx.Err() == nil:
			c.log.Warn("sweep session", "session", id, "error", err)
		}
	}
}

// forget drops what is remembered of a session.
func (c *Conductor) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.active, id)
	delete(c.missing, id)
}

// stale passes tasks that were not written for longer than a lease. The clock
// is our own and only measures how long we have seen no change, so that clocks
// that differ between instances do not matter.
func (c *Conductor) stale(w *watched) func(*session.Session, *session.Task) bool {
	return func(_ *session.Session, t *session.Task) bool {
		s, ok := w.tasks[t.ID]
		if !ok || s.revision != t.Revision {
			w.tasks[t.ID] = seen{t.Revision, time.Now()}
			return false
		}
		// Pending tasks are not written while they wait; one look is enough to
		// let a Submit that is under way arrive.
		return t.State == api.StatePending || time.Since(s.at) > c.lease
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
