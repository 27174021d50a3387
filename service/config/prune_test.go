package config

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// A repository with a policy is pruned each day, at other times if it says when,
// and not at all only if it says so.
func TestPruneTimes(t *testing.T) {
	for fields, want := range map[string]string{
		``:                             "",
		`keep { last: 7 }`:             "@daily UTC",
		`keep { last: 7 }, prune: on`:  "@daily UTC",
		`keep { last: 7 }, prune: off`: "off",
		`prune: off`:                   "off",
		`keep { last: 7 }, prune { }`:  "@daily UTC",
		`prune { cron: "@weekly" }`:    "@weekly UTC",
		`keep { last: 7 }, prune { zone: "Asia/Tokyo" }`:                      "@daily Asia/Tokyo",
		`keep { last: 7 }, prune { cron: "30 4 * * *", zone: Europe/Berlin }`: "30 4 * * * Europe/Berlin",
	} {
		f, err := ReadFile(write(t, t.TempDir(), "x.conf", `
			repositories { main { path: /r, `+fields+` } }
			staging { dir: /s }`))
		if err != nil {
			t.Errorf("%s: %v", fields, err)
			continue
		}
		r := &f.Config.Repositories[0]
		got := ""
		switch {
		case r.Prune != nil && r.Prune.Off:
			got = "off"
		case r.Prune != nil:
			got = r.Prune.Cron + " " + r.Prune.Zone
		}
		times, err := r.PruneTimes()
		if got != want || err != nil || (times == nil) != (want == "" || want == "off") {
			t.Errorf("%s: %q, %v, %v", fields, got, times, err)
		}
		// What is shown is read as the same.
		var b bytes.Buffer
		if err := f.Config.Write(&b); err != nil {
			t.Fatal(err)
		}
		again, err := ReadFile(write(t, t.TempDir(), "shown.conf", b.String()))
		if err != nil {
			t.Errorf("%s: shown as %s: %v", fields, b.String(), err)
		} else if a := again.Config.Repositories[0].Prune; (a == nil) != (r.Prune == nil) || a != nil && *a != *r.Prune {
			t.Errorf("%s: %+v is read again as %+v", fields, r.Prune, a)
		}
	}
	for fields, field := range map[string]string{
		`prune: never`:              "repositories.main.prune",
		`prune: "off"`:              "repositories.main.prune",
		`prune: 5`:                  "repositories.main.prune",
		`prune { cron: "daily" }`:   "repositories.main.prune.cron",
		`prune { zone: "Nowhere" }`: "repositories.main.prune.zone",
		`prune { when: "@daily" }`:  "repositories.main.prune.when",
	} {
		_, err := ReadFile(write(t, t.TempDir(), "x.conf", `
			repositories { main { path: /r, `+fields+` } }
			staging { dir: /s }`))
		if err == nil || !strings.Contains(err.Error(), ": "+field+": ") {
			t.Errorf("%s: %v", fields, err)
		}
	}
}

// Each day is midnight in the zone that is given.
func TestPruneTimesOfAZone(t *testing.T) {
	r := Repository{Prune: &Prune{Zone: "Asia/Tokyo"}}
	r.setPrune()
	times, err := r.PruneTimes()
	if err != nil {
		t.Fatal(err)
	}
	at, ok := times.Next(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
	if want := time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC); !ok || !at.Equal(want) {
		t.Errorf("%s, want %s", at, want)
	}
}
