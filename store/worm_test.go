package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/seqset"
)

const (
	month = 30 * 24 * time.Hour
	week  = 7 * 24 * time.Hour
)

// A keeper is a store that keeps what it promised to keep, for a month.
type keeper struct {
	*mem.Driver
	mu     sync.Mutex
	until  map[string]time.Time
	refuse bool // to extend a retention
	asked  int
	onPut  func(name string)
}

func newKeeper() *keeper { return &keeper{Driver: mem.New(), until: map[string]time.Time{}} }

func (k *keeper) RetainFor() time.Duration { return month }

func (k *keeper) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if k.onPut != nil {
		k.onPut(name)
	}
	err := k.Driver.Put(ctx, name, body, size)
	if err == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.until[name] = time.Now().Add(month + object.RetainLead(month))
	}
	return err
}

func (k *keeper) Delete(ctx context.Context, name string) error {
	if until, _ := k.Retention(ctx, name); until.After(time.Now()) {
		return fmt.Errorf("%w until %s", object.ErrRetained, until)
	}
	return k.Driver.Delete(ctx, name)
}

func (k *keeper) Retention(ctx context.Context, name string) (time.Time, error) {
	if _, err := k.Stat(ctx, name); err != nil {
		return time.Time{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	return k.until[name], nil
}

func (k *keeper) Retain(ctx context.Context, name string, until time.Time) error {
	if _, err := k.Stat(ctx, name); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if k.refuse {
		return object.ErrNotWritable
	}
	if until.After(k.until[name]) {
		k.until[name] = until
	}
	return nil
}

// A wormy repository is in a store that keeps what it promised.
type wormy struct {
	t     *testing.T
	store *keeper
	repo  *Repository
}

func newWormy(t *testing.T) *wormy {
	t.Helper()
	k := newKeeper()
	r, err := Init(t.Context(), object.NewBucket(k), InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &wormy{t, k, r}
}

// backup makes a restore point of the messages 1 to n, on top of the newest.
func (x *wormy) backup(n uint64) (Point, error) {
	x.t.Helper()
	ctx := x.t.Context()
	task := fmt.Sprintf("b.%04d", n)
	w, err := x.repo.NewWriter(ctx, WriterOptions{Staging: newStaging(x.t, 64<<20), Task: task, Target: "default", Stream: "ORDERS"})
	if err != nil {
		return Point{}, err
	}
	defer w.Abort()
	alive := &seqset.Set{}
	alive.AddRange(1, n)
	base, err := x.repo.Latest(ctx, "default", "ORDERS")
	if err == nil {
		err = w.Continue(ctx, base, alive)
	} else if errors.Is(err, ErrNoPoint) {
		err = nil
	}
	for seq := uint64(1); seq <= n && err == nil; seq++ {
		err = w.Append(makeRecord(seq, 3000))
	}
	if err != nil {
		return Point{}, err
	}
	c, err := w.Finish(ctx, &seqset.Set{})
	if err == nil {
		err = x.repo.Commit(ctx, makePoint(task, c))
	}
	if err != nil {
		return Point{}, err
	}
	return x.repo.Point(ctx, task)
}

func (x *wormy) mustBackup(n uint64) Point {
	x.t.Helper()
	p, err := x.backup(n)
	if err != nil {
		x.t.Fatal(err)
	}
	return p
}

// attack tries to delete everything, and returns how much of it went.
func (x *wormy) attack() (gone []string) {
	x.t.Helper()
	for info, err := range x.repo.bucket.List(x.t.Context(), "") {
		if err != nil {
			x.t.Fatal(err)
		}
		if err := x.store.Delete(x.t.Context(), info.Name); err == nil {
			gone = append(gone, info.Name)
		}
	}
	return gone
}

func (x *wormy) verify() *VerifyReport {
	x.t.Helper()
	r, err := x.repo.Verify(x.t.Context(), VerifyOptions{Level: VerifyRecords})
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

// A restore point is kept as long as promised, with all that it builds on,
// however old that is.
func TestRestorePointsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWormy(t)
		first := x.mustBackup(2000)
		time.Sleep(4*week - time.Hour)
		// The moment that the entry is written all else is kept long enough.
		x.store.onPut = func(name string) {
			if !strings.HasPrefix(name, chainsPrefix) {
				return
			}
			for name, until := range x.store.until {
				if until.Before(time.Now().Add(month-time.Minute)) && !strings.HasPrefix(name, commitPrefix) {
					t.Errorf("%s is kept until %s when the entry is written", name, until)
				}
			}
		}
		second := x.mustBackup(2100)
		x.store.onPut = nil
		if second.Content.NewBytes > first.Content.NewBytes/2 {
			t.Fatal("it does not build on the first")
		}
		if !second.Retained.Equal(time.Now().Add(month).Truncate(time.Second).UTC()) {
			t.Errorf("kept until %s", second.Retained)
		}
		time.Sleep(time.Until(second.Retained) - time.Minute)
		// What was the first one's alone may go.
		for _, name := range x.attack() {
			if name != commitName(first.ID) {
				t.Errorf("%s can be deleted", name)
			}
		}
		wantRecords(t, x.repo, second, rising(2100, 3000))
		if r := x.verify(); slices.Contains(r.Damaged, second.ID) {
			t.Error(r.Problems)
		}
	})
}

// What cannot be kept long enough is no restore point.
func TestNoRestorePointThatIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWormy(t)
		x.mustBackup(2000)
		time.Sleep(3 * week)
		x.store.refuse = true
		if _, err := x.backup(2100); !errors.Is(err, object.ErrNotWritable) || !strings.Contains(err.Error(), "have the store keep") {
			t.Error(err)
		}
		if p, err := x.repo.Latest(t.Context(), "default", "ORDERS"); err != nil || p.ID != "b.2000" {
			t.Error(p.ID, err)
		}
		x.store.refuse = false
		x.mustBackup(2100)
	})
}

// What is known to be kept long enough is not asked for each time.
func TestRetentionsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWormy(t)
		x.mustBackup(2000)
		asked := x.store.asked
		time.Sleep(24 * time.Hour)
		x.mustBackup(2010)
		if n := x.store.asked - asked; n > 4 { // the entry, whose retention nobody noted, the marker and the readme
			t.Errorf("%d requests", n)
		}
		asked = x.store.asked
		time.Sleep(24 * time.Hour)
		x.mustBackup(2020)
		if n := x.store.asked - asked; n > 1 {
			t.Errorf("then %d requests", n)
		}
	})
}

// Verification names what is not kept as long as promised, which is no damage.
func TestCensus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWormy(t)
		p := x.mustBackup(2000)
		need := len(p.Content.Uses.Objects) + 3 // the entry, its copy and the marker
		r := x.verify()
		if !r.OK() {
			t.Fatal(r.Problems)
		}
		if c := r.Census; c.Points != 1 || c.Objects != need || c.Retained != need || len(c.Short) != 0 || c.Until.Before(p.Retained) || c.Until.After(p.Retained.Add(week)) {
			t.Errorf("%d are needed: %+v", need, c)
		}
		pack := p.Content.Uses.Objects[0].Name
		for _, name := range []string{pack, commitName(p.ID), entryName(p.Chain, p.Number), markerName} {
			until := x.store.until[name]
			for _, short := range []time.Time{{}, time.Now().Add(week)} {
				x.store.until[name] = short // by somebody who may bypass governance
				r := x.verify()
				if len(r.Problems) != 1 || r.Problems[0].Object != name || !strings.Contains(r.Problems[0].Problem, p.ID) || len(r.Damaged) != 0 {
					t.Errorf("%s: %v", name, r.Problems)
				}
				if c := r.Census; c.Objects != need || c.Retained != need-1 || !slices.Equal(c.Short, []string{p.ID}) || c.Until.Before(p.Retained) {
					t.Errorf("%s: %+v", name, c)
				}
			}
			x.store.until[name] = until
		}
		time.Sleep(month + time.Hour)
		clear(x.store.until)
		if r := x.verify(); !r.OK() {
			t.Error("after the promise: ", r.Problems)
		} else if c := r.Census; c.Points+c.Objects+c.Retained+len(c.Short) != 0 || !c.Until.IsZero() {
			t.Errorf("after the promise: %+v", c)
		}
	})
}

// Of what restore points share, those are named that were promised for longer
// than it is kept, and at each level.
func TestCensusNamesWhoIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWormy(t)
		first := x.mustBackup(2000)
		time.Sleep(week)
		second := x.mustBackup(2100)
		shared := first.Content.Uses.Objects[0].Name
		if !slices.ContainsFunc(second.Content.Uses.Objects, func(o Used) bool { return o.Name == shared }) {
			t.Fatal("they share nothing")
		}
		for _, c := range []struct {
			name  string
			until time.Time
			short []string
		}{
			{shared, first.Retained, []string{second.ID}},
			{shared, first.Retained.Add(-time.Second), []string{first.ID, second.ID}},
			{entryName(first.Chain, first.Number), first.Retained, []string{second.ID}}, // the log up to its own
			{entryName(first.Chain, second.Number), time.Time{}, []string{second.ID}},
			{commitName(first.ID), time.Time{}, []string{first.ID}},
			{markerName, first.Retained, []string{second.ID}},
		} {
			was := x.store.until[c.name]
			x.store.until[c.name] = c.until
			for level := VerifyStructure; level <= VerifyRecords; level++ {
				r, err := x.repo.Verify(t.Context(), VerifyOptions{Level: level})
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(r.Census.Short, c.short) || len(r.Problems) != 1 || r.Problems[0].Object != c.name || r.Census.Points != 2 {
					t.Errorf("%s until %s at %s: %v, %+v", c.name, c.until, level, r.Problems, r.Census)
				}
			}
			r, err := x.repo.Verify(t.Context(), VerifyOptions{Points: []string{first.ID}})
			if err != nil || slices.Contains(r.Census.Short, first.ID) != slices.Contains(c.short, first.ID) || r.Census.Points != 1 {
				t.Errorf("%s until %s, the first alone: %+v, %v", c.name, c.until, r.Census, err)
			}
			x.store.until[c.name] = was
		}
	})
}

// What is gone is damage, and not told twice.
func TestCensusOfWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWormy(t)
		p := x.mustBackup(2000)
		name := p.Content.Uses.Objects[0].Name
		if err := x.store.Driver.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		r := x.verify()
		if len(r.Problems) != 1 || r.Problems[0].Problem != "missing" || !slices.Equal(r.Damaged, []string{p.ID}) || len(r.Census.Short) != 0 {
			t.Errorf("%v, %+v", r.Problems, r.Census)
		}
	})
}

// Nothing is forgotten before its time, and what is kept longer than that is
// pruned later.
func TestForgetAndPruneWhatIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWormy(t)
		p := x.mustBackup(2000)
		if err := x.repo.Forget(t.Context(), []string{p.ID}); !errors.Is(err, object.ErrRetained) {
			t.Error("forgotten before its time:", err)
		}
		if _, err := x.repo.Latest(t.Context(), "default", "ORDERS"); err != nil {
			t.Fatal("it was forgotten all the same:", err)
		}
		time.Sleep(month + time.Hour) // the promise is over, the record is kept still
		if err := x.repo.Forget(t.Context(), []string{p.ID}); !errors.Is(err, object.ErrRetained) {
			t.Error("forgotten, and it would stay listed:", err)
		}
		if until, err := x.repo.RetainedUntil(t.Context(), p); err != nil || !until.Equal(x.store.until[commitName(p.ID)]) {
			t.Error(until, err)
		}
		if head, _, err := x.repo.tailOf(t.Context(), p.Chain); err != nil || head.Number != p.Number {
			t.Error("what was not done is in the log:", head, err)
		}
		time.Sleep(month / 8)
		kept := p.Content.Uses.Objects[0].Name
		x.store.until[kept] = time.Now().Add(week)
		if err := x.repo.Forget(t.Context(), []string{p.ID}); err != nil {
			t.Fatal(err)
		}
		prune := func() PruneReport {
			t.Helper()
			plan, err := x.repo.PlanPrune(t.Context(), PruneOptions{Grace: time.Hour, OrphanAge: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			r, err := x.repo.Prune(t.Context(), plan)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		all := prune().Condemned
		time.Sleep(2 * time.Hour)
		if r := prune(); r.Retained != 1 || r.Deleted != all-1 || r.RetainedBytes == 0 {
			t.Errorf("%+v of %d", r, all)
		} else if k := r.Kept[0]; len(r.Kept) != 1 || k.Name != kept || !k.Until.Equal(x.store.until[kept]) || k.Size != r.RetainedBytes {
			t.Errorf("%+v", r.Kept)
		}
		if _, err := x.store.Stat(t.Context(), kept); err != nil {
			t.Error("what is kept went:", err)
		}
		time.Sleep(week)
		if r := prune(); r.Retained != 0 || r.Deleted == 0 {
			t.Errorf("%+v", r)
		}
		if _, err := x.store.Stat(t.Context(), kept); !errors.Is(err, object.ErrNotExist) {
			t.Error("it is still there:", err)
		}
		if r := prune(); r.Deleted+r.Retained+r.Condemned+r.Waiting != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// A record that is retained although its restore point was forgotten fails
// neither that nor a prune, and goes later.
func TestPruneOfRecordThatIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWormy(t)
		p := x.mustBackup(2000)
		time.Sleep(month + month/8 + time.Hour)
		x.store.onPut = func(string) { // the forget entry
			x.store.until[commitName(p.ID)] = time.Now().Add(week)
		}
		if err := x.repo.Forget(t.Context(), []string{p.ID}); err != nil {
			t.Fatal(err)
		}
		x.store.onPut = nil
		prune := func() PruneReport {
			t.Helper()
			plan, err := x.repo.PlanPrune(t.Context(), PruneOptions{Grace: time.Hour, OrphanAge: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			r, err := x.repo.Prune(t.Context(), plan)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if r := prune(); r.Retained != 1 || r.Removed != 0 || r.Condemned == 0 || r.Kept[0].Name != commitName(p.ID) || r.Kept[0].Size == 0 {
			t.Errorf("%+v", r)
		}
		time.Sleep(2 * time.Hour)
		if r := prune(); r.Retained != 1 || r.Deleted == 0 {
			t.Errorf("its objects stay: %+v", r)
		}
		time.Sleep(week)
		if r := prune(); r.Retained != 0 || r.Removed != 1 {
			t.Errorf("%+v", r)
		}
	})
}
