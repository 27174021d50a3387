package worker

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/queue"
	"jetkeep/service/session"
)

// Nobody takes writes for a while just when a task has done its work: it waits
// and passes the fence, and does not fail.
func TestFenceWaitsForKV(t *testing.T) {
	b := newBench(t)
	nc := b.server.Connect(nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	d := b.deps("a", nc, handlerFunc(func(ctx context.Context, t session.Task, run Run) (session.Result, error) {
		b.server.Stop()
		time.AfterFunc(7*time.Second, b.server.Start)
		return succeed(ctx, t, run)
	}))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	subjects, err := api.NewSubjects("")
	if err != nil {
		t.Fatal(err)
	}
	if d.Queue, err = queue.Open(t.Context(), js, subjects, queue.Options{}); err != nil {
		t.Fatal(err)
	}
	s, tasks := b.create(nil, "ORDERS")
	b.submit(tasks)
	b.run(d)
	for begun := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		if task, err := b.store.Task(t.Context(), tasks[0].ID); err == nil && task.State.Final() {
			if task.State != api.StateSucceeded || task.Attempt != 1 {
				t.Errorf("task of %s: %+v", s.ID, task)
			}
			return
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatal("the task does not end")
		}
	}
}
