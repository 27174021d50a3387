package store

import (
	"testing"

	"jetkeep/store/seqset"
)

func TestVerifySound(t *testing.T) {
	r, _ := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(3000, 1000)), seqset.Of(4, 8))
	mustSave(t, r, "b.0002", steps(rising(6000, 1000)), seqset.Of(4, 8))
	for _, l := range []VerifyLevel{VerifyStructure, VerifyData, VerifyRecords} {
		rep, err := r.Verify(t.Context(), VerifyOptions{Level: l})
		if err != nil || !rep.OK() {
			t.Fatal(err, rep)
		}
		t.Logf("%s: %+v", l, rep)
	}
}
