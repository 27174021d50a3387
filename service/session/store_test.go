package session

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) {
	if !testenv.Campaign() { // which draws others each time
		if err := flag.Set("rapid.seed", "1"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m, natstest.LibraryLeaks()...)
}

func openStore(t *testing.T, nc *nats.Conn, o Options) *Store {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var s *Store
	// A cluster that just started may not place a stream at once.
	testenv.Until(t, "the store", func() (err error) {
		s, err = Open(natstest.Context(t), js, o)
		return err
	})
	return s
}

func newSession(n int) (*Session, []*Task) {
	s := &Session{ID: NewID(time.Now()), Kind: api.KindBackup, State: api.StatePending, Tasks: n, Created: noon}
	var tasks []*Task
	for i := range n {
		tasks = append(tasks, &Task{ID: TaskID(s.ID, i+1), Session: s.ID, State: api.StatePending, Stream: fmt.Sprint("S", i)})
	}
	return s, tasks
}

func TestStore(t *testing.T) {
	t.Parallel()
	testStore(t, openStore(t, natstest.Start(t).Connect(), Options{}))
}

// TestStoreReplicated does the same on three replicas, where the server has
// another code for a conflict.
func TestStoreReplicated(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, natstest.Latest)
	testStore(t, openStore(t, c.Connect(), Options{Replicas: 3}))
}

func testStore(t *testing.T, store *Store) {
	ctx := natstest.Context(t)
	s, tasks := newSession(150)
	if err := store.Create(ctx, s, tasks); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(ctx, &Session{ID: s.ID, Tasks: 1}, tasks[:1]); !errors.Is(err, ErrExists) {
		t.Errorf("create it again: %v", err)
	}
	// A replica that answers may lag behind for a moment.
	testenv.Until(t, "what the leader knows already", func() error {
		all, err := store.Tasks(ctx, s.ID)
		if err == nil && (len(all) != 150 || all[149].Stream != "S149" || all[0].Revision == 0) {
			err = fmt.Errorf("%d tasks", len(all))
		}
		return err
	})
	stale := *tasks[0]
	if err := tasks[0].Claim("a", 3, noon); err != nil {
		t.Fatal(err)
	}
	if err := store.PutTask(ctx, tasks[0]); err != nil {
		t.Fatal(err)
	}
	if err := stale.Claim("b", 3, noon); err != nil {
		t.Fatal(err)
	}
	if err := store.PutTask(ctx, &stale); !errors.Is(err, ErrConflict) {
		t.Errorf("two owners: %v", err)
	}
	if err := store.PutTask(ctx, &Task{ID: tasks[1].ID}); err == nil {
		t.Error("a task that was never read was written")
	}
	testUpdate(t, store, s.ID)
	if _, err := store.Session(ctx, NewID(noon)); !errors.Is(err, ErrNotFound) {
		t.Errorf("session that is not there: %v", err)
	}
	if _, err := store.Task(ctx, s.ID+".9999"); !errors.Is(err, ErrNotFound) {
		t.Errorf("task that is not there: %v", err)
	}
	testList(t, store, s)
}

// testUpdate has many writers of one session, none of whose changes is lost.
func testUpdate(t *testing.T, store *Store, id string) {
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			_, err := store.UpdateSession(natstest.Context(t), id, func(x *Session) error {
				if x.Tags == nil {
					x.Tags = map[string]string{}
				}
				x.Tags[fmt.Sprint(i)] = "x"
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	testenv.Until(t, "what the leader knows already", func() error {
		x, err := store.Session(natstest.Context(t), id)
		if err == nil && len(x.Tags) != 10 {
			err = fmt.Errorf("tags: %v", x.Tags)
		}
		return err
	})
}

func testList(t *testing.T, store *Store, s *Session) {
	other, tasks := newSession(1)
	other.ID = NewID(time.Now().Add(-time.Hour))
	tasks[0].ID = TaskID(other.ID, 1)
	if err := store.Create(natstest.Context(t), other, tasks); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "what the leader knows already", func() error {
		all, err := store.Sessions(natstest.Context(t))
		if err == nil && (len(all) != 2 || all[0].ID != s.ID || all[1].ID != other.ID) {
			err = fmt.Errorf("sessions: %+v", all)
		}
		return err
	})
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	store := openStore(t, natstest.Start(t).Connect(), Options{})
	for name, spoil := range map[string]func(*Session, []*Task){
		"wrong count":     func(s *Session, _ []*Task) { s.Tasks++ },
		"wrong id":        func(s *Session, _ []*Task) { s.ID = "x" },
		"wrong task id":   func(_ *Session, tasks []*Task) { tasks[1].ID = "x.0002" },
		"waits for later": func(_ *Session, tasks []*Task) { tasks[0].After = []string{tasks[1].ID} },
		"waits for other": func(_ *Session, tasks []*Task) { tasks[1].After = []string{"x.0001"} },
	} {
		s, tasks := newSession(2)
		spoil(s, tasks)
		if err := store.Create(natstest.Context(t), s, tasks); err == nil {
			t.Errorf("%s: was created", name)
		}
	}
	if all, err := store.Sessions(natstest.Context(t)); err != nil || len(all) != 0 {
		t.Errorf("sessions: %v %v", all, err)
	}
}

// TestOpenTakesWhatIsThere has an operator who made the bucket with settings of
// his own.
func TestOpenTakesWhatIsThere(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateKeyValue(natstest.Context(t), jetstream.KeyValueConfig{Bucket: api.BucketSessions, Storage: jetstream.MemoryStorage, History: 5})
	if err != nil {
		t.Fatal(err)
	}
	store := openStore(t, nc, Options{Replicas: 1})
	s, tasks := newSession(1)
	if err := store.Create(natstest.Context(t), s, tasks); err != nil {
		t.Fatal(err)
	}
	if err := store.PutSession(natstest.Context(t), s); err != nil {
		t.Fatal(err)
	}
	if all, err := store.Sessions(natstest.Context(t)); err != nil || len(all) != 1 {
		t.Errorf("sessions: %v %v", all, err)
	}
}

func TestWatchSeesChanges(t *testing.T) {
	t.Parallel()
	store := openStore(t, natstest.Start(t).Connect(), Options{})
	s, tasks := newSession(1)
	if err := store.Create(natstest.Context(t), s, tasks); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(natstest.Context(t), testenv.Hang)
	defer cancel()
	first, updated := true, make(chan error, 1)
	err := store.WatchSession(ctx, s.ID, func(x *Session) bool {
		if first {
			first = false
			go func() {
				_, err := store.UpdateSession(ctx, s.ID, func(y *Session) error { return y.RequestCancel("") })
				updated <- err
			}()
		}
		return !x.Cancel
	})
	if err := errors.Join(err, testenv.Receive(t, "the update to end", updated)); err != nil {
		t.Error(err)
	}
	cancel()
	if err := store.WatchSession(ctx, s.ID, func(*Session) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("a watch that was cancelled: %v", err)
	}
}

// TestListIsCompleteWhileKeysChange lists tasks and sessions that others write
// all the time: a key whose value is replaced at that moment must not be
// missing.
func TestListIsCompleteWhileKeysChange(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect()
	store := openStore(t, nc, Options{})
	const n = 40
	s, tasks := newSession(n)
	if err := store.Create(natstest.Context(t), s, tasks); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(natstest.Context(t))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := i; ctx.Err() == nil; k = (k + 4) % n {
				_, err := store.UpdateTask(ctx, tasks[k].ID, func(x *Task) error {
					x.Progress.Messages++
					return nil
				})
				if err == nil && k == i {
					_, err = store.UpdateSession(ctx, s.ID, func(x *Session) error {
						x.Reason = fmt.Sprint(k)
						return nil
					})
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	for range 300 {
		got, err := store.Tasks(ctx, s.ID)
		if err != nil || len(got) != n {
			t.Errorf("%d tasks: %v", len(got), err)
			break
		}
		all, err := store.Sessions(ctx)
		if err != nil || len(all) != 1 {
			t.Errorf("%d sessions: %v", len(all), err)
			break
		}
	}
	cancel()
	wg.Wait()
}

// Sessions that ended long ago go with their tasks, and no others.
func TestExpire(t *testing.T) {
	t.Parallel()
	store := openStore(t, natstest.Start(t).Connect(), Options{})
	made := map[string]string{}
	for name, ended := range map[string]time.Time{"old": noon.Add(-time.Hour), "new": noon.Add(time.Hour), "running": {}} {
		ses, tasks := newSession(3)
		if err := store.Create(natstest.Context(t), ses, tasks); err != nil {
			t.Fatal(err)
		}
		if !ended.IsZero() {
			ses.State, ses.Ended = api.StateSucceeded, ended
			if err := store.PutSession(natstest.Context(t), ses); err != nil {
				t.Fatal(err)
			}
		}
		made[name] = ses.ID
	}
	if n, err := store.Expire(natstest.Context(t), noon); n != 1 || err != nil {
		t.Errorf("%d went, %v", n, err)
	}
	for name, id := range made {
		_, err := store.Session(natstest.Context(t), id)
		tasks, terr := store.Tasks(natstest.Context(t), id)
		if gone := name == "old"; gone != errors.Is(err, ErrNotFound) || terr != nil || gone != (len(tasks) == 0) {
			t.Errorf("%s: %v, %d tasks, %v", name, err, len(tasks), terr)
		}
	}
	if err := store.Delete(natstest.Context(t), made["running"]); !errors.Is(err, ErrTransition) {
		t.Errorf("one that runs: %v", err)
	}
	if n, err := store.Expire(natstest.Context(t), noon); n != 0 || err != nil {
		t.Errorf("then %d went, %v", n, err)
	}
}
