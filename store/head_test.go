package store

import (
	"errors"
	"testing"

	"jetkeep/store/object"
)

// TestHeadAndContinues: what was the end of a log once is found in it for ever,
// and not in one that was cut or rewritten.
func TestHeadAndContinues(t *testing.T) {
	r, d := newRepo(t)
	one := mustLight(t, r, "ORDERS", "b.0001", "a")
	chain, first, err := r.Head(t.Context(), one.Target, one.Stream)
	if err != nil || chain != one.Chain || first.Number != 1 || len(first.Hash) != 64 {
		t.Fatalf("head: %s %+v %v", chain, first, err)
	}
	increment(t, r, one, "b.0002", "b")
	_, second, err := r.Head(t.Context(), one.Target, one.Stream)
	if err != nil || second.Number != 2 || second.Hash == first.Hash {
		t.Fatalf("head: %+v %v", second, err)
	}
	continues := func(r *Repository, h Head) bool {
		t.Helper()
		ok, err := r.Continues(t.Context(), chain, h)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !continues(r, Head{}) || !continues(r, first) || !continues(r, second) || continues(r, Head{Number: 1, Hash: second.Hash}) {
		t.Error("a log is not taken for what it is")
	}
	if err := object.NewBucket(d).Delete(t.Context(), entryName(chain, 2)); err != nil {
		t.Fatal(err)
	}
	if cut := reopen(t, d, OpenOptions{}); continues(cut, second) || !continues(cut, first) {
		t.Error("a log that was cut is taken for whole")
	}
	if _, none, err := r.Head(t.Context(), one.Target, "NEVER"); err != nil || none.Number != 0 {
		t.Errorf("head of no log: %+v %v", none, err)
	}
}

// TestSupposedPlan: what forgetting would free is known before, and nothing
// comes of it.
func TestSupposedPlan(t *testing.T) {
	r, d := newRepo(t)
	one := mustLight(t, r, "ORDERS", "b.0001", "a", "b")
	two := increment(t, r, one, "b.0002", "c")
	opt := patient(0)
	opt.Suppose = []string{"b.0002"}
	plan, err := r.PlanPrune(t.Context(), opt)
	if err != nil || len(plan.Chains) != 1 || len(plan.Chains[0].Unused) != 1 || plan.Chains[0].Forgotten != 1 {
		t.Fatalf("%v %v", plan, err)
	}
	if _, err := r.Prune(t.Context(), plan); !errors.Is(err, ErrSupposed) {
		t.Errorf("supposed plan was carried out: %v", err)
	}
	wantUses(t, d, one, two)
}
