package limit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/limit"
	"jetkeep/store/object/mem"
	"jetkeep/store/object/objecttest"
)

func TestDriver(t *testing.T) {
	objecttest.Run(t, func(*testing.T) object.Driver { return limit.New(mem.New(), limit.Options{Uploads: 1, Small: 1}) })
}

// A store that takes a second for whatever it does, and counts.
type slow struct {
	object.Driver
	mu            sync.Mutex
	puts, most    int
	small, smalls int // at once, the most
	err           error
}

func (s *slow) Put(ctx context.Context, _ string, _ io.ReaderAt, _ int64) error {
	s.mu.Lock()
	s.puts++
	s.most = max(s.most, s.puts)
	err := s.err
	s.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	s.puts--
	s.mu.Unlock()
	return err
}

func (s *slow) Stat(context.Context, string) (object.Info, error) {
	s.mu.Lock()
	s.small++
	s.smalls = max(s.smalls, s.small)
	s.mu.Unlock()
	time.Sleep(time.Second)
	s.mu.Lock()
	s.small--
	s.mu.Unlock()
	return object.Info{}, nil
}

// upload puts n objects from as many goroutines.
func upload(d object.Driver, n int) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { _ = d.Put(context.Background(), fmt.Sprint(i), bytes.NewReader(nil), limit.Bulk) })
	}
	wg.Wait()
}

func TestUploadsAdapt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		d := limit.New(s, limit.Options{Uploads: 8})
		upload(d, 4)
		if s.most != 4 || d.Uploads() > 5 {
			t.Errorf("at first %d at once, %d allowed then", s.most, d.Uploads())
		}
		upload(d, 200)
		if s.most != 8 || d.Uploads() != 8 {
			t.Errorf("after 200: %d at once, %d allowed", s.most, d.Uploads())
		}
		// However many fail together, that is one sign.
		s.err = fmt.Errorf("%w: 503", object.ErrThrottled)
		upload(d, 8)
		if d.Uploads() != 4 {
			t.Errorf("after one round of refusals %d are allowed", d.Uploads())
		}
		upload(d, 100)
		if d.Uploads() != 1 {
			t.Errorf("after many refusals %d are allowed", d.Uploads())
		}
		s.err, s.most = nil, 0
		upload(d, 200)
		if d.Uploads() != 8 {
			t.Errorf("when it is well again %d are allowed", d.Uploads())
		}
		// What is final says nothing of the load.
		s.err = object.ErrExist
		upload(d, 20)
		if d.Uploads() != 8 {
			t.Errorf("after what exists %d are allowed", d.Uploads())
		}
	})
}

func TestSmallOnesDoNotWaitForUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		d := limit.New(s, limit.Options{Uploads: 1, Small: 3})
		go upload(d, 50)
		synctest.Wait()
		begin := time.Now()
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() { _, _ = d.Stat(context.Background(), "a") })
		}
		wg.Wait()
		if took := time.Since(begin); took > 2*time.Second || s.smalls != 3 {
			t.Errorf("6 small requests took %s, %d at once", took, s.smalls)
		}
		time.Sleep(time.Minute)
	})
}

func TestWhoGivesUpLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		d := limit.New(s, limit.Options{Uploads: 1})
		go upload(d, 1)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := d.Put(ctx, "b", bytes.NewReader(nil), limit.Bulk); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting: %v", err)
		}
		begin := time.Now()
		upload(d, 3)
		if took := time.Since(begin); took > 4*time.Second || s.most != 1 {
			t.Errorf("three more took %s, %d at once", took, s.most)
		}
	})
}
