package worker

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
	"jetkeep/service/session"
	"jetkeep/store/testenv"
)

// Nobody takes writes for a while just when a task has done its work: it waits
// and passes the fence, and does not fail.
func TestFenceWaitsForKV(t *testing.T) {
	t.Parallel()
	// It waits for half a minute. A server that needs longer to come back is too late.
	testenv.Until(t, "a server that is back in time", func() error {
		b := newBench(t)
		nc := b.server.Connect(nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
		stopped := make(chan struct{}, 4)
		d := b.deps("a", nc, handlerFunc(func(ctx context.Context, t session.Task, run Run) (session.Result, error) {
			b.server.Stop()
			stopped <- struct{}{}
			return succeed(ctx, t, run)
		}))
		refused := make(chan struct{}, 100)
		d.Log = slog.New(told{d.Log.Handler(), "fence", refused})
		s, tasks := b.create(nil, "ORDERS")
		b.submit(tasks)
		b.run(d)
		testenv.Receive(t, "the work", stopped)
		begun := time.Now()
		testenv.Receive(t, "a fence that cannot be passed", refused)
		b.server.Start()
		away := time.Since(begun)
		var task *session.Task
		testenv.Until(t, "the end of the task", func() (err error) {
			// What is asked while the connection is not back yet is lost, and asked again.
			if task, err = b.store.Task(t.Context(), tasks[0].ID); err == nil && !task.State.Final() {
				err = fmt.Errorf("it is %s", task.State)
			}
			return err
		})
		if task.State == api.StateSucceeded && task.Attempt == 1 {
			return nil
		}
		err := fmt.Errorf("task of %s: %+v", s.ID, task)
		if away < finishPatience/2 {
			t.Fatal(err)
		}
		return err
	})
}

// told is a log that notes each line that says something.
type told struct {
	slog.Handler

	text string
	note chan<- struct{}
}

func (l told) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == l.text {
		select {
		case l.note <- struct{}{}:
		default:
		}
	}
	return l.Handler.Handle(ctx, r)
}

func (l told) WithAttrs(a []slog.Attr) slog.Handler {
	return told{l.Handler.WithAttrs(a), l.text, l.note}
}

func (l told) WithGroup(name string) slog.Handler {
	return told{l.Handler.WithGroup(name), l.text, l.note}
}
