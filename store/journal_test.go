package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/seqset"
)

// notes is a journal in memory.
type notes struct {
	mu    sync.Mutex
	notes map[string][]byte
}

func (n *notes) Uploaded(_ context.Context, key string) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.notes[key]
}

func (n *notes) NoteUpload(_ context.Context, key string, value []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes[key] = bytes.Clone(value)
}

// leaving is a store that goes away at so many packs, unless that is 0, before
// or after it has taken that one in, and counts the bytes of packs.
type leaving struct {
	*mem.Driver
	mu       sync.Mutex
	packs    int
	arrives  bool
	uploaded int64
}

var errAway = errors.New("the store is away")

func (l *leaving) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.HasPrefix(name, packsPrefix) {
		l.packs--
		if l.packs == 0 && !l.arrives {
			return errAway
		}
		l.uploaded += size
		if l.packs == 0 {
			return errors.Join(errAway, l.Driver.Put(ctx, name, body, size))
		}
	}
	return l.Driver.Put(ctx, name, body, size)
}

// A resuming is an encrypted repository in a store that goes away during the
// first attempt.
type resuming struct {
	store    *leaving
	notes    *notes
	opt      OpenOptions
	operator string
	arrived  int64 // bytes of packs, with the first attempt
}

func newResuming(t *testing.T, arrives bool) *resuming {
	t.Helper()
	service, _, d, operator := newSealedRepo(t)
	x := &resuming{store: &leaving{Driver: d, packs: 6, arrives: arrives}, notes: &notes{notes: map[string][]byte{}}, operator: operator.Secret()}
	keys, err := service.Unlock(t.Context(), []string{x.operator})
	if err != nil {
		t.Fatal(err)
	}
	writers, err := keys.WriterKeys(t.Context())
	if err != nil || len(writers) != 1 {
		t.Fatal(writers, err)
	}
	x.opt = OpenOptions{WriterKey: writers[0], Recipient: service.Marker().Recipient, Journal: x.notes}
	if _, err := x.attempt(t, "b.0001"); !errors.Is(err, errAway) {
		t.Fatalf("the first attempt: %v", err)
	}
	if x.store.uploaded < 5<<20 || len(x.notes.notes) < 3 {
		t.Fatalf("the first attempt uploaded %d bytes and noted %d packs", x.store.uploaded, len(x.notes.notes))
	}
	x.arrived, x.store.uploaded = x.store.uploaded, 0
	return x
}

// attempt stores 24 MB with a repository that is opened anew.
func (x *resuming) attempt(t *testing.T, task string) (Content, error) {
	t.Helper()
	r, err := Open(t.Context(), object.NewBucket(x.store), x.opt)
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 5<<20), Task: task, Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, rec := range rising(6000, 4000) {
		if err := w.Append(rec); err != nil {
			return Content{}, err
		}
	}
	c, err := w.Finish(t.Context(), &seqset.Set{})
	if err == nil {
		err = r.Commit(t.Context(), makePoint(task, c))
	}
	return c, err
}

// again makes the second attempt, which must be good, and returns how many
// bytes of packs it uploaded.
func (x *resuming) again(t *testing.T) int64 {
	t.Helper()
	if _, err := x.attempt(t, "b.0002"); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), object.NewBucket(x.store), x.opt)
	if err != nil {
		t.Fatal(err)
	}
	unlocked, err := r.Unlock(t.Context(), []string{x.operator})
	if err != nil {
		t.Fatal(err)
	}
	p, err := unlocked.Point(t.Context(), "b.0002")
	if err != nil {
		t.Fatal(err)
	}
	wantRecords(t, unlocked, p, rising(6000, 4000))
	return x.store.uploaded
}

// allOfIt is a little less than these records take.
const allOfIt = 18_800_000

// What the first attempt uploaded, the second does not upload again, not even
// the pack that arrived without the first attempt's knowing it.
func TestAttemptAfterUsesWhatArrived(t *testing.T) {
	t.Parallel()
	for name, arrives := range map[string]bool{"last pack lost": false, "last answer lost": true} {
		t.Run(name, func(t *testing.T) {
			x := newResuming(t, arrives)
			n := x.again(t)
			t.Logf("%d bytes arrived, %d were uploaded again", x.arrived, n)
			if n > allOfIt+minJournalled-x.arrived { // the small ones are not noted
				t.Errorf("the second attempt uploaded %d bytes again, and %d of %d had arrived", n, x.arrived, allOfIt)
			}
		})
	}
}

// Notes that somebody else made, or that stand for other packs, are not taken,
// and what rotted meanwhile is uploaded again.
func TestJournalIsNotTrusted(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(x *resuming){
		"none": func(x *resuming) { clear(x.notes.notes) },
		"no note": func(x *resuming) {
			for k := range x.notes.notes {
				x.notes.notes[k] = []byte(`{"hash":1}`)
			}
		},
		"swapped": func(x *resuming) {
			keys := slices.Collect(maps.Keys(x.notes.notes)) // each gets the next one's
			first := x.notes.notes[keys[0]]
			for i, k := range keys[1:] {
				x.notes.notes[keys[i]] = x.notes.notes[k]
			}
			x.notes.notes[keys[len(keys)-1]] = first
		},
		"without a MAC": func(x *resuming) {
			for k, v := range x.notes.notes {
				head, _, _ := bytes.Cut(v, []byte(`,"mac"`))
				x.notes.notes[k] = fmt.Appendf(nil, "%s}", head)
			}
		},
		"rotten": func(x *resuming) {
			x.damage(func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		},
		"shortened": func(x *resuming) {
			x.damage(func(b []byte) []byte { return b[:len(b)-1] })
		},
		"pruned": func(x *resuming) {
			x.each(func(name string) { _ = x.store.Delete(context.Background(), name) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newResuming(t, false)
			if n := len(x.notes.notes); n < 2 {
				t.Fatalf("the first attempt left %d notes", n)
			}
			spoil(x)
			if n := x.again(t); n < allOfIt {
				t.Errorf("only %d bytes were uploaded", n)
			}
		})
	}
}

func (x *resuming) each(do func(name string)) {
	for info, err := range object.NewBucket(x.store).List(context.Background(), packsPrefix) {
		if err == nil {
			do(info.Name)
		}
	}
}

func (x *resuming) damage(change func([]byte) []byte) {
	x.each(func(name string) { x.store.Corrupt(name, change) })
}
