package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"jetkeep/service/api"
)

const (
	// parallel is how many schedules are handled at once. Those whose target does
	// not answer take long.
	parallel = 32
	// startTimeout bounds one try to start a session, and actTimeout all that is
	// done about one schedule at once.
	startTimeout = time.Minute
	actTimeout   = startTimeout + 30*time.Second
	// rewatch is how long after a watch ended the next one begins.
	rewatch = time.Second
	// lookAgain is how often all is looked at without a cause: a change may not
	// have been told.
	lookAgain = 2 * time.Minute
	// startFor is how long an instance tries to start a session, whatever is away,
	// before that counts as a failure.
	startFor = 2 * time.Minute
	// lagPause is how long a replica that lags behind is given.
	lagPause = 100 * time.Millisecond
	// takeBackTimeout bounds the cancelling of a session that must not run.
	takeBackTimeout = 5 * time.Second
)

// ErrExists means that somebody else has started the same session.
var ErrExists = errors.New("the session is there already")

// Sessions is what the scheduler needs of sessions.
type Sessions interface {
	// Start starts the session of a run's stage under an id. ErrExists is success
	// of somebody else.
	Start(ctx context.Context, id string, d *Definition, run api.ScheduleRun) error
	// Fail makes the session of a run's stage that could not be started, so that it
	// is told of as others are that failed. ErrExists means that there is one.
	Fail(ctx context.Context, id string, d *Definition, run api.ScheduleRun, why error) error
	// View describes a session, nil if there is none.
	View(ctx context.Context, id string) (*View, error)
	Cancel(ctx context.Context, id, reason string) error
	// Forget removes sessions that ended.
	Forget(ctx context.Context, ids []string) error
	// Watch tells of each session that ended, until ctx ends. Some may be left
	// out.
	Watch(ctx context.Context, ended func(id string)) error
}

// states is the part of Store that runs schedules.
type states interface {
	State(ctx context.Context, name string) (State, uint64, error)
	Write(ctx context.Context, name string, st State, revision uint64) (uint64, error)
	watch(ctx context.Context, on func(change), ready func()) error
	// begin makes the state of a schedule that has none, unless it was deleted.
	begin(ctx context.Context, name string, now time.Time) error
	// Now returns the server's time.
	Now(ctx context.Context) (time.Time, error)
}

// Options of a Scheduler.
type Options struct {
	Log *slog.Logger
	// Known, if set, is told of each schedule that is looked at.
	Known func(schedule string)
	// Late, if set, is told how long after its time each run was started here.
	Late func(schedule string, late time.Duration)
	// LeftOut, if set, is told how many slots of a schedule this instance has
	// left out.
	LeftOut func(schedule string, slots int)
	// Alive, if set, is called whenever the loop comes around, at the latest
	// after some minutes.
	Alive func()
}

// A Scheduler starts what is due.
type Scheduler struct {
	store    states
	sessions Sessions
	opt      Options

	lookAgain time.Duration
	clock     func() time.Time // of this instance
	server    serverClock

	mu      sync.Mutex
	entries map[string]*entry
	changed chan struct{} // something is to be looked at
}

// An entry is a schedule that this instance knows.
type entry struct {
	def  *Definition
	busy bool // is being handled
	wake time.Time
	// session is the one whose end is waited for.
	session string
	// trying is the revision of the state out of which nothing could be started
	// since a moment.
	trying       uint64
	since, tried time.Time // and when that was tried last
}

// New returns a scheduler, which does nothing until Run.
func New(store *Store, sessions Sessions, o Options) *Scheduler {
	return newScheduler(store, sessions, o)
}

func newScheduler(store states, sessions Sessions, o Options) *Scheduler {
	return &Scheduler{
		store: store, sessions: sessions, opt: o, lookAgain: lookAgain, clock: time.Now, server: serverClock{asking: make(chan struct{}, 1)},
		entries: map[string]*entry{}, changed: make(chan struct{}, 1),
	}
}

// Run runs schedules until ctx ends.
func (s *Scheduler) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		s.keepWatching(ctx, func() error { return s.store.watch(ctx, s.apply, s.lookAtAll) })
	})
	wg.Go(func() {
		s.keepWatching(ctx, func() error { return s.sessions.Watch(ctx, s.ended) })
	})
	s.loop(ctx)
	wg.Wait()
}

// ended has the schedule looked at that waits for a session.
func (s *Scheduler) ended(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if e.session == id {
			e.wake = s.clock()
			s.touch()
		}
	}
}

// waitsFor notes for which session's end a schedule waits.
func (s *Scheduler) waitsFor(name string, st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[name]
	if e == nil {
		return
	}
	e.session = ""
	if r := st.Running; r != nil && r.Ended == nil && r.Session != "" {
		e.session = current(r)
	}
}

// tryingFor returns for how long nothing could be started here out of a state.
// What matters is not the slot: that may have waited for the end of an outage, which
// not everything survives at the same moment, and the next one may have come.
func (s *Scheduler) tryingFor(name string, revision uint64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[name]
	if e == nil {
		return 0
	}
	// What was away for so long that nobody could even try counts anew.
	now := time.Now()
	if e.trying != revision || now.Sub(e.tried) > startFor {
		e.trying, e.since = revision, now
	}
	e.tried = now
	return now.Sub(e.since)
}

// keepWatching watches again whenever that ended.
func (s *Scheduler) keepWatching(ctx context.Context, watch func() error) {
	for ctx.Err() == nil {
		if err := watch(); err != nil && ctx.Err() == nil {
			s.opt.Log.Warn("schedules are not watched for a moment", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(rewatch):
		}
	}
}

// apply takes in a change.
func (s *Scheduler) apply(c change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[c.name]
	switch {
	case c.gone:
		delete(s.entries, c.name)
		return
	case c.spec != nil:
		def, err := Parse(*c.spec)
		if err != nil {
			s.opt.Log.Error("schedule cannot be understood and does not run", "schedule", c.name, "error", err)
			delete(s.entries, c.name)
			return
		}
		if e == nil {
			e = new(entry)
			s.entries[c.name] = e
		}
		e.def, e.tried = def, time.Time{}
	case e == nil:
		return
	}
	e.wake = s.clock()
	s.touch()
}

// lookAtAll has everything looked at.
func (s *Scheduler) lookAtAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		e.wake = s.clock()
	}
	s.touch()
}

func (s *Scheduler) touch() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// loop handles what is due, and waits for the next.
func (s *Scheduler) loop(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(parallel)
	defer g.Wait() //nolint:errcheck // none returns one
	again := time.NewTicker(s.lookAgain)
	defer again.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.changed:
		case <-again.C:
			s.lookAtAll()
		}
		s.alive()
		due, next := s.due(s.clock())
		for _, def := range due {
			s.alive() // many whose targets do not answer take their time, one after the other
			g.Go(func() error {
				s.handle(ctx, def)
				return nil
			})
		}
		timer.Reset(next)
	}
}

func (s *Scheduler) alive() {
	if s.opt.Alive != nil {
		s.opt.Alive()
	}
}

// due takes the schedules that are to be looked at, and returns how long it is
// until the next.
func (s *Scheduler) due(now time.Time) (due []*Definition, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = s.lookAgain
	for _, e := range s.entries {
		switch {
		case e.busy || e.wake.IsZero():
		case e.wake.After(now):
			next = min(next, e.wake.Sub(now))
		default:
			e.busy, e.wake = true, time.Time{}
			due = append(due, e.def)
		}
	}
	return due, next
}

// handle looks at one schedule until there is nothing to do about it now.
func (s *Scheduler) handle(ctx context.Context, def *Definition) {
	if s.opt.Known != nil {
		s.opt.Known(def.Name)
	}
	actx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	wake, err := s.act(actx, def)
	if err != nil && ctx.Err() == nil {
		s.opt.Log.Warn("schedule is looked at again", "schedule", def.Name, "error", err)
		wake = s.clock().Add(poll)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[def.Name]
	if e == nil {
		return
	}
	e.busy = false
	if e.wake.IsZero() || !wake.IsZero() && wake.Before(e.wake) {
		e.wake = wake
	}
	s.touch()
}

// act does what is to be done about a schedule, and returns when it is to be
// looked at again.
func (s *Scheduler) act(ctx context.Context, def *Definition) (time.Time, error) {
	now, err := s.now(ctx)
	if err != nil {
		return time.Time{}, err
	}
	var mine []string // sessions that were started here and are in no state yet
	var passed uint64 // what is there is newer than this revision
	for range 16 {
		st, revision, err := s.store.State(ctx, def.Name)
		if err != nil {
			return time.Time{}, err
		}
		if st.Settled.IsZero() {
			return time.Time{}, s.store.begin(ctx, def.Name, now())
		}
		if passed > 0 && revision <= passed { // a replica that lags behind says nothing new
			if err := pause(ctx, lagPause); err != nil {
				return time.Time{}, err
			}
			continue
		}
		s.waitsFor(def.Name, st)
		var view *View
		if r := st.Running; r != nil && r.Ended == nil && r.Session != "" {
			if view, err = s.sessions.View(ctx, current(r)); err != nil {
				return time.Time{}, err
			}
		}
		st, a := Step(def, st, now(), view)
		lost := lostOf(def, mine, st, a)
		switch a.Kind {
		case actNothing:
			s.takeBack(ctx, def, lost...) // others have gone on, or something else runs
			return s.local(a.Wake), nil
		case actCancel:
			s.takeBack(ctx, def, lost...)
			return s.local(a.Wake), s.sessions.Cancel(ctx, a.Session, a.Reason)
		case actStart:
			var forget []string
			var first bool
			if st, forget, first, err = s.start(ctx, def, st, revision, a.Run, now()); err != nil {
				return time.Time{}, err
			}
			id := sessionOf(def.Name, a.Run)
			if first && a.Run.Stage == StageBackup {
				mine = append(mine, id)
			}
			if !mentions(st, id) { // what did not answer may have been done nevertheless
				lost = append(lost, id)
			}
			a.Forget = append(a.Forget, forget...)
		}
		written, err := s.store.Write(ctx, def.Name, st, revision)
		if errors.Is(err, ErrConflict) {
			passed = revision
			continue // another instance was quicker; look again
		}
		if err != nil {
			return time.Time{}, err
		}
		passed = written - 1
		// Not before: another instance may have noted one of them in its time.
		s.takeBack(ctx, def, lost...)
		mine = nil
		s.forget(ctx, def, a.Forget)
		if a.LeftOut > 0 && s.opt.LeftOut != nil {
			s.opt.LeftOut(def.Name, a.LeftOut)
		}
	}
	return s.clock().Add(poll), nil
}

// lostOf returns those of the sessions that nobody knows of if a state stays, or
// is written, and that the action does not start.
func lostOf(def *Definition, mine []string, st State, a Action) (lost []string) {
	for _, id := range mine {
		if !mentions(st, id) && !starts(def, a, id) && !st.Settled.Before(slotOf(id)) {
			lost = append(lost, id)
		}
	}
	return lost
}

// pause waits for a moment.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// starts says whether an action starts a session.
func starts(def *Definition, a Action, id string) bool {
	return a.Kind == actStart && sessionOf(def.Name, a.Run) == id
}

// mentions says whether a state knows of a session.
func mentions(st State, id string) bool {
	is := func(r api.ScheduleRun) bool { return r.Session == id || slices.Contains(r.Follow, id) }
	return st.Running != nil && is(*st.Running) || slices.ContainsFunc(st.Recent, is)
}

// slotOf returns the slot that an id derives from.
func slotOf(id string) time.Time {
	t, _ := time.Parse("20060102T150405Z", id[:16])
	return t
}

// current returns the session of a run's stage.
func current(r *api.ScheduleRun) string {
	if n := len(r.Follow); n > 0 && r.Stage != StageBackup {
		return r.Follow[n-1]
	}
	return r.Session
}

// start starts a run's stage and returns the state with it. That it cannot be
// started ends the attempt.
func (s *Scheduler) start(ctx context.Context, def *Definition, st State, revision uint64, run api.ScheduleRun, now time.Time) (_ State, forget []string, first bool, err error) {
	id := sessionOf(def.Name, run)
	tctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = s.sessions.Start(tctx, id, def, run)
	first = err == nil
	if errors.Is(err, ErrExists) {
		err = nil
	}
	if ctx.Err() != nil {
		return st, nil, false, ctx.Err() // whether it was started will be seen
	}
	begin := run.Slot
	if !run.Manual {
		begin = def.Timetable.StartOf(def.Name, run.Slot)
	}
	if err != nil && mayPass(run.Stage, err) && s.tryingFor(def.Name, revision) < startFor {
		return st, nil, false, err // the same id is tried again
	}
	noted := err != nil && s.failed(ctx, def, id, run, err)
	if run.Stage != StageBackup {
		if err != nil {
			if noted {
				run.Follow = append(run.Follow, id)
			}
			st, a := def.ended(st, unfollowed(run, err.Error()), now)
			return st, a.Forget, false, nil // it is in the state
		}
		run.Follow = append(run.Follow, id)
		st.Running = &run
		return st, nil, first, nil
	}
	run.Started = now.UTC()
	if !run.Manual && run.Attempt == 1 {
		late := max(now.Sub(begin), 0)
		run.Late = late.Seconds()
		if first && s.opt.Late != nil {
			s.opt.Late(def.Name, late)
		}
	}
	if err != nil {
		s.opt.Log.Error("scheduled backup cannot be started", "schedule", def.Name, "slot", run.Slot, "attempt", run.Attempt, "error", err)
		run.State, run.Reason = api.StateFailed, err.Error()
		if noted {
			run.Session = id
		}
		st, a := def.failed(st, run, now)
		return st, a.Forget, false, nil
	}
	if first {
		s.opt.Log.Info("scheduled backup started", "schedule", def.Name, "slot", run.Slot, "attempt", run.Attempt, "session", id)
	}
	run.Session = id
	st.Running = &run
	return st, nil, first, nil
}

// failed notes a session that could not be started, and tells whether it did: there
// may be one nevertheless, or KV may be away.
func (s *Scheduler) failed(ctx context.Context, def *Definition, id string, run api.ScheduleRun, why error) bool {
	err := s.sessions.Fail(ctx, id, def, run, why)
	if err != nil && !errors.Is(err, ErrExists) {
		s.opt.Log.Warn("no session tells that it could not be started", "schedule", def.Name, "session", id, "error", err)
	}
	return err == nil
}

// mayPass says whether the same may succeed later: not if the request is wrong. A
// prune waits for another one of the repository to end.
func mayPass(stage string, err error) bool {
	var e *api.Error
	return !errors.As(err, &e) || e.Code >= 500 || stage == StagePrune && e.ErrCode == api.CodeConflict
}

// Trigger starts a run now, beside the slots. It is a conflict if one runs.
func (s *Scheduler) Trigger(ctx context.Context, def *Definition) (*api.Accepted, error) {
	clock, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	now := clock().UTC()
	run := api.ScheduleRun{Slot: now.Truncate(time.Second), Manual: true, Attempt: 1, Stage: StageBackup, Started: now}
	run.Session = SessionID(def.Name, run.Slot, "manual "+now.Format(time.RFC3339Nano), 1)
	accepted := &api.Accepted{
		Session: run.Session, Kind: api.KindBackup, State: api.StatePending, Backup: run.Session, Target: def.Target, Repository: def.Repository,
	}
	started := false
	for range 16 {
		st, revision, err := s.store.State(ctx, def.Name)
		if mentions(st, run.Session) {
			return accepted, nil // it was written, and the answer was lost
		}
		if r := st.Running; err == nil && r != nil && r.RetryAt == nil {
			err = api.Errorf(api.CodeConflict, "schedule %s runs session %s", def.Name, current(r)).WithHint("Wait until it has ended, or end it with session.cancel.")
		}
		if err == nil && !started {
			started = true
			err = s.sessions.Start(ctx, run.Session, def, run)
		}
		var forget []string
		if err == nil {
			if st.Running != nil {
				st, forget = def.settle(st)
			}
			st.Running = &run
			if _, err = s.store.Write(ctx, def.Name, st, revision); errors.Is(err, ErrConflict) {
				continue // it goes on meanwhile; look again
			}
		}
		if err != nil {
			if started {
				s.takeBack(ctx, def, run.Session)
			}
			return nil, err
		}
		s.forget(ctx, def, forget)
		return accepted, nil
	}
	s.takeBack(ctx, def, run.Session)
	return nil, ErrConflict
}

// takeBack cancels sessions that the schedule's state knows nothing of.
func (s *Scheduler) takeBack(ctx context.Context, def *Definition, ids ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTimeout)
	defer cancel()
	for _, id := range ids {
		if err := s.sessions.Cancel(ctx, id, "schedule "+def.Name+": it could not be noted that it runs"); err != nil {
			s.opt.Log.Warn("session of a schedule runs beside it", "schedule", def.Name, "session", id, "error", err)
		}
	}
}

func (s *Scheduler) forget(ctx context.Context, def *Definition, sessions []string) {
	if len(sessions) == 0 {
		return
	}
	if err := s.sessions.Forget(ctx, sessions); err != nil {
		s.opt.Log.Warn("sessions of a schedule's history are not forgotten", "schedule", def.Name, "error", err)
	}
}
