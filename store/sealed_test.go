package store

import (
	"errors"
	"slices"
	"testing"

	"jetkeep/store/seqset"
)

// Who has the public key and a writer key builds on what it stored, and reads
// no message; who has the identity reads all.
func TestSealedIncrements(t *testing.T) {
	service, unlocked, _, _ := newSealedRepo(t)
	recs := rising(6000, 900)
	alive := &seqset.Set{}
	alive.AddRange(1, 6000)
	write := func(task string, base *Point, deleted *seqset.Set) Point {
		t.Helper()
		w, err := service.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 64<<20), Task: task, Target: "default", Stream: "ORDERS"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		if base != nil {
			if err := w.Continue(t.Context(), *base, alive); err != nil {
				t.Fatal(err)
			}
		}
		for _, rec := range recs {
			if err := w.Append(rec); err != nil {
				t.Fatal(err)
			}
		}
		c, err := w.Finish(t.Context(), deleted)
		if err == nil {
			err = service.Commit(t.Context(), makePoint(task, c))
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := service.Point(t.Context(), task)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := write("b.0001", nil, seqset.Of(9))
	wantRecords(t, unlocked, first, without(recs, seqset.Of(9).Contains))
	recs = append(slices.Clone(recs[100:]), makeRecord(6001, 900))
	second := write("b.0002", &first, nil)
	wantRecords(t, unlocked, second, recs)
	if second.Content.NewBytes > first.Content.StoredBytes/20 {
		t.Errorf("the second backup uploaded %d bytes, the first %d", second.Content.NewBytes, first.Content.StoredBytes)
	}
	if _, err := service.NewReader(t.Context(), second); !errors.Is(err, ErrLocked) {
		t.Errorf("read without an identity: %v", err)
	}
}
