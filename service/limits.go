package service

import (
	"context"
	"time"

	"jetkeep/service/config"
	"jetkeep/service/session"
)

// limits bound the tasks that concern one target, and those that concern one
// repository, on this instance.
type limits struct {
	targets, repositories map[string]chan struct{}
	patience              time.Duration
}

// maxLimitWait is how long a slot waits for a task that is not to be done yet;
// then others may have the slot.
const maxLimitWait = 2 * time.Second

func newLimits(c config.Config) *limits {
	l := &limits{
		targets: map[string]chan struct{}{}, repositories: map[string]chan struct{}{},
		patience: min(maxLimitWait, c.Lease/4), // well before the message comes again
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
	return func() { leaveRepository(); leaveTarget() }, true
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
