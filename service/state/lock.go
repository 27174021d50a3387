package state

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	keyLocks = "lock."
	// DefaultLease is how long a lock outlives an instance that died with it.
	DefaultLease = 15 * time.Second
	// lockPoll is how often a lock that is taken is looked at.
	lockPoll = 100 * time.Millisecond
	// lockTimeout bounds one request about a lock.
	lockTimeout = 5 * time.Second
)

var (
	// ErrLockLost means that a lock cannot be proven any more to be held.
	ErrLockLost = errors.New("the lock could not be renewed in time")
	// ErrLocked means that somebody else has a lock.
	ErrLocked   = errors.New("somebody else has the lock")
	errUnlocked = errors.New("the lock was given back")
)

// Lock waits for the lock of a name, which one instance has at a time. The
// returned context ends with ErrLockLost before anybody else can have it, if it
// cannot be renewed; unlock gives it back and ends the context, too.
//
// No two clocks are compared: whoever waits takes over a lock whose value has
// not changed while he looked at it for a whole lease, by compare-and-set, and
// whoever has it gives it up when two thirds of a lease have passed since he
// began the last renewal that succeeded. So clocks may differ as they like, as
// long as they run about as fast as each other.
func (s *Store) Lock(ctx context.Context, name string) (locked context.Context, unlock func(), err error) {
	return s.lock(ctx, name, DefaultLease)
}

// TryLockAs is LockAs that does not wait: it fails with ErrLocked if somebody else
// has the lock.
func (s *Store) TryLockAs(ctx context.Context, name, owner string) (locked context.Context, unlock func(), err error) {
	return s.lockAs(ctx, name, owner, DefaultLease, false)
}

// LockAs is Lock for an owner of that name, who takes the lock over at once if it
// is his already: somebody who went on elsewhere, after he himself has seen to it
// that nobody else acts in his name.
func (s *Store) LockAs(ctx context.Context, name, owner string) (locked context.Context, unlock func(), err error) {
	return s.lockAs(ctx, name, owner, DefaultLease, true)
}

func (s *Store) lock(ctx context.Context, name string, lease time.Duration) (context.Context, func(), error) {
	return s.lockAs(ctx, name, rand.Text(), lease, true)
}

// keyOf returns the key of a lock, whatever its name consists of.
func keyOf(name string) string {
	h := sha256.Sum256([]byte(name))
	return keyLocks + hex.EncodeToString(h[:16])
}

func (s *Store) lockAs(ctx context.Context, name, owner string, lease time.Duration, wait bool) (context.Context, func(), error) {
	l := &lock{kv: s.kv, key: keyOf(name), lease: lease, owner: owner}
	o, err := l.acquire(ctx, s.observed.get(l.key), wait)
	s.observed.put(l.key, o)
	if err != nil {
		return nil, nil, fmt.Errorf("lock %s: %w", name, err)
	}
	locked, lose := context.WithCancelCause(ctx)
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.keep(renewing, lose)
	}()
	var once sync.Once
	return locked, func() {
		once.Do(func() {
			stop()
			<-done
			lose(errUnlocked)
			l.release(context.WithoutCancel(ctx))
		})
	}, nil
}

// markersKept is how long the mark of a deleted key stays.
const markersKept = 24 * time.Hour

// Tidy removes what is left of keys that were deleted long ago, such as locks.
func (s *Store) Tidy(ctx context.Context) error {
	if err := s.kv.PurgeDeletes(ctx, jetstream.DeleteMarkersOlderThan(markersKept)); err != nil {
		return fmt.Errorf("tidy state: %w", err)
	}
	return nil
}

// A lock is one that is wanted or held.
type lock struct {
	kv       jetstream.KeyValue
	key      string
	owner    string
	lease    time.Duration
	revision uint64
	renewed  time.Time // when the last write that succeeded began
	writes   int
}

// value differs from write to write.
func (l *lock) value() []byte {
	l.writes++
	return fmt.Appendf(nil, `{"owner":%q,"writes":%d}`, l.owner, l.writes)
}

// owns tells whether a value is one of the same owner.
func (l *lock) owns(value []byte) bool {
	var v struct {
		Owner string `json:"owner"`
	}
	return json.Unmarshal(value, &v) == nil && v.Owner == l.owner
}

// An observation is since when a lock has not changed.
type observation struct {
	revision uint64
	since    time.Time
}

// observations are those of locks that were waited for in vain, by their keys: who
// waits several times, each for less than a lease, finds out all the same that
// the holder is silent.
type observations struct {
	mu  sync.Mutex
	all map[string]observation
}

func (o *observations) get(key string) observation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[key]
}

func (o *observations) put(key string, v observation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case v.revision == 0 || v.since.IsZero():
		delete(o.all, key)
	case o.all == nil:
		o.all = map[string]observation{key: v}
	default:
		o.all[key] = v
	}
}

// acquire waits, if that is wanted, until the lock is free or its holder is silent
// for a lease, and returns what was seen of it if that did not come to be.
func (l *lock) acquire(ctx context.Context, o observation, wait bool) (observation, error) {
	for {
		took, err := l.take(ctx, o.revision, o.since)
		if took {
			return observation{}, nil
		}
		if err != nil {
			return o, err
		}
		e, err := l.kv.Get(ctx, l.key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted):
			o = observation{}
			continue
		case err != nil:
			return o, err
		case l.owns(e.Value()):
			o = observation{e.Revision(), time.Time{}}
			continue
		case e.Revision() != o.revision:
			o = observation{e.Revision(), time.Now()}
		}
		if !wait {
			return o, ErrLocked
		}
		t := time.NewTimer(lockPoll)
		select {
		case <-ctx.Done():
			t.Stop()
			return o, ctx.Err()
		case <-t.C:
		}
	}
}

// take tries to get the lock, which was seen unchanged at a revision for some
// time.
func (l *lock) take(ctx context.Context, seen uint64, since time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	begun := time.Now()
	var revision uint64
	var err error
	switch {
	case seen == 0:
		revision, err = l.kv.Create(ctx, l.key, l.value())
	case time.Since(since) > l.lease:
		revision, err = l.kv.Update(ctx, l.key, l.value(), seen)
	default:
		return false, nil
	}
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	l.revision, l.renewed = revision, begun
	return true, nil
}

// keep renews the lock until ctx ends, or until it is lost. A timer of its own
// ends the lock even while a renewal hangs.
func (l *lock) keep(ctx context.Context, lose context.CancelCauseFunc) {
	expire := func() time.Duration { return time.Until(l.renewed.Add(l.lease * 2 / 3)) }
	expired := time.AfterFunc(expire(), func() { lose(ErrLockLost) })
	defer expired.Stop()
	tick := time.NewTicker(l.lease / 5)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rctx, cancel := context.WithTimeout(ctx, min(lockTimeout, l.lease/3))
		begun := time.Now()
		revision, err := l.kv.Update(rctx, l.key, l.value(), l.revision)
		cancel()
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			// Another has it, or a renewal succeeded whose answer was lost: not
			// to be told apart in time.
			lose(ErrLockLost)
			return
		}
		if err != nil {
			continue // until it expires
		}
		l.revision, l.renewed = revision, begun
		if !expired.Reset(expire()) {
			return // it has been lost already
		}
	}
}

// release gives the lock back. If it cannot, it ends with its lease.
func (l *lock) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	_ = l.kv.Delete(ctx, l.key, jetstream.LastRevision(l.revision)) // else it ends with the lease
}
