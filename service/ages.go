package service

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
	"jetkeep/service/metrics"
)

const (
	// surveyEvery is how often repositories are asked for their restore points,
	// which tells what this instance has not heard of: what was made before it
	// began, and what was forgotten.
	surveyEvery = 15 * time.Minute
	// surveyAgain is how long after it could not be told one is asked again.
	surveyAgain = 30 * time.Second
	// surveyTimeout bounds one look into one repository.
	surveyTimeout = 5 * time.Minute
)

// age keeps the ages of the newest restore points, whichever instance made them,
// until ctx ends.
func (s *Service) age(ctx context.Context) {
	for _, kind := range []api.Kind{api.KindBackup, api.KindPrune} {
		sub, err := s.conn.NC.Subscribe(s.subjects.Event(kind, "*", api.EventTaskCompleted), s.heard)
		if err != nil {
			s.log.Warn("what other instances make and forget is seen late only", "kind", kind, "error", err)
			continue
		}
		defer sub.Unsubscribe()
	}
	if s.pusher != nil {
		defer s.pushAtEnds()()
	}
	tick := time.NewTicker(surveyEvery)
	defer tick.Stop()
	due := s.repositories.List()
	for {
		due = slices.DeleteFunc(due, func(v api.RepositoryView) bool { return s.survey(ctx, v.Repository) })
		var again <-chan time.Time
		if len(due) > 0 {
			again = time.After(surveyAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			due = s.repositories.List()
		case <-again:
		case <-s.resurvey:
		}
	}
}

// pushAtEnds pushes also when another instance announces the end of a session:
// its tasks may have been counted here. The function that it returns ends that.
func (s *Service) pushAtEnds() (stop func()) {
	var subs []*nats.Subscription
	for _, end := range api.EventNames() {
		if !end.Final() {
			continue
		}
		sub, err := s.conn.NC.Subscribe(s.subjects.Event("*", "*", end), func(*nats.Msg) { s.pusher.Wake() })
		if err != nil {
			s.log.Warn("metrics are not pushed at ends that other instances announce", "error", err)
			continue
		}
		subs = append(subs, sub)
	}
	return func() {
		for _, sub := range subs {
			_ = sub.Unsubscribe() // the connection ends soon
		}
	}
}

// heard takes an event of a task that ended somewhere.
func (s *Service) heard(m *nats.Msg) {
	var e api.Event
	if json.Unmarshal(m.Data, &e) != nil || e.Task == nil || e.Task.Started == nil || e.Task.Ended == nil {
		return
	}
	if p := e.Task.Pruned; p != nil {
		s.measures.Forgot(e.Repository, p.Forgotten, *e.Task.Ended)
	}
	if e.Kind != api.KindBackup || e.State != api.StateSucceeded || e.Task.Stream == "" {
		return
	}
	if !s.measures.Counted(e.Repository) { // one that was not there at the start, perhaps
		select {
		case s.resurvey <- struct{}{}:
		default:
		}
	}
	s.measures.Point(metrics.Point{
		ID: e.Task.RestorePoint, Target: e.Target, Stream: e.Task.Stream, Repository: e.Repository, Begun: *e.Task.Started, Ended: *e.Task.Ended,
	})
}

// survey looks into one repository, and tells whether that could be done. One that
// cannot be opened keeps what is known of it: ages go on, and that is what whoever
// watches them must see.
func (s *Service) survey(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	begun := time.Now()
	repo, err := s.repositories.Open(ctx, name)
	if err != nil {
		s.log.Info("ages of restore points are not known", "repository", name, "error", err)
		return false
	}
	listed, err := repo.Points(ctx)
	if err != nil {
		s.log.Warn("ages of restore points are not known", "repository", name, "error", err)
		return false
	}
	var all []metrics.Point
	for _, l := range listed {
		if l.Err == nil || isLocked(l.Err) {
			p := l.Point
			all = append(all, metrics.Point{ID: l.ID, Target: p.Target, Stream: p.Stream, Repository: name, Begun: p.Time, Ended: p.Time})
		}
	}
	s.measures.Surveyed(name, begun, all)
	return true
}
