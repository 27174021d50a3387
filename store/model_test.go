package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/testenv"
)

// The model test: processes back up, forget, prune and read at once, in every
// order that chance finds, die anywhere and are replaced, are paused for long,
// have clocks that are a day wrong, and see listings that lie. No restore point
// that was committed and not forgotten may ever lack an object.
//
//	go test ./store -run Model -model-seed 4711 -model-runs 1
//
// repeats one interleaving; a failure names its seed.
func TestModel(t *testing.T) {
	t.Parallel()
	runs, seed := modelFlags(t)
	total := map[string]int{}
	for _, once := range []uint64{14784640688843} { // that found something
		if _, _, failure := modelRun(t, once, ""); failure != "" {
			t.Errorf("seed %d: %s", once, failure)
		}
	}
	for i := range runs {
		stats, _, failure := modelRun(t, seed+uint64(i), "")
		if failure != "" {
			t.Fatalf("seed %d: %s", seed+uint64(i), failure)
		}
		for k, n := range stats {
			total[k] += n
		}
	}
	t.Logf("%d interleavings from seed %d: %v", runs, seed, total)
	// A test in which nothing happens proves nothing.
	for _, what := range []string{"committed", "forgotten", "deleted", "died", "pruned", "refused", "retained", "read", "listing stale", "listing partial", "listing empty", "listing error"} {
		if runs >= 1000 && total[what] < runs/100 {
			t.Errorf("%s happened only %d times", what, total[what])
		}
	}
}

// The same seed is the same interleaving, or a failure could not be repeated.
func TestModelRepeats(t *testing.T) {
	for seed := range uint64(5) {
		_, one, _ := modelRun(t, seed, "")
		_, two, _ := modelRun(t, seed, "")
		if one != two {
			t.Errorf("seed %d: two runs differ", seed)
		}
	}
}

func modelFlags(t *testing.T) (runs int, seed uint64) {
	t.Helper()
	runs, _ = strconv.Atoi(flag.Lookup("model-runs").Value.String())
	switch {
	case runs > 0:
	case testenv.Campaign():
		runs = 10_000
	default:
		runs = 1000
	}
	seed, _ = strconv.ParseUint(flag.Lookup("model-seed").Value.String(), 10, 64)
	if seed == 0 {
		seed = rand.Uint64() >> 20
	}
	t.Logf("%d interleavings from seed %d", runs, seed)
	return runs, seed
}

// modelRun plays one interleaving, with records if there is a directory for
// staging.
func modelRun(t *testing.T, seed uint64, dir string) (stats map[string]int, trace [32]byte, failure string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(seed)
		m := newMarker("")
		m.ID = "modelmodelmodelmodelmodelm"
		m.Check = m.check()
		if err := object.NewBucket(w.mem).PutBytes(t.Context(), markerName, m.encode()); err != nil {
			t.Fatal(err)
		}
		play{w, dir}.cast()
		w.run(3000)
		if w.failure == "" {
			play{w, dir}.end()
		}
		stats, trace, failure = w.stats, sha256.Sum256(w.trace), w.failure
	})
	return stats, trace, failure
}

// A play is who takes part.
type play struct {
	w   *world
	dir string // for staging
}

var modelTexts = []string{"a", "b", "c", "d"}

func (p play) cast() {
	w := p.w
	streams := []string{"ONE", "TWO"}
	for i := range 2 + w.rng.IntN(2) {
		stream := streams[w.rng.IntN(2)]
		for k := range 1 + w.rng.IntN(3) {
			task := fmt.Sprintf("%c.%04d", 'a'+i, k)
			backup := func(a *actor) { p.backup(a, stream, task) }
			w.start(backup, backup)
		}
	}
	w.start(p.forget, p.forget)
	for range 1 + w.rng.IntN(2) {
		w.start(p.prune, p.prune)
	}
	w.start(p.read, nil)
}

// backup makes one restore point, in as many attempts as it takes.
func (p play) backup(a *actor, stream, task string) {
	r := a.open()
	for range 6 {
		if r == nil {
			return
		}
		err := p.attempt(a, r, stream, task)
		if err == nil || errors.Is(err, ErrPointExists) {
			p.w.mu.Lock()
			known := p.w.truth.ids[task] > 0
			p.w.mu.Unlock()
			if !known {
				p.w.failf("%s was committed and is in no log", task)
			}
			return
		}
		if errors.Is(err, errDead) {
			return
		}
		if errors.Is(err, ErrPruned) {
			p.w.count("refused")
		} else if !errors.Is(err, errFlaky) {
			p.w.failf("backup %s: %v", task, err)
			return
		}
	}
}

// attempt is what a backup does: it may carry on from the newest restore point,
// stores what is not there, and commits.
func (p play) attempt(a *actor, r *Repository, stream, task string) error {
	if p.dir != "" {
		err := p.record(a, r, stream, task)
		var damage *DamageError
		if errors.As(err, &damage) {
			return ErrPruned // the base went away
		}
		return err
	}
	ctx := context.Background()
	var base Point
	var err error
	if a.rng.IntN(3) > 0 {
		if base, err = r.Latest(ctx, "default", stream); err != nil && !errors.Is(err, ErrNoPoint) {
			return err
		}
	}
	if err := p.dawdle(a, r); err != nil {
		return err
	}
	l, err := r.newLight(ctx, stream, task)
	if err != nil {
		return err
	}
	if base.ID != "" {
		l.take(base)
		uses, err := r.resolve(ctx, l.chain, base.Content.Uses)
		if err != nil {
			var damage *DamageError
			if errors.As(err, &damage) {
				return ErrPruned // the base went away
			}
			return err
		}
		l.uses = Uses{}
		for _, o := range sortedUses(uses) {
			if a.rng.IntN(4) > 0 && strings.HasPrefix(o.Name, packsPrefix) {
				l.uses = l.uses.with(o)
			}
		}
	}
	for range 1 + a.rng.IntN(3) {
		if err := l.put(ctx, packsPrefix, modelTexts[a.rng.IntN(len(modelTexts))]); err != nil {
			return err
		}
	}
	if a.rng.IntN(5) == 0 {
		if err := l.putList(ctx); err != nil {
			return err
		}
	}
	for range 3 { // an answer that got lost is asked for again
		if err = r.Commit(ctx, l.point()); !errors.Is(err, errFlaky) {
			break
		}
	}
	return err
}

// dawdle lets others do much, now and then.
func (p play) dawdle(a *actor, r *Repository) error {
	if a.rng.IntN(4) > 0 {
		return nil
	}
	for range 1 << a.rng.IntN(6) {
		if _, err := r.bucket.Stat(context.Background(), markerName); err != nil {
			return err
		}
	}
	return nil
}

func sortedUses(uses map[string]Used) []Used {
	var out []Used
	for _, o := range uses {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Used) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// forget forgets some of what there is, or of what a listing shows.
func (p play) forget(a *actor) {
	r := a.open()
	for range 8 {
		if r == nil {
			return
		}
		all, err := r.Points(context.Background())
		if err != nil {
			continue
		}
		ids := p.w.ids()
		if a.rng.IntN(2) == 0 {
			ids = nil
			for _, l := range all {
				ids = append(ids, l.ID)
			}
		}
		ids = slices.DeleteFunc(ids, func(string) bool { return a.rng.IntN(3) == 0 })
		if err := r.Forget(context.Background(), ids); p.unexpected(err) {
			p.w.failf("forget: %v", err)
		}
	}
}

// unexpected says whether an error is none that this world makes.
func (p play) unexpected(err error) bool {
	return err != nil && !errors.Is(err, errDead) && !errors.Is(err, errFlaky) && !errors.Is(err, ErrNoPoint)
}

// prune plans and prunes, with any margins.
func (p play) prune(a *actor) {
	r := a.open()
	for range 4 {
		if r == nil {
			return
		}
		margins := []time.Duration{0, 0, time.Hour, 24 * time.Hour}
		opt := PruneOptions{Grace: margins[a.rng.IntN(4)], OrphanAge: margins[a.rng.IntN(4)], Now: a.clock}
		plan, err := r.PlanPrune(context.Background(), opt)
		if err != nil {
			continue
		}
		report, err := r.Prune(context.Background(), plan)
		if report.Deleted > 0 {
			p.w.count("pruned")
		}
		if p.unexpected(err) {
			p.w.failf("prune: %v", err)
		}
	}
}

// read reads restore points. What one needs may only be gone if it was forgotten
// meanwhile.
func (p play) read(a *actor) {
	r := a.open()
	for range 4 {
		if r == nil {
			return
		}
		all, err := r.Points(context.Background())
		if err != nil || len(all) == 0 {
			continue
		}
		l := all[a.rng.IntN(len(all))]
		if l.Err != nil {
			continue
		}
		err = p.readAll(r, l.Point)
		p.w.mu.Lock()
		_, living := p.w.truth.live[entryName(l.Point.Chain, l.Point.Number)]
		p.w.mu.Unlock()
		switch {
		case err == nil:
			p.w.count("read")
		case living && !errors.Is(err, errDead) && !errors.Is(err, errFlaky):
			p.w.failf("restore point %s cannot be read: %v", l.ID, err)
		}
	}
}

// readAll reads everything that a restore point needs.
func (p play) readAll(r *Repository, point Point) error {
	if p.dir != "" {
		return readRecords(context.Background(), r, point)
	}
	uses, err := r.resolve(context.Background(), point.Chain, point.Content.Uses)
	for _, o := range sortedUses(uses) {
		if err == nil {
			_, err = r.bucket.Stat(context.Background(), o.Name)
		}
	}
	return err
}

// end looks at what is left: after two prunes without faults, what the listing
// shows, what is found by id and what the logs say are the same, all of it can
// be read, and nothing else is there.
func (p play) end() {
	w := p.w
	ctx := context.Background()
	r, err := Open(ctx, object.NewBucket(&still{w.mem, w}), OpenOptions{})
	if err != nil {
		w.failf("open: %v", err)
		return
	}
	for range 2 {
		plan, err := r.PlanPrune(ctx, PruneOptions{Now: func() time.Time { return w.now.Add(48 * time.Hour) }})
		if err == nil {
			_, err = r.Prune(ctx, plan)
		}
		if err != nil || len(plan.Problems) > 0 {
			w.failf("last prune: %v, %v", err, plan)
			return
		}
	}
	listed, err := r.Points(ctx)
	ids := map[string]bool{}
	for _, l := range listed {
		ids[l.ID] = true
		if l.Err != nil || !w.truth.living(l.ID) {
			w.failf("%s is listed and does not live: %v", l.ID, l.Err)
		}
		if err := p.readAll(r, l.Point); err != nil {
			w.failf("%s cannot be read: %v", l.ID, err)
		}
	}
	needed := map[string]bool{}
	for _, live := range w.truth.live {
		if !ids[live.id] {
			w.failf("%s lives and is not listed: %v", live.id, err)
		}
		for _, o := range live.objects {
			needed[o] = true
			if _, err := w.mem.Stat(ctx, o); err != nil {
				w.failf("%s lives without %s", live.id, o)
			}
		}
	}
	for name := range w.shown() {
		if (strings.HasPrefix(name, packsPrefix) || strings.HasPrefix(name, metaPrefix)) && !needed[name] {
			w.failf("%s is left over", name)
		}
	}
}
