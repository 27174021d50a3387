package queue

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
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
	return Open(natstest.Context(t), js, subjects, Options{Lease: lease})
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
	c, err := q.Consumer(natstest.Context(t), api.KindBackup)
	if err != nil {
		t.Fatal(err)
	}
	return q, c
}

// next claims a task.
func next(t *testing.T, c *Consumer) (claim *Claim) {
	t.Helper()
	testenv.Until(t, "a task", func() (err error) {
		claim, err = c.Next(natstest.Context(t))
		return err
	})
	return claim
}

// none checks that there is no task for a moment.
func none(t *testing.T, c *Consumer) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(natstest.Context(t), 300*time.Millisecond)
	defer cancel()
	claim, err := c.Next(ctx)
	if errors.Is(err, ErrNone) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("claim where there is no task: %+v, %w", claim, err)
}

func submit(t *testing.T, q *Queue, task string, attempt int) {
	t.Helper()
	if err := q.Submit(natstest.Context(t), api.KindBackup, task, attempt); err != nil {
		t.Fatal(err)
	}
}

func TestSubmitAndClaim(t *testing.T) {
	t.Parallel()
	q, c := setup(t, time.Minute)
	submit(t, q, task, 0)
	submit(t, q, task, 0) // the same request twice
	submit(t, q, task, 1) // the same task while its message is there
	submit(t, q, session+".0002", 0)
	queued, err := q.Queued(natstest.Context(t), session)
	if err != nil || len(queued) != 2 || !queued[task] {
		t.Fatalf("queued: %v %v", queued, err)
	}
	if other, err := q.Queued(natstest.Context(t), "20260101T000000Z-bbbbbbbb"); err != nil || len(other) != 0 {
		t.Errorf("queued of another session: %v %v", other, err)
	}
	a := next(t, c)
	if a.Task != task || a.Deliveries != 1 {
		t.Fatalf("claim: %+v", a)
	}
	if b := next(t, c); b.Task != session+".0002" {
		t.Fatalf("claim: %+v", b)
	}
	if err := none(t, c); err != nil {
		t.Errorf("third claim: %v", err)
	}
	if err := a.Done(natstest.Context(t)); err != nil {
		t.Fatal(err)
	}
	if queued, err := q.Queued(natstest.Context(t), session); err != nil || len(queued) != 1 {
		t.Errorf("queued: %v %v", queued, err)
	}
	submit(t, q, task, 1)
	if a = next(t, c); a.Task != task {
		t.Errorf("task that was submitted again: %+v", a)
	}
}

func TestKindsAreApart(t *testing.T) {
	t.Parallel()
	q, c := setup(t, time.Minute)
	if err := q.Submit(natstest.Context(t), api.KindRestore, task, 0); err != nil {
		t.Fatal(err)
	}
	if err := none(t, c); err != nil {
		t.Errorf("claim of another kind: %v", err)
	}
}

// The server's clock decides who is silent, which no test can replace: what comes too
// late to be heard in time proves nothing, and is tried again.
func TestSilenceLosesTheTask(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second
	q, c := setup(t, lease)
	errLate := errors.New("it came too late")
	n := 0
	var lost *Claim
	testenv.Until(t, "a task that is extended in time", func() error {
		n++
		submit(t, q, fmt.Sprintf("%s.%04d", session, n), 0)
		heard := time.Now() // by the server, at the earliest
		a := next(t, c)
		late := func() bool { return time.Since(heard) >= lease }
		for range 6 {
			time.Sleep(lease / 4)
			begun := time.Now()
			if err := a.Extend(); err != nil {
				t.Fatal(err)
			}
			if err := q.js.Conn().FlushTimeout(testenv.Hang); err != nil {
				t.Fatal(err)
			}
			if late() {
				return errors.Join(errLate, a.Done(natstest.Context(t)))
			}
			heard = begun
		}
		err := none(t, c)
		if late() {
			return errors.Join(errLate, a.Done(natstest.Context(t)))
		}
		if err != nil {
			t.Fatalf("claim of a task that is extended: %v", err)
		}
		lost = a
		return nil
	})
	if b := next(t, c); b.Task != lost.Task || b.Deliveries != 2 {
		t.Errorf("claim of a task that was silent: %+v", b)
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	q, c := setup(t, time.Minute)
	submit(t, q, task, 0)
	for range 2 {
		if err := next(t, c).Release(0); err != nil {
			t.Fatal(err)
		}
	}
	if a := next(t, c); a.Deliveries != 3 {
		t.Errorf("claim: %+v", a)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
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
	s, err := js.Stream(natstest.Context(t), api.StreamTasks)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.Description, cfg.MaxBytes = "mine", 1<<20
	if _, err := js.UpdateStream(natstest.Context(t), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, "one.v1", js, 0); err != nil {
		t.Fatal(err)
	}
	if s, err = js.Stream(natstest.Context(t), api.StreamTasks); err != nil || s.CachedInfo().Config.Description != "mine" {
		t.Errorf("settings: %+v %v", s.CachedInfo().Config, err)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	_, c := setup(t, time.Minute)
	ctx, cancel := context.WithCancel(natstest.Context(t))
	cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("claim after the end: %v", err)
	}
	// ErrNone says that it waited to the end: because the cancellation came too late, or
	// because it heeds none.
	testenv.Until(t, "a claim that ends with its context", func() error {
		ctx, cancel := context.WithCancel(natstest.Context(t))
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err := c.Next(ctx)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if !errors.Is(err, ErrNone) {
			t.Fatalf("claim that was cancelled: %v", err)
		}
		return err
	})
}
