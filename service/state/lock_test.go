package state

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/natstest"
)

func TestALockIsHadByOne(t *testing.T) {
	connect := open(t)
	var inside, entered atomic.Int64
	var wg sync.WaitGroup
	for range 6 {
		s := connect()
		wg.Go(func() {
			for range 5 {
				locked, unlock, err := s.Lock(t.Context(), "log")
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 || locked.Err() != nil {
					t.Error("two are inside, or one without the lock")
				}
				entered.Add(1)
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				unlock()
				unlock() // again does nothing
				if !errors.Is(context.Cause(locked), errUnlocked) {
					t.Errorf("after unlock: %v", context.Cause(locked))
				}
			}
		})
	}
	wg.Wait()
	if entered.Load() != 30 {
		t.Errorf("%d of 30 had it", entered.Load())
	}
}

func TestLocksOfOtherNamesDoNotWait(t *testing.T) {
	s := open(t)()
	for _, name := range []string{"a", "b", "chains/with spaces >*"} {
		_, unlock, err := s.Lock(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := s.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that is taken: %v", err)
	}
}

// A lock that is held is renewed, for as long as it takes.
func TestALockOutlastsItsLease(t *testing.T) {
	connect := open(t)
	t.Parallel()
	const lease = 5 * time.Second
	locked, unlock, err := connect().lock(t.Context(), "log", lease)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 2*lease+lease/2)
	defer cancel()
	if _, _, err := connect().lock(ctx, "log", lease); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another had it: %v", err)
	}
	if locked.Err() != nil {
		t.Errorf("it was lost: %v", context.Cause(locked))
	}
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
		s, err := Open(t.Context(), js, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s, nc
	}
	const lease = 6 * time.Second
	first, nc := store()
	locked, unlock, err := first.lock(t.Context(), "log", lease)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	lost := make(chan time.Time, 1)
	context.AfterFunc(locked, func() { lost <- time.Now() })
	nc.Close()
	second, _ := store()
	_, again, err := second.lock(t.Context(), "log", lease)
	if err != nil {
		t.Fatal(err)
	}
	had := time.Now()
	defer again()
	select {
	case at := <-lost:
		if !at.Before(had) || !errors.Is(context.Cause(locked), ErrLockLost) {
			t.Errorf("lost %s after another had it: %v", at.Sub(had), context.Cause(locked))
		}
	default:
		t.Error("two have it")
	}
}

// Who comes back under the same name has the lock at once; everybody else waits.
func TestLockIsTakenOverByItsOwner(t *testing.T) {
	connect := open(t)
	_, _, err := connect().LockAs(t.Context(), "stream", "task 1") // and dies
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, _, err := connect().LockAs(ctx, "stream", "task 2"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another one: %v", err)
	}
	begun := time.Now()
	_, unlock, err := connect().LockAs(t.Context(), "stream", "task 1")
	if err != nil || time.Since(begun) >= DefaultLease {
		t.Fatalf("the same one after %s: %v", time.Since(begun), err)
	}
	unlock()
	if _, unlock, err = connect().LockAs(t.Context(), "stream", "task 2"); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// A holder that died is found out by those who wait again and again, each time for
// less than a lease, or only look.
func TestLockOfTheDeadIsTakenInSmallSteps(t *testing.T) {
	connect := open(t)
	// Who waits has a part of the lease for it, who only looks needs no such end.
	for wait, limit := range map[bool]time.Duration{true: 300 * time.Millisecond, false: time.Minute} {
		const lease = 2 * time.Second
		dead := connect()
		l := &lock{kv: dead.kv, key: keyOf("stream"), lease: lease, owner: "task 1"} // never renewed
		if _, err := l.acquire(t.Context(), observation{}, wait); err != nil {
			t.Fatal(err)
		}
		s := connect()
		begun := time.Now()
		for tries := 1; ; tries++ {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			_, unlock, err := s.lockAs(ctx, "stream", "task 2", lease, wait)
			cancel()
			if err == nil {
				unlock()
				if tries < 2 || time.Since(begun) < lease {
					t.Errorf("it was taken after %d tries, %s", tries, time.Since(begun))
				}
				break
			}
			if !wait && !errors.Is(err, ErrLocked) {
				t.Errorf("who only looks is told: %v", err)
			}
			if time.Since(begun) > 5*time.Minute {
				t.Fatalf("it is not to be had after %d tries: %v", tries, err)
			}
			if !wait {
				time.Sleep(100 * time.Millisecond)
			}
		}
		if len(s.observed.all) != 0 {
			t.Errorf("it is remembered: %v", s.observed.all)
		}
	}
}
