package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"jetkeep/service/config"
	"jetkeep/service/metrics"
	"jetkeep/service/session"
)

const (
	// vitalsEvery is how often the state in NATS is looked at.
	vitalsEvery = 5 * time.Second
	// vitalsTimeout bounds one look.
	vitalsTimeout = 4 * time.Second
)

// newMetrics makes the metrics, with the names of all that is configured.
func newMetrics(c config.Config, version string) *metrics.Metrics {
	o := metrics.Options{Version: version, Streams: c.Metrics.Streams}
	for _, r := range c.Repositories {
		o.Repositories = append(o.Repositories, r.Name)
	}
	for _, h := range c.Hooks {
		o.Hooks = append(o.Hooks, metrics.Hook{Name: h.Name, When: h.When})
	}
	for _, n := range c.Notifications {
		o.Notifications = append(o.Notifications, n.Name)
	}
	return metrics.New(o)
}

// openMetrics binds the listener, so that a service without one does not start.
func (s *Service) openMetrics(ctx context.Context) error {
	g := metrics.Gauges{
		Running: func() float64 {
			if !s.opened.Load() {
				return 0
			}
			return float64(s.worker.Running())
		},
		StagingUsed: func() float64 {
			if !s.opened.Load() || s.staging == nil {
				return 0
			}
			return float64(s.staging.Used())
		},
		StagingLimit: func() float64 { return float64(s.config.Staging.Limit) },
		Differ: func() float64 {
			if s.peers.differing() != "" {
				return 1
			}
			return 0
		},
	}
	s.measures.Watch(g)
	c := s.config.Metrics
	if c.PushURL != "" {
		s.pusher = metrics.NewPusher(s.measures, c.PushURL, s.config.Instance)
	}
	if c.Listen == "" {
		return nil
	}
	server, err := metrics.Listen(ctx, c.Listen, s.measures, metrics.Checks{Healthy: s.healthy, Ready: s.fit, Details: s.details})
	if err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	s.shown = server
	s.log.Info("metrics are shown", "address", server.Addr())
	// From now on, so that who probes hears what is waited for.
	rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Run(rctx); err != nil {
			s.log.Error("metrics are not shown any more", "error", err)
		}
	}()
	s.closers = append(s.closers, func() {
		stop()
		<-done
	})
	return nil
}

// MetricsAddr returns where metrics are shown, empty if nowhere.
func (s *Service) MetricsAddr() string {
	if s.shown == nil {
		return ""
	}
	return s.shown.Addr()
}

// Metrics returns what counts what this instance does.
func (s *Service) Metrics() *metrics.Metrics { return s.measures }

// runMetrics starts what looks, shows and pushes. The function that it returns
// ends all of it, and waits.
func (s *Service) runMetrics(ctx context.Context) (stop func()) {
	// It outlives ctx, so that sessions that end meanwhile are pushed.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { s.lookAfter(ctx) })
	if s.shown != nil || s.pusher != nil {
		wg.Go(func() { s.age(ctx) })
	}
	if s.pusher != nil {
		wg.Go(func() { s.pusher.Run(ctx, func(err error) { s.log.Warn("metrics are not pushed", "error", err) }) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// lookAfter looks at KV and the queue every so often.
func (s *Service) lookAfter(ctx context.Context) {
	tick := time.NewTicker(vitalsEvery)
	defer tick.Stop()
	for {
		s.vitals.tick(&s.vitals.look)
		if err := s.look(ctx); err == nil {
			s.vitals.reachable.Store(int64(time.Since(s.vitals.begun)))
		} else if ctx.Err() == nil {
			s.log.Warn("look at the state in NATS", "error", err)
			if s.vitals.since(&s.vitals.reachable) > vitalsAge {
				s.measures.QueueUnknown()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Service) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, vitalsTimeout)
	defer cancel()
	if _, err := s.store.Session(ctx, "none"); err != nil && !errors.Is(err, session.ErrNotFound) {
		return err
	}
	n, err := s.queue.Depth(ctx)
	if err == nil {
		s.measures.Queued(n)
	}
	return err
}

// healthy says whether the process is of any use; if not, it is to be started
// again. NATS being away is no reason.
func (s *Service) healthy() error {
	if !s.opened.Load() {
		return nil // it waits for NATS, which a restart does not bring
	}
	if err := s.vitals.stuck(); err != nil {
		return err
	}
	if kind, d := s.worker.Looking(); d > s.vitals.slots {
		return fmt.Errorf("the service stands still: one that does %s tasks looks for one since %s", kind, d.Round(time.Second))
	}
	if s.conn.NC.IsClosed() {
		return errors.New("the connection to NATS is closed")
	}
	return nil
}

// fit says whether requests would be answered. Stores have no part in it: a
// store that is away is in the metrics, and restarts or rerouting mend nothing.
func (s *Service) fit() error {
	if !s.opened.Load() {
		return errors.New("the service begins: it waits for NATS, or opens its state there")
	}
	if !s.registered.Load() {
		return errors.New("endpoints are not registered: the service begins, or ends")
	}
	if !s.conn.NC.IsConnected() {
		return errors.New("not connected to NATS")
	}
	if s.vitals.reachable.Load() == 0 {
		return errors.New("state in NATS was not reached yet")
	}
	if d := s.vitals.since(&s.vitals.reachable); d > vitalsAge {
		return fmt.Errorf("state in NATS is not reached since %s", d.Round(time.Second))
	}
	return s.healthy()
}

// details are what is not well and makes this instance not less ready than
// another.
func (s *Service) details() []string {
	if !s.opened.Load() {
		return nil
	}
	var out []string
	for _, p := range s.problems() {
		out = append(out, p.Problem)
	}
	if d := s.peers.differing(); d != "" {
		out = append(out, d)
	}
	return out
}

func (s *Service) sessionEnded(ses *session.Session) {
	s.measures.SessionEnded(metrics.Session{Kind: ses.Kind, State: ses.State, Started: ses.Started, Ended: ses.Ended})
	if s.pusher != nil {
		s.pusher.Wake()
	}
}

func (s *Service) taskEnded(t *session.Task) {
	if t.Hook != "" {
		return
	}
	m := metrics.Task{
		Kind: t.Kind, State: t.State, Target: t.Target, Stream: t.Stream, Repository: t.Repository, Point: t.RestorePoint,
		Attempts: t.Attempt - t.Released, Started: t.Started, Ended: t.Ended,
		Read: t.Progress.Bytes, Stored: t.Progress.StoredBytes, Uploaded: t.Progress.UploadedBytes,
	}
	s.measures.TaskEnded(m)
}
