package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/scheduler"
	"jetkeep/service/session"
)

// Repositories are pruned by themselves as schedules run: on each instance, by
// the policy of the configuration, and each slot once.

// openPruner finds out which repositories are pruned by themselves.
func (s *Service) openPruner(ctx context.Context) error {
	var prunes []scheduler.Prune
	for i := range s.config.Repositories {
		r := &s.config.Repositories[i]
		times, err := r.PruneTimes()
		if err != nil {
			return fmt.Errorf("configuration: repositories[%d].%w", i, err)
		}
		if times == nil {
			if err := s.schedules.EndPrunes(ctx, r.Name); err != nil {
				return err
			}
			continue
		}
		prunes = append(prunes, scheduler.Prune{Repository: r.Name, Timetable: times})
	}
	s.pruner = scheduler.NewPruner(s.schedules, scheduled{s}, prunes, s.log, func() { s.vitals.tick(&s.vitals.pruner) })
	return nil
}

// StartPrune implements scheduler.Prunes.
func (x scheduled) StartPrune(ctx context.Context, id, repository string) error {
	return x.startPrune(ctx, &session.Session{
		ID: id, Kind: api.KindPrune, Repository: repository, Prune: &session.Prune{Own: &session.OwnPolicy{Keep: x.s.configuredKeep(repository)}},
	})
}

// startPrune starts a prune under an id. scheduler.ErrExists is success of
// somebody else.
func (x scheduled) startPrune(ctx context.Context, ses *session.Session) error {
	if _, err := x.s.store.Session(ctx, ses.ID); err == nil {
		return scheduler.ErrExists
	}
	err := x.s.notBeingPruned(ctx, ses.Repository)
	if err == nil {
		_, err = x.s.startSession(ctx, ses, []*session.Task{{}})
	} else if _, there := x.s.store.Session(ctx, ses.ID); there == nil {
		err = scheduler.ErrExists // it is the one that another instance has just started
	}
	if errors.Is(err, session.ErrExists) {
		return scheduler.ErrExists
	}
	return err
}

// pruneViews says of each repository by what policy it is pruned by itself, when,
// and how that went last.
func (s *Service) pruneViews(ctx context.Context, views []api.RepositoryView) error {
	byName := map[string]*config.Repository{}
	for i := range s.config.Repositories {
		byName[s.config.Repositories[i].Name] = &s.config.Repositories[i]
	}
	for i := range views {
		r := byName[views[i].Repository]
		if r == nil {
			continue
		}
		views[i].Keep = r.Keep
		if r.Prune == nil {
			continue
		}
		v := &api.PruneView{Off: r.Prune.Off, Cron: r.Prune.Cron, Zone: r.Prune.Zone}
		if err := s.describePrunes(ctx, r, v); err != nil {
			return err
		}
		views[i].Prune = v
	}
	return nil
}

func (s *Service) describePrunes(ctx context.Context, r *config.Repository, v *api.PruneView) error {
	times, err := r.PruneTimes()
	if times == nil || err != nil {
		return err
	}
	if at, ok := times.Next(time.Now()); ok {
		v.NextRun = moment(at)
	}
	st, _, err := s.schedules.PruneState(ctx, r.Name)
	if err != nil || st.Session == "" {
		return err
	}
	v.LastRun = &api.PruneRun{Slot: st.Settled, Session: st.Session}
	ses, err := s.store.Session(ctx, st.Session)
	if errors.Is(err, session.ErrNotFound) {
		return nil // it is not remembered any more
	}
	if err != nil {
		return err
	}
	v.LastRun.State, v.LastRun.Ended, v.LastRun.Error = ses.State, moment(ses.Ended), ses.Error
	return nil
}
