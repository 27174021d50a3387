package service

import (
	"encoding/json"
	"strings"
	"testing"

	"jetkeep/service/api"
	"jetkeep/service/scheduler"
	"jetkeep/service/session"
	"jetkeep/store"
)

// Whose a restore point is decides whether its repository's policy may forget it.
func TestOwnedBy(t *testing.T) {
	t.Parallel()
	owners := map[string]scheduler.Owner{
		"own":     {Repository: "r", Target: "t", Keep: &api.Keep{Last: 1}},
		"none":    {Repository: "r", Target: "t"},
		"moved":   {Repository: "other", Target: "t"},
		"turned":  {Repository: "r", Target: "other", Keep: &api.Keep{Last: 1}},
		"unknown": {Unknown: true},
	}
	for by, want := range map[string]string{
		"": "", "none": "",
		"own": "has a policy of its own", "gone": "is not there", "moved": "into repository other", "turned": "target other", "unknown": "cannot be read",
	} {
		p := store.Point{Target: "t", Tags: map[string]string{"a": "b"}}
		if by != "" {
			p.Tags[api.ScheduleTag] = by
		}
		if got := ownedBy(owners, "r", p); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("of %q: %q, want %q", by, got, want)
		}
	}
}

// What an earlier version started for a schedule decides about that one's restore
// points only, and an earlier version finds no policy in what this one starts.
func TestPrunesOfAnotherVersion(t *testing.T) {
	t.Parallel()
	s := new(Service)
	keep := &api.Keep{Last: 1}
	c, err := s.coverageOf(t.Context(), "r", session.Prune{Keep: keep}, map[string]string{api.ScheduleTag: "x"})
	if err != nil || c.keep != keep {
		t.Fatal(c, err)
	}
	for by, covered := range map[string]bool{"x": true, "y": false, "": false} {
		p := store.Point{Tags: map[string]string{}}
		if by != "" {
			p.Tags[api.ScheduleTag] = by
		}
		if got := c.other(p); (got == "") != covered {
			t.Errorf("of %q: %q", by, got)
		}
	}
	spec := &api.Schedule{Name: "x", Repository: "r", Target: "t", Keep: keep}
	if own, err := ownPolicy(spec, "r"); err != nil || own.Schedule != "x" || own.Target != "t" {
		t.Errorf("%+v %v", own, err)
	}
	b, err := json.Marshal(session.Prune{Own: &session.OwnPolicy{Keep: keep, Schedule: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	var earlier struct {
		Keep *api.Keep `json:"keep"`
	}
	if err := json.Unmarshal(b, &earlier); err != nil || earlier.Keep != nil {
		t.Errorf("an earlier version would apply the policy to everything: %s, %v", b, err)
	}
}
