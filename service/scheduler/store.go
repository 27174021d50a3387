package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
)

// Keys of the bucket.
const (
	specKey  = "spec."
	stateKey = "state."
)

var (
	// ErrNotFound means that there is no schedule of a name.
	ErrNotFound = errors.New("there is no schedule of that name")
	// ErrConflict means that a state changed since it was read.
	ErrConflict = errors.New("the schedule's state changed meanwhile")
)

// A Store keeps schedules in the bucket JETKEEP_SCHEDULES: what somebody put
// there, and apart from that what became of it.
type Store struct {
	kv     jetstream.KeyValue
	stream jetstream.Stream // the one behind the bucket
}

// Open binds the bucket and makes it if it is not there, with so many replicas
// and bytes, 0 for what is possible.
func Open(ctx context.Context, js jetstream.JetStream, replicas int, maxBytes int64) (*Store, error) {
	kv, err := natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: api.BucketSchedules, Description: "jetkeep: schedules, and how they go",
		History: 1, Storage: jetstream.FileStorage, Replicas: replicas, MaxBytes: maxBytes,
	})
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, "KV_"+api.BucketSchedules)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", api.BucketSchedules, err)
	}
	return &Store{kv: kv, stream: stream}, nil
}

// Now returns the server's time.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the server's time: %w", err)
	}
	if info.TimeStamp.IsZero() {
		return time.Now(), nil // an old server does not say
	}
	return info.TimeStamp, nil
}

// notAhead returns the server's time if the given one is later: slots between
// the two are still to come, and an instance whose clock is ahead must not take
// them for settled.
func (s *Store) notAhead(ctx context.Context, now time.Time) time.Time {
	if server, err := s.Now(ctx); err == nil && server.Before(now) {
		return server
	}
	return now
}

// Spec reads a schedule.
func (s *Store) Spec(ctx context.Context, name string) (*api.Schedule, error) {
	v := new(api.Schedule)
	_, err := s.get(ctx, specKey+name, v)
	return v, err
}

// State reads what is remembered of a schedule and the revision of that, 0 if
// there is nothing.
func (s *Store) State(ctx context.Context, name string) (State, uint64, error) {
	var v State
	rev, err := s.get(ctx, stateKey+name, &v)
	if errors.Is(err, ErrNotFound) {
		return State{}, 0, nil
	}
	return v, rev, err
}

func (s *Store) get(ctx context.Context, key string, v any) (uint64, error) {
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrKeyDeleted) || errors.Is(err, jetstream.ErrInvalidKey) {
		return 0, ErrNotFound
	}
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", key, err)
	}
	if err := json.Unmarshal(e.Value(), v); err != nil {
		return 0, fmt.Errorf("decode %s: %w", key, err)
	}
	return e.Revision(), nil
}

// Put writes a schedule whole, in the place of whatever there is.
func (s *Store) Put(ctx context.Context, v *api.Schedule, now time.Time) (created bool, err error) {
	c, err := s.Change(ctx, v.Name, nil, now, func(*api.Schedule) (*api.Schedule, error) { return v, nil })
	if err != nil {
		return false, err
	}
	return c.Old == nil, nil
}

// Pause makes a schedule paused, or no longer so. Nothing else about it changes,
// whatever others put meanwhile.
func (s *Store) Pause(ctx context.Context, name string, paused bool, now time.Time) (*Changed, error) {
	return s.Change(ctx, name, nil, now, func(old *api.Schedule) (*api.Schedule, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		v := *old
		v.Paused = paused
		return &v, nil
	})
}

// Changed is what a change did.
type Changed struct {
	Old      *api.Schedule // nil: there was none
	New      *api.Schedule
	Revision uint64
}

// Change writes what change makes of a schedule, which is nil if there is none. It
// is called again if somebody else writes meanwhile, so that nobody's change is
// lost. With a revision anything else than that one is an *RevisionError, 0 being
// that there is none.
//
// If the schedule is due at other times than before, or is no longer paused, only
// slots after now are due, or after the server's time, if that is earlier. Where it
// only starts or ends at another moment, slots that passed and were due before are
// due still.
func (s *Store) Change(ctx context.Context, name string, revision *uint64, now time.Time, change func(old *api.Schedule) (*api.Schedule, error)) (*Changed, error) {
	for try := 1; ; try++ {
		old, at, err := s.Look(ctx, name)
		if err != nil {
			return nil, err
		}
		switch {
		case revision == nil || at == *revision:
		case at < *revision && try <= lagTries: // a replica that lags behind, maybe
			if err := aMoment(ctx); err != nil {
				return nil, err
			}
			continue
		default:
			return nil, &RevisionError{Name: name, Is: at, Want: *revision}
		}
		v, err := change(old)
		if err != nil {
			return nil, err
		}
		var written uint64
		err = s.put(ctx, v, old, now, func(ctx context.Context, key string, value []byte) (_ uint64, err error) {
			if old == nil {
				written, err = s.kv.Create(ctx, key, value)
			} else {
				written, err = s.kv.Update(ctx, key, value, at)
			}
			return written, err
		})
		if !conflicts(err) {
			return &Changed{Old: old, New: v, Revision: written}, err
		}
		// Of those who write at once one succeeds each time; at different moments
		// all do soon.
		if err := pause(ctx, aFew(try)); err != nil {
			return nil, fmt.Errorf("schedule %s: %w: %w", name, ErrConflict, err)
		}
	}
}

// lagTries is how often a replica is asked that may lag behind.
const lagTries = 32

// aFew returns some milliseconds, at random and more from try to try.
func aFew(try int) time.Duration {
	return time.Duration(1+rand.IntN(10*min(try, 20))) * time.Millisecond //nolint:gosec // nobody guesses it
}

// Look reads a schedule and its revision, nil and 0 if there is none.
func (s *Store) Look(ctx context.Context, name string) (*api.Schedule, uint64, error) {
	v := new(api.Schedule)
	revision, err := s.get(ctx, specKey+name, v)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return v, revision, err
}

// A RevisionError says that a schedule is not as the one who changes it has seen
// it.
type RevisionError struct {
	Name     string
	Is, Want uint64 // 0: there is none
}

func (e *RevisionError) Error() string {
	switch {
	case e.Is == 0:
		return fmt.Sprintf("there is no schedule %s any more", e.Name)
	case e.Want == 0:
		return fmt.Sprintf("schedule %s is there, at revision %d", e.Name, e.Is)
	}
	return fmt.Sprintf("schedule %s is at revision %d, not at %d", e.Name, e.Is, e.Want)
}

// conflicts says whether somebody else wrote a key.
func conflicts(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

// aMoment is what the replica that answers reads may need.
func aMoment(ctx context.Context) error {
	select {
	case <-time.After(10 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// put settles what must not be due, and then writes v in the place of old, which
// is nil if there is none.
func (s *Store) put(ctx context.Context, v, old *api.Schedule, now time.Time, write func(ctx context.Context, key string, value []byte) (uint64, error)) (err error) {
	// First: who sees the schedule before this would run slots of the past.
	switch now = s.notAhead(ctx, now).UTC(); {
	case old == nil || old.Cron != v.Cron || old.Zone != v.Zone || old.Paused:
		err = s.settle(ctx, v.Name, func(time.Time) time.Time { return now })
	case !sameMoment(old.Start, v.Start) || !sameMoment(old.End, v.End):
		was, parseErr := Parse(*old)
		if parseErr != nil {
			break // it did not run
		}
		err = s.settle(ctx, v.Name, func(settled time.Time) time.Time {
			if slot, ok := was.Timetable.Next(settled); ok && slot.Before(now) {
				return slot.Add(-1)
			}
			return now
		})
	}
	if err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode schedule %s: %w", v.Name, err)
	}
	if _, err = write(ctx, specKey+v.Name, b); err != nil {
		return fmt.Errorf("put schedule %s: %w", v.Name, err)
	}
	return nil
}

func sameMoment(a, b *time.Time) bool { return a == b || a != nil && b != nil && a.Equal(*b) }

// settle takes for settled what is not later than the moment that is found from
// what is settled now.
func (s *Store) settle(ctx context.Context, name string, until func(settled time.Time) time.Time) error {
	return s.update(ctx, name, func(st *State) error {
		if t := until(st.Settled); st.Settled.Before(t) {
			st.Settled = t
		}
		return nil
	})
}

// begin makes the state of a schedule that has none: somebody deleted the schedule
// while another one put it. Without one it would never run.
func (s *Store) begin(ctx context.Context, name string, now time.Time) error {
	if _, err := s.Spec(ctx, name); err != nil {
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	return s.settle(ctx, name, func(time.Time) time.Time { return now.UTC() })
}

// update changes a state by compare-and-set.
func (s *Store) update(ctx context.Context, name string, change func(*State) error) error {
	for try := 1; try <= 32; try++ {
		st, rev, err := s.State(ctx, name)
		if err != nil {
			return err
		}
		if err := change(&st); err != nil {
			return err
		}
		if _, err = s.Write(ctx, name, st, rev); !errors.Is(err, ErrConflict) {
			return err
		}
		if err := pause(ctx, aFew(try)); err != nil {
			return err
		}
	}
	return fmt.Errorf("schedule %s: %w", name, ErrConflict)
}

// Write writes a state over the revision that it was read at, 0 for none, and
// returns the new one.
func (s *Store) Write(ctx context.Context, name string, st State, revision uint64) (uint64, error) {
	b, err := json.Marshal(st)
	if err != nil {
		return 0, fmt.Errorf("encode state of schedule %s: %w", name, err)
	}
	var rev uint64
	if revision == 0 {
		rev, err = s.kv.Create(ctx, stateKey+name, b)
	} else {
		rev, err = s.kv.Update(ctx, stateKey+name, b, revision)
	}
	switch {
	case conflicts(err):
		return 0, ErrConflict
	case err != nil:
		return 0, fmt.Errorf("put state of schedule %s: %w", name, err)
	}
	return rev, nil
}

// Delete forgets a schedule. Its sessions stay.
func (s *Store) Delete(ctx context.Context, name string) error {
	if _, err := s.Spec(ctx, name); err != nil {
		return err
	}
	for _, key := range []string{specKey + name, stateKey + name} {
		if err := s.kv.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
	return nil
}

// A change is what a watch told: a schedule or a state that was put, or went.
type change struct {
	name     string
	spec     *api.Schedule // of a schedule that was put
	state    *State        // of a state that was put
	revision uint64
	gone     bool // the schedule was deleted
}

// watch hands on what there is, then ready, and then every change until ctx
// ends.
func (s *Store) watch(ctx context.Context, on func(change), ready func()) error {
	w, err := s.kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch schedules: %w", err)
	}
	defer w.Stop() //nolint:errcheck // it ends with the context, too
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Updates():
			if ctx.Err() != nil {
				return nil // which ends the updates, too
			}
			if !ok {
				return errors.New("watch schedules: it ended")
			}
			if e == nil {
				ready()
				continue
			}
			if c, ok := decode(e); ok {
				on(c)
			}
		}
	}
}

// decode reads an entry. What cannot be read belongs to another version.
func decode(e jetstream.KeyValueEntry) (change, bool) {
	gone := e.Operation() != jetstream.KeyValuePut
	if name, ok := strings.CutPrefix(e.Key(), specKey); ok {
		c := change{name: name, gone: gone, spec: new(api.Schedule), revision: e.Revision()}
		return c, gone || json.Unmarshal(e.Value(), c.spec) == nil
	}
	name, ok := strings.CutPrefix(e.Key(), stateKey)
	c := change{name: name, state: new(State), revision: e.Revision()}
	if gone {
		c.revision = 0
		return c, ok
	}
	return c, ok && json.Unmarshal(e.Value(), c.state) == nil
}

// Listed is a schedule and its state.
type Listed struct {
	Spec     api.Schedule
	Revision uint64 // of what was put
	State    State
}

// List reads all schedules, in order of their names.
func (s *Store) List(ctx context.Context) ([]Listed, error) {
	byName := map[string]*Listed{}
	states := map[string]State{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	complete := false
	err := s.watch(ctx, func(c change) {
		switch {
		case c.spec != nil && !c.gone:
			byName[c.name] = &Listed{Spec: *c.spec, Revision: c.revision}
		case c.state != nil:
			states[c.name] = *c.state
		}
	}, func() {
		complete = true
		cancel()
	})
	if err == nil && !complete {
		err = fmt.Errorf("list schedules: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	out := make([]Listed, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		l := *byName[name]
		l.State = states[name]
		out = append(out, l)
	}
	return out, nil
}
