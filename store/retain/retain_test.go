package retain

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func zoneOf(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// points makes good points of one group, named by their times.
func points(t *testing.T, times ...string) []Item {
	t.Helper()
	var out []Item
	for _, s := range times {
		out = append(out, Item{ID: s, Time: at(t, s), Good: true})
	}
	return out
}

func reasons(p Policy, items []Item, now time.Time) []string {
	var out []string
	for _, d := range Apply(p, items, now) {
		out = append(out, strings.Join(d.Reasons, "; "))
	}
	return out
}

func want(t *testing.T, p Policy, items []Item, now string, lines ...string) {
	t.Helper()
	got := reasons(p, items, at(t, now))
	if !slices.Equal(got, lines) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(lines, "\n  "))
	}
}

const no = "no rule keeps it"

func TestReasons(t *testing.T) {
	items := points(t, "2026-11-22T22:30:00Z", "2026-11-22T23:30:00Z", "2026-11-23T10:00:00Z", "2026-11-01T00:00:00Z", "2026-11-23T11:00:00Z", "2026-11-23T12:00:00Z")
	items[0].Pinned = true
	items[3].Tags = map[string]string{"legal-hold": "", "env": "prod"}
	items[5].Good = false
	p := Policy{Last: 1, Daily: 2, Within: time.Hour, Tags: []string{"legal-hold", "env=prod", "env=test"}, Zone: zoneOf(t, "Europe/Berlin"), Floor: 2}
	want(t, p, items, "2026-11-23T13:00:00Z",
		"pinned; daily 2026-11-22 in Europe/Berlin",
		no, // 00:30 of the 23rd in Berlin
		"within 1h; floor: one of the newest 2",
		"tag legal-hold; tag env=prod",
		"last 1 of 1; within 1h; daily 2026-11-23 in Europe/Berlin; floor: one of the newest 2",
		"not good, else last 1 of 1; not good, else within 1h; not good, else daily 2026-11-23 in Europe/Berlin; not good, else floor: one of the newest 2")
	p.Zone = nil
	if got := reasons(p, items, at(t, "2026-11-23T13:00:00Z"))[1]; got != "daily 2026-11-22 in UTC" {
		t.Errorf("in UTC: %s", got)
	}
}

func TestEmptyPolicyKeepsAll(t *testing.T) {
	items := points(t, "2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
	items[0].Good = false
	for _, p := range []Policy{{}, {Floor: 1}, {Zone: time.UTC}} {
		want(t, p, items, "2026-11-23T00:00:00Z", "the policy has no rule", "the policy has no rule")
	}
}

// A clock that jumped a day ahead made the last point: it must not take the
// place of what was made before, and is not lost either.
func TestFuturePoints(t *testing.T) {
	items := points(t, "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", "2026-11-24T00:00:00Z")
	p := Policy{Last: 1, Within: time.Hour, Daily: 1}
	want(t, p, items, "2026-11-23T00:00:00Z",
		no,
		"last 1 of 1; within 1h; daily 2026-11-22 in UTC",
		"dated in the future, 2026-11-24T00:00:00Z")
	want(t, p, items, "2026-11-24T00:00:00Z", no, no, "last 1 of 1; within 1h; daily 2026-11-24 in UTC")
	// The clock of who applies it is a day behind: more is kept, nothing else.
	want(t, p, items, "2026-11-21T23:00:00Z",
		"last 1 of 1; within 1h; daily 2026-11-21 in UTC",
		"dated in the future, 2026-11-22T00:00:00Z",
		"dated in the future, 2026-11-24T00:00:00Z")
	// It is years ahead: durations still count from the newest point.
	want(t, Policy{Within: 24 * time.Hour}, items, "2036-01-01T00:00:00Z", no, no, "within 1d")
}

func TestPeriods(t *testing.T) {
	for _, c := range []struct {
		about, zone string
		p           Policy
		times       []string // newest first
		keep        string   // one letter a time: k or -
	}{
		{"the hour that comes twice is two", "Europe/Berlin", Policy{Hourly: 9},
			[]string{"2026-10-25T01:59:00Z", "2026-10-25T01:00:00Z", "2026-10-25T00:59:00Z", "2026-10-25T00:00:00Z", "2026-10-24T23:59:00Z"}, "k-k-k"},
		{"half an hour comes twice", "Australia/Lord_Howe", Policy{Hourly: 9},
			[]string{"2026-04-04T15:29:00Z", "2026-04-04T15:00:00Z", "2026-04-04T14:59:00Z", "2026-04-04T14:30:00Z", "2026-04-04T14:00:00Z"}, "k-k--"},
		{"a day of 25 hours is one", "America/New_York", Policy{Daily: 2},
			[]string{"2026-11-02T04:59:00Z", "2026-11-01T04:00:00Z", "2026-11-01T03:59:00Z", "2026-10-31T03:59:00Z"}, "k-k-"},
		{"a day of 23 hours is one", "America/New_York", Policy{Daily: 2},
			[]string{"2026-03-09T03:59:00Z", "2026-03-08T05:00:00Z", "2026-03-08T04:59:00Z"}, "k-k"},
		{"the day that did not come takes no place", "Pacific/Apia", Policy{Daily: 2},
			[]string{"2011-12-30T10:00:00Z", "2011-12-30T09:59:00Z", "2011-12-29T09:59:00Z"}, "kk-"},
		{"clocks go back across midnight", "America/St_Johns", Policy{Daily: 2},
			[]string{"2006-10-29T03:30:00Z", "2006-10-29T03:29:00Z", "2006-10-29T02:30:30Z", "2006-10-29T02:29:00Z", "2006-10-28T02:29:00Z"}, "kk---"},
		{"a leap day is a day", "Asia/Kolkata", Policy{Daily: 3},
			[]string{"2024-02-29T18:30:00Z", "2024-02-29T18:29:00Z", "2024-02-28T18:30:00Z", "2024-02-28T18:29:00Z", "2024-02-27T18:29:00Z"}, "kk-k-"},
		{"the last days of December are in the first week", "UTC", Policy{Weekly: 2},
			[]string{"2025-01-05T23:59:00Z", "2024-12-30T00:00:00Z", "2024-12-29T23:59:00Z", "2024-12-22T00:00:00Z"}, "k-k-"},
		{"a year of 53 weeks", "UTC", Policy{Weekly: 2, Yearly: 1},
			[]string{"2021-01-04T00:00:00Z", "2021-01-03T00:00:00Z", "2020-12-31T00:00:00Z", "2020-12-27T00:00:00Z"}, "kk--"},
		{"months and years begin in the zone", "Europe/Berlin", Policy{Monthly: 1, Yearly: 2},
			[]string{"2026-12-31T23:00:00Z", "2026-12-31T22:59:00Z", "2025-12-31T23:00:00Z"}, "kk-"},
	} {
		c.p.Zone = zoneOf(t, c.zone)
		got := ""
		for _, d := range Apply(c.p, points(t, c.times...), at(t, "2030-01-01T00:00:00Z")) {
			got += map[bool]string{true: "k", false: "-"}[d.Keep]
		}
		if got != c.keep {
			t.Errorf("%s: %s, want %s", c.about, got, c.keep)
		}
	}
}

func TestGroupsAreApart(t *testing.T) {
	items := points(t, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2020-01-01T00:00:00Z")
	items[2].Group = "another"
	want(t, Policy{Last: 1}, items, "2026-11-23T00:00:00Z", no, "last 1 of 1", "last 1 of 1")
}

// A group without a good point keeps its newest bad ones.
func TestOnlyBadPoints(t *testing.T) {
	items := points(t, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
	items[0].Good, items[1].Good = false, false
	want(t, Policy{Last: 1}, items, "2026-11-23T00:00:00Z", no, "not good, else last 1 of 1")
}
