package observe_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/object/objecttest"
	"jetkeep/store/object/observe"
)

// heard collects what is told.
type heard struct {
	mu  sync.Mutex
	ops []observe.Operation
}

func (h *heard) tell(o observe.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, o := range h.ops {
		out = append(out, fmt.Sprintf("%s %s %d", o.Op, o.Result, o.Bytes))
	}
	h.ops = nil
	return strings.Join(out, ", ")
}

func TestConformance(t *testing.T) {
	objecttest.Run(t, func(*testing.T) object.Driver { return observe.New(mem.New(), new(heard).tell) })
}

func TestOperations(t *testing.T) {
	h := new(heard)
	b := object.NewBucket(observe.New(mem.New(), h.tell))
	ctx := t.Context()
	_ = b.PutBytes(ctx, "a", []byte("hello"))
	_ = b.PutBytes(ctx, "a", []byte("hello"))
	_, _ = b.ReadAll(ctx, "a", 10)
	r, err := b.Open(ctx, "a", 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if h.String() != "put ok 5, put exists 0, get ok 5" {
		t.Error("a read is told before its end")
	}
	_, _ = r.Read(make([]byte, 2))
	_ = r.Close()
	_ = r.Close()
	_, _ = b.Stat(ctx, "none")
	for range b.List(ctx, "") {
	}
	_ = b.Delete(ctx, "a")
	if got := h.String(); got != "get ok 2, stat not_found 0, list ok 0, delete ok 0" {
		t.Error(got)
	}
}

func TestResult(t *testing.T) {
	for want, err := range map[string]error{
		observe.OK:          nil,
		observe.Cancelled:   fmt.Errorf("put: %w: %w", object.ErrUnavailable, context.Canceled),
		observe.Permission:  &object.PermissionError{Action: "s3:PutObject", Kind: object.ErrNotWritable},
		observe.Checksum:    fmt.Errorf("%w: %w", object.ErrUnavailable, object.ErrChecksum),
		observe.Retained:    fmt.Errorf("%w: %w", object.ErrRetained, object.ErrNotWritable),
		observe.Throttled:   &object.WaitError{Err: object.ErrThrottled},
		observe.Unavailable: object.ErrUnavailable,
		observe.NoSpace:     object.ErrNoSpace,
		observe.NotFound:    object.ErrNotExist,
		observe.Exists:      object.ErrExist,
		observe.Failed:      errors.New("something"),
	} {
		if got := observe.Result(err); got != want {
			t.Errorf("%v is %s instead of %s", err, got, want)
		}
	}
	if len(observe.Results()) != 11 || len(observe.Operations()) != 6 {
		t.Error("lists are not complete")
	}
}
