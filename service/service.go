// Package service is jetkeep as a NATS micro service: it answers the requests
// of PROTOCOL.md, keeps their sessions in JetStream, and does their tasks.
//
// A request that starts something is answered as soon as its session is
// written; whatever happens to this instance afterwards, the session ends, as
// long as some instance runs (see package worker). New waits for NATS, and for a
// cluster to have a leader, until its context ends. It fails if the control
// account refuses the login, has no JetStream, or runs on servers before 2.10.
// Run fails if the connection to that account is closed for good or the micro
// service keeps stopping; a connection that is lost comes back by itself.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nkeys"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/hooks"
	"jetkeep/service/jsapi"
	"jetkeep/service/metrics"
	"jetkeep/service/natsconn"
	"jetkeep/service/queue"
	"jetkeep/service/scheduler"
	"jetkeep/service/session"
	"jetkeep/service/state"
	"jetkeep/service/stores"
	"jetkeep/service/worker"
	"jetkeep/store/staging"
)

// ErrServerTooOld means that the control account is on servers before 2.10.
var ErrServerTooOld = errors.New("server of the control account is too old")

const (
	// maxRestarts within restartWindow make Run give up on the micro service.
	maxRestarts   = 10
	restartWindow = time.Minute
	restartDelay  = 200 * time.Millisecond
	// refusalCheck is how often refused subscriptions are looked for: the
	// server reports them whenever it gets to it.
	refusalCheck = 500 * time.Millisecond
)

// Deps is what can be handed in. Everything has a default.
type Deps struct {
	Log *slog.Logger
	// Version of the program, as in 1.2.3.
	Version string
	// Targets and Repositories in place of those of the configuration.
	Targets      Targets
	Repositories Repositories
	// Handlers in place of those that back up and restore.
	Handlers map[api.Kind]worker.Handler
}

// A Service is one instance.
type Service struct {
	config       config.Config
	version      string
	log          *slog.Logger
	subjects     api.Subjects
	targets      Targets
	repositories Repositories
	conn         *natsconn.Conn
	store        *session.Store
	state        *state.Store
	queue        *queue.Queue
	schedules    *scheduler.Store
	scheduler    *scheduler.Scheduler
	pruner       *scheduler.Pruner
	xkey         nkeys.KeyPair
	worker       *worker.Worker
	staging      *staging.Area
	measures     *metrics.Metrics
	vitals       vitals
	resurvey     chan struct{}   // what could not be surveyed is to be again
	shown        *metrics.Server // nil if nobody shall see
	pusher       *metrics.Pusher // nil if nothing is pushed
	hooks        *hooks.Runner
	notifier     *hooks.Notifier
	endpoints    []*endpoint
	slots        chan struct{}
	requests     sync.WaitGroup
	turns        turns
	drilling     chan struct{} // holds one while a drill is under way
	room         room
	peers        peers
	// register registers the micro service; the channel closes when it stops.
	register func(context.Context) (registration, <-chan struct{}, error)
	ready    chan struct{}
	// opened says that New has done its work.
	opened atomic.Bool
	// registered says that requests would be heard now.
	registered atomic.Bool
	closers    []func()
}

// New connects to the control account, makes or binds jetkeep's streams and
// buckets, and opens staging. Call Run or Close afterwards.
func New(ctx context.Context, c config.Config, d Deps) (*Service, error) {
	c.SetDefaults()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for i := range c.Repositories {
		if err := stores.Check(&c.Repositories[i]); err != nil {
			return nil, fmt.Errorf("configuration: repositories[%d].%w", i, err)
		}
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Version == "" {
		d.Version = "0.0.0"
	}
	subjects, err := api.NewSubjects(c.Prefix)
	if err != nil {
		return nil, err
	}
	s := &Service{
		config: c, version: d.Version, log: d.Log.With("instance", c.Instance), subjects: subjects,
		targets: d.Targets, repositories: d.Repositories,
		slots: make(chan struct{}, maxRequests), room: make(room, c.Concurrency), ready: make(chan struct{}),
		drilling: make(chan struct{}, 1), resurvey: make(chan struct{}, 1),
	}
	for _, at := range c.Connections() {
		for _, err := range at.Options.Exposed() {
			s.log.Warn("a secret is exposed", "of", at.Path, "error", err)
		}
	}
	s.vitals.begin(c.Sweep)
	s.measures = newMetrics(c, d.Version)
	if err = s.openMetrics(ctx); err == nil {
		err = s.open(ctx, d)
	}
	if r, ok := s.repositories.(*repositories); ok && err == nil {
		r.refused.tell = s.refusalChanged
		r.checkThere(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	for _, l := range s.vitals.loops() {
		s.vitals.tick(l) // they begin now, however long NATS was waited for
	}
	s.opened.Store(true)
	s.endpoints = s.makeEndpoints()
	s.register = s.addMicro
	return s, nil
}

func (s *Service) open(ctx context.Context, d Deps) error {
	if s.targets == nil {
		s.targets = targets{s.config.Targets}
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	if err := s.patiently(ctx, s.checkAccount); err != nil {
		return err
	}
	if err := s.patiently(ctx, s.openKeys); err != nil {
		return err
	}
	handlers := d.Handlers
	if handlers == nil {
		area, err := staging.Open(s.config.Staging.Dir, s.config.Staging.Limit)
		if err != nil {
			return fmt.Errorf("open staging: %w", err)
		}
		s.staging = area
		s.clearScratch() // staging is locked, so that no other process is here
		s.closers = append(s.closers, func() { _ = area.Close() })
		handlers = s.handlers()
	}
	if err := s.patiently(ctx, func(ctx context.Context) error { return s.openState(ctx, handlers) }); err != nil {
		return err
	}
	wctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s.warnOfReplicas(wctx)
	return nil
}

// warnOfReplicas names what of ours a lost server of the cluster would take
// away, if nobody asked for that.
func (s *Service) warnOfReplicas(ctx context.Context) {
	if s.config.Replicas > 0 || s.conn.NC.ConnectedClusterName() == "" {
		return
	}
	js, err := s.jetStream()
	if err != nil {
		return // it worked a moment ago
	}
	for _, name := range []string{api.StreamTasks, api.StreamEvents, "KV_" + api.BucketSessions, "KV_" + api.BucketSchedules, "KV_" + api.BucketState} {
		if stream, err := js.Stream(ctx, name); err == nil && stream.CachedInfo().Config.Replicas == 1 {
			s.log.Warn("one replica only, in a cluster: while its server is away nothing is backed up; nats stream edit --replicas 3 makes more", "stream", name)
		}
	}
}

// checkAccount fails if the control account has no JetStream.
func (s *Service) checkAccount(ctx context.Context) error {
	if _, err := s.conn.API.AccountInfo(ctx); err != nil {
		return fmt.Errorf("control account: %w", err)
	}
	return nil
}

// checkVersion refuses servers that lack what the work queue needs.
func checkVersion(v string) error {
	parts := strings.SplitN(v, ".", 3)
	if len(parts) < 2 {
		return fmt.Errorf("version %q is not understood: %w", v, ErrServerTooOld)
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil || major < 2 || major == 2 && minor < 10 {
		return fmt.Errorf("it runs %s, jetkeep keeps its state on 2.10 and newer only (targets may be older): %w", v, ErrServerTooOld)
	}
	return nil
}

// jetStream returns the control account's JetStream, behind its domain or
// prefix if it has one.
func (s *Service) jetStream() (jetstream.JetStream, error) {
	prefix := strings.TrimSuffix(s.conn.API.Subject(""), ".")
	return jetstream.NewWithAPIPrefix(s.conn.NC, prefix)
}

func (s *Service) openState(ctx context.Context, handlers map[api.Kind]worker.Handler) error {
	js, err := s.jetStream()
	if err != nil {
		return fmt.Errorf("control account: %w", err)
	}
	if s.store, err = session.Open(ctx, js, session.Options{Replicas: s.config.Replicas, MaxBytes: s.config.Storage.Sessions}); err != nil {
		return err
	}
	q, err := queue.Open(ctx, js, s.subjects, queue.Options{Replicas: s.config.Replicas, MaxBytes: s.config.Storage.Tasks, Lease: s.config.Lease})
	if err != nil {
		return err
	}
	ev, err := openEvents(ctx, s.conn.NC, js, s.subjects, s.config.Replicas, s.config.Storage.Events, s.log)
	if err != nil {
		return err
	}
	s.queue = q
	caller := &hooks.Caller{Control: s.conn, Dial: s.dial}
	s.hooks = &hooks.Runner{
		Hooks: s.config.Hooks, Caller: caller, Store: s.store, Instance: s.config.Instance, Log: s.log, Count: s.measures.HookCalled,
	}
	s.notifier = &hooks.Notifier{
		JS: js, Subjects: s.subjects, Notifications: s.config.Notifications, Caller: caller, Log: s.log, Count: s.measures.Notified,
	}
	slots := map[api.Kind]int{api.KindBackup: smallBackups * s.config.Concurrency}
	s.worker = worker.New(worker.Deps{
		Store: s.store, Queue: q, Events: ev, Handlers: handlers, Hooks: s.hooks, MapError: mapError, Instance: s.config.Instance,
		Concurrency: s.config.Concurrency, Slots: slots,
		Limit: s.admit(newLimits(s.config, slots, s.state, s.log).wait), MaxAttempts: s.config.MaxAttempts, SweepInterval: s.config.Sweep, Log: s.log,
		Swept:        func() { s.vitals.tick(&s.vitals.sweep) },
		SessionEnded: s.sessionEnded, TaskEnded: s.taskEnded,
	})
	return nil
}

// openKeys binds what is remembered of keys and repositories.
func (s *Service) openKeys(ctx context.Context) error {
	js, err := s.jetStream()
	if err != nil {
		return fmt.Errorf("control account: %w", err)
	}
	if s.state, err = state.Open(ctx, js, state.Options{Replicas: s.config.Replicas, MaxBytes: s.config.Storage.State}); err != nil {
		return err
	}
	if s.xkey, err = s.state.XKey(ctx); err != nil {
		return err
	}
	if s.schedules, err = scheduler.Open(ctx, js, s.config.Replicas, s.config.Storage.Schedules); err != nil {
		return err
	}
	s.scheduler = scheduler.New(s.schedules, scheduled{s}, scheduler.Options{
		Log: s.log, Known: s.measures.ScheduleKnown, Late: s.measures.ScheduleLate, LeftOut: s.measures.SlotsLeftOut,
		Alive: func() { s.vitals.tick(&s.vitals.scheduler) },
	})
	if err := s.openPruner(ctx); err != nil {
		return err
	}
	if s.repositories == nil {
		r := newRepositories(s.config.Repositories, s.state, s.log, s.measures.Store, s.measures.StoreRetried)
		r.uploads = state.NewUploads(js, state.Options{Replicas: s.config.Replicas, MaxBytes: s.config.Storage.Uploads}, s.log)
		s.closers = append(s.closers, r.close)
		s.repositories = r
	}
	return nil
}

// Ready is closed when the service answers requests.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Close gives back what New opened. Run does it itself.
func (s *Service) Close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.closers = nil
}

// Run answers requests and does tasks until ctx is done, and then hands over
// what is not finished. It may be called once.
func (s *Service) Run(ctx context.Context) error {
	defer s.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	beat := s.beginBeat(ctx)
	var wg sync.WaitGroup
	var workErr error
	wg.Go(func() {
		if workErr = s.worker.Run(ctx); workErr != nil {
			cancel(workErr)
		}
	})
	stopMetrics := s.runMetrics(ctx)
	wg.Go(func() { s.scheduler.Run(ctx) })
	wg.Go(func() { beat.run(ctx) })
	wg.Go(func() { s.recheck(ctx) })
	wg.Go(func() { s.pruner.Run(ctx) })
	wg.Go(func() { s.expire(ctx) })
	wg.Go(func() { s.notifier.Run(ctx) })
	serveErr := s.serve(ctx)
	cancel(serveErr)
	wg.Wait()
	s.requests.Wait()
	stopMetrics()
	if err := s.conn.NC.FlushTimeout(time.Second); err != nil && serveErr == nil && workErr == nil {
		s.log.Warn("flush connection", "error", err)
	}
	return errors.Join(serveErr, workErr)
}

// A registration is the micro service while it is registered.
type registration interface{ Stop() error }

// serve keeps the micro service registered. Whatever stops it, it is started
// again; what keeps stopping it is an error, as is a refused subscription,
// which would leave an endpoint that nobody hears.
func (s *Service) serve(ctx context.Context) error {
	var restarts []time.Time
	check := time.NewTicker(refusalCheck)
	defer check.Stop()
	for {
		svc, stopped, err := s.register(ctx)
		if err != nil {
			return err
		}
		if err := s.conn.NC.FlushTimeout(openTimeout); err != nil && ctx.Err() == nil {
			s.log.Warn("flush subscriptions", "error", err)
		}
		if err := s.refused(); err != nil {
			return err
		}
		s.registered.Store(true)
		if len(restarts) == 0 {
			close(s.ready)
			s.log.Info("service is ready", "prefix", s.config.Prefix, "server", s.conn.ServerVersion())
		}
		err = s.whileRegistered(ctx, svc, stopped, check.C)
		s.registered.Store(false)
		if err != nil || ctx.Err() != nil {
			return err
		}
		restarts = append(restarts, time.Now())
		if n := len(restarts); n >= maxRestarts && time.Since(restarts[n-maxRestarts]) < restartWindow {
			return fmt.Errorf("micro service stopped %d times within %s", maxRestarts, restartWindow)
		}
		s.log.Warn("micro service stopped, starting it again")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(restartDelay):
		}
	}
}

// whileRegistered returns when the micro service has stopped, or an error if
// it is of no use any more.
func (s *Service) whileRegistered(ctx context.Context, svc registration, stopped <-chan struct{}, check <-chan time.Time) error {
	for {
		select {
		case <-ctx.Done():
			_ = svc.Stop() // the connection's end would stop it, too
			return nil
		case <-stopped:
			if s.conn.NC.IsClosed() {
				return errors.New("connection to the control account is closed")
			}
			return nil
		case <-check:
			if err := s.refused(); err != nil {
				return err
			}
		}
	}
}

// refused returns an error if the server refused a subscription of an endpoint
// or of micro.
func (s *Service) refused() error {
	p := s.conn.API.Violations().Refused(func(p *jsapi.PermissionError) bool {
		return p.Op == jsapi.OpSubscribe &&
			(strings.HasPrefix(p.Subject, s.config.Prefix+".") || strings.HasPrefix(p.Subject, micro.APIPrefix+"."))
	})
	if p == nil {
		return nil
	}
	return fmt.Errorf("control account: %w", p)
}
