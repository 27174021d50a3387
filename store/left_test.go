package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/testenv"
)

// A keeping driver lets no copy be deleted.
type keeping struct {
	*mem.Driver
	tried atomic.Int32
}

func (k *keeping) Delete(ctx context.Context, name string) error {
	if !strings.HasPrefix(name, commitPrefix) {
		return k.Driver.Delete(ctx, name)
	}
	k.tried.Add(1)
	return object.ErrNotWritable
}

// forgottenHalf forgets points of two streams whose copies stay.
func forgottenHalf(t *testing.T, count int) *mem.Driver {
	t.Helper()
	r, d := newRepo(t)
	for _, stream := range []string{"ORDERS", "OTHER"} {
		var ids []string
		for i := range count {
			ids = append(ids, fmt.Sprintf("%s.%04d", strings.ToLower(stream), i))
			mustLight(t, r, stream, ids[i])
		}
		if err := reopen(t, &keeping{Driver: d}, OpenOptions{}).Forget(t.Context(), ids); !errors.Is(err, object.ErrNotWritable) {
			t.Fatal(err)
		}
	}
	return d
}

// Who may not delete finds that out once.
func TestCopiesThatCannotBeDeleted(t *testing.T) {
	k := &keeping{Driver: forgottenHalf(t, 1)}
	r := reopen(t, k, OpenOptions{})
	for _, stream := range []string{"ORDERS", "OTHER"} {
		mustLight(t, r, stream, "new."+strings.ToLower(stream))
	}
	if n := k.tried.Load(); n != 1 {
		t.Errorf("tried %d times", n)
	}
}

// A meeting driver answers no read of a copy before there is another one.
type meeting struct {
	*mem.Driver
	mu      sync.Mutex
	waiting int
	met     chan struct{}
}

func (m *meeting) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if strings.HasPrefix(name, commitPrefix+"orders.") {
		m.mu.Lock()
		if m.waiting++; m.waiting == 2 {
			close(m.met)
		}
		m.mu.Unlock()
		select {
		case <-m.met:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return m.Driver.Get(ctx, name, offset, length)
}

// Many copies that are left are looked at and deleted together.
func TestLeftCopiesAreDeletedTogether(t *testing.T) {
	d := forgottenHalf(t, 40)
	r := reopen(t, &meeting{Driver: d, met: make(chan struct{})}, OpenOptions{})
	chain, err := r.Chain("default", "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	end, err := r.readEntry(t.Context(), chain, 41)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.mend(ctx, end) }()
	if err := testenv.Receive(t, "end of the mending", done); err != nil {
		t.Error(err)
	}
	if left := objects(t, d, commitPrefix+"orders."); len(left) > 0 {
		t.Errorf("%q are there still", left)
	}
}
