package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// largeRecords has records on both sides of each bound, some of them in a row.
func largeRecords() []*record.Record {
	var out []*record.Record
	for i, size := range []int{1000, MaxSegment + 1, 5 << 20, 10, huge + 1, huge - 1000, 6 << 20, MaxSegment - 100, 5 << 20, 30_000} {
		out = append(out, makeRecord(uint64(2*i+1), size))
	}
	return out
}

// oneAtATime is a Memory that holds any one large record, and of most of them
// no two.
func oneAtATime() *Memory { return newMemory(usualPack, 9<<20, 9<<20) }

// wantReturned fails unless every share was used, never beyond its bound, and
// given back.
func wantReturned(t *testing.T, m *Memory) {
	t.Helper()
	for name, b := range map[string]*budget{"packs": m.packs, "records": m.records, "frames": m.frames} {
		if b.held != 0 {
			t.Errorf("%s: %d bytes are still taken", name, b.held)
		}
		if b.most == 0 || b.most > b.limit {
			t.Errorf("%s: %d bytes were taken at most, the bound is %d", name, b.most, b.limit)
		}
	}
}

// Large records come back as they went in, though those who write, read and
// verify at once have memory for one of them only.
func TestLargeRecordsShareMemory(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	r.memory = oneAtATime()
	recs := largeRecords()
	area := newStaging(t, 256<<20)
	points := make([]Point, 3)
	var g errgroup.Group
	for i := range points {
		g.Go(func() (err error) {
			points[i], err = save(t, r, area, fmt.Sprintf("b.%04d", i), steps(recs), nil)
			return err
		})
	}
	if err := g.Wait(); err != nil && !errors.Is(err, ErrPruned) {
		t.Fatal(err)
	}
	for range 3 {
		for _, p := range points {
			g.Go(func() error { return sameRecords(t.Context(), r, p, recs) })
		}
	}
	g.Go(func() error {
		report, err := r.Verify(t.Context(), VerifyOptions{Level: VerifyRecords})
		if err == nil && !report.OK() {
			err = fmt.Errorf("damage: %+v", report)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	wantReturned(t, r.memory)
}

// sameRecords reads a restore point whose records are known.
func sameRecords(ctx context.Context, r *Repository, p Point, want []*record.Record) error {
	got, err := load(ctx, r, p)
	if err != nil {
		return err
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d records, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], encode(want[i])) {
			return fmt.Errorf("record of sequence %d differs", want[i].Sequence)
		}
	}
	return nil
}

// A caller that stops for long at a large record has taken the memory for that,
// and for what is ahead of it no more than there is.
func TestReaderHoldsLargeRecordsWithinBound(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	var recs []*record.Record
	for i := range 6 {
		recs = append(recs, makeRecord(uint64(i+1), 5<<20))
	}
	p := mustSave(t, r, "b.0001", steps(recs), nil)
	r.memory = newMemory(packMemory, 11<<20, frameMemory)
	rd, err := r.NewReader(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	for range recs {
		rec, err := rd.Next()
		if err != nil {
			t.Fatal(err)
		}
		b := r.memory.records
		b.mu.Lock()
		held := b.held
		b.mu.Unlock()
		if held < int64(rec.Size()) || held > b.limit {
			t.Errorf("at sequence %d: %d bytes are taken", rec.Sequence, held)
		}
	}
	if _, err := rd.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	wantReturned(t, &Memory{packs: r.memory.packs, records: r.memory.records, frames: &budget{most: 1, limit: 1}})
}

// Whoever is broken off gives back what he has taken: a reader in the middle, a
// writer with a record in each stage.
func TestMemoryComesBackAfterAnEnd(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	r.memory = newMemory(packMemory, 32<<20, 64<<20)
	recs := largeRecords()
	p := mustSave(t, r, "b.0001", steps(recs), nil)
	for n := range len(recs) {
		rd, err := r.NewReader(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			if _, err := rd.Next(); err != nil {
				t.Fatal(err)
			}
		}
		rd.Close()
		w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 256<<20), Task: "c", Target: "default", Stream: "ORDERS"})
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs[:n] {
			if err := w.Append(rec); err != nil {
				t.Fatal(err)
			}
		}
		w.Abort()
	}
	wantReturned(t, r.memory)
}

// An increment knows large records again, stores those that are new or were
// lacking, and notices one that is another.
func TestIncrementOfLargeRecords(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	r.memory = oneAtATime()
	recs := largeRecords()
	base := mustSave(t, r, "b.0001", steps(recs), nil)
	more := append(slices.Clone(recs), makeRecord(101, huge+5), makeRecord(103, 5<<20), makeRecord(105, 10))
	late := []*record.Record{makeRecord(100, huge+9), makeRecord(102, 6<<20)}
	alive := &seqset.Set{}
	for _, rec := range append(more[:len(more):len(more)], late...) {
		alive.Add(rec.Sequence)
	}
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 256<<20), Task: "b.0002", Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Continue(t.Context(), base, alive); err != nil {
		t.Fatal(err)
	}
	for _, rec := range more {
		if err := w.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	for _, rec := range late {
		if err := w.AppendRepair(rec); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.Finish(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), makePoint("b.0002", c)); err != nil {
		t.Fatal(err)
	}
	p, err := r.Point(t.Context(), "b.0002")
	if err != nil {
		t.Fatal(err)
	}
	if c.NewBytes > base.Content.NewBytes {
		t.Errorf("the increment stores %d bytes, the base has %d", c.NewBytes, base.Content.NewBytes)
	}
	want := append(slices.Clone(recs), late[0], more[len(recs)], late[1], more[len(recs)+1], more[len(recs)+2])
	if err := sameRecords(t.Context(), r, p, want); err != nil {
		t.Error(err)
	}
	for i, rec := range recs {
		if len(rec.Data) <= MaxSegment {
			continue
		}
		if err := divergence(t, r, p, alive, recs[:i], rec); err != nil {
			t.Error(err)
		}
	}
	wantReturned(t, r.memory)
}

// divergence appends a record with one byte changed to what comes before it, and
// returns an error unless the writer notices.
func divergence(t *testing.T, r *Repository, base Point, alive *seqset.Set, before []*record.Record, rec *record.Record) error {
	t.Helper()
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 256<<20), Task: "d", Target: "default", Stream: "ORDERS"})
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := w.Continue(t.Context(), base, alive); err != nil {
		return err
	}
	for _, b := range before {
		if err := w.Append(b); err != nil {
			return err
		}
	}
	other := *rec
	other.Data = bytes.Clone(rec.Data)
	other.Data[len(other.Data)-1] ^= 1
	if err = w.Append(&other); err == nil {
		_, err = w.Finish(t.Context(), nil)
	}
	var diverged *DivergedError
	if !errors.As(err, &diverged) || diverged.Sequence != rec.Sequence {
		return fmt.Errorf("sequence %d was changed: %w", rec.Sequence, err)
	}
	return nil
}
