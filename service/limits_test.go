package service_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/service/session"
	"jetkeep/service/worker"
)

// counting counts the tasks that run at once, by what they concern.
type counting struct {
	mu        sync.Mutex
	changed   *sync.Cond
	now, most map[string]int
	// alone says whether a task is to go on because others have not come beside it
	// yet.
	alone func(t session.Task, most map[string]int) bool
}

func newCounting() *counting {
	h := &counting{now: map[string]int{}, most: map[string]int{}}
	h.changed = sync.NewCond(&h.mu)
	return h
}

func (h *counting) Run(ctx context.Context, t session.Task, _ worker.Run) (session.Result, error) {
	h.add(t.Target, 1)
	h.add(t.Repository, 1)
	defer h.add(t.Target, -1)
	defer h.add(t.Repository, -1)
	stop := context.AfterFunc(ctx, h.changed.Broadcast)
	defer stop()
	h.mu.Lock()
	for h.alone(t, h.most) && ctx.Err() == nil {
		h.changed.Wait()
	}
	h.mu.Unlock()
	return session.Result{}, ctx.Err()
}

func (h *counting) add(name string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now[name] += n
	h.most[name] = max(h.most[name], h.now[name])
	h.changed.Broadcast()
}

// Targets and repositories have bounds of their own, which hold back nobody else.
func TestConcurrencyOfTargetAndRepository(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	for _, name := range []string{"A", "B", "C", "D", "E", "F", "G", "H", "I", "J"} {
		natstest.MakeStream(t, nc, `{"name":"`+name+`","subjects":["`+name+`"],"storage":"memory","retention":"limits","num_replicas":1}`)
	}
	c := setup(t, server)
	c.Concurrency = 4
	url := natsconn.Options{URL: server.URL()}
	c.Targets = []config.Target{{Name: "free", Options: url}, {Name: "narrow", Options: url, Concurrency: 1}}
	wide := c.Repositories[0]
	slow := wide
	wide.Name, slow.Name, slow.Path, slow.Concurrency = "wide", "slow", t.TempDir(), 2
	c.Repositories = []config.Repository{wide, slow}
	h := newCounting()
	h.alone = func(t session.Task, most map[string]int) bool {
		if t.Repository == "slow" {
			return most["slow"] < 2
		}
		return most["wide"] < 3 || most["free"] < 3
	}
	run(t, c, service.Deps{Handlers: map[api.Kind]worker.Handler{api.KindBackup: h}})
	cl := connect(t, server)
	var sessions []string
	for _, q := range []api.BackupCreateRequest{{Target: "narrow", Repository: "wide"}, {Target: "free", Repository: "slow"}, {Target: "free", Repository: "wide"}} {
		a, err := cl.BackupCreate(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, a.Session)
	}
	for _, id := range sessions {
		wait(t, cl, id, api.StateSucceeded)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.most["narrow"] != 1 || h.most["slow"] != 2 || h.most["free"] < 3 || h.most["wide"] < 3 {
		t.Errorf("tasks at once: %v", h.most)
	}
}

// A target that does one task at a time holds back its own, however many there
// are, and nobody else's, and no restores.
func TestManyHeldBack(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	for i := range 40 {
		natstest.MakeStream(t, nc, map[string]any{"name": fmt.Sprintf("S%02d", i), "subjects": []string{fmt.Sprintf("s.%d", i)}})
	}
	c := setup(t, server)
	c.Concurrency = 1
	url := natsconn.Options{URL: server.URL()}
	c.Targets = []config.Target{{Name: "narrow", Options: url, Concurrency: 1}, {Name: "free", Options: url}}
	real := run(t, c, service.Deps{})
	cl := connect(t, server)
	backup, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"S00"}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, backup.Session, api.StateSucceeded)
	real.end()
	natstest.MustRequest(t, nc, "STREAM.DELETE.S00", nil, nil)
	end := make(chan struct{})
	h := handlerFunc(func(ctx context.Context, task session.Task, _ worker.Run) (session.Result, error) {
		if task.Target == "narrow" && task.Kind == api.KindBackup {
			select {
			case <-end:
			case <-ctx.Done():
			}
		}
		return session.Result{}, ctx.Err()
	})
	run(t, c, service.Deps{Handlers: map[api.Kind]worker.Handler{api.KindBackup: h, api.KindRestore: h}})
	narrow, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Target: "narrow"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "each of its tasks was handed out", func() bool {
		for _, c := range natstest.Consumers(t, nc, api.StreamTasks) {
			if c.Name == string(api.KindBackup) {
				return c.Delivered.Consumer > uint64(narrow.Tasks) // and one before
			}
		}
		return false
	})
	free, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Target: "free", Streams: []string{"S01"}})
	if err != nil {
		t.Fatal(err)
	}
	restored, err := cl.RestoreCreate(t.Context(), api.RestoreRequest{Backup: backup.Backup, Target: "narrow"})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, restored.Session, api.StateSucceeded)
	wait(t, cl, free.Session, api.StateSucceeded)
	close(end)
	wait(t, cl, narrow.Session, api.StateSucceeded)
}

// Of a stream in a repository one restore point is made at a time, whichever
// instances and sessions would make more; who waits takes no slot from others.
func TestOneRestorePointAtATime(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	for _, name := range []string{"A", "B"} {
		natstest.MakeStream(t, nc, `{"name":"`+name+`","subjects":["`+name+`"],"storage":"memory","retention":"limits","num_replicas":1}`)
	}
	c := setup(t, server)
	c.Concurrency = 1
	other := make(chan struct{}) // is closed when B has been backed up
	h := &perStream{newCounting(), map[string]chan struct{}{"A": other}}
	for _, name := range []string{"one", "two"} {
		own := c
		own.Instance, own.Staging.Dir = name, t.TempDir()
		run(t, own, service.Deps{Handlers: map[api.Kind]worker.Handler{api.KindBackup: h}})
	}
	cl := connect(t, server)
	var sessions []string
	for range 12 {
		a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"A"}})
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, a.Session)
	}
	eventually(t, "one is at work", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.most["A"] == 1
	})
	b, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"B"}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, b.Session, api.StateSucceeded)
	close(other) // until which none of A was done
	for _, id := range sessions {
		wait(t, cl, id, api.StateSucceeded)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.most["A"] != 1 || h.most["B"] != 1 {
		t.Errorf("at once: %v", h.most)
	}
}

// perStream counts the tasks that run at once of each stream. Those of some last
// until a channel is closed.
type perStream struct {
	*counting
	last map[string]chan struct{}
}

func (h *perStream) Run(ctx context.Context, t session.Task, _ worker.Run) (session.Result, error) {
	h.add(t.Stream, 1)
	defer h.add(t.Stream, -1)
	if end, ok := h.last[t.Stream]; ok {
		select {
		case <-end:
		case <-ctx.Done():
		}
	}
	return session.Result{}, ctx.Err()
}
