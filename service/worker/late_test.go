package worker

import (
	"context"
	"testing"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/queue"
	"jetkeep/service/session"
)

// An instance that stood still after it was handed a message goes on when another
// has the task for long: it neither takes it nor gives the message back, whether
// it had read the task before or not.
func TestLateDelivery(t *testing.T) {
	for name, read := range map[string]bool{"read": true, "not read": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
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
			c, err := d.Queue.Consumer(t.Context(), api.KindBackup)
			if err != nil {
				t.Fatal(err)
			}
			s, tasks := b.create(nil, "ORDERS")
			b.submit(tasks)
			var claim *queue.Claim
			for claim == nil {
				if claim, err = c.Next(t.Context()); err != nil && t.Context().Err() != nil {
					t.Fatal(err)
				}
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if !read {
					<-stood
				}
				New(d).do(t.Context(), new(slot), claim)
			}()
			b.start("heir", b.server.Connect(), work("heir"))
			if who := <-begun; who != "heir" {
				t.Fatalf("%s has it", who)
			}
			close(stood)
			time.Sleep(2 * lease) // in which what was given back would have come again
			close(end)
			<-done
			b.await(s.ID, api.StateSucceeded)
			if got := b.task(tasks[0].ID); got.Instance != "heir" || got.Attempt != 1 {
				t.Errorf("after %d attempts %s had it", got.Attempt, got.Instance)
			}
		})
	}
}

// A session that was deleted before its end was announced is looked for no more.
func TestDeletedSessionIsForgotten(t *testing.T) {
	b := newBench(t)
	c := New(b.deps("a", b.server.Connect(), nil)).Conductor
	s, _ := b.create(nil, "A")
	s, err := b.store.UpdateSession(t.Context(), s.ID, func(x *session.Session) error {
		return x.Abort(api.Errorf(api.CodeInternal, "made for the test"), time.Now())
	})
	if err != nil {
		t.Fatal(err)
	}
	c.note(s)
	if err := b.store.Delete(t.Context(), s.ID); err != nil {
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
	for name, ok := range map[string]bool{"would begin": true, "would give back": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			d := b.deps("slow", b.server.Connect(), handlerFunc(succeed))
			c, err := d.Queue.Consumer(t.Context(), api.KindBackup)
			if err != nil {
				t.Fatal(err)
			}
			next := func() (claim *queue.Claim) {
				for claim == nil {
					if claim, err = c.Next(t.Context()); err != nil && t.Context().Err() != nil {
						t.Fatal(err)
					}
				}
				return claim
			}
			var again *queue.Claim
			d.Limit = func(context.Context, *session.Task) (func(), bool) {
				again = next() // what another instance would get, which is alive
				if err := again.Extend(); err != nil {
					t.Error(err)
				}
				return func() {}, ok
			}
			_, tasks := b.create(nil, "ORDERS")
			b.submit(tasks)
			New(d).do(t.Context(), new(slot), next())
			if got := b.task(tasks[0].ID); got.State != api.StatePending {
				t.Errorf("the task is %s", got.State)
			}
			if claim, err := c.Next(t.Context()); err == nil && again.Age() < lease*3/4 {
				t.Errorf("it is handed out again, for the %d. time", claim.Deliveries)
			}
		})
	}
}

// A consumer that was made anew counts deliveries from one. Who died with a task that
// he had at a later one keeps it for no longer than others do.
func TestDeliveriesCountAnew(t *testing.T) {
	b := newBench(t)
	_, tasks := b.create(nil, "ORDERS")
	dead := b.task(tasks[0].ID)
	if err := dead.Claim("dead", DefaultMaxAttempts, time.Now()); err != nil {
		t.Fatal(err)
	}
	dead.Message, dead.Delivery = 1, 1000
	if err := b.store.PutTask(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	b.submit(tasks)
	b.start("heir", b.server.Connect(), handlerFunc(succeed))
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if got := b.task(tasks[0].ID); got.State == api.StateSucceeded && got.Instance == "heir" {
			return
		} else if time.Now().After(end) {
			t.Fatalf("the task is %s, with %s", got.State, got.Instance)
		}
	}
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
	b := newBench(t)
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
	<-begun
	if _, err := b.store.UpdateSession(t.Context(), s.ID, func(x *session.Session) error { return x.RequestCancel("enough") }); err != nil {
		t.Fatal(err)
	}
	b.await(s.ID, api.StateCancelled)
	got := b.task(tasks[0].ID)
	if got.State != api.StateCancelled || got.Attempt != 1 || len(called) != 1 || <-called != got.Instance+" cancelled" {
		t.Errorf("%s after %d attempts, its hooks were called %d times more", got.State, got.Attempt, len(called))
	}
}
