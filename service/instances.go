package service

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/state"
)

const (
	// beatTimeout bounds one heartbeat.
	beatTimeout = 5 * time.Second
	// recheckEvery is how often repositories that are refused are looked at again.
	recheckEvery = 10 * time.Second
)

// A heartbeat says that an instance lives.
type heartbeat struct {
	service *Service
	process string // tells apart what has one name
	started time.Time
	looked  time.Time // at the other instances
}

// beginBeat gives the first sign of life, before anything is asked of this
// instance: others leave tasks to those that they know of.
func (s *Service) beginBeat(ctx context.Context) *heartbeat {
	h := &heartbeat{service: s, process: rand.Text(), started: time.Now().UTC()}
	h.beat(ctx)
	return h
}

// describe is what the instance says of itself.
func (h *heartbeat) describe() state.Beat {
	s := h.service
	b := s.self()
	b.Instance, b.Process, b.Version, b.Started = s.config.Instance, h.process, s.version, h.started
	b.StagingLimit, b.Running = s.config.Staging.Limit, s.worker.Running()
	if s.staging != nil {
		b.StagingUsed = s.staging.Used()
	}
	return b
}

// beat gives one sign of life, and looks at the other instances now and then.
func (h *heartbeat) beat(ctx context.Context) {
	s := h.service
	s.vitals.tick(&s.vitals.beat)
	b := h.describe()
	bctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	if err := s.state.Beat(bctx, b); err != nil && ctx.Err() == nil {
		s.log.Warn("heartbeat is not kept", "error", err)
	}
	if time.Since(h.looked) >= peersEvery {
		h.looked = time.Now()
		s.lookAtPeers(ctx)
	}
}

// run goes on until ctx ends.
func (h *heartbeat) run(ctx context.Context) {
	s := h.service
	tick := time.NewTicker(state.BeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.beat(ctx)
		case <-ctx.Done():
			lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatTimeout)
			defer cancel()
			if err := s.state.Leave(lctx, h.describe()); err != nil {
				s.log.Warn("heartbeat stays, and this instance will be shown as silent", "error", err)
			}
			return
		}
	}
}

// recheck looks again at repositories that are refused, until ctx ends.
func (s *Service) recheck(ctx context.Context) {
	r, ok := s.repositories.(*repositories)
	if !ok {
		return
	}
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.recheckRefused(ctx)
		case <-ctx.Done():
			return
		}
	}
}

const (
	// expireEvery is how often old sessions are looked for.
	expireEvery = 10 * time.Minute
	// leastAge is how long an ended session is remembered in any case.
	leastAge = time.Hour
)

// forgetSessions forgets sessions that ended long ago. Where the account bounds
// their bucket and that is nearly full, a session is remembered for a shorter time:
// in a full one no backup could begin.
func (s *Service) forgetSessions(ctx context.Context) (n int, err error) {
	for age := s.config.SessionAge; ; age /= 2 {
		forgotten, err := s.store.Expire(ctx, time.Now().Add(-age))
		if n += forgotten; err != nil {
			return n, err
		}
		full, err := s.store.NearlyFull(ctx)
		if err != nil || !full {
			return n, err
		}
		if age/2 < leastAge {
			s.log.Error("the bucket of sessions is nearly full, and when it is no backup can begin",
				"hint", "storage.sessions bounds it: nats stream edit KV_JETKEEP_SESSIONS --max-bytes gives it more room")
			return n, nil
		}
		s.log.Warn("the bucket of sessions is nearly full: sessions are remembered for a shorter time", "age", age/2)
	}
}

// expire forgets old sessions until ctx ends. Every instance does; what is gone is
// gone.
func (s *Service) expire(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		ectx, cancel := context.WithTimeout(ctx, expireEvery)
		n, err := s.forgetSessions(ectx)
		if err == nil {
			err = s.state.Tidy(ectx)
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn("old sessions are not forgotten", "error", err)
		case n > 0:
			s.log.Info("old sessions forgotten", "count", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Service) instanceList(ctx context.Context, _ *api.InstanceListRequest) (*api.InstanceListResponse, error) {
	seen, err := s.state.Instances(ctx)
	if err != nil {
		return nil, err
	}
	r := &api.InstanceListResponse{Instances: []api.InstanceView{}}
	living := slices.DeleteFunc(slices.Clone(seen), func(i state.Seen) bool { return !i.Alive() })
	for _, i := range seen {
		v := api.InstanceView{
			Instance: i.Instance, Version: i.Version, Started: i.Started, Seen: i.At.UTC(), Alive: i.Alive(),
			Running: i.Running, StagingUsed: i.StagingUsed, StagingLimit: i.StagingLimit,
		}
		for _, p := range i.Problems {
			v.Problems = append(v.Problems, api.InstanceProblem{Repository: p.Repository, Problem: p.Problem, Hint: p.Hint})
		}
		if v.Alive && i.All != "" {
			for _, d := range differences(i.Beat, living) {
				v.Problems = append(v.Problems, api.InstanceProblem{Problem: d, Hint: differHint})
			}
		}
		r.Instances = append(r.Instances, v)
	}
	return r, nil
}
