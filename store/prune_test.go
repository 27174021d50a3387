package store

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
	"jetkeep/store/sign"
)

// later is a clock that is ahead.
func later(by time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(by) }
}

// patient are margins that hold back everything that is new.
func patient(ahead time.Duration) PruneOptions {
	return PruneOptions{Grace: time.Hour, OrphanAge: 24 * time.Hour, Now: later(ahead)}
}

func mustPrune(t testing.TB, r *Repository, opt PruneOptions) (*PrunePlan, PruneReport) {
	t.Helper()
	plan, err := r.PlanPrune(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	report, err := r.Prune(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	return plan, report
}

// wantUses looks whether all that restore points use is there, and nothing else
// lies in their chain.
func wantUses(t testing.TB, d *mem.Driver, points ...Point) {
	t.Helper()
	var want []string
	for _, p := range points {
		for _, o := range p.Content.Uses.Objects {
			want = append(want, o.Name)
		}
	}
	slices.Sort(want)
	got := slices.Concat(objects(t, d, metaPrefix), objects(t, d, packsPrefix))
	if want = slices.Compact(want); !slices.Equal(got, want) {
		t.Errorf("there is\n%s\nbut needed is\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// increment makes a restore point that uses what base does, and more.
func increment(t testing.TB, r *Repository, base Point, task string, texts ...string) Point {
	t.Helper()
	l, err := r.newLight(t.Context(), base.Stream, task)
	l.take(base)
	for _, text := range texts {
		if err == nil {
			err = l.put(t.Context(), packsPrefix, text)
		}
	}
	if err == nil {
		err = r.Commit(t.Context(), l.point())
	}
	p, perr := r.Point(t.Context(), task)
	if err != nil || perr != nil {
		t.Fatal(err, perr)
	}
	return p
}

func TestPruneInTwoPhases(t *testing.T) {
	r, d := newRepo(t)
	one := mustLight(t, r, "ORDERS", "b.0001", "a", "b")
	two := increment(t, r, one, "b.0002", "c")
	only := mustLight(t, r, "OTHER", "b.0003", "x")
	if plan, report := mustPrune(t, r, patient(0)); !plan.Empty() || report.Condemned+report.Deleted > 0 || !strings.Contains(plan.String(), "nothing to do") {
		t.Errorf("%s%+v", plan, report)
	}
	if err := r.Forget(t.Context(), []string{"b.0003", "b.0002"}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"b.0002", "b.0003"} {
		if _, err := r.Point(t.Context(), id); !errors.Is(err, ErrNoPoint) {
			t.Errorf("forgotten %s: %v", id, err)
		}
	}
	plan, report := mustPrune(t, r, patient(0))
	if report.Condemned != 2 || report.Deleted != 0 || report.Waiting != 2 || report.Next.IsZero() || report.CondemnedBytes != 6 {
		t.Errorf("%s%+v", plan, report)
	}
	if !strings.Contains(plan.String(), "condemn packs/"+only.Chain) || !strings.Contains(plan.String(), "3 bytes: only forgotten") {
		t.Errorf("%s", plan)
	}
	wantUses(t, d, one, two, only)
	if plan, report := mustPrune(t, r, patient(59*time.Minute)); report.Condemned+report.Deleted > 0 || report.Waiting != 2 || !strings.Contains(plan.String(), "wait until") {
		t.Errorf("%s%+v", plan, report)
	}
	if plan, report := mustPrune(t, r, patient(61*time.Minute)); report.Deleted != 2 || report.DeletedBytes != 6 || report.Waiting != 0 || !strings.Contains(plan.String(), "  delete 1 objects, 3 bytes") {
		t.Errorf("%s%+v", plan, report)
	}
	wantUses(t, d, one)
	if plan, _ := mustPrune(t, r, patient(62*time.Minute)); !plan.Empty() {
		t.Errorf("%s", plan)
	}
	// The same stored again has another name: who deletes late does not hit it.
	again := mustLight(t, r, "OTHER", "b.0004", "x")
	if again.Content.Uses.Objects[0].Name == only.Content.Uses.Objects[0].Name {
		t.Error("a name came back")
	}
}

func TestPlanIsGoodForOnePrune(t *testing.T) {
	r, _ := newRepo(t)
	plan, _ := mustPrune(t, r, PruneOptions{})
	if _, err := r.Prune(t.Context(), plan); !errors.Is(err, ErrPlanUsed) {
		t.Error(err)
	}
}

// What came between the plan and the prune keeps what it uses; what comes after
// is refused.
func TestPruneAndCommitMeet(t *testing.T) {
	r, d := newRepo(t)
	base := mustLight(t, r, "ORDERS", "b.0001", "a")
	before, err := r.newLight(t.Context(), "ORDERS", "b.0002")
	if err != nil {
		t.Fatal(err)
	}
	before.take(base)
	after := *before
	after.task = "b.0003"
	if err := r.Forget(t.Context(), []string{"b.0001"}); err != nil {
		t.Fatal(err)
	}
	early, err := r.PlanPrune(t.Context(), PruneOptions{})
	if err != nil || len(early.Chains[0].Unused) != 1 {
		t.Fatal(early, err)
	}
	if err := r.Commit(t.Context(), before.point()); err != nil {
		t.Fatal(err)
	}
	if report, err := r.Prune(t.Context(), early); err != nil || report.Condemned != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	wantUses(t, d, base)
	if err := r.Forget(t.Context(), []string{"b.0002"}); err != nil {
		t.Fatal(err)
	}
	mustPrune(t, r, PruneOptions{})
	wantUses(t, d)
	if err := r.Commit(t.Context(), after.point()); !errors.Is(err, ErrPruned) {
		t.Errorf("commit after its base was pruned: %v", err)
	}
}

// Objects that only a list names are as safe as others.
func TestPruneReadsLists(t *testing.T) {
	r, d := newRepo(t)
	one := mustLight(t, r, "ORDERS", "b.0001", "a", "b")
	blobbed := func(task string, more ...string) Point {
		l, err := r.newLight(t.Context(), "ORDERS", task)
		l.take(one)
		if err == nil {
			err = l.putList(t.Context())
		}
		for _, text := range more {
			if err == nil {
				err = l.put(t.Context(), packsPrefix, text)
			}
		}
		if err == nil {
			err = r.Commit(t.Context(), l.point())
		}
		p, perr := r.Point(t.Context(), task)
		if err != nil || perr != nil {
			t.Fatal(err, perr)
		}
		return p
	}
	two := blobbed("b.0002", "c")
	if err := r.Forget(t.Context(), []string{"b.0001"}); err != nil {
		t.Fatal(err)
	}
	if plan, _ := mustPrune(t, r, PruneOptions{}); !plan.Empty() {
		t.Errorf("%s", plan)
	}
	three := blobbed("b.0003")
	if err := r.Forget(t.Context(), []string{"b.0002"}); err != nil {
		t.Fatal(err)
	}
	if _, report := mustPrune(t, r, PruneOptions{}); report.Deleted != 1 {
		t.Errorf("%+v, %+v", report, two)
	}
	// A live restore point whose list is lost: nothing is touched.
	list := chainObject(metaPrefix, three.Chain, three.Content.Uses.Lists[0].Hash)
	mustLight(t, r, "ORDERS", "b.0004", "d")
	if err := errors.Join(r.Forget(t.Context(), []string{"b.0004"}), d.Delete(t.Context(), list)); err != nil {
		t.Fatal(err)
	}
	plan, report := mustPrune(t, r, PruneOptions{})
	if len(report.Problems) != 1 || report.Condemned > 0 || !strings.Contains(plan.String(), list) {
		t.Errorf("%s%+v", plan, report)
	}
}

// Orphans are collected late, also those of a stream that has no log yet.
func TestOrphans(t *testing.T) {
	r, d := newRepo(t)
	keep := mustLight(t, r, "ORDERS", "b.0001", "a")
	for _, stream := range []string{"ORDERS", "NEW"} {
		l, err := r.newLight(t.Context(), stream, "b.0009")
		if err == nil {
			err = l.put(t.Context(), packsPrefix, "left behind")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	late, err := r.newLight(t.Context(), "NEW", "b.0010")
	if err == nil {
		err = late.put(t.Context(), packsPrefix, "left behind")
	}
	if err != nil {
		t.Fatal(err)
	}
	if plan, _ := mustPrune(t, r, patient(23*time.Hour)); !plan.Empty() {
		t.Errorf("%s", plan)
	}
	if plan, report := mustPrune(t, r, patient(25*time.Hour)); report.Condemned != 2 || !strings.Contains(plan.String(), "no restore point uses it") {
		t.Errorf("%s%+v", plan, report)
	}
	if _, report := mustPrune(t, r, patient(27*time.Hour)); report.Deleted != 2 {
		t.Errorf("%+v", report)
	}
	wantUses(t, d, keep)
	if err := r.Commit(t.Context(), late.point()); !errors.Is(err, ErrPruned) {
		t.Errorf("a writer that relied on an orphan: %v", err)
	}
	// What a failed backup stores again after that is an orphan once more.
	if err := late.put(t.Context(), packsPrefix, "left behind"); err != nil {
		t.Fatal(err)
	}
	mustPrune(t, r, patient(60*time.Hour))
	if _, report := mustPrune(t, r, patient(62*time.Hour)); report.Deleted != 1 {
		t.Errorf("%+v", report)
	}
	wantUses(t, d, keep)
}

// A log that lost an entry does not say any more what is in use: its chain is
// left alone, be it the listing of the log or a record that shows it.
func TestLogWithAHole(t *testing.T) {
	for name, hide := range map[string]string{"by the log": commitPrefix, "by the record": chainsPrefix, "not at all": ""} {
		r, d := newRepo(t)
		mustLight(t, r, "ORDERS", "b.0001", "a")
		mustLight(t, r, "ORDERS", "b.0002", "b")
		last := mustLight(t, r, "ORDERS", "b.0003", "c")
		if err := r.Forget(t.Context(), []string{"b.0001"}); err != nil {
			t.Fatal(err)
		}
		if hide == "" {
			if _, report := mustPrune(t, reopen(t, d, OpenOptions{}), PruneOptions{Now: later(time.Hour)}); report.Deleted != 1 {
				t.Errorf("%s: %+v", name, report)
			}
			continue
		}
		if err := d.Delete(t.Context(), entryName(last.Chain, 2)); err != nil {
			t.Fatal(err)
		}
		f := faulty.New(t, d, faulty.Fault{Op: faulty.List, Prefix: hide, Kind: faulty.Hide, Times: -1})
		_, report := mustPrune(t, reopen(t, f, OpenOptions{}), PruneOptions{Now: later(time.Hour)})
		if report.Condemned+report.Deleted > 0 || len(report.Problems) == 0 {
			t.Errorf("%s: %+v", name, report)
		}
		wantThere(t, d, last)
	}
}

// wantThere looks whether all that restore points use is there.
func wantThere(t testing.TB, d *mem.Driver, points ...Point) {
	t.Helper()
	for _, p := range points {
		for _, o := range p.Content.Uses.Objects {
			if _, err := d.Stat(t.Context(), o.Name); err != nil {
				t.Errorf("%s needs %s: %v", p.ID, o.Name, err)
			}
		}
	}
}

// Records found by id follow the log: Prune finishes what a Commit or a Forget
// that broke off left undone.
func TestPrunePutsCopiesRight(t *testing.T) {
	r, d := newRepo(t)
	mustLight(t, r, "ORDERS", "b.0001", "a")
	mustLight(t, r, "ORDERS", "b.0002", "b")
	if err := d.Delete(t.Context(), commitName("b.0001")); err != nil {
		t.Fatal(err)
	}
	broken := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.Delete, Prefix: commitPrefix}), OpenOptions{})
	if err := broken.Forget(t.Context(), []string{"b.0002"}); !errors.Is(err, faulty.ErrInjected) {
		t.Fatal(err)
	}
	plan, report := mustPrune(t, r, PruneOptions{Grace: time.Hour})
	if report.Copied != 1 || report.Removed != 1 || report.Condemned != 1 {
		t.Errorf("%s%+v", plan, report)
	}
	if p, err := r.Point(t.Context(), "b.0001"); err != nil || p.Number != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := r.Point(t.Context(), "b.0002"); !errors.Is(err, ErrNoPoint) {
		t.Error(err)
	}
}

// Who may not delete forgets nothing, not even in the log.
func TestForgetWithoutPermission(t *testing.T) {
	r, d := newRepo(t)
	mustLight(t, r, "ORDERS", "b.0001", "a")
	denied := &object.PermissionError{Action: "delete", Kind: object.ErrNotWritable, Err: errors.New("no")}
	writer := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.Delete, Err: denied}), OpenOptions{})
	if err := writer.Forget(t.Context(), []string{"b.0001"}); !errors.Is(err, object.ErrNotWritable) {
		t.Error(err)
	}
	if _, err := r.Point(t.Context(), "b.0001"); err != nil {
		t.Error(err)
	}
	plan, report := mustPrune(t, r, PruneOptions{})
	if report.Removed != 0 || report.Condemned != 0 {
		t.Errorf("it was forgotten: %s%+v", plan, report)
	}
}

// A prune that ends at any operation is carried on by the next.
func TestPruneEndsAnywhere(t *testing.T) {
	for _, op := range []faulty.Op{faulty.Put, faulty.Delete} {
		for skip := range 3 {
			for _, kind := range []faulty.Kind{faulty.Refuse, faulty.LoseReply} {
				r, d := newRepo(t)
				one := mustLight(t, r, "ORDERS", "b.0001", "a", "b")
				two := increment(t, r, one, "b.0002", "c", "d", "e")
				if err := r.Forget(t.Context(), []string{"b.0002"}); err != nil {
					t.Fatal(err)
				}
				if op == faulty.Put && skip == 2 {
					continue // there are two: the entry and its mark
				}
				broken := reopen(t, faulty.New(t, d, faulty.Fault{Op: op, Skip: skip, Kind: kind}), OpenOptions{})
				plan, err := broken.PlanPrune(t.Context(), PruneOptions{})
				if err == nil {
					_, err = broken.Prune(t.Context(), plan)
				}
				if !errors.Is(err, faulty.ErrInjected) {
					t.Fatal(err)
				}
				wantThere(t, d, one)
				mustPrune(t, r, PruneOptions{})
				wantUses(t, d, one)
				if plan, _ := mustPrune(t, r, PruneOptions{}); !plan.Empty() {
					t.Errorf("%s %d: %s", op, skip, plan)
				}
				_ = two
			}
		}
	}
}

func TestPins(t *testing.T) {
	r, _ := newRepo(t)
	a, b := mustLight(t, r, "ORDERS", "b.0001", "a"), mustLight(t, r, "ORDERS", "c.0001", "b")
	for _, id := range []string{"nothing", "../x", ""} {
		if err := r.Pin(t.Context(), id, "why"); !errors.Is(err, ErrNoPoint) {
			t.Errorf("pin %q: %v", id, err)
		}
	}
	if err := errors.Join(r.Pin(t.Context(), a.ID, "audit"), r.Pin(t.Context(), a.ID, "other"), r.Pin(t.Context(), "c", "whole backup")); err != nil {
		t.Fatal(err)
	}
	pins, err := r.Pins(t.Context())
	if err != nil || len(pins) != 2 || pins[a.ID].Reason != "audit" || pins["c"].Reason != "whole backup" || pins["c"].Time.IsZero() {
		t.Errorf("%+v, %v", pins, err)
	}
	if err := r.Forget(t.Context(), []string{a.ID}); !errors.Is(err, ErrPinned) {
		t.Errorf("a pinned restore point: %v", err)
	}
	if err := r.Unpin(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), []string{a.ID, "d.0001"}); !errors.Is(err, ErrNoPoint) {
		t.Errorf("one of two exists: %v", err)
	}
	if _, err := r.Point(t.Context(), a.ID); !errors.Is(err, ErrNoPoint) {
		t.Errorf("not forgotten: %v", err)
	}
	_ = b
}

// What is not signed by a trusted key can neither make a restore point
// forgotten nor have anything deleted.
func TestPruneTrustsNobodyElse(t *testing.T) {
	signer := func() *sign.Signer {
		seed, err := sign.Generate()
		if err != nil {
			t.Fatal(err)
		}
		s, err := sign.ParseSeed(seed)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ours, theirs := signer(), signer()
	trust, err := sign.NewTrust([]string{ours.Public()})
	if err != nil {
		t.Fatal(err)
	}
	_, d := newRepo(t)
	r := reopen(t, d, OpenOptions{Signer: ours, Trust: trust})
	forger := reopen(t, d, OpenOptions{Signer: theirs})
	one := mustLight(t, r, "ORDERS", "b.0001", "a")
	if err := forger.Forget(t.Context(), []string{"b.0001"}); err != nil {
		t.Fatal(err)
	}
	if plan, err := forger.PlanPrune(t.Context(), PruneOptions{}); err != nil || len(plan.Chains[0].Unused) != 1 {
		t.Fatal(plan, err)
	}
	plan, err := forger.PlanPrune(t.Context(), PruneOptions{Grace: time.Hour})
	if err == nil {
		_, err = forger.Prune(t.Context(), plan)
	}
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.Latest(t.Context(), "default", "ORDERS"); err != nil || p.ID != "b.0001" {
		t.Errorf("newest is %q, %v", p.ID, err)
	}
	_, report := mustPrune(t, r, PruneOptions{})
	if report.Condemned+report.Deleted > 0 || report.Copied != 1 {
		t.Errorf("%+v", report)
	}
	wantUses(t, d, one)
	forged := &light{repo: forger, stream: "ORDERS", task: "b.0002", chain: one.Chain, since: one.Number}
	if err := forger.Commit(t.Context(), forged.point()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Point(t.Context(), "b.0002"); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a forged restore point: %v", err)
	}
	if p, err := r.Latest(t.Context(), "default", "ORDERS"); err != nil || p.ID != "b.0001" {
		t.Errorf("newest is %q, %v", p.ID, err)
	}
}

// Nobody appends what he would not accept himself.
func TestOwnSignatureMustBeTrusted(t *testing.T) {
	seed, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	other, err := sign.ParseSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := sign.NewTrust([]string{other.Public()})
	if err != nil {
		t.Fatal(err)
	}
	plain, d := newRepo(t)
	mustLight(t, plain, "ORDERS", "b.0001", "a")
	r := reopen(t, d, OpenOptions{Trust: trust})
	if err := r.Forget(t.Context(), []string{"b.0001"}); !errors.Is(err, ErrUntrusted) {
		t.Errorf("forget without a signature: %v", err)
	}
	if n := len(objects(t, d, chainsPrefix)); n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestOldFormatIsNotChanged(t *testing.T) {
	r := reopen(t, golden(t, golden1), OpenOptions{})
	ids := []string{"20261122T210000Z-golden00.0001"}
	_, plan := r.PlanPrune(t.Context(), PruneOptions{})
	_, latest := r.Latest(t.Context(), "default", "ORDERS")
	for name, err := range map[string]error{
		"commit": r.Commit(t.Context(), makePoint("b.0001", Content{})),
		"forget": r.Forget(t.Context(), ids),
		"pin":    r.Pin(t.Context(), ids[0], "x"),
		"unpin":  r.Unpin(t.Context(), ids[0]),
		"plan":   plan,
		"latest": latest,
	} {
		if !errors.Is(err, ErrOldFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
