package faulty

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/object/objecttest"
)

// A recorder stands for the test that would fail.
type recorder struct {
	failed   int
	cleanups []func()
}

func (*recorder) Helper()                 {}
func (r *recorder) Errorf(string, ...any) { r.failed++ }
func (r *recorder) Cleanup(f func())      { r.cleanups = append(r.cleanups, f) }
func (r *recorder) end() {
	for _, f := range r.cleanups {
		f()
	}
}

func TestConformanceWithoutFaults(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) object.Driver { return New(t, mem.New()) })
}

func TestFaultNeverHitFailsTheTest(t *testing.T) {
	r := &recorder{}
	d := New(r, mem.New(), Fault{Op: Put, Prefix: "a"}, Fault{Op: Put, Prefix: "b"})
	if err := object.NewBucket(d).PutBytes(t.Context(), "a", nil); !errors.Is(err, ErrInjected) {
		t.Errorf("put: %v", err)
	}
	r.end()
	if r.failed != 1 {
		t.Errorf("%d faults reported as never hit, want 1", r.failed)
	}
}

func TestKinds(t *testing.T) {
	ctx := t.Context()
	own := errors.New("own")
	d := New(t, mem.New(),
		Fault{Op: Put, Prefix: "refused", Err: own},
		Fault{Op: Put, Prefix: "lost", Kind: LoseReply},
		Fault{Op: Put, Prefix: "cut", Kind: Cut},
		Fault{Op: Put, Prefix: "third", Skip: 2, Times: 2},
		Fault{Op: Get, Prefix: "lost", Kind: Cut},
		Fault{Op: Get, Prefix: "lost", Skip: 1, Kind: CutClean},
		Fault{Op: Get, Prefix: "lost", Skip: 2, Kind: Flip},
		Fault{Op: List, Kind: Hide},
	)
	b := object.NewBucket(d)
	for name, want := range map[string]error{"refused": own, "lost": ErrInjected, "cut": ErrInjected} {
		if err := b.PutBytes(ctx, name, []byte("content")); !errors.Is(err, want) {
			t.Errorf("put %s: %v", name, err)
		}
	}
	for info, err := range b.List(ctx, "") {
		t.Errorf("hidden list yields %v, %v", info, err)
	}
	var listed []string
	for info := range b.List(ctx, "") {
		listed = append(listed, info.Name)
	}
	if !slices.Equal(listed, []string{"lost"}) {
		t.Errorf("stored %v", listed)
	}
	for i := range 5 {
		err := b.PutBytes(ctx, "third"+string(rune('0'+i)), nil)
		if failed := err != nil; failed != (i == 2 || i == 3) {
			t.Errorf("put %d: %v", i, err)
		}
	}
	if _, err := b.ReadAll(ctx, "lost", 99); !errors.Is(err, ErrInjected) {
		t.Errorf("cut: %v", err)
	}
	if err := b.ReadInto(ctx, "lost", make([]byte, 7)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("clean cut: %v", err)
	}
	got, err := b.ReadAll(ctx, "lost", 99)
	if err != nil || string(got) == "content" || len(got) != 7 {
		t.Errorf("flip: %q, %v", got, err)
	}
}

func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(t, mem.New(), Fault{Op: Stat, Kind: Hang})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := object.NewBucket(d).Stat(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
