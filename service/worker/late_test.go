package worker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/service/queue"
	"jetkeep/service/session"
	"jetkeep/store/testenv"
)

// An instance that stood still after it was handed a message goes on when another
// has the task for long: it neither takes it nor gives the message back, whether
// it had read the task before or not.
func TestLateDelivery(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]bool{"read": true, "not read": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steadily(t, func(b *bench) error { return deliverLate(t, b, read) })
		})
	}
}

func deliverLate(t *testing.T, b *bench, read bool) error {
	t.Helper()
	begun, end, stood := make(chan string, 4), make(chan struct{}), make(chan struct{})
	work := func(name string) Handler {
		return handlerFunc(func(ctx context.Context, t session.Task, run Run) (session.Result, error) {
			begun <- name
			select {
			case <-end:
			case <-ctx.Done():
				return session.Result{}, ctx.Err()
			}
			return succeed(ctx, t, run)
		})
	}
	d := b.deps("late", b.server.Connect(), work("late"))
	if read {
		d.Limit = func(context.Context, *session.Task) (func(), bool) {
			<-stood
			return func() {}, true
		}
	}
	c, err := d.Queue.Consumer(natstest.Context(t), api.KindBackup)
	if err != nil {
		t.Fatal(err)
	}
	s, tasks := b.create(nil, "ORDERS")
	b.submit(tasks)
	claim := next(t, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !read {
			<-stood
		}
		New(d).do(t.Context(), new(slot), claim)
	}()
	b.start("heir", b.server.Connect(), work("heir"))
	if who := testenv.Receive(t, "the heir", begun); who != "heir" {
		t.Fatalf("%s has it", who)
	}
	close(stood)
	time.Sleep(2 * lease) // in which what was given back would have come again
	close(end)
	testenv.Receive(t, "the end of who was late", done)
	b.await(s.ID, api.StateSucceeded)
	if got := b.task(tasks[0].ID); got.Instance != "heir" || got.Attempt != 1 {
		return fmt.Errorf("after %d attempts %s had it", got.Attempt, got.Instance)
	}
	return nil
}

// next claims a task.
func next(t *testing.T, c *queue.Consumer) (claim *queue.Claim) {
	t.Helper()
	testenv.Until(t, "a task", func() (err error) {
		claim, err = c.Next(t.Context())
		return err
	})
	return claim
}

// A session that was deleted before its end was announced is looked for no more.
func TestDeletedSessionIsForgotten(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := New(b.deps("a", b.server.Connect(), nil)).Conductor
	s, _ := b.create(nil, "A")
	s, err := b.store.UpdateSession(natstest.Context(t), s.ID, func(x *session.Session) error {
		return x.Abort(api.Errorf(api.CodeInternal, "made for the test"), time.Now())
	})
	if err != nil {
		t.Fatal(err)
	}
	c.note(s)
	if err := b.store.Delete(natstest.Context(t), s.ID); err != nil {
		t.Fatal(err)
	}
	c.Sweep(t.Context())
	if len(c.active) != 0 {
		t.Errorf("remembered: %v", c.active)
	}
}

// An instance that needed so long to look at a task that the message comes to
// another begins nothing, and takes it from nobody.
func TestLooksTooLong(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"would begin": true, "would give back": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steadily(t, func(b *bench) error {
				d := b.deps("slow", b.server.Connect(), handlerFunc(succeed))
				c, err := d.Queue.Consumer(natstest.Context(t), api.KindBackup)
				if err != nil {
					t.Fatal(err)
				}
				var extended time.Time
				d.Limit = func(context.Context, *session.Task) (func(), bool) {
					again := next(t, c) // what another instance would get, which is alive
					extended = time.Now()
					if err := again.Extend(); err != nil {
						t.Error(err)
					}
					return func() {}, ok
				}
				_, tasks := b.create(nil, "ORDERS")
				b.submit(tasks)
				New(d).do(t.Context(), new(slot), next(t, c))
				if got := b.task(tasks[0].ID); got.State != api.StatePending {
					return fmt.Errorf("the task is %s", got.State)
				}
				if claim, err := c.Next(t.Context()); err == nil && time.Since(extended) < lease*3/4 {
					return fmt.Errorf("it is handed out again, for the %d. time", claim.Deliveries)
				}
				return nil
			})
		})
	}
}

// A consumer that was made anew counts deliveries from one. Who died with a task that
// he had at a later one keeps it for no longer than others do.
func TestDeliveriesCountAnew(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.lease = lease
	_, tasks := b.create(nil, "ORDERS")
	dead := b.task(tasks[0].ID)
	if err := dead.Claim("dead", DefaultMaxAttempts, time.Now()); err != nil {
		t.Fatal(err)
	}
	dead.Message, dead.Delivery = 1, 1000
	if err := b.store.PutTask(natstest.Context(t), dead); err != nil {
		t.Fatal(err)
	}
	b.submit(tasks)
	b.start("heir", b.server.Connect(), handlerFunc(succeed))
	testenv.Until(t, "the heir", func() error {
		if got := b.task(tasks[0].ID); got.State != api.StateSucceeded || got.Instance != "heir" {
			return fmt.Errorf("the task is %s, with %s", got.State, got.Instance)
		}
		return nil
	})
}

// slowAfter are hooks after a task that take longer than a lease.
type slowAfter struct {
	noHooks
	called chan string
}

func (h slowAfter) After(_ context.Context, _ *session.Session, t *session.Task, end api.State, _ *api.Error) []string {
	h.called <- t.Instance + " " + string(end)
	time.Sleep(5 * lease / 2)
	return nil
}

// The task of a session that was cancelled stays with its instance while its hooks
// run, however long they take.
func TestCancelledWithSlowHooks(t *testing.T) {
	t.Parallel()
	steadily(t, func(b *bench) error {
		begun, called := make(chan struct{}, 4), make(chan string, 4)
		for _, name := range []string{"a", "b"} {
			d := b.deps(name, b.server.Connect(), handlerFunc(func(ctx context.Context, _ session.Task, _ Run) (session.Result, error) {
				begun <- struct{}{}
				<-ctx.Done()
				return session.Result{}, ctx.Err()
			}))
			d.Hooks = slowAfter{called: called}
			b.run(d)
		}
		s, tasks := b.create(nil, "ORDERS")
		b.submit(tasks)
		testenv.Receive(t, "the beginning", begun)
		if _, err := b.store.UpdateSession(natstest.Context(t), s.ID, func(x *session.Session) error { return x.RequestCancel("enough") }); err != nil {
			t.Fatal(err)
		}
		b.await(s.ID, api.StateCancelled)
		got := b.task(tasks[0].ID)
		if got.State != api.StateCancelled || got.Attempt != 1 || len(called) != 1 || <-called != got.Instance+" cancelled" {
			return fmt.Errorf("%s after %d attempts, its hooks were called %d times more", got.State, got.Attempt, len(called))
		}
		return nil
	})
}
