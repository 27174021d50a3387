package queue

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

const (
	session = "20260101T000000Z-aaaaaaaa"
	task    = session + ".0001"
)

func open(t *testing.T, prefix string, js jetstream.JetStream, lease time.Duration) (*Queue, error) {
	t.Helper()
	subjects, err := api.NewSubjects(prefix)
	if err != nil {
		t.Fatal(err)
	}
	return Open(t.Context(), js, subjects, Options{Lease: lease})
}

func setup(t *testing.T, lease time.Duration) (*Queue, *Consumer) {
	t.Helper()
	js, err := jetstream.New(natstest.Start(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	q, err := open(t, "", js, lease)
	if err != nil {
		t.Fatal(err)
	}
	c, err := q.Consumer(t.Context(), api.KindBackup)
	if err != nil {
		t.Fatal(err)
	}
	return q, c
}

// next claims a task within the time.
func next(t *testing.T, c *Consumer, within time.Duration) (*Claim, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return c.Next(ctx)
}

func submit(t *testing.T, q *Queue, task string, attempt int) {
	t.Helper()
	if err := q.Submit(t.Context(), api.KindBackup, task, attempt); err != nil {
		t.Fatal(err)
	}
}

func TestSubmitAndClaim(t *testing.T) {
	q, c := setup(t, time.Minute)
	submit(t, q, task, 0)
	submit(t, q, task, 0) // the same request twice
	submit(t, q, task, 1) // the same task while its message is there
	submit(t, q, session+".0002", 0)
	queued, err := q.Queued(t.Context(), session)
	if err != nil || len(queued) != 2 || !queued[task] {
		t.Fatalf("queued: %v %v", queued, err)
	}
	if other, err := q.Queued(t.Context(), "20260101T000000Z-bbbbbbbb"); err != nil || len(other) != 0 {
		t.Errorf("queued of another session: %v %v", other, err)
	}
	a, err := next(t, c, time.Minute)
	if err != nil || a.Task != task || a.Deliveries != 1 {
		t.Fatalf("claim: %+v %v", a, err)
	}
	b, err := next(t, c, time.Minute)
	if err != nil || b.Task != session+".0002" {
		t.Fatalf("claim: %+v %v", b, err)
	}
	if _, err := next(t, c, 300*time.Millisecond); !errors.Is(err, ErrNone) {
		t.Errorf("third claim: %v", err)
	}
	if err := a.Done(t.Context()); err != nil {
		t.Fatal(err)
	}
	if queued, err := q.Queued(t.Context(), session); err != nil || len(queued) != 1 {
		t.Errorf("queued: %v %v", queued, err)
	}
	submit(t, q, task, 1)
	if a, err = next(t, c, time.Minute); err != nil || a.Task != task {
		t.Errorf("task that was submitted again: %+v %v", a, err)
	}
}

func TestKindsAreApart(t *testing.T) {
	q, c := setup(t, time.Minute)
	if err := q.Submit(t.Context(), api.KindRestore, task, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := next(t, c, 300*time.Millisecond); !errors.Is(err, ErrNone) {
		t.Errorf("claim of another kind: %v", err)
	}
}

func TestSilenceLosesTheTask(t *testing.T) {
	t.Parallel()
	const lease = 4 * time.Second // on a loaded machine nothing comes later by that much
	q, c := setup(t, lease)
	submit(t, q, task, 0)
	a, err := next(t, c, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		time.Sleep(lease / 4) // the server's clock decides here, which no test can replace
		if err := a.Extend(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := next(t, c, lease/4); !errors.Is(err, ErrNone) {
		t.Fatalf("claim of a task that is extended: %v", err)
	}
	b, err := next(t, c, time.Minute)
	if err != nil || b.Task != task || b.Deliveries != 2 {
		t.Errorf("claim of a task that was silent: %+v %v", b, err)
	}
}

func TestRelease(t *testing.T) {
	q, c := setup(t, time.Minute)
	submit(t, q, task, 0)
	for range 2 {
		a, err := next(t, c, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Release(0); err != nil {
			t.Fatal(err)
		}
	}
	a, err := next(t, c, time.Minute)
	if err != nil || a.Deliveries != 3 {
		t.Errorf("claim: %+v %v", a, err)
	}
}

func TestOpen(t *testing.T) {
	js, err := jetstream.New(natstest.Start(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := open(t, "one.v1", js, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(t, "two.v1", js, 0); !errors.Is(err, ErrSubjects) {
		t.Errorf("another prefix: %v", err)
	}
	// An operator's own settings stay.
	s, err := js.Stream(t.Context(), api.StreamTasks)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.Description, cfg.MaxBytes = "mine", 1<<20
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, "one.v1", js, 0); err != nil {
		t.Fatal(err)
	}
	if s, err = js.Stream(t.Context(), api.StreamTasks); err != nil || s.CachedInfo().Config.Description != "mine" {
		t.Errorf("settings: %+v %v", s.CachedInfo().Config, err)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	_, c := setup(t, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("claim after the end: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) { // ErrNone would say that it waited to the end
		t.Errorf("claim that was cancelled: %v", err)
	}
}
