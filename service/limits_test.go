package service_test

import (
	"context"
	"sync"
	"testing"
	"time"

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
	now, most map[string]int
}

func (h *counting) Run(ctx context.Context, t session.Task, _ worker.Run) (session.Result, error) {
	h.add(t.Target, 1)
	h.add(t.Repository, 1)
	defer h.add(t.Target, -1)
	defer h.add(t.Repository, -1)
	select {
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
	}
	return session.Result{}, ctx.Err()
}

func (h *counting) add(name string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now[name] += n
	h.most[name] = max(h.most[name], h.now[name])
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
	h := &counting{now: map[string]int{}, most: map[string]int{}}
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
	h := &perStream{now: map[string]int{}, most: map[string]int{}}
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
	time.Sleep(time.Second)
	b, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"B"}})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	wait(t, cl, b.Session, api.StateSucceeded)
	took := time.Since(begun)
	left := 0
	for _, id := range sessions {
		r, err := cl.SessionInfo(t.Context(), api.SessionInfoRequest{Session: id})
		if err != nil {
			t.Fatal(err)
		}
		if !r.State.Final() {
			left++
		}
	}
	if left == 0 {
		t.Errorf("the other stream had to wait for all of them, %s", took)
	}
	for _, id := range sessions {
		wait(t, cl, id, api.StateSucceeded)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.most["A"] != 1 || h.most["B"] != 1 {
		t.Errorf("at once: %v", h.most)
	}
}

// perStream counts the tasks that run at once of each stream.
type perStream counting

func (h *perStream) Run(ctx context.Context, t session.Task, _ worker.Run) (session.Result, error) {
	c := (*counting)(h)
	c.add(t.Stream, 1)
	defer c.add(t.Stream, -1)
	select {
	case <-time.After(500 * time.Millisecond):
	case <-ctx.Done():
	}
	return session.Result{}, ctx.Err()
}
