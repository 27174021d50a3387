package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// Streams of any shape: gaps, deletes, repairs and big records.
func TestRoundTripOfAnyStream(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	area := newStaging(t, 64<<20)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		count := rapid.IntRange(0, 400).Draw(rt, "records")
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 30, 1000, 100_000, 900_000}), 1, 8).Draw(rt, "sizes")
		sparse := rapid.IntRange(1, 9).Draw(rt, "sparse")
		seed := rapid.Uint64().Draw(rt, "seed")
		seq, total := rapid.SampledFrom([]uint64{0, 1 << 40}).Draw(rt, "base"), 0
		live, dead := []*record.Record{}, &seqset.Set{}
		var in, late []step
		for i := range count {
			h := mix64(seed + uint64(i))
			seq += 1 + h%uint64(sparse)
			size := sizes[i%len(sizes)]
			if total += size; total > 6<<20 {
				size = 10
			}
			rec := makeRecord(seq, size)
			gone := h>>8%11 == 0
			if gone {
				dead.Add(seq)
			} else {
				live = append(live, rec)
			}
			if h>>16%13 == 0 {
				late = append(late, step{rec, true})
			} else {
				in = append(in, step{rec, false})
			}
			if h>>24%7 == 0 {
				dead.Add(seq + 1)
				seq++ // a gap that is deleted and was never stored
			}
		}
		if len(in) > 0 {
			k := int(seed % uint64(len(in)))
			// Repairs come between appends, for what is lower already, or at the end.
			head, tail := slices.Clone(in[:k]), in[k:]
			at := uint64(0)
			if k > 0 {
				at = in[k-1].rec.Sequence
			}
			var after []step
			for _, s := range late {
				if s.rec.Sequence < at {
					head = append(head, s)
				} else {
					after = append(after, s)
				}
			}
			in = append(append(head, tail...), after...)
		} else {
			in = late
		}
		p, err := save(t, r, area, fmt.Sprintf("b.%06d", n), in, dead)
		if err != nil {
			rt.Fatal(err)
		}
		wantRecords(t, r, p, live)
	})
}

func TestHugeRecords(t *testing.T) {
	r, _ := newRepo(t)
	recs := []*record.Record{makeRecord(1, 10), makeRecord(2, 20<<20), makeRecord(3, 10), makeRecord(4, MaxSegment+1), makeRecord(5, MaxSegment-100)}
	p := mustSave(t, r, "b.0001", steps(recs), nil)
	wantRecords(t, r, p, recs)
}

// The same stream again: the same objects, nothing uploaded.
func TestStoringAgainUploadsNothing(t *testing.T) {
	t.Parallel()
	r, d := newRepo(t)
	recs := rising(40_000, 1000)
	first := mustSave(t, r, "b.0001", steps(recs), seqset.Of(70))
	before := objects(t, d, "")
	second := mustSave(t, r, "c.0001", steps(recs), seqset.Of(70))
	if first.Content.NewBytes != first.Content.StoredBytes || second.Content.NewBytes != 0 || second.Content.StoredBytes != first.Content.StoredBytes {
		t.Errorf("first %+v, second %+v", first.Content, second.Content)
	}
	if after := objects(t, d, ""); len(after) != len(before)+2 {
		t.Errorf("%d objects became %d", len(before), len(after))
	}
	// The front expired and some were added: packs in the middle are the same.
	third := mustSave(t, r, "d.0001", steps(append(slices.Clone(recs[500:]), makeRecord(40_001, 1000))), nil)
	if c := third.Content; c.NewBytes == 0 || c.Packs > 2 && c.NewBytes >= c.StoredBytes {
		t.Errorf("nothing was shared: %+v", c)
	}
}

func objects(t testing.TB, d object.Driver, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range object.NewBucket(d).List(context.WithoutCancel(t.Context()), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

// A border does not move when records before it are deleted.
func TestBordersDoNotDependOnDeletes(t *testing.T) {
	t.Parallel()
	ends := func(recs []*record.Record) map[uint64]bool {
		r, _ := newRepo(t)
		p := mustSave(t, r, "b.0001", steps(recs), nil)
		out := map[uint64]bool{}
		for _, ref := range p.Content.Tables.List {
			segments, err := r.table(t.Context(), p, ref)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range segments {
				if s.border != borderNone {
					out[s.last] = true
				}
			}
		}
		return out
	}
	all := rising(60_000, 500)
	whole := ends(all)
	if len(whole) < 5 {
		t.Fatalf("only %d borders", len(whole))
	}
	few := ends(without(all, func(q uint64) bool { return q%3 == 0 && !whole[q] || q < 1000 }))
	for q := range whole {
		if q >= 1000 && !few[q] {
			t.Errorf("border at %d is gone", q)
		}
	}
}

func TestBorderFrequency(t *testing.T) {
	var n [4]int
	const records = 2_000_000
	for i := range uint64(records) {
		n[borderAfter(i, int64(i)*1e6, 1000)]++
	}
	seg, pack := n[1]+n[2]+n[3], n[2]+n[3]
	if want := records * 1000 / (2 << 20); seg < want*8/10 || seg > want*12/10 {
		t.Errorf("%d segment borders, want about %d", seg, want)
	}
	if want := records * 1000 / (32 << 20); pack < want*6/10 || pack > want*14/10 {
		t.Errorf("%d pack borders, want about %d", pack, want)
	}
	if borderAfter(1, 1, 2<<20) == borderNone || borderAfter(99, 5, 4<<20) == borderNone {
		t.Error("no border after 2 MiB")
	}
}

func TestAppendRefuses(t *testing.T) {
	r, _ := newRepo(t)
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 1<<20), Task: "x", Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Append(makeRecord(5, 10)); err != nil {
		t.Fatal(err)
	}
	if err := w.AppendRepair(makeRecord(3, 10)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err, want error
	}{
		"same":          {w.Append(makeRecord(5, 10)), ErrOrder},
		"lower":         {w.Append(makeRecord(4, 10)), ErrOrder},
		"no subject":    {w.Append(&record.Record{Sequence: 9}), record.ErrInvalid},
		"zero":          {w.AppendRepair(&record.Record{Subject: []byte("x")}), record.ErrInvalid},
		"repair twice":  {w.AppendRepair(makeRecord(3, 10)), ErrDuplicate},
		"subject large": {w.Append(&record.Record{Sequence: 9, Subject: make([]byte, record.MaxSubject+1)}), ErrBounds},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	w.Abort()
	if err := w.Append(makeRecord(9, 10)); !errors.Is(err, ErrClosed) {
		t.Errorf("after abort: %v", err)
	}
	if _, err := w.Finish(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("finish after abort: %v", err)
	}
}

func TestRepairOfWhatIsStoredIsFound(t *testing.T) {
	r, _ := newRepo(t)
	in := append(steps(rising(100, 10)), step{makeRecord(50, 10), true})
	if _, err := save(t, r, newStaging(t, 1<<20), "b.0001", in, nil); !errors.Is(err, ErrDuplicate) {
		t.Errorf("got %v", err)
	}
}

func TestRandomRepairsAreRefusedNotUnbounded(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	in := []step{{makeRecord(1_000_000, 10), false}}
	for i := range uint64(400) { // 40 MB that reach over everything, again and again
		in = append(in, step{makeRecord(1+mix64(i)%900_000, 100_000), true})
	}
	if _, err := save(t, r, newStaging(t, 64<<20), "b.0001", in, nil); !errors.Is(err, ErrTooFragmented) {
		t.Errorf("got %v", err)
	}
}

// Deletions of records that were never stored are not listed, and those of
// records that were are, and nothing is read again to tell them apart.
func TestDeletedIsWhatWasStored(t *testing.T) {
	d := mem.New()
	r, err := Init(t.Context(), object.NewBucket(d), InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reads := faulty.New(t, d, faulty.Fault{Op: faulty.Get, Prefix: packsPrefix, Times: -1})
	noReads := &Repository{bucket: object.NewBucket(reads), marker: r.marker}
	dead := &seqset.Set{}
	for q := uint64(1); q < 20_000; q += 2 {
		dead.Add(q)
	}
	live := without(rising(20_000, 200), dead.Contains)
	p, err := save(t, noReads, newStaging(t, 64<<20), "b.0001", steps(live), dead)
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Content; c.Deleted.Count != 0 || c.Extra.Count != 0 {
		t.Errorf("%d deleted are listed that were never stored", c.Deleted.Count)
	}
	wantRecords(t, r, p, live)
	live = without(live, func(q uint64) bool { return q == 19_996 })
	in := slices.Insert(slices.Clone(live), len(live)-1, makeRecord(19_999, 10))
	p, err = save(t, noReads, newStaging(t, 64<<20), "b.0002", steps(in), dead)
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Content; c.Deleted.Count != 1 || c.Extra.Count != 1 {
		t.Errorf("%d deleted, %d extra, want 19999 as both", c.Deleted.Count, c.Extra.Count)
	}
	wantRecords(t, r, p, live)
	if _, err := load(t.Context(), noReads, p); !errors.Is(err, faulty.ErrInjected) {
		t.Errorf("the fault does not fail reads: %v", err)
	}
}

// Whatever write fails, nothing is committed, nothing is left in staging, and
// the next run uploads only what lacks.
func TestCrashAtEveryWrite(t *testing.T) {
	t.Parallel()
	recs := rising(3500, 2000)
	clean, cleanDriver := newRepo(t)
	if _, err := save(t, clean, newStaging(t, 4<<20), "b.0001", steps(recs), seqset.Of(9)); err != nil {
		t.Fatal(err)
	}
	writes := len(objects(t, cleanDriver, "")) - 1 // without the marker
	if writes < 4 {
		t.Fatalf("only %d writes", writes)
	}
	for _, kind := range []faulty.Kind{faulty.Refuse, faulty.Cut, faulty.LoseReply} {
		for n := range writes {
			r, d := newRepo(t)
			f := faulty.New(t, d, faulty.Fault{Op: faulty.Put, Skip: n, Kind: kind})
			broken := &Repository{bucket: object.NewBucket(f), marker: r.marker}
			if _, err := save(t, broken, newStaging(t, 4<<20), "b.0001", steps(recs), seqset.Of(9)); !errors.Is(err, faulty.ErrInjected) {
				t.Fatalf("kind %d, write %d: %v", kind, n, err)
			}
			commits := len(objects(t, d, commitPrefix))
			if lost := kind == faulty.LoseReply && n == writes-1; commits != 0 && !lost {
				t.Errorf("kind %d, write %d: a commit is there", kind, n)
			}
			logged := len(objects(t, d, chainsPrefix)) > 0
			before := objects(t, d, "")
			again := faulty.New(t, d)
			second := &Repository{bucket: object.NewBucket(again), marker: r.marker}
			p, err := save(t, second, newStaging(t, 4<<20), "b.0001", steps(recs), seqset.Of(9))
			if err != nil && (!logged || !errors.Is(err, ErrPointExists)) {
				t.Fatalf("kind %d, write %d, second run: %v", kind, n, err)
			}
			for _, name := range again.Puts() {
				if slices.Contains(before, name) && !strings.HasPrefix(name, commitPrefix) {
					t.Errorf("%s was uploaded again", name)
				}
			}
			if err == nil && n%3 == 0 {
				wantRecords(t, r, p, without(recs, seqset.Of(9).Contains))
			}
		}
	}
}

// A slow store holds the writer back at the limit of staging; when it goes on
// so does the writer.
func TestFullStagingHoldsTheWriterBack(t *testing.T) {
	area := newStaging(t, 4<<20)
	r, d := newRepo(t)
	recs := rising(12_000, 2000)
	synctest.Test(t, func(t *testing.T) {
		gate := &gated{Driver: d, open: make(chan struct{})}
		slow := &Repository{bucket: object.NewBucket(gate), marker: r.marker}
		var appended atomic.Int64
		result := make(chan error, 1)
		var content Content
		go func() {
			w, err := slow.NewWriter(t.Context(), WriterOptions{Staging: area, Task: "b.0001", Target: "default", Stream: "ORDERS"})
			if err != nil {
				result <- err
				return
			}
			defer w.Abort()
			for _, rec := range recs {
				if err := w.Append(rec); err != nil {
					result <- err
					return
				}
				appended.Add(1)
			}
			content, err = w.Finish(t.Context(), nil)
			result <- err
		}()
		synctest.Wait()
		if n := appended.Load(); n == 0 || n == int64(len(recs)) {
			t.Errorf("%d of %d records were taken while the store stood still", n, len(recs))
		}
		if u := area.Used(); u == 0 || u > area.Limit() {
			t.Errorf("%d bytes of staging used", u)
		}
		close(gate.open)
		if err := <-result; err != nil || content.Messages != uint64(len(recs)) {
			t.Errorf("%d messages, %v", content.Messages, err)
		}
	})
}

type gated struct {
	object.Driver
	open chan struct{}
}

func (g *gated) Stat(ctx context.Context, name string) (object.Info, error) {
	if !strings.HasPrefix(name, packsPrefix) {
		return g.Driver.Stat(ctx, name)
	}
	select {
	case <-g.open:
	case <-ctx.Done():
		return object.Info{}, ctx.Err()
	}
	return g.Driver.Stat(ctx, name)
}

func TestCancelEndsTheWriter(t *testing.T) {
	r, d := newRepo(t)
	gate := &gated{Driver: d, open: make(chan struct{})}
	stuck := &Repository{bucket: object.NewBucket(gate), marker: r.marker}
	for name, end := range map[string]func(*Writer, context.CancelFunc) error{
		"append": func(w *Writer, cancel context.CancelFunc) error {
			time.AfterFunc(20*time.Millisecond, cancel)
			for i := uint64(1); ; i++ {
				if err := w.Append(makeRecord(i, 100_000)); err != nil {
					return err
				}
			}
		},
		"finish": func(w *Writer, cancel context.CancelFunc) error {
			if err := w.Append(makeRecord(1, 10)); err != nil {
				return err
			}
			time.AfterFunc(20*time.Millisecond, cancel)
			_, err := w.Finish(t.Context(), nil)
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		w, err := stuck.NewWriter(ctx, WriterOptions{Staging: newStaging(t, 4<<20), Task: "x", Target: "default", Stream: "ORDERS"})
		if err != nil {
			t.Fatal(err)
		}
		if err := end(w, cancel); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		w.Abort()
	}
	// Finish's own context ends it too.
	w, err := stuck.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 4<<20), Task: "x", Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(makeRecord(1, 10)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.Finish(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("finish: %v", err)
	}
}

func TestFullStoreAndFullStagingAreTyped(t *testing.T) {
	r, d := newRepo(t)
	for _, want := range []error{object.ErrNoSpace, object.ErrNotWritable} {
		f := faulty.New(t, d, faulty.Fault{Op: faulty.Put, Times: -1, Err: fmt.Errorf("write: %w", want)})
		full := &Repository{bucket: object.NewBucket(f), marker: r.marker}
		if _, err := save(t, full, newStaging(t, 1<<20), "b.0001", steps(rising(10, 10)), nil); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	// One record that compresses to more than all of staging.
	big := makeRecord(1, 4<<20)
	if _, err := save(t, r, newStaging(t, 1<<20), "b.0001", steps([]*record.Record{big}), nil); !errors.Is(err, staging.ErrLimit) {
		t.Errorf("got %v", err)
	}
}

func TestProgress(t *testing.T) {
	r, _ := newRepo(t)
	var read, stored, uploaded uint64
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 64<<20), Task: "x", Target: "default", Stream: "ORDERS", OnProgress: func(a, b, c uint64) {
		if a < read || b < stored || c < uploaded {
			t.Errorf("progress goes back: %d %d %d", a, b, c)
		}
		read, stored, uploaded = a, b, c
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range rising(5000, 1000) {
		if err := w.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.Finish(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if read != c.RawBytes || stored == 0 || uploaded < stored || uploaded > c.NewBytes {
		t.Errorf("progress %d %d %d, content %+v", read, stored, uploaded, c)
	}
}
