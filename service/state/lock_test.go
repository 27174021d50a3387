package state

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// patient takes a lock, again while a request about it was not answered in time.
func patient(lock func() (context.Context, func(), error)) (context.Context, func(), error) {
	for begun := time.Now(); ; {
		locked, unlock, err := lock()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > testenv.Hang {
			return locked, unlock, err
		}
	}
}

// lockNow takes a lock, however long that lasts.
func lockNow(t *testing.T, s *Store, name string, lease time.Duration) (context.Context, func()) {
	t.Helper()
	locked, unlock, err := patient(func() (context.Context, func(), error) { return s.lock(natstest.Context(t), name, lease) })
	if err != nil {
		t.Fatal(err)
	}
	return locked, unlock
}

func TestALockIsHadByOne(t *testing.T) {
	t.Parallel()
	connect := open(t)
	var mu sync.Mutex
	inside := map[context.Context]bool{}
	entered := 0
	// enter returns how many are inside with a lock, which one of them may have lost.
	enter := func(locked context.Context) (n int) {
		mu.Lock()
		defer mu.Unlock()
		entered++
		inside[locked] = true
		for other := range inside {
			if other.Err() == nil {
				n++
			}
		}
		return n
	}
	leave := func(locked context.Context) {
		mu.Lock()
		defer mu.Unlock()
		delete(inside, locked)
	}
	var wg sync.WaitGroup
	for range 6 {
		s := connect()
		wg.Go(func() {
			for range 5 {
				locked, unlock, err := patient(func() (context.Context, func(), error) { return s.Lock(natstest.Context(t), "log") })
				if err != nil {
					t.Error(err)
					return
				}
				if n := enter(locked); n > 1 {
					t.Errorf("%d are inside", n)
				}
				time.Sleep(time.Millisecond) // in which others come, if they can
				leave(locked)
				lost := locked.Err() != nil
				unlock()
				unlock() // again does nothing
				if !lost && !errors.Is(context.Cause(locked), errUnlocked) {
					t.Errorf("after unlock: %v", context.Cause(locked))
				}
			}
		})
	}
	wg.Wait()
	if entered != 30 {
		t.Errorf("%d of 30 had it", entered)
	}
}

func TestLocksOfOtherNamesDoNotWait(t *testing.T) {
	t.Parallel()
	s := open(t)()
	for _, name := range []string{"a", "b", "chains/with spaces >*"} {
		_, unlock := lockNow(t, s, name, DefaultLease)
		defer unlock()
	}
	ctx, cancel := context.WithTimeout(natstest.Context(t), 300*time.Millisecond)
	defer cancel()
	if _, _, err := s.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that is taken: %v", err)
	}
}

// A lock that is held is renewed, for as long as it takes. On a machine that is too slow
// for that it is lost, and tried again.
func TestALockOutlastsItsLease(t *testing.T) {
	t.Parallel()
	connect := open(t)
	const lease = 3 * time.Second
	holder, other := connect(), connect()
	testenv.Until(t, "a lock that lasts", func() error {
		locked, unlock := lockNow(t, holder, "log", lease)
		defer unlock()
		ctx, cancel := context.WithTimeout(natstest.Context(t), 2*lease+lease/2)
		defer cancel()
		_, free, err := other.lock(ctx, "log", lease)
		lost := locked.Err()
		if err == nil {
			free()
			if lost == nil {
				t.Fatal("another has it, too")
			}
		}
		if lost == nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("who waits is told: %v", err)
		}
		return context.Cause(locked)
	})
}

// Who is cut off loses the lock before another has it.
func TestALockOfOneWhoIsCutOff(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	store := func() (*Store, *nats.Conn) {
		nc := server.Connect()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(natstest.Context(t), js, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s, nc
	}
	const lease = 6 * time.Second
	first, nc := store()
	locked, unlock := lockNow(t, first, "log", lease)
	defer unlock()
	nc.Close()
	second, _ := store()
	_, again := lockNow(t, second, "log", lease)
	defer again()
	if !errors.Is(context.Cause(locked), ErrLockLost) {
		t.Errorf("two have it, or it was lost for %v", context.Cause(locked))
	}
}

// Who comes back under the same name has the lock at once; everybody else waits.
func TestLockIsTakenOverByItsOwner(t *testing.T) {
	t.Parallel()
	connect := open(t)
	dead := connect()
	_, _, err := patient(func() (context.Context, func(), error) { return dead.LockAs(natstest.Context(t), "stream", "task 1") }) // and dies
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(natstest.Context(t), 500*time.Millisecond)
	defer cancel()
	if _, _, err := connect().LockAs(ctx, "stream", "task 2"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another one: %v", err)
	}
	// To anybody else it is not silent: it is renewed.
	for _, owner := range []string{"task 1", "task 2"} {
		s := connect()
		_, unlock, err := patient(func() (context.Context, func(), error) { return s.LockAs(natstest.Context(t), "stream", owner) })
		if err != nil {
			t.Fatal(err)
		}
		unlock()
	}
}

// A holder that died is found out by those who wait again and again, each time for
// less than a lease, or only look.
func TestLockOfTheDeadIsTakenInSmallSteps(t *testing.T) {
	t.Parallel()
	connect := open(t)
	// Who waits has a part of the lease for it, who only looks needs no such end.
	for wait, limit := range map[bool]time.Duration{true: 300 * time.Millisecond, false: testenv.Hang} {
		const lease = 2 * time.Second
		dead := connect()
		l := &lock{kv: dead.kv, key: keyOf("stream"), lease: lease, owner: "task 1"} // never renewed
		testenv.Until(t, "the lock", func() error {
			_, err := l.acquire(natstest.Context(t), observation{}, wait)
			return err
		})
		s := connect()
		begun := time.Now()
		tries := 0
		testenv.Until(t, "the lock of the dead", func() error {
			tries++
			ctx, cancel := context.WithTimeout(natstest.Context(t), limit)
			_, unlock, err := s.lockAs(ctx, "stream", "task 2", lease, wait)
			cancel()
			if err == nil {
				unlock()
				return nil
			}
			if !wait && !errors.Is(err, ErrLocked) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who only looks is told: %v", err)
			}
			return err
		})
		if tries < 2 || time.Since(begun) < lease {
			t.Errorf("it was taken after %d tries, %s", tries, time.Since(begun))
		}
		if len(s.observed.all) != 0 {
			t.Errorf("it is remembered: %v", s.observed.all)
		}
	}
}
