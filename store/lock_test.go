package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/testenv"
)

// racy is a store as Swift is: it looks whether a name is free, and then
// writes. Of two who come at once both succeed, and the later one's content
// stays.
type racy struct {
	*mem.Driver
	late func(name string) // called before something is written, if set
}

func (d *racy) AtomicCreate(context.Context) (bool, error) { return false, nil }

func (d *racy) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if _, err := d.Stat(ctx, name); err == nil {
		return object.ErrExist
	}
	data := make([]byte, size)
	if _, err := body.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if d.late != nil {
		d.late(name)
	}
	time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
	if err := ctx.Err(); err != nil {
		return err
	}
	for {
		if err := d.Delete(ctx, name); err != nil {
			return err
		}
		if err := d.Driver.Put(ctx, name, bytes.NewReader(data), size); !errors.Is(err, object.ErrExist) {
			return err
		}
	}
}

// locks are those of one process, for tests.
type locks struct {
	mu   sync.Mutex
	held map[string]*sync.Mutex
}

func (l *locks) lock(ctx context.Context, name string) (context.Context, func(), error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*sync.Mutex{}
	}
	m := l.held[name]
	if m == nil {
		m = new(sync.Mutex)
		l.held[name] = m
	}
	l.mu.Unlock()
	m.Lock()
	return ctx, m.Unlock, nil
}

// appendAtOnce has writers commit to one log and returns how many commits were
// said to have succeeded, and how many of those are in the log.
func appendAtOnce(t *testing.T, opt OpenOptions) (said, there int) {
	t.Helper()
	r, d := newRepo(t)
	driver := &racy{Driver: d}
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := map[string]bool{}
	for w := range 8 {
		other := reopen(t, driver, opt)
		wg.Go(func() {
			for i := range 10 {
				task := fmt.Sprintf("b.%02d%02d", w, i)
				l, err := other.newLight(context.Background(), "ORDERS", task)
				if err == nil {
					err = other.Commit(context.Background(), l.point())
				}
				if err == nil {
					mu.Lock()
					done[task] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	chain, err := r.Chain("default", "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.readLog(t.Context(), chain, func(e *entry) error {
		if done[e.task] {
			there++
		}
		return nil
	}); err != nil {
		t.Logf("read log: %v", err)
	}
	return len(done), there
}

func TestALockKeepsEveryEntryOfAStoreThatIsNotAtomic(t *testing.T) {
	t.Parallel()
	l := new(locks)
	if said, there := appendAtOnce(t, OpenOptions{Lock: l.lock}); said != 80 || there != 80 {
		t.Errorf("of 80 commits %d succeeded, %d are there", said, there)
	}
	// That the store of this test is not atomic shows without one.
	testenv.True(t, "a commit that is lost without a lock", func() bool {
		said, there := appendAtOnce(t, OpenOptions{SoleWriter: true})
		return said != there
	})
}

func TestWithoutALockNothingIsAppended(t *testing.T) {
	_, d := newRepo(t)
	r := reopen(t, &racy{Driver: d}, OpenOptions{})
	l, err := r.newLight(t.Context(), "ORDERS", "b.0001")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), l.point()); !errors.Is(err, ErrNeedsLock) {
		t.Errorf("commit: %v", err)
	}
	if points, err := r.Points(t.Context()); err != nil || len(points) != 0 {
		t.Errorf("%d restore points, %v", len(points), err)
	}
}

var errLost = errors.New("somebody else has it")

// A writer that loses its lock while it writes does not succeed.
func TestALockThatIsLostEndsTheCommit(t *testing.T) {
	_, d := newRepo(t)
	ctx, lose := context.WithCancelCause(t.Context())
	driver := &racy{Driver: d, late: func(name string) {
		if name[:len(chainsPrefix)] == chainsPrefix {
			lose(errLost)
		}
	}}
	r := reopen(t, driver, OpenOptions{Lock: func(context.Context, string) (context.Context, func(), error) { return ctx, func() {}, nil }})
	l, err := r.newLight(t.Context(), "ORDERS", "b.0001")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), l.point()); !errors.Is(err, errLost) {
		t.Errorf("commit: %v", err)
	}
}
