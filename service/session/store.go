package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
)

var (
	// ErrNotFound means that there is no such session or task.
	ErrNotFound = errors.New("not found")
	// ErrExists means that a session of that id exists.
	ErrExists = errors.New("exists")
	// ErrConflict means that somebody else changed the value since it was read.
	ErrConflict = errors.New("changed meanwhile")
)

const (
	// MaxTasks is how many tasks a session can have: their ids sort by number
	// only up to here.
	MaxTasks = 9999
	// createParallel is how many tasks are written at once, so that a large
	// session does not take a round trip for each.
	createParallel = 64
	// maxConflicts bounds how often Update tries again. Writers of one value
	// are few, so that many conflicts in a row are a defect.
	maxConflicts = 64
)

// Options of the bucket, used when it is made.
type Options struct {
	Replicas int
	MaxBytes int64 // 0 for what is possible
}

// deletedKept is how long the mark of a deleted session stays.
const deletedKept = 24 * time.Hour

// A Store keeps sessions and tasks in the bucket JETKEEP_SESSIONS.
type Store struct {
	kv     jetstream.KeyValue
	stream jetstream.Stream // the one behind the bucket
}

// Open binds the bucket and makes it if it is not there.
func Open(ctx context.Context, js jetstream.JetStream, o Options) (*Store, error) {
	kv, err := natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: api.BucketSessions, Description: "jetkeep: sessions and their tasks",
		History: 1, Storage: jetstream.FileStorage, Replicas: o.Replicas, MaxBytes: o.MaxBytes,
	})
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, streamSessions)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", api.BucketSessions, err)
	}
	return &Store{kv: kv, stream: stream}, nil
}

// The stream of the bucket and its subjects, as ADR-8 has them.
const (
	streamSessions = "KV_" + api.BucketSessions
	subjectPrefix  = "$KV." + api.BucketSessions + "."
)

// Create writes a session and its tasks, those of hooks last, and makes it ready. With ErrExists
// nothing was written. After another error the session may be there without
// being ready; AbortUnready ends it.
func (s *Store) Create(ctx context.Context, ses *Session, tasks []*Task) error {
	if err := checkNew(ses, tasks); err != nil {
		return fmt.Errorf("create session %s: %w", ses.ID, err)
	}
	ses.Ready = false
	if err := s.create(ctx, ses.ID, ses, &ses.Revision); err != nil {
		return fmt.Errorf("create session %s: %w", ses.ID, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(createParallel)
	for _, t := range tasks {
		g.Go(func() error {
			if err := s.create(gctx, t.ID, t, &t.Revision); err != nil {
				return fmt.Errorf("create task %s: %w", t.ID, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	ses.Ready = true
	if err := s.PutSession(ctx, ses); err != nil {
		return fmt.Errorf("make session %s ready: %w", ses.ID, err)
	}
	return nil
}

// CreateFailed writes a session that could not be started: it has no tasks, and has
// failed with the error. It is ErrExists if there is one of its id.
func (s *Store) CreateFailed(ctx context.Context, ses *Session, e *api.Error, now time.Time) error {
	if !ValidID(ses.ID) {
		return fmt.Errorf("create session: %q is no id", ses.ID)
	}
	ses.State, ses.Created, ses.Ready, ses.Tasks, ses.Counts = api.StatePending, now, true, 0, new(api.TaskCounts)
	if err := ses.Abort(e, now); err != nil {
		return err
	}
	if err := s.create(ctx, ses.ID, ses, &ses.Revision); err != nil {
		return fmt.Errorf("create session %s: %w", ses.ID, err)
	}
	return nil
}

func checkNew(ses *Session, tasks []*Task) error {
	if !ValidID(ses.ID) {
		return fmt.Errorf("%q is no id", ses.ID)
	}
	n := len(tasks) - len(ses.Hooks)
	if n <= 0 || n > MaxTasks || ses.Tasks != n {
		return fmt.Errorf("it has %d tasks and says %d, 1 to %d are possible", n, ses.Tasks, MaxTasks)
	}
	for i, t := range tasks {
		if i >= n {
			if t.Hook != ses.Hooks[i-n] || t.ID != HookID(ses.ID, t.Hook) {
				return fmt.Errorf("its task of the hooks %s has the id %s", ses.Hooks[i-n], t.ID)
			}
			continue
		}
		if t.ID != TaskID(ses.ID, i+1) {
			return fmt.Errorf("its task number %d has the id %s", i+1, t.ID)
		}
		for _, a := range t.After {
			// Earlier ones only: so no tasks can wait for each other.
			if a >= t.ID || !strings.HasPrefix(a, ses.ID+".") {
				return fmt.Errorf("its task %s cannot wait for %s", t.ID, a)
			}
		}
	}
	return nil
}

func (s *Store) create(ctx context.Context, key string, v any, revision *uint64) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	rev, err := s.kv.Create(ctx, key, b)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return ErrExists
	}
	if err != nil {
		return err
	}
	*revision = rev
	return nil
}

// PutSession writes a session over the revision that it was read at, and sets
// its new revision.
func (s *Store) PutSession(ctx context.Context, ses *Session) error {
	return s.put(ctx, ses.ID, ses, &ses.Revision)
}

// PutTask writes a task over the revision that it was read at, and sets its
// new revision.
func (s *Store) PutTask(ctx context.Context, t *Task) error {
	return s.put(ctx, t.ID, t, &t.Revision)
}

func (s *Store) put(ctx context.Context, key string, v any, revision *uint64) error {
	if *revision == 0 {
		return fmt.Errorf("put %s: it was never read", key)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	rev, err := s.kv.Update(ctx, key, b, *revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return fmt.Errorf("put %s: %w", key, ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	*revision = rev
	return nil
}

// Session reads a session.
func (s *Store) Session(ctx context.Context, id string) (*Session, error) {
	ses := new(Session)
	if !ValidID(id) {
		return nil, fmt.Errorf("session %q: %w", id, ErrNotFound)
	}
	if err := s.get(ctx, id, ses, &ses.Revision); err != nil {
		return nil, fmt.Errorf("get session %s: %w", id, err)
	}
	return ses, nil
}

// Task reads a task.
func (s *Store) Task(ctx context.Context, id string) (*Task, error) {
	t := new(Task)
	if _, ok := SessionOf(id); !ok {
		return nil, fmt.Errorf("task %q: %w", id, ErrNotFound)
	}
	if err := s.get(ctx, id, t, &t.Revision); err != nil {
		return nil, fmt.Errorf("get task %s: %w", id, err)
	}
	return t, nil
}

func (s *Store) get(ctx context.Context, key string, v any, revision *uint64) error {
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrKeyDeleted) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(e.Value(), v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	*revision = e.Revision()
	return nil
}

// UpdateSession changes a session, reading it again as long as others change
// it at the same time. An error of change ends it and nothing is written.
func (s *Store) UpdateSession(ctx context.Context, id string, change func(*Session) error) (*Session, error) {
	return update(ctx, "session "+id, func() (*Session, error) { return s.Session(ctx, id) }, change,
		func(ses *Session) error { return s.PutSession(ctx, ses) })
}

// UpdateTask changes a task as UpdateSession does a session.
func (s *Store) UpdateTask(ctx context.Context, id string, change func(*Task) error) (*Task, error) {
	return update(ctx, "task "+id, func() (*Task, error) { return s.Task(ctx, id) }, change,
		func(t *Task) error { return s.PutTask(ctx, t) })
}

func update[T any](ctx context.Context, what string, get func() (*T, error), change, put func(*T) error) (*T, error) {
	for try := range maxConflicts {
		if err := pause(ctx, try); err != nil {
			return nil, fmt.Errorf("update %s: %w", what, err)
		}
		v, err := get()
		if err != nil {
			return nil, err
		}
		if err := change(v); err != nil {
			return v, err
		}
		if err = put(v); !errors.Is(err, ErrConflict) {
			return v, err
		}
	}
	return nil, fmt.Errorf("update %s: %w", what, ErrConflict)
}

// pause waits before a try that is not the first one: the replica that answers
// a read may need a moment to catch up with the leader that refused the write.
func pause(ctx context.Context, try int) error {
	if try == 0 {
		return nil
	}
	t := time.NewTimer(min(time.Duration(try)*2*time.Millisecond, 100*time.Millisecond))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Delete removes a session that has ended, and its tasks. One that is not there
// is no error, one that has not ended is ErrTransition.
func (s *Store) Delete(ctx context.Context, id string) error {
	ses, err := s.Session(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !ses.State.Final() {
		return fmt.Errorf("delete session %s, which is %s: %w", id, ses.State, ErrTransition)
	}
	var keys []string
	for n := range ses.Tasks {
		keys = append(keys, TaskID(id, n+1))
	}
	for _, h := range ses.Hooks {
		keys = append(keys, HookID(id, h))
	}
	for _, key := range keys {
		if err := s.remove(ctx, key); err != nil {
			return fmt.Errorf("delete task %s: %w", key, err)
		}
	}
	if err := s.remove(ctx, id, jetstream.LastRevision(ses.Revision)); err != nil {
		return fmt.Errorf("delete session %s: %w", id, err)
	}
	return nil
}

// remove deletes a key. In a bucket that is full, servers of a cluster have no
// room for the mark that says so: there the value is taken out without one.
func (s *Store) remove(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	err := s.kv.Purge(ctx, key, opts...)
	const maximumBytes = 10077
	if full := new(jetstream.APIError); errors.As(err, &full) && full.ErrorCode == maximumBytes {
		return s.stream.Purge(ctx, jetstream.WithPurgeSubject(subjectPrefix+key))
	}
	return err
}

// NearlyFull says whether the bucket has a bound, and has used four fifths of it.
func (s *Store) NearlyFull(ctx context.Context) (bool, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("look at bucket %s: %w", api.BucketSessions, err)
	}
	most := info.Config.MaxBytes
	return most > 0 && info.State.Bytes/4 >= uint64(most)/5, nil
}

// Expire deletes sessions that ended before a moment, and the marks of those
// that were deleted a day before. It returns how many sessions went.
func (s *Store) Expire(ctx context.Context, before time.Time) (int, error) {
	all, err := s.Sessions(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, ses := range all {
		if !ses.State.Final() || !ses.Ended.Before(before) {
			continue
		}
		if err := s.Delete(ctx, ses.ID); err != nil {
			return n, err
		}
		n++
	}
	if err := s.kv.PurgeDeletes(ctx, jetstream.DeleteMarkersOlderThan(deletedKept)); err != nil {
		return n, fmt.Errorf("purge deleted sessions: %w", err)
	}
	return n, nil
}

// Sessions reads all sessions, newest first.
func (s *Store) Sessions(ctx context.Context) ([]*Session, error) {
	var out []*Session
	err := s.each(ctx, "*", func(e jetstream.KeyValueEntry) error {
		ses := new(Session)
		if err := json.Unmarshal(e.Value(), ses); err != nil {
			return err
		}
		ses.Revision = e.Revision()
		out = append(out, ses)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	slices.SortFunc(out, func(a, b *Session) int { return strings.Compare(b.ID, a.ID) })
	return out, nil
}

// Tasks reads all tasks of a session in the order of their numbers.
func (s *Store) Tasks(ctx context.Context, session string) ([]*Task, error) {
	var out []*Task
	err := s.each(ctx, session+".*", func(e jetstream.KeyValueEntry) error {
		t := new(Task)
		if err := json.Unmarshal(e.Value(), t); err != nil {
			return err
		}
		t.Revision = e.Revision()
		out = append(out, t)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tasks of session %s: %w", session, err)
	}
	slices.SortFunc(out, func(a, b *Task) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// each calls fn once for every key that matches. A watch alone is no listing:
// a key that is written while it begins is left out of the values that it
// begins with. So the leader's list of keys says what there is, and what the
// watch left out is read by itself.
func (s *Store) each(ctx context.Context, keys string, fn func(jetstream.KeyValueEntry) error) error {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(subjectPrefix+keys))
	if err != nil {
		return err
	}
	missing := make(map[string]bool, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		missing[strings.TrimPrefix(subject, subjectPrefix)] = true
	}
	if len(missing) == 0 {
		return nil
	}
	seen := make(map[string]bool, len(missing))
	err = s.snapshot(ctx, keys, func(e jetstream.KeyValueEntry) error {
		if seen[e.Key()] {
			return nil
		}
		seen[e.Key()] = true
		delete(missing, e.Key())
		return fn(e)
	})
	if err != nil {
		return err
	}
	for key := range missing {
		e, err := s.kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrKeyDeleted) {
			continue
		}
		if err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return fmt.Errorf("decode %s: %w", key, err)
		}
	}
	return nil
}

// snapshot calls fn for the values that a watch begins with.
func (s *Store) snapshot(ctx context.Context, keys string, fn func(jetstream.KeyValueEntry) error) error {
	w, err := s.kv.Watch(ctx, keys, jetstream.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				// The end of the channel is no end of the values.
				return errors.New("watch ended early")
			}
			if e == nil {
				return nil
			}
			if err := fn(e); err != nil {
				return fmt.Errorf("decode %s: %w", e.Key(), err)
			}
		}
	}
}

// WatchSession calls fn with the session as it is and after every change until
// ctx is done, fn returns false, or the watch breaks.
func (s *Store) WatchSession(ctx context.Context, id string, fn func(*Session) bool) error {
	if err := s.watch(ctx, id, fn); err != nil {
		return fmt.Errorf("watch session %s: %w", id, err)
	}
	return nil
}

// WatchSessions is WatchSession for all sessions.
func (s *Store) WatchSessions(ctx context.Context, fn func(*Session) bool) error {
	if err := s.watch(ctx, "*", fn); err != nil {
		return fmt.Errorf("watch sessions: %w", err)
	}
	return nil
}

func (s *Store) watch(ctx context.Context, keys string, fn func(*Session) bool) error {
	w, err := s.kv.Watch(ctx, keys, jetstream.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return errors.New("it ended")
			}
			if e == nil {
				continue
			}
			ses := new(Session)
			if err := json.Unmarshal(e.Value(), ses); err != nil {
				return fmt.Errorf("decode %s: %w", e.Key(), err)
			}
			ses.Revision = e.Revision()
			if !fn(ses) {
				return nil
			}
		}
	}
}

// AbortUnready ends a session that was never made ready.
func (s *Store) AbortUnready(ctx context.Context, id string, now time.Time) error {
	_, err := s.UpdateSession(ctx, id, func(ses *Session) error {
		if ses.Ready || ses.State.Final() {
			return errNothing
		}
		return ses.Abort(api.Errorf(api.CodeTaskAbandoned, "the instance that made the session died before it was complete"), now)
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

var errNothing = errors.New("nothing to do")
