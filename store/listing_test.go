package store

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
)

// A watched driver notes what is asked of it.
type watched struct {
	*mem.Driver
	mu    sync.Mutex
	asked []string
}

func (w *watched) note(op, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, op+" "+name)
}

// of returns what was asked since the last call, below a prefix.
func (w *watched) of(prefix string) (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.asked {
		if _, name, _ := strings.Cut(s, " "); strings.HasPrefix(name, prefix) {
			out = append(out, s)
		}
	}
	w.asked = nil
	return out
}

func (w *watched) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	w.note("put", name)
	return w.Driver.Put(ctx, name, body, size)
}

func (w *watched) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	w.note("get", name)
	return w.Driver.Get(ctx, name, offset, length)
}

func (w *watched) Stat(ctx context.Context, name string) (object.Info, error) {
	w.note("stat", name)
	return w.Driver.Stat(ctx, name)
}

func (w *watched) Delete(ctx context.Context, name string) error {
	w.note("delete", name)
	return w.Driver.Delete(ctx, name)
}

func (w *watched) List(ctx context.Context, prefix, after string, limit int) ([]object.Info, bool, error) {
	w.note("list", prefix)
	return w.Driver.List(ctx, prefix, after, limit)
}

// A listing asks for one entry of each log, once, and never for all of them.
func TestListingAsksLittleOfLogs(t *testing.T) {
	r, d := newRepo(t)
	for _, id := range []string{"b.0001", "b.0002", "b.0003"} {
		mustSave(t, r, id, steps(rising(20, 20)), nil)
	}
	w := &watched{Driver: d}
	r = reopen(t, w, OpenOptions{})
	list := func(want int) {
		t.Helper()
		if listed, err := r.Points(t.Context()); err != nil || len(listed) != 3 {
			t.Errorf("%v, %+v", err, listed)
		}
		if got := w.of(chainsPrefix); len(got) != want {
			t.Errorf("asked %q of logs", got)
		}
	}
	if listed, err := r.PointsOf(t.Context(), "b"); err != nil || len(listed) != 3 {
		t.Errorf("%v, %+v", err, listed)
	}
	if got := w.of(chainsPrefix); len(got) > 0 {
		t.Errorf("asked %q of logs for one backup", got)
	}
	list(1)
	list(0)
}

// A listing whose look at the logs fails is a listing.
func TestListingWithoutLogs(t *testing.T) {
	_, d := abandoned(t)
	r := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.Stat, Prefix: chainsPrefix, Times: -1}), OpenOptions{})
	if listed, err := r.Points(t.Context()); err != nil || len(listed) != 1 {
		t.Errorf("%v, %+v", err, listed)
	}
}

// An entry that nothing leads to, which says that all is forgotten, has nothing
// deleted.
func TestListingBelievesNoForget(t *testing.T) {
	for name, number := range map[string]uint64{"far beyond the end": maxNumber, "next but one": 4, "next": 3} {
		t.Run(name, func(t *testing.T) {
			r, d := newRepo(t)
			ids := []string{"b.0001", "b.0002"}
			var p Point
			for _, id := range ids {
				p = mustSave(t, r, id, steps(rising(20, 20)), nil)
			}
			body, err := marshal(forgetBody{Points: ids})
			if err != nil {
				t.Fatal(err)
			}
			e := &entry{
				repository: r.marker.ID, chain: p.Chain, number: number, previous: strings.Repeat("0", 64), epoch: p.Content.Epoch, kind: entryForget,
				task: actionID(entryForget), time: time.Now().UTC(), codec: bodyJSON, critical: none, signature: none, body: body,
			}
			if err := object.NewBucket(d).PutBytes(t.Context(), entryName(p.Chain, number), e.encode()); err != nil {
				t.Fatal(err)
			}
			w := &watched{Driver: d}
			again := reopen(t, w, OpenOptions{})
			if _, err := again.readEntry(t.Context(), p.Chain, number); err != nil {
				t.Fatal(err)
			}
			if listed, err := again.Points(t.Context()); err != nil || len(listed) != 2 {
				t.Errorf("%v, %+v", err, listed)
			}
			if rep, err := again.Verify(t.Context(), VerifyOptions{}); err != nil || rep.OK() {
				t.Errorf("%v, %+v", err, rep)
			}
			for _, s := range w.of(commitPrefix) {
				if strings.HasPrefix(s, "delete ") {
					t.Error(s)
				}
			}
		})
	}
}

// The copy of an entry that the log lost stays, whoever forgets it.
func TestCopyOfLostEntryStays(t *testing.T) {
	r, d := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(20, 20)), nil)
	p := mustSave(t, r, "b.0002", steps(rising(30, 20)), nil)
	dying := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.Delete, Prefix: commitPrefix}), OpenOptions{})
	if err := dying.Forget(t.Context(), []string{"b.0002"}); !errors.Is(err, faulty.ErrInjected) {
		t.Fatal(err)
	}
	if err := d.Delete(t.Context(), entryName(p.Chain, 2)); err != nil {
		t.Fatal(err)
	}
	r = reopen(t, d, OpenOptions{})
	if _, err := r.Points(t.Context()); err != nil {
		t.Error(err)
	}
	if rep, err := r.Verify(t.Context(), VerifyOptions{}); err != nil || rep.OK() {
		t.Errorf("%v, %+v", err, rep)
	}
	end, err := r.readEntry(t.Context(), p.Chain, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.mend(t.Context(), end); err != nil {
		t.Error(err)
	}
	if _, err := r.copyOf(t.Context(), "b.0002"); err != nil {
		t.Error(err)
	}
}

// A copy that was forgotten before it was to be made is not even made for a moment.
func TestNoCopyOfWhatWasForgotten(t *testing.T) {
	r, d := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(20, 20)), nil)
	mustSave(t, r, "b.0002", steps(rising(30, 20)), nil)
	e, err := r.readEntry(t.Context(), p.Chain, p.Number)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), []string{"b.0001"}); err != nil {
		t.Fatal(err)
	}
	w := &watched{Driver: d}
	if made, err := reopen(t, w, OpenOptions{}).mendCopy(t.Context(), e); made || err != nil {
		t.Errorf("%t, %v", made, err)
	}
	for _, s := range w.of(commitPrefix) {
		if !strings.HasPrefix(s, "stat ") {
			t.Error(s)
		}
	}
}
