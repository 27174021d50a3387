package restore

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/testenv"
)

// own is a separate source of the same point, with a hook of its own.
func own(k *kept, p store.Point, hook func(int)) *kept {
	o := newKept()
	o.records[p.ID] = k.records[p.ID]
	o.hook = hook
	return o
}

// lateExecution lets one execution wait at a record, and another one of the same
// task restore and verify the stream, to which others then publish. When the
// first one is told that it lost its claim, it must not touch the stream.
func lateExecution(t *testing.T, storage string, at int) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	k, p := big(t, s, dial(t, s.URL()), storage, 12000)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	a := own(k, p, func(n int) {
		if n == at {
			once.Do(func() { close(reached); <-goOn })
		}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("claim lost")
	done := make(chan error, 1)
	ca := dial(t, s.URL())
	go func() { _, err := Execute(ctx, Job{Conn: ca, Repo: a, Point: p}); done <- err }()
	<-reached
	if at > 0 {
		testenv.True(t, "the server to begin the first restore", func() bool { return strings.Contains(s.Log(), "Starting restore for stream") })
	}
	r, err := execute(t, s.URL(), k, p, func(j *Job) { j.Repeated = true })
	t.Logf("B: verified=%v err=%v", r.Verified, err)
	if err != nil {
		close(goOn)
		cancel(lost)
		t.Fatalf("B failed: %v; A: %v", err, <-done)
	}
	var cfg struct{ Subjects []string }
	_ = json.Unmarshal(p.Config, &cfg)
	t.Log(cfg.Subjects)
	publish(t, nc, cfg.Subjects[0], 3)
	cancel(lost)
	close(goOn)
	t.Logf("A: %v", <-done)
	awaitRestores(t, s)
	if got := natstest.Streams(t, nc); len(got) == 0 {
		t.Fatal("B's verified stream, with 3 messages of somebody else, was deleted by A")
	}
}

func TestLateExecutionBeforeAskFile(t *testing.T)   { lateExecution(t, "file", 0) }
func TestLateExecutionMidFile(t *testing.T)         { lateExecution(t, "file", 11000) }
func TestLateExecutionBeforeAskMemory(t *testing.T) { lateExecution(t, "memory", 0) }

// An application makes its (empty) stream and consumer; a repeated job deletes both.
func TestEmptyStreamOfApp(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	k, p := big(t, s, dial(t, s.URL()), "file", 100)
	create(t, nc, string(p.Config))
	consumer(t, nc, "BIG", `{"durable_name":"APP","ack_policy":"explicit"}`)
	was := natstest.Info(t, nc, "BIG").Created
	r, err := execute(t, s.URL(), k, p, func(j *Job) { j.Repeated = true })
	t.Logf("%+v %v", r, err)
	if !errors.Is(err, ErrExists) {
		_, cerr := dial(t, s.URL()).API.Call(t.Context(), "CONSUMER.INFO.BIG.APP", nil)
		t.Fatalf("an existing stream (created %s) with a consumer was deleted; consumer now: %v; err %v", was, cerr, err)
	}
}
