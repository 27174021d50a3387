package service

import (
	"context"
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
	targets, repositories map[string]chan struct{}
	patience              time.Duration
	// lock gives the lock of a name to an owner, across instances.
	lock func(ctx context.Context, name, owner string) (locked context.Context, unlock func(), err error)
	log  *slog.Logger
}

// maxLimitWait is how long a slot waits for a task that is not to be done yet;
// then others may have the slot.
const maxLimitWait = 2 * time.Second

func newLimits(c config.Config, st *state.Store, log *slog.Logger) *limits {
	l := &limits{
		targets: map[string]chan struct{}{}, repositories: map[string]chan struct{}{},
		patience: min(maxLimitWait, c.Lease/4), // well before the message comes again
		lock:     st.LockAs, log: log,
	}
	for _, t := range c.Targets {
		if t.Concurrency > 0 {
			l.targets[t.Name] = make(chan struct{}, t.Concurrency)
		}
	}
	for _, r := range c.Repositories {
		if r.Concurrency > 0 {
			l.repositories[r.Name] = make(chan struct{}, r.Concurrency)
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
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	leaveTarget, ok := enter(ctx, l.targets[t.Target])
	if !ok {
		return nil, false
	}
	leaveRepository, ok := enter(ctx, l.repositories[t.Repository])
	if !ok {
		leaveTarget()
		return nil, false
	}
	unlock, ok := l.stream(ctx, t)
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
func (l *limits) stream(ctx context.Context, t *session.Task) (unlock func(), ok bool) {
	if t.Kind != api.KindBackup {
		return func() {}, true
	}
	_, unlock, err := l.lock(ctx, "backup "+t.Repository+" "+t.Target+" "+t.Stream, t.ID)
	if err != nil {
		l.log.Debug("task waits for another one of its stream", "task", t.ID, "error", err)
		return nil, false
	}
	return unlock, true
}

// enter takes a place, at once if there is no bound.
func enter(ctx context.Context, places chan struct{}) (leave func(), ok bool) {
	if places == nil {
		return func() {}, true
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }, true
	case <-ctx.Done():
		return nil, false
	}
}
