package service

import (
	"context"
	"crypto/rand"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/state"
)

// beatTimeout bounds one heartbeat.
const beatTimeout = 5 * time.Second

// beat says that this instance lives, until ctx ends.
func (s *Service) beat(ctx context.Context) {
	b := state.Beat{
		Instance: s.config.Instance, Process: rand.Text(), Version: s.version, Started: time.Now().UTC(), StagingLimit: s.config.Staging.Limit,
	}
	tick := time.NewTicker(state.BeatEvery)
	defer tick.Stop()
	for {
		s.vitals.tick(&s.vitals.beat)
		b.Running = s.worker.Running()
		if s.staging != nil {
			b.StagingUsed = s.staging.Used()
		}
		bctx, cancel := context.WithTimeout(ctx, beatTimeout)
		if err := s.state.Beat(bctx, b); err != nil && ctx.Err() == nil {
			s.log.Warn("heartbeat is not kept", "error", err)
		}
		cancel()
		select {
		case <-tick.C:
		case <-ctx.Done():
			lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatTimeout)
			defer cancel()
			if err := s.state.Leave(lctx, b); err != nil {
				s.log.Warn("heartbeat stays, and this instance will be shown as silent", "error", err)
			}
			return
		}
	}
}

// expireEvery is how often old sessions are looked for.
const expireEvery = time.Hour

// expire forgets sessions that ended long ago, until ctx ends. Every instance
// does; what is gone is gone.
func (s *Service) expire(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		ectx, cancel := context.WithTimeout(ctx, expireEvery/2)
		n, err := s.store.Expire(ectx, time.Now().Add(-s.config.SessionAge))
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
	for _, i := range seen {
		r.Instances = append(r.Instances, api.InstanceView{
			Instance: i.Instance, Version: i.Version, Started: i.Started, Seen: i.At.UTC(), Alive: i.Silent < state.SilentAfter,
			Running: i.Running, StagingUsed: i.StagingUsed, StagingLimit: i.StagingLimit,
		})
	}
	return r, nil
}
