package service

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/session"
	"jetkeep/service/state"
)

// limits bound the tasks that concern one target, and those that concern one
// repository, on this instance.
type limits struct {
	targets, repositories map[string]places
	patience              time.Duration
	// seats are how many slots of a kind may wait for tasks that are not to be
	// done yet. The others are for those that are.
	seats map[api.Kind]chan struct{}
	// lock gives the lock of a name to an owner, across instances, and tryLock
	// does without waiting.
	lock, tryLock func(ctx context.Context, name, owner string) (locked context.Context, unlock func(), err error)
	log           *slog.Logger
}

// places are those of a target or repository. Restores have their own: they wait
// for no backup.
type places struct{ restores, others chan struct{} }

func newPlaces(n int) places { return places{make(chan struct{}, n), make(chan struct{}, n)} }

func (p places) of(kind api.Kind) chan struct{} {
	if kind == api.KindRestore {
		return p.restores
	}
	return p.others
}

// maxLimitWait is how long a slot waits for a task that is not to be done yet;
// then others may have the slot.
const maxLimitWait = 2 * time.Second

// limitPause is how long a slot that may not wait rests before the next task: of
// thousands that are not to be done yet each comes again every few seconds.
const limitPause = 50 * time.Millisecond

func newLimits(c config.Config, slots map[api.Kind]int, st *state.Store, log *slog.Logger) *limits {
	l := &limits{
		targets: map[string]places{}, repositories: map[string]places{}, seats: map[api.Kind]chan struct{}{},
		patience: min(maxLimitWait, c.Lease/4), // well before the message comes again
		lock:     st.LockAs, tryLock: st.TryLockAs, log: log,
	}
	for _, kind := range api.Kinds() {
		l.seats[kind] = make(chan struct{}, cmp.Or(slots[kind], c.Concurrency)/2)
	}
	for _, t := range c.Targets {
		if t.Concurrency > 0 {
			l.targets[t.Name] = newPlaces(t.Concurrency)
		}
	}
	for _, r := range c.Repositories {
		if r.Concurrency > 0 {
			l.repositories[r.Name] = newPlaces(r.Concurrency)
		}
	}
	return l
}

// wait implements worker.Deps.Limit. Tasks of hooks wait for nothing: others
// wait for them.
func (l *limits) wait(ctx context.Context, t *session.Task) (release func(), ok bool) {
	if t.Hook != "" {
		return func() {}, true
	}
	if release, ok = l.enter(ctx, t, false); ok {
		return release, true
	}
	select {
	case l.seats[t.Kind] <- struct{}{}:
		defer func() { <-l.seats[t.Kind] }()
	default:
		select {
		case <-time.After(limitPause):
		case <-ctx.Done():
		}
		return nil, false
	}
	return l.enter(ctx, t, true)
}

// enter takes what a task needs, and waits for it if that is wanted.
func (l *limits) enter(ctx context.Context, t *session.Task, wait bool) (release func(), ok bool) {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	leaveTarget, ok := enter(ctx, l.targets[t.Target].of(t.Kind), wait)
	if !ok {
		return nil, false
	}
	leaveRepository, ok := enter(ctx, l.repositories[t.Repository].of(t.Kind), wait)
	if !ok {
		leaveTarget()
		return nil, false
	}
	unlock, ok := l.stream(ctx, t, wait)
	if !ok {
		leaveRepository()
		leaveTarget()
		return nil, false
	}
	return func() { unlock(); leaveRepository(); leaveTarget() }, true
}

// stream sees to it that one restore point at a time is made of a stream in a
// repository: two would read the same, and one of them would have to begin its
// commit again. It is no matter of safety, so that a lock which is lost meanwhile
// ends nothing. An attempt that follows another of the same task has the lock at
// once: its claim says already that it alone goes on.
func (l *limits) stream(ctx context.Context, t *session.Task, wait bool) (unlock func(), ok bool) {
	if t.Kind != api.KindBackup {
		return func() {}, true
	}
	lock := l.tryLock
	if wait {
		lock = l.lock
	}
	_, unlock, err := lock(ctx, "backup "+t.Repository+" "+t.Target+" "+t.Stream, t.ID)
	switch {
	case err == nil:
	case ctx.Err() != nil || errors.Is(err, state.ErrLocked) || errors.Is(err, state.ErrLockLost) || errors.Is(err, context.DeadlineExceeded):
		l.log.Debug("task waits for another one of its stream", "task", t.ID, "error", err)
		return nil, false
	default:
		// The lock saves work and is no matter of safety: without the state that it
		// is kept in, the task goes on, or says itself what is wrong.
		l.log.Warn("task goes on without the lock of its stream", "task", t.ID, "error", err)
		return func() {}, true
	}
	return unlock, true
}

// enter takes a place, at once if there is no bound.
func enter(ctx context.Context, places chan struct{}, wait bool) (leave func(), ok bool) {
	if places == nil {
		return func() {}, true
	}
	leave = func() { <-places }
	select {
	case places <- struct{}{}:
		return leave, true
	default:
	}
	if !wait {
		return nil, false
	}
	select {
	case places <- struct{}{}:
		return leave, true
	case <-ctx.Done():
		return nil, false
	}
}
