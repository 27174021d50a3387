package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
	"jetkeep/service/state"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/testenv"
)

// A cloud is a store beyond a network, with one bucket in it or none.
type cloud struct {
	*mem.Driver
	there, away            atomic.Bool
	opens, creates, closed atomic.Int32
	answer                 chan struct{} // if set, opening waits for it
}

func (c *cloud) Close() error {
	c.closed.Add(1)
	return nil
}

func (c *cloud) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if c.away.Load() {
		return nil, object.ErrUnavailable
	}
	return c.Driver.Get(ctx, name, offset, length)
}

func (c *cloud) open(ctx context.Context, _ *config.Repository) (object.Driver, error) {
	c.opens.Add(1)
	if c.answer != nil {
		select {
		case <-c.answer:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !c.there.Load() {
		return nil, object.ErrNotExist
	}
	return c, nil
}

func (c *cloud) create(ctx context.Context, r *config.Repository) (object.Driver, error) {
	c.creates.Add(1)
	c.there.Store(true)
	return c.open(ctx, r)
}

// distant returns repositories whose stores are c, by their names.
func distant(t *testing.T, s *state.Store, create bool, c map[string]*cloud) *repositories {
	t.Helper()
	var list []config.Repository
	for name := range c {
		list = append(list, config.Repository{Name: name, Kind: config.KindS3, S3: config.S3{Bucket: name}, Create: create})
	}
	r := newRepositories(list, s, slog.New(slog.DiscardHandler), nil, nil)
	r.openStore = func(ctx context.Context, x *config.Repository) (object.Driver, error) { return c[x.Name].open(ctx, x) }
	r.createStore = func(ctx context.Context, x *config.Repository) (object.Driver, error) {
		return c[x.Name].create(ctx, x)
	}
	return r
}

func openTestState(t *testing.T) *state.Store {
	t.Helper()
	js, err := jetstream.New(natstest.Start(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	s, err := state.Open(t.Context(), js, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDistantIsOpenedOnce: one driver a repository, for as long as the process
// lives, also when the store was away or empty at first.
func TestDistantIsOpenedOnce(t *testing.T) {
	t.Parallel()
	c := &cloud{Driver: mem.New()}
	r := distant(t, openTestState(t), true, map[string]*cloud{"a": c})
	c.away.Store(true)
	c.there.Store(true)
	if _, err := r.Open(t.Context(), "a"); !errors.Is(err, object.ErrUnavailable) || mapError(err).ErrCode != api.CodeStoreUnavailable {
		t.Errorf("a store that is away: %v", err)
	}
	c.away.Store(false)
	first, err := r.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.OpenToWrite(t.Context(), "")
	if err != nil || again != first {
		t.Errorf("opened again: %v", err)
	}
	if c.opens.Load() != 1 || c.creates.Load() != 0 {
		t.Errorf("%d drivers were opened, %d places made", c.opens.Load(), c.creates.Load())
	}
	r.close()
	if c.closed.Load() != 1 {
		t.Errorf("the driver was closed %d times", c.closed.Load())
	}
	if v := r.List()[0]; v.Location != "s3://a" || v.Kind != config.KindS3 {
		t.Errorf("%+v", v)
	}
}

// TestDistantIsMadeOnce: what was there once is not made anew, in an empty
// prefix or in a bucket that is gone.
func TestDistantIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := openTestState(t)
	c := &cloud{Driver: mem.New()}
	if _, err := distant(t, s, false, map[string]*cloud{"a": c}).Open(t.Context(), "a"); !api.HasCode(err, api.CodeNotARepository) || c.creates.Load() != 0 {
		t.Errorf("a bucket that is not there: %v, %d made", err, c.creates.Load())
	}
	r := distant(t, s, true, map[string]*cloud{"a": c})
	if r.checkThere(t.Context()); len(r.refused.all()) > 0 || c.opens.Load() != 1 {
		t.Errorf("made before it is used: %v", r.refused.all())
	}
	if _, err := r.Open(t.Context(), "a"); err != nil || c.creates.Load() != 1 {
		t.Fatalf("not made: %v", err)
	}
	gone := &cloud{Driver: mem.New()}
	for _, there := range []bool{false, true} {
		gone.there.Store(there)
		_, err := distant(t, s, true, map[string]*cloud{"a": gone}).Open(t.Context(), "a")
		if e := mapError(err); e.ErrCode != api.CodeNotARepository || gone.creates.Load() != 0 {
			t.Errorf("bucket there %v: %v, %d made", there, err, gone.creates.Load())
		}
	}
	// Another repository is in its place.
	if _, err := store.Init(t.Context(), object.NewBucket(gone), store.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	mismatch := new(state.MismatchError)
	r = distant(t, s, true, map[string]*cloud{"a": gone})
	if r.checkThere(t.Context()); !errors.As(r.refused.all()["a"], &mismatch) {
		t.Errorf("another repository: %v", r.refused.all())
	}
}

// TestSilentStoreHoldsUpNobodyElse: who wants another repository does not wait,
// and who waits can give up.
func TestSilentStoreHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	silent, quick := &cloud{Driver: mem.New(), answer: make(chan struct{})}, &cloud{Driver: mem.New()}
	silent.there.Store(true)
	r := distant(t, openTestState(t), true, map[string]*cloud{"silent": silent, "quick": quick})
	first := make(chan error, 1)
	go func() {
		_, err := r.Open(t.Context(), "silent")
		first <- err
	}()
	testenv.True(t, "the silent one is being opened", func() bool { return silent.opens.Load() == 1 })
	if _, err := r.Open(t.Context(), "quick"); err != nil {
		t.Errorf("another repository: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Open(ctx, "silent"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who gave up: %v", err)
	}
	close(silent.answer)
	if err := <-first; err != nil || silent.opens.Load() != 1 {
		t.Errorf("who waited: %v, %d opened", err, silent.opens.Load())
	}
}

// A lax store looks first and writes then, as Swift does: of two who create an
// object at once both are told that they did.
type lax struct{ *cloud }

func (l lax) AtomicCreate(context.Context) (bool, error) { return false, nil }

func (l lax) Unwrap() object.Driver { return l.cloud }

func (l lax) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if _, err := l.Stat(ctx, name); err == nil {
		return object.ErrExist
	}
	time.Sleep(20 * time.Millisecond)
	if err := l.Delete(ctx, name); err != nil {
		return err
	}
	return l.Driver.Put(ctx, name, body, size)
}

// TestInstancesMakeOneRepository: those who begin at once have the same one,
// also where the store cannot tell who was first.
func TestInstancesMakeOneRepository(t *testing.T) {
	t.Parallel()
	s := openTestState(t)
	c := &cloud{Driver: mem.New()}
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		r := distant(t, s, true, map[string]*cloud{"a": c})
		wrap := func(open func(context.Context, *config.Repository) (object.Driver, error)) func(context.Context, *config.Repository) (object.Driver, error) {
			return func(ctx context.Context, x *config.Repository) (object.Driver, error) {
				if _, err := open(ctx, x); err != nil {
					return nil, err
				}
				return lax{c}, nil
			}
		}
		r.openStore, r.createStore = wrap(r.openStore), wrap(r.createStore)
		wg.Go(func() {
			repo, err := r.Open(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = repo.Marker().ID
		})
	}
	wg.Wait()
	repo, err := store.Open(t.Context(), object.NewBucket(c), store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id != repo.Marker().ID {
			t.Errorf("instances have %v, the store %s", ids, repo.Marker().ID)
			break
		}
	}
}
