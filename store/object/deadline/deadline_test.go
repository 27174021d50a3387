package deadline_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/deadline"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
	"jetkeep/store/object/objecttest"
)

func TestDriver(t *testing.T) {
	objecttest.Run(t, func(*testing.T) object.Driver { return deadline.New(mem.New(), deadline.Options{}) })
}

func TestWhatHangsIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var faults []faulty.Fault
		for _, op := range []faulty.Op{faulty.Put, faulty.Get, faulty.Stat, faulty.List, faulty.Delete} {
			faults = append(faults, faulty.Fault{Op: op, Kind: faulty.Hang, Times: -1})
		}
		d := deadline.New(faulty.New(t, mem.New(), faults...), deadline.Options{})
		ctx := t.Context()
		for op, f := range map[string]func() error{
			"put":    func() error { return d.Put(ctx, "a", bytes.NewReader(nil), 0) },
			"get":    func() error { _, err := d.Get(ctx, "a", 0, -1); return err },
			"stat":   func() error { _, err := d.Stat(ctx, "a"); return err },
			"list":   func() error { _, _, err := d.List(ctx, "", "", 10); return err },
			"delete": func() error { return d.Delete(ctx, "a") },
		} {
			begin := time.Now()
			err := f()
			if took := time.Since(begin); !errors.Is(err, object.ErrUnavailable) || errors.Is(err, context.Canceled) || took > 3*time.Minute {
				t.Errorf("%s: after %s: %v", op, took, err)
			}
		}
		// The caller's end stays the caller's.
		ended, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := d.Stat(ended, "a"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, object.ErrUnavailable) {
			t.Errorf("caller's deadline: %v", err)
		}
	})
}

// A line moves a block each time after a wait, both ways.
type line struct {
	object.Driver
	wait  time.Duration
	stall int // block after which nothing moves; 0 for none
}

func (l *line) Put(ctx context.Context, _ string, body io.ReaderAt, size int64) error {
	for i := range size {
		if err := l.pass(ctx, int(i)); err != nil {
			return err
		}
		if _, err := body.ReadAt(make([]byte, 1), i); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

func (l *line) pass(ctx context.Context, i int) error {
	wait := l.wait
	if l.stall > 0 && i >= l.stall {
		wait = time.Hour
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *line) Get(ctx context.Context, _ string, _, _ int64) (io.ReadCloser, error) {
	return io.NopCloser(&lineReader{ctx: ctx, line: l}), nil
}

type lineReader struct {
	ctx  context.Context
	line *line
	n    int
}

func (r *lineReader) Read(p []byte) (int, error) {
	if r.n == 20 {
		return 0, io.EOF
	}
	if err := r.line.pass(r.ctx, r.n); err != nil {
		return 0, err
	}
	r.n++
	return copy(p[:1], "x"), nil
}

func TestASlowTransferIsNoStalledOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for stall, want := range map[int]error{0: nil, 7: object.ErrUnavailable} {
			d := deadline.New(&line{Driver: mem.New(), wait: 25 * time.Second, stall: stall}, deadline.Options{})
			begin := time.Now()
			err := d.Put(t.Context(), "a", bytes.NewReader(make([]byte, 20)), 20)
			if took := time.Since(begin); !errors.Is(err, want) || want == nil && took < 8*time.Minute {
				t.Errorf("put, stalled after %d: %v after %s", stall, err, took)
			}
			r, err := d.Get(t.Context(), "a", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if !errors.Is(err, want) || want == nil && len(got) != 20 {
				t.Errorf("get, stalled after %d: %d bytes, %v", stall, len(got), err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// Who reads slowly is not the store.
func TestASlowReaderIsNotEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem.New()
		if err := m.Put(t.Context(), "a", bytes.NewReader([]byte("abc")), 3); err != nil {
			t.Fatal(err)
		}
		r, err := deadline.New(m, deadline.Options{}).Get(t.Context(), "a", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for range 3 {
			time.Sleep(time.Hour)
			if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
