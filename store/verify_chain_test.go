package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/seqset"
)

// commitAs commits a restore point with what change makes of its content.
func commitAs(t *testing.T, r *Repository, id string, c Content, change func(*Content)) {
	t.Helper()
	c.Uses.Objects = slices.Clone(c.Uses.Objects)
	change(&c)
	if err := r.Commit(t.Context(), makePoint(id, c)); err != nil {
		t.Fatal(err)
	}
}

func wantProblem(t *testing.T, r *Repository, level VerifyLevel, object, says string, reach ...string) {
	t.Helper()
	rep, err := r.Verify(t.Context(), VerifyOptions{Level: level})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(rep.Problems, func(p Problem) bool {
		return strings.Contains(p.Object, object) && strings.Contains(p.Problem, says)
	}) || !slices.Equal(rep.Damaged, reach) {
		t.Errorf("want %q of %s, reaching %q: %v, reaching %q", says, object, reach, rep.Problems, rep.Damaged)
	}
}

// What a restore point needs and does not say that it uses would be pruned.
func TestVerifyFindsWhatIsNotAmongTheUses(t *testing.T) {
	r, _ := newRepo(t)
	c := mustSave(t, r, "b.0001", steps(rising(500, 30)), nil).Content
	commitAs(t, r, "b.0002", c, func(c *Content) { c.Uses.Objects = nil })
	wantProblem(t, r, VerifyStructure, "commits/b.0002", "not among its uses", "b.0002")
}

// The same of a table that is shared with a restore point which says it all.
func TestVerifyFindsWhatIsNotAmongTheUsesOfASharedTable(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(borderRecords()), nil)
	c := p.Content
	if len(c.Uses.Lists) == 0 {
		t.Fatalf("uses %+v", c.Uses)
	}
	commitAs(t, r, "b.0002", c, func(c *Content) {
		for _, ref := range c.Tables.List {
			c.Uses.Objects = append(c.Uses.Objects, Used{Name: chainObject(metaPrefix, p.Chain, ref.Ref.Hash), Size: ref.Ref.Size})
		}
		c.Uses.Lists = nil
	})
	wantProblem(t, r, VerifyStructure, "commits/b.0002", "not among its uses", "b.0002")
}

func TestVerifyFindsUsesOfAnotherChain(t *testing.T) {
	r, _ := newRepo(t)
	c := mustSave(t, r, "b.0001", steps(rising(500, 30)), nil).Content
	commitAs(t, r, "b.0002", c, func(c *Content) {
		c.Uses.Objects = append(c.Uses.Objects, Used{Name: "packs/" + hexDigits[:32] + "/" + hexDigits, Size: 7})
	})
	wantProblem(t, r, VerifyStructure, "commits/b.0002", "not of its chain", "b.0002")
}

func appendForTest(t *testing.T, r *Repository, chain string, e entry) {
	t.Helper()
	tail, _, err := r.tailOf(t.Context(), chain)
	if err == nil {
		e.time, e.codec = time.Now().UTC(), bodyJSON
		_, err = r.appendEntry(t.Context(), &tail, func(*entry) error { return nil }, func() (*entry, error) { return &e, nil })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A prune that condemned what is needed has to be found before it is carried out.
func TestVerifyFindsWhatIsCondemnedAndNeeded(t *testing.T) {
	r, _ := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(500, 30)), nil)
	used := p.Content.Uses.Objects[0]
	body, err := marshal(pruneBody{Objects: []Used{used}})
	if err != nil {
		t.Fatal(err)
	}
	appendForTest(t, r, p.Chain, entry{kind: entryPrune, task: "prune", body: body})
	wantProblem(t, r, VerifyStructure, used.Name, "was condemned by entry 2 and is needed", "b.0001")
}

func TestVerifyFindsAWrongEpoch(t *testing.T) {
	h := newHistory(t, false)
	e := h.forget("none")
	e.epoch = 3
	h.rewrite(e)
	wantProblem(t, h.repo, VerifyStructure, h.log(6), "says epoch 3, it is 0")
}

// A mark of a prune where none was.
func TestVerifyFindsWrongMarks(t *testing.T) {
	h := newHistory(t, false)
	h.put(doneName(h.chain, 2), []byte(doneMark))
	h.put(doneName(h.chain, 9), []byte(doneMark))
	h.put("chains/"+h.chain+"/7", []byte("x"))
	for object, says := range map[string]string{doneName(h.chain, 2): "marks a point", doneName(h.chain, 9): "not in the log", h.chain + "/7": "no entry"} {
		wantProblem(t, h.repo, VerifyStructure, object, says)
	}
}

// A proof that is whole and wrong costs no restore, but an increment.
func TestVerifyComparesProofs(t *testing.T) {
	r, _ := newRepo(t)
	recs := rising(500, 30)
	p := mustSave(t, r, "b.0001", steps(recs), nil)
	segments := segmentsOf(t, r, p)
	wrong := *segments[0].pack
	segments[0].pack = &wrong
	right, err := r.getBlob(t.Context(), p.Chain, kindProof, wrong.proof)
	if err != nil {
		t.Fatal(err)
	}
	payload := slices.Clone(right)
	payload[len(payload)-5] ^= 1
	if wrong.proof, _, err = r.putBlob(t.Context(), p.Content.place(), kindProof, payload, maxInlineProof); err != nil {
		t.Fatal(err)
	}
	forged := withTable(p, segments).Content
	commitAs(t, r, "b.0002", forged, func(c *Content) {
		if wrong.proof.Ref != nil {
			c.Uses = c.Uses.with(Used{Name: chainObject(metaPrefix, p.Chain, wrong.proof.Ref.Hash), Size: wrong.proof.Ref.Size})
		}
	})
	if err := r.Forget(t.Context(), []string{"b.0001"}); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, r, VerifyRecords, "packs/", "its proof says of segment 1-500")
}

// A service without an operator's identity verifies all but the records, and
// one without any key all but the metadata; both find what is missing and whom
// it reaches.
func TestVerifyWithoutKeys(t *testing.T) {
	service, unlocked, d, _ := newSealedRepo(t)
	bucket := object.NewBucket(d)
	keyless, err := Open(t.Context(), bucket, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		mustSave(t, service, fmt.Sprintf("b.%04d", i), steps(rising(300+300*i, 30)), seqset.Of(uint64(i+5)))
	}
	p, err := unlocked.Point(t.Context(), "b.0001")
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*Repository{"service": service, "keyless": keyless, "unlocked": unlocked} {
		for level := VerifyStructure; level <= VerifyRecords; level++ {
			rep, err := r.Verify(t.Context(), VerifyOptions{Level: level})
			if level == VerifyRecords && name != "unlocked" {
				if !errors.Is(err, ErrLocked) {
					t.Errorf("%s reads records: %v", name, err)
				}
				continue
			}
			if err != nil || !rep.OK() || rep.Points != 3 || rep.Objects < 3 || level == VerifyData && rep.Read != rep.Objects {
				t.Errorf("%s, %s: %v, %+v", name, level, err, rep)
			}
		}
	}
	gone := p.Content.Uses.Objects[0].Name
	if err := bucket.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Repository{service, keyless, unlocked} {
		wantProblem(t, r, VerifyStructure, gone, "missing", "b.0001")
	}
}

// One restore point alone: the log of its chain, and what it needs.
func TestVerifyOne(t *testing.T) {
	r, d := newRepo(t)
	var points []Point
	for i := range 3 {
		points = append(points, mustSave(t, r, fmt.Sprintf("b.%04d", i), steps(rising(20+20*i, 20)), nil))
	}
	if err := object.NewBucket(d).Delete(t.Context(), points[1].Content.Uses.Objects[0].Name); err != nil {
		t.Fatal(err)
	}
	for i, p := range points {
		rep, err := r.Verify(t.Context(), VerifyOptions{Level: VerifyRecords, Points: []string{p.ID}})
		if err != nil || rep.OK() != (i != 1) || rep.Points != 1 {
			t.Errorf("%s: %v, %+v", p.ID, err, rep)
		}
	}
	if _, err := r.Verify(t.Context(), VerifyOptions{Points: []string{"b.0009"}}); !errors.Is(err, ErrNoPoint) {
		t.Errorf("one that is not there: %v", err)
	}
}
