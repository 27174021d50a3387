package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/service/queue"
	"jetkeep/service/session"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

const (
	// lease of tests in which one is to be over: short, so that failover is quick.
	lease = 4 * time.Second
	// forever is a lease that is over only when a test has failed by then.
	forever = 2 * testenv.Hang
)

type handlerFunc func(ctx context.Context, t session.Task, run Run) (session.Result, error)

func (f handlerFunc) Run(ctx context.Context, t session.Task, run Run) (session.Result, error) {
	return f(ctx, t, run)
}

// recorder keeps the events that are published.
type recorder struct {
	mu     sync.Mutex
	events []api.Event
}

func (r *recorder) Publish(_ context.Context, e api.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	return nil
}

func (r *recorder) PublishProgress(e api.Event) { _ = r.Publish(context.Background(), e) }

func (r *recorder) names(session string) []api.EventName {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []api.EventName
	seen := map[string]bool{} // what is told twice has one id, by which streams know it
	for _, e := range r.events {
		if e.Session == session && e.Event != api.EventProgress && !seen[e.ID] {
			seen[e.ID] = true
			out = append(out, e.Event)
		}
	}
	return out
}

type bench struct {
	t      *testing.T
	server *natstest.Server
	store  *session.Store
	events *recorder
	lease  time.Duration
}

func newBench(t *testing.T) *bench {
	server := natstest.Start(t)
	b := &bench{t: t, server: server, events: new(recorder), lease: forever}
	b.store = b.deps("test", server.Connect(), nil).Store
	return b
}

func (b *bench) deps(name string, nc *nats.Conn, h Handler) Deps {
	b.t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		b.t.Fatal(err)
	}
	store, err := session.Open(natstest.Context(b.t), js, session.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	subjects, err := api.NewSubjects("")
	if err != nil {
		b.t.Fatal(err)
	}
	q, err := queue.Open(natstest.Context(b.t), js, subjects, queue.Options{Lease: b.lease})
	if err != nil {
		b.t.Fatal(err)
	}
	return Deps{
		Store: store, Queue: q, Events: b.events, Handlers: map[api.Kind]Handler{api.KindBackup: h}, Instance: name,
		SweepInterval: 100 * time.Millisecond,
		MapError:      func(err error) *api.Error { return api.Errorf(api.CodeInternal, "%v", err) },
		Log:           slog.New(slog.NewTextHandler(logWriter{b.t, name}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

type logWriter struct {
	t    *testing.T
	name string
}

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s: %s", w.name, p)
	return len(p), nil
}

// start runs a worker; the returned function stops it as SIGTERM does.
func (b *bench) start(name string, nc *nats.Conn, h Handler) (w *Worker, stop func()) {
	b.t.Helper()
	return b.run(b.deps(name, nc, h))
}

func (b *bench) run(d Deps) (w *Worker, stop func()) {
	b.t.Helper()
	w = New(d)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("run %s: %v", d.Instance, err)
		}
	})
	b.t.Cleanup(stop)
	return w, stop
}

// create writes a session of streams; after names what each waits for.
func (b *bench) create(after map[string]string, streams ...string) (*session.Session, []*session.Task) {
	b.t.Helper()
	s := &session.Session{
		ID: session.NewID(time.Now()), Kind: api.KindBackup, State: api.StatePending, Target: "t", Repository: "r",
		Created: time.Now(), Tasks: len(streams),
	}
	byStream := map[string]string{}
	var tasks []*session.Task
	for i, name := range streams {
		t := &session.Task{ID: session.TaskID(s.ID, i+1), Session: s.ID, Kind: s.Kind, State: api.StatePending, Stream: name}
		if a := after[name]; a != "" {
			t.After = []string{byStream[a]}
		}
		byStream[name] = t.ID
		tasks = append(tasks, t)
	}
	if err := b.store.Create(natstest.Context(b.t), s, tasks); err != nil {
		b.t.Fatal(err)
	}
	return s, tasks
}

func (b *bench) submit(tasks []*session.Task) {
	b.t.Helper()
	if err := New(b.deps("submitter", b.server.Connect(), nil)).Conductor.Start(natstest.Context(b.t), tasks); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) await(id string, want api.State) *session.Session {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), testenv.Hang)
	defer cancel()
	var last *session.Session
	err := b.store.WatchSession(ctx, id, func(s *session.Session) bool {
		last = s
		return !s.State.Final() || !s.Announced
	})
	if err != nil {
		b.t.Fatalf("session did not end: %v, last %+v", err, last)
	}
	if last.State != want {
		b.t.Fatalf("session is %s, not %s: %v", last.State, want, last.Error)
	}
	return last
}

func (b *bench) task(id string) *session.Task {
	b.t.Helper()
	t, err := b.store.Task(natstest.Context(b.t), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return t
}

func succeed(ctx context.Context, t session.Task, run Run) (session.Result, error) {
	run.Progress.Add(7, 700)
	return session.Result{RestorePoint: t.ID}, run.Fence(ctx)
}

func TestSessionRunsToItsEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var mu sync.Mutex
	var order []string
	b.start("a", b.server.Connect(), handlerFunc(func(ctx context.Context, t session.Task, run Run) (session.Result, error) {
		mu.Lock()
		order = append(order, t.Stream)
		mu.Unlock()
		return succeed(ctx, t, run)
	}))
	s, tasks := b.create(map[string]string{"MIRROR": "ORIGIN", "SECOND": "MIRROR"}, "ORIGIN", "OTHER", "MIRROR", "SECOND")
	b.submit(tasks)
	s = b.await(s.ID, api.StateSucceeded)
	if s.Counts.Succeeded != 4 || s.Progress.Messages != 28 {
		t.Errorf("sums: %+v %+v", s.Counts, s.Progress)
	}
	if slices.Index(order, "MIRROR") < slices.Index(order, "ORIGIN") || slices.Index(order, "SECOND") < slices.Index(order, "MIRROR") {
		t.Errorf("order: %v", order)
	}
	// The session's end may be told before its last task's.
	want := []api.EventName{api.EventCompleted, api.EventTaskCompleted, api.EventTaskCompleted, api.EventTaskCompleted, api.EventTaskCompleted}
	testenv.Until(t, "the events", func() error {
		got := slices.DeleteFunc(b.events.names(s.ID), func(e api.EventName) bool { return e == api.EventStarted })
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("events: %v", got)
		}
		return nil
	})
}

func TestFailuresMakeASessionPartial(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start("a", b.server.Connect(), handlerFunc(func(ctx context.Context, t session.Task, run Run) (session.Result, error) {
		switch t.Stream {
		case "BAD":
			return session.Result{}, api.Errorf(api.CodeDiskFull, "it is full")
		case "PANIC":
			panic("on purpose")
		}
		return succeed(ctx, t, run)
	}))
	s, tasks := b.create(nil, "BAD", "GOOD", "PANIC")
	b.submit(tasks)
	s = b.await(s.ID, api.StatePartial)
	if s.Error == nil || s.Error.ErrCode != api.CodeTasksFailed {
		t.Errorf("error: %+v", s.Error)
	}
	if e := b.task(tasks[0].ID).Error; e == nil || e.ErrCode != api.CodeDiskFull {
		t.Errorf("task's error: %+v", e)
	}
	if e := b.task(tasks[2].ID).Error; e == nil || e.ErrCode != api.CodeInternal {
		t.Errorf("error of the task that panics: %+v", e)
	}
}

// TestCrash cuts an instance off in the middle of a task, as kill -9 does for
// everybody else, and lets its handler go on as if nothing had happened.
func TestCrash(t *testing.T) {
	t.Parallel()
	steadily(t, func(b *bench) error {
		begun, goOn, fenced := make(chan struct{}, 4), make(chan struct{}), make(chan error, 4)
		doomed := b.server.Connect(nats.NoReconnect())
		_, stop := b.start("doomed", doomed, handlerFunc(func(_ context.Context, t session.Task, run Run) (session.Result, error) {
			begun <- struct{}{}
			<-goOn
			// A zombie's context may be anything; it is the fence that counts.
			fenced <- run.Fence(context.Background())
			return session.Result{}, nil
		}))
		s, tasks := b.create(nil, "ORDERS")
		b.submit(tasks)
		testenv.Receive(t, "the beginning", begun)
		doomed.Close()
		b.start("heir", b.server.Connect(), handlerFunc(succeed))
		b.await(s.ID, api.StateSucceeded)
		close(goOn)
		if err := testenv.Receive(t, "the fence", fenced); err == nil {
			t.Error("the zombie passed the fence")
		}
		stop()
		if got := b.task(tasks[0].ID); got.Instance != "heir" || got.Attempt != 2 {
			return fmt.Errorf("task: %+v", got)
		}
		return nil
	})
}

// TestTakenOver lets another instance take a task from one that is alive and
// connected.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.lease = lease
	begun, ended := make(chan struct{}), make(chan error, 1)
	b.start("slow", b.server.Connect(), handlerFunc(func(ctx context.Context, t session.Task, run Run) (session.Result, error) {
		if t.Attempt > 1 {
			return session.Result{}, nil // its message comes again, but not to this test
		}
		close(begun)
		<-ctx.Done()
		ended <- run.Fence(context.WithoutCancel(ctx))
		return session.Result{}, nil
	}))
	_, tasks := b.create(nil, "ORDERS")
	b.submit(tasks)
	<-begun
	_, err := b.store.UpdateTask(natstest.Context(t), tasks[0].ID, func(x *session.Task) error { return x.Claim("quick", 3, time.Now()) })
	if err != nil {
		t.Fatal(err)
	}
	if err := testenv.Receive(t, "the old owner to notice", ended); !isLost(err) {
		t.Errorf("fence: %v", err)
	}
}

func TestTooManyDeaths(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, tasks := b.create(nil, "ORDERS")
	for range 3 {
		_, err := b.store.UpdateTask(natstest.Context(t), tasks[0].ID, func(x *session.Task) error { return x.Claim("dead", 3, time.Now()) })
		if err != nil {
			t.Fatal(err)
		}
	}
	b.submit(tasks)
	b.start("a", b.server.Connect(), handlerFunc(func(context.Context, session.Task, Run) (session.Result, error) {
		t.Error("the task was tried again")
		return session.Result{}, nil
	}))
	if s = b.await(s.ID, api.StateFailed); s.Error.ErrCode != api.CodeTaskAbandoned {
		t.Errorf("error: %+v", s.Error)
	}
}

func TestCancelReachesARunningTask(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	begun := make(chan struct{}, 2)
	w, _ := b.start("a", b.server.Connect(), handlerFunc(func(ctx context.Context, _ session.Task, _ Run) (session.Result, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return session.Result{}, ctx.Err()
	}))
	s, tasks := b.create(map[string]string{"LATER": "NOW"}, "NOW", "LATER")
	b.submit(tasks)
	<-begun
	if _, err := b.store.UpdateSession(natstest.Context(t), s.ID, func(x *session.Session) error { return x.RequestCancel("enough") }); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Conductor.Advance(natstest.Context(t), s.ID); err != nil {
		t.Fatal(err)
	}
	if state := b.task(tasks[1].ID).State; state != api.StateCancelled {
		t.Errorf("the pending task is %s", state)
	}
	s = b.await(s.ID, api.StateCancelled)
	if s.Error == nil || s.Error.Description != "enough" {
		t.Errorf("error: %+v", s.Error)
	}
	if names := b.events.names(s.ID); !slices.Contains(names, api.EventCancelled) {
		t.Errorf("events: %v", names)
	}
}

// TestFenceRefusesACancelledSession cancels between the handler's work and its
// commit, with nobody watching but the fence.
func TestFenceRefusesACancelledSession(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, tasks := b.create(nil, "ORDERS")
	b.start("a", b.server.Connect(), handlerFunc(func(_ context.Context, _ session.Task, run Run) (session.Result, error) {
		_, err := b.store.UpdateSession(context.Background(), s.ID, func(x *session.Session) error { return x.RequestCancel("") })
		if err != nil {
			return session.Result{}, err
		}
		if err := run.Fence(context.Background()); !errors.Is(err, errCancelled) {
			t.Errorf("fence: %v", err)
		}
		return session.Result{}, errCancelled
	}))
	b.submit(tasks)
	b.await(s.ID, api.StateCancelled)
}

func TestStopHandsOver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	begun := make(chan struct{})
	_, stop := b.start("old", b.server.Connect(), handlerFunc(func(ctx context.Context, _ session.Task, _ Run) (session.Result, error) {
		close(begun)
		<-ctx.Done()
		return session.Result{}, ctx.Err()
	}))
	s, tasks := b.create(nil, "ORDERS")
	b.submit(tasks)
	<-begun
	stop()
	if got := b.task(tasks[0].ID); got.State != api.StatePending || got.Released != 1 {
		t.Fatalf("task: %+v", got)
	}
	b.start("new", b.server.Connect(), handlerFunc(succeed))
	b.await(s.ID, api.StateSucceeded)
	// Not at once would be after the lease.
}

// TestLooking: a slot that does a task does not look for one, however long the
// task takes.
func TestLooking(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	begun, end := make(chan struct{}), make(chan struct{})
	w, _ := b.start("a", b.server.Connect(), handlerFunc(func(context.Context, session.Task, Run) (session.Result, error) {
		begun <- struct{}{}
		<-end
		return session.Result{}, nil
	}))
	streams := []string{"A", "B", "C", "D", "E", "F"}[:w.Concurrency]
	s, tasks := b.create(nil, streams...)
	b.submit(tasks)
	for range streams {
		<-begun
	}
	if kind, d := w.Looking(); d != 0 {
		t.Errorf("a slot of %s looks since %s, all are at work", kind, d)
	}
	close(end)
	b.await(s.ID, api.StateSucceeded)
	testenv.Until(t, "a slot that looks", func() error {
		if kind, d := w.Looking(); d == 0 || kind != api.KindBackup {
			return fmt.Errorf("looking: %q since %s", kind, d)
		}
		return nil
	})
}

// TestLostMessages has a session whose maker died before it submitted
// anything, and one whose message was purged while its instance died.
func TestLostMessages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.lease = lease
	never, _ := b.create(map[string]string{"B": "A"}, "A", "B")
	lost, tasks := b.create(nil, "C")
	_, err := b.store.UpdateTask(natstest.Context(t), tasks[0].ID, func(x *session.Task) error { return x.Claim("dead", 3, time.Now()) })
	if err != nil {
		t.Fatal(err)
	}
	b.start("a", b.server.Connect(), handlerFunc(succeed))
	b.await(never.ID, api.StateSucceeded)
	b.await(lost.ID, api.StateSucceeded)
}

// TestEndIsAnnounced finds a session that ended without its event.
func TestEndIsAnnounced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.create(nil, "A")
	_, err := b.store.UpdateSession(natstest.Context(t), s.ID, func(x *session.Session) error {
		return x.Abort(api.Errorf(api.CodeInternal, "made for the test"), time.Now())
	})
	if err != nil {
		t.Fatal(err)
	}
	b.start("a", b.server.Connect(), handlerFunc(succeed))
	b.await(s.ID, api.StateFailed)
	if names := b.events.names(s.ID); !slices.Equal(names, []api.EventName{api.EventFailed}) {
		t.Errorf("events: %v", names)
	}
}

// TestUnreadySession has a session whose maker died before all tasks were
// written.
func TestUnreadySession(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.create(nil, "A")
	_, err := b.store.UpdateSession(natstest.Context(t), s.ID, func(x *session.Session) error {
		x.Ready = false
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w, _ := b.start("a", b.server.Connect(), handlerFunc(succeed))
	testenv.Until(t, "the session to be seen", func() error {
		w.Conductor.mu.Lock()
		defer w.Conductor.mu.Unlock()
		a := w.Conductor.active[s.ID]
		if a == nil {
			return errors.New("not seen yet")
		}
		// What is there is read while nobody holds the lock, and so is not changed.
		w.Conductor.active[s.ID] = &watched{ready: a.ready, since: a.since.Add(-unreadyPatience), tasks: map[string]seen{}}
		return nil
	})
	if s = b.await(s.ID, api.StateFailed); s.Error.ErrCode != api.CodeTaskAbandoned {
		t.Errorf("error: %+v", s.Error)
	}
}

// TestSeveralInstances spreads a session over three workers and looks that each
// task was done once.
func TestSeveralInstances(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var mu sync.Mutex
	done := map[string][]string{}
	workers := map[string]bool{}
	alone := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(workers) < 2
	}
	for _, name := range []string{"a", "b", "c"} {
		b.start(name, b.server.Connect(), handlerFunc(func(ctx context.Context, t session.Task, run Run) (session.Result, error) {
			mu.Lock()
			done[t.Stream] = append(done[t.Stream], name)
			workers[name] = true
			mu.Unlock()
			for alone() && ctx.Err() == nil { // one could do all of it before the others begin
				time.Sleep(time.Millisecond)
			}
			return succeed(ctx, t, run)
		}))
	}
	var streams []string
	for i := range 60 {
		streams = append(streams, string(rune('A'+i%26))+string(rune('a'+i/26)))
	}
	s, tasks := b.create(nil, streams...)
	b.submit(tasks)
	b.await(s.ID, api.StateSucceeded)
	names := b.events.names(s.ID)
	finals := slices.DeleteFunc(slices.Clone(names), func(e api.EventName) bool { return !e.Final() })
	distinct := map[string]bool{}
	for stream, by := range done {
		if len(by) != 1 {
			t.Errorf("stream %s was done by %v", stream, by)
		}
		distinct[by[0]] = true
	}
	if len(done) != 60 || len(distinct) < 2 {
		t.Errorf("%d streams by %v", len(done), distinct)
	}
	if len(finals) == 0 {
		t.Errorf("events: %v", names)
	}
}

// TestTaskThatVanished has somebody delete a task's key: the session waits for
// a while and then ends without it, but never as succeeded.
func TestTaskThatVanished(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, tasks := b.create(nil, "A", "B")
	js, err := jetstream.New(b.server.Connect())
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(natstest.Context(t), api.BucketSessions)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(natstest.Context(t), tasks[1].ID); err != nil {
		t.Fatal(err)
	}
	w, _ := b.start("a", b.server.Connect(), handlerFunc(succeed))
	b.submit(tasks[:1])
	begun := time.Now()
	testenv.Until(t, "the missing task to be noticed", func() error {
		w.Conductor.mu.Lock()
		defer w.Conductor.mu.Unlock()
		got, err := b.store.Session(natstest.Context(t), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.State.Final() {
			if time.Since(begun) < unreadyPatience {
				t.Errorf("session ended at once: %+v", got)
			}
			return nil
		}
		since, ok := w.Conductor.missing[s.ID]
		if !ok || !b.task(tasks[0].ID).State.Final() {
			return errors.New("not noticed yet")
		}
		w.Conductor.missing[s.ID] = since.Add(-unreadyPatience)
		return nil
	})
	b.await(s.ID, api.StatePartial)
}
