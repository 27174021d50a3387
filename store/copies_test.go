package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
)

// abandoned is a repository of one stream whose last writer ended between the
// entry of b.0002 in the log and its copy.
func abandoned(t *testing.T) (*Repository, *mem.Driver) {
	t.Helper()
	r, d := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(20, 20)), nil)
	dying := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.Put, Prefix: commitPrefix}), OpenOptions{})
	if _, err := save(t, dying, newStaging(t, 64<<20), "b.0002", steps(rising(30, 20)), nil); !errors.Is(err, faulty.ErrInjected) {
		t.Fatal(err)
	}
	if _, err := r.Point(t.Context(), "b.0002"); !errors.Is(err, ErrNoPoint) {
		t.Fatalf("the copy is there: %v", err)
	}
	return reopen(t, d, OpenOptions{}), d
}

// wantWhole checks that a restore point is found by id and that nothing is wrong.
func wantWhole(t *testing.T, r *Repository, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := r.Point(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	rep, err := r.Verify(t.Context(), VerifyOptions{Level: VerifyRecords})
	if err != nil || !rep.OK() || rep.Points != len(ids) {
		t.Errorf("%v, %+v", err, rep)
	}
}

// Whoever lists, verifies or writes next has a restore point found whose writer
// ended before it had made the copy of its entry.
func TestAbandonedCopiesAreMade(t *testing.T) {
	for name, next := range map[string]func(t *testing.T, r *Repository) (more []string){
		"list": func(t *testing.T, r *Repository) []string {
			listed, err := r.Points(t.Context())
			if err != nil || len(listed) != 2 || listed[1].ID != "b.0002" || listed[1].Err != nil {
				t.Errorf("%v, %+v", err, listed)
			}
			return nil
		},
		"verify": func(t *testing.T, r *Repository) []string {
			rep, err := r.Verify(t.Context(), VerifyOptions{})
			if err != nil || !rep.OK() || rep.Points != 2 || !slices.ContainsFunc(rep.Notes, func(s string) bool { return strings.Contains(s, "b.0002 could not be found") }) {
				t.Errorf("%v, %+v", err, rep)
			}
			return nil
		},
		"write": func(t *testing.T, r *Repository) []string {
			mustSave(t, r, "b.0003", steps(rising(40, 20)), nil)
			return []string{"b.0003"}
		},
		"forget": func(t *testing.T, r *Repository) []string {
			mustSave(t, r, "b.0003", steps(rising(40, 20)), nil)
			if err := r.Forget(t.Context(), []string{"b.0003"}); err != nil {
				t.Error(err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := abandoned(t)
			more := next(t, r)
			wantWhole(t, reopen(t, d, OpenOptions{}), append([]string{"b.0001", "b.0002"}, more...)...)
		})
	}
}

// A restore point whose forgetting was abandoned is forgotten by who writes or
// verifies next.
func TestAbandonedForgetIsFinished(t *testing.T) {
	for name, next := range map[string]func(t *testing.T, r *Repository){
		"write": func(t *testing.T, r *Repository) {
			mustSave(t, r, "b.0003", steps(rising(40, 20)), nil)
			if err := r.Forget(t.Context(), []string{"b.0003"}); err != nil {
				t.Error(err)
			}
		},
		"verify": func(t *testing.T, r *Repository) {
			if rep, err := r.Verify(t.Context(), VerifyOptions{}); err != nil || !rep.OK() || rep.Points != 1 {
				t.Errorf("%v, %+v", err, rep)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := newRepo(t)
			mustSave(t, r, "b.0001", steps(rising(20, 20)), nil)
			mustSave(t, r, "b.0002", steps(rising(30, 20)), nil)
			dying := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.Delete, Prefix: commitPrefix}), OpenOptions{})
			if err := dying.Forget(t.Context(), []string{"b.0002"}); !errors.Is(err, faulty.ErrInjected) {
				t.Fatal(err)
			}
			next(t, reopen(t, d, OpenOptions{}))
			wantWhole(t, reopen(t, d, OpenOptions{}), "b.0001")
		})
	}
}

// A restore point that is forgotten while its copy is made does not get one.
func TestCopyOfWhatIsForgottenMeanwhile(t *testing.T) {
	r, d := abandoned(t)
	listed, err := r.Points(t.Context()) // now it can be forgotten
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.readEntry(t.Context(), listed[1].Point.Chain, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), []string{"b.0002"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.mendCopy(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	wantWhole(t, reopen(t, d, OpenOptions{}), "b.0001")
}

// Who may only add to the repository goes on after a forget that was abandoned.
func TestWriterThatMayNotDelete(t *testing.T) {
	r, d := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(20, 20)), nil)
	none := faulty.Fault{Op: faulty.Delete, Prefix: commitPrefix, Err: object.ErrNotWritable, Times: -1}
	adding := reopen(t, faulty.New(t, d, none), OpenOptions{})
	if err := adding.Forget(t.Context(), []string{"b.0001"}); !errors.Is(err, object.ErrNotWritable) {
		t.Fatal(err)
	}
	if _, err := save(t, adding, newStaging(t, 64<<20), "b.0002", steps(rising(30, 20)), nil); err != nil {
		t.Error(err)
	}
}

// What cannot be put right hinders no listing.
func TestListWhereNothingCanBeWritten(t *testing.T) {
	_, d := abandoned(t)
	r := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.Put, Err: object.ErrNotWritable, Times: -1}), OpenOptions{})
	if listed, err := r.Points(context.WithoutCancel(t.Context())); err != nil || len(listed) != 1 {
		t.Errorf("%v, %+v", err, listed)
	}
}
