package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/schedule"
	"jetkeep/service/api"
)

const (
	// pruneKey is that of what became of the prunes of a repository.
	pruneKey = "prune."
	// pruneAgain is how long after a look that did not succeed, or while another
	// prune of the repository runs, the next one is made.
	pruneAgain = 15 * time.Second
	// pruneTimeout bounds a look at one repository.
	pruneTimeout = 30 * time.Second
)

// A Prune is a repository that is pruned by itself.
type Prune struct {
	Repository string
	Timetable  *schedule.Timetable
}

// PruneState is what is remembered of the prunes of a repository.
type PruneState struct {
	// Cron and Zone are by what Settled was found.
	Cron string `json:"cron"`
	Zone string `json:"zone"`
	// Settled is the newest slot about which all is decided.
	Settled time.Time `json:"settled"`
	// Session is the one of that slot, empty if there was none yet.
	Session string `json:"session,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
}

// Prunes is what a Pruner needs of sessions.
type Prunes interface {
	// StartPrune starts a prune of a repository by its policy. ErrExists is success
	// of somebody else; a conflict means that another prune of it runs.
	StartPrune(ctx context.Context, id, repository string) error
	// View describes a session, nil if there is none.
	View(ctx context.Context, id string) (*View, error)
}

// pruneStates is the part of Store that a Pruner needs.
type pruneStates interface {
	PruneState(ctx context.Context, repository string) (PruneState, uint64, error)
	writePrune(ctx context.Context, repository string, st PruneState, revision uint64) error
	Now(ctx context.Context) (time.Time, error)
}

// A Pruner starts the prunes of repositories when they are due, as a Scheduler
// does backups: every instance looks, the id of a session derives from
// repository, slot and attempt, and of all who start it one wins. Of slots that
// passed while no instance ran the newest is made up for.
type Pruner struct {
	store    pruneStates
	sessions Prunes
	prunes   []Prune
	log      *slog.Logger
	alive    func()

	// began is the server's time at the first look of this instance: slots of
	// times that nobody had before are due after it.
	began time.Time
}

// NewPruner returns one, which does nothing until Run. alive is called whenever
// it comes around, at the latest after some minutes.
func NewPruner(store *Store, sessions Prunes, prunes []Prune, log *slog.Logger, alive func()) *Pruner {
	return &Pruner{store: store, sessions: sessions, prunes: prunes, log: log, alive: alive}
}

// Run starts prunes until ctx ends.
func (p *Pruner) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		p.alive()
		next := lookAgain
		for _, x := range p.prunes {
			wait, err := p.look(ctx, x)
			if err != nil && ctx.Err() == nil {
				p.log.Warn("prune of a repository is looked at again", "repository", x.Repository, "error", err)
				wait = pruneAgain
			}
			next = min(next, wait)
			p.alive()
		}
		timer.Reset(next)
	}
}

// look starts what is due of a repository, and returns after how long to look
// again.
func (p *Pruner) look(ctx context.Context, x Prune) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, pruneTimeout)
	defer cancel()
	now, err := p.store.Now(ctx)
	if err != nil {
		return 0, err
	}
	if p.began.IsZero() {
		p.began = now
	}
	st, revision, err := p.store.PruneState(ctx, x.Repository)
	if err != nil {
		return 0, err
	}
	st, start := p.due(ctx, x, st, revision, now)
	if start {
		st.Session = SessionID("prune of repository "+x.Repository, st.Settled, StagePrune, st.Attempt)
		switch err := p.sessions.StartPrune(ctx, st.Session, x.Repository); {
		case api.HasCode(err, api.CodeConflict):
			return pruneAgain, nil // it follows the one that runs
		case err != nil && !errors.Is(err, ErrExists):
			return 0, err
		case err == nil:
			p.log.Info("prune of a repository started", "repository", x.Repository, "slot", st.Settled, "session", st.Session)
		}
	}
	if start || revision == 0 {
		err := p.store.writePrune(ctx, x.Repository, st, revision)
		if errors.Is(err, ErrConflict) {
			return time.Second, nil // another instance was quicker
		}
		if err != nil {
			return 0, err
		}
	}
	next, ok := x.Timetable.Next(now)
	if !ok {
		return lookAgain, nil
	}
	return next.Sub(now), nil
}

// due returns the state with the newest slot that is due, if one is: or with the
// same slot, if its session failed before anything was begun.
func (p *Pruner) due(ctx context.Context, x Prune, st PruneState, revision uint64, now time.Time) (_ PruneState, start bool) {
	spec := x.Timetable.Spec()
	own := PruneState{Cron: spec.Cron, Zone: spec.Zone, Settled: now, Session: st.Session}
	if revision == 0 {
		return own, false
	}
	settled := st.Settled
	if (st.Cron != spec.Cron || st.Zone != spec.Zone) && settled.Before(p.began) {
		settled = p.began
	}
	if slot, ok := newestSlot(x.Timetable, settled, now); ok {
		own.Settled, own.Attempt = slot.UTC(), 1
		return own, true
	}
	if st.Session == "" || st.Attempt < 1 || st.Attempt > maxReplaced {
		return st, false
	}
	v, err := p.sessions.View(ctx, st.Session)
	if err != nil || v == nil || !v.Unready || v.State != api.StateFailed {
		return st, false // what cannot be told is looked at again with the next slot
	}
	st.Attempt++
	return st, true
}

// newestSlot returns the newest slot after one moment and not after another.
func newestSlot(t *schedule.Timetable, after, until time.Time) (newest time.Time, ok bool) {
	for n := 1; ; n++ {
		slot, more := t.Next(after)
		if !more || slot.After(until) {
			return newest, ok
		}
		newest, ok, after = slot, true, slot
		if jump := until.Add(-time.Hour); n == maxSlots && jump.After(after) {
			after = jump // many slots after a long outage: go near its end
		}
	}
}

// PruneState reads what is remembered of the prunes of a repository and the
// revision of that, 0 if there is nothing.
func (s *Store) PruneState(ctx context.Context, repository string) (PruneState, uint64, error) {
	var v PruneState
	rev, err := s.get(ctx, pruneKey+repository, &v)
	if errors.Is(err, ErrNotFound) {
		return PruneState{}, 0, nil
	}
	return v, rev, err
}

// writePrune writes a state over the revision that it was read at, 0 for none.
func (s *Store) writePrune(ctx context.Context, repository string, st PruneState, revision uint64) error {
	b, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode state of prunes of %s: %w", repository, err)
	}
	if revision == 0 {
		_, err = s.kv.Create(ctx, pruneKey+repository, b)
	} else {
		_, err = s.kv.Update(ctx, pruneKey+repository, b, revision)
	}
	switch {
	case conflicts(err):
		return ErrConflict
	case err != nil:
		return fmt.Errorf("put state of prunes of %s: %w", repository, err)
	}
	return nil
}

// EndPrunes forgets that a repository was pruned by itself, so that what passes
// until it is again is not made up for.
func (s *Store) EndPrunes(ctx context.Context, repository string) error {
	_, revision, err := s.PruneState(ctx, repository)
	if err != nil || revision == 0 {
		return err
	}
	if err := s.kv.Delete(ctx, pruneKey+repository, jetstream.LastRevision(revision)); err != nil && !conflicts(err) {
		return fmt.Errorf("delete state of prunes of %s: %w", repository, err)
	}
	return nil
}
