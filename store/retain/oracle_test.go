package retain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// The oracle says by definition what must be kept, and shares nothing with the
// package: calendars by arithmetic on days since 1970 (Hinnant's civil
// calendar), and for each point the number of periods that have a newer one.

// A local is a moment as a wall clock and a calendar show it.
type local struct{ seconds, offset int64 }

func localOf(zone *time.Location, t time.Time) local {
	_, offset := t.In(zone).Zone()
	return local{t.Unix() + int64(offset), int64(offset)}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (l local) day() int64 { return floorDiv(l.seconds, 86400) }

// yearMonth is the civil calendar, counted in eras of 400 years from March.
func (l local) yearMonth() (year, month int64) {
	z := l.day() + 719468
	era := floorDiv(z, 146097)
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	month = mp + 3
	if month > 12 {
		month -= 12
	}
	year = yoe + era*400
	if month <= 2 {
		year++
	}
	return year, month
}

// period returns what two moments of the same period have in common.
func (l local) period(kind int) string {
	y, m := l.yearMonth()
	switch kind {
	case 0:
		return fmt.Sprint(floorDiv(l.seconds, 3600), l.offset)
	case 1:
		return fmt.Sprint(l.day())
	case 2:
		return fmt.Sprint(floorDiv(l.day()+3, 7)) // 1970-01-01 was a Thursday
	case 3:
		return fmt.Sprint(y, m)
	}
	return fmt.Sprint(y)
}

// oracle says which items must be kept.
func oracle(p Policy, items []Item, now time.Time) map[string]bool {
	keep := map[string]bool{}
	for _, it := range items {
		keep[it.ID] = it.Pinned || it.Time.After(now) || mustKeep(p, items, it, now)
		for _, tag := range p.Tags {
			for k, v := range it.Tags {
				keep[it.ID] = keep[it.ID] || tag == k || tag == k+"="+v
			}
		}
	}
	return keep
}

func mustKeep(p Policy, items []Item, it Item, now time.Time) bool {
	counts := []int{p.Hourly, p.Daily, p.Weekly, p.Monthly, p.Yearly}
	within := []time.Duration{p.WithinHourly, p.WithinDaily, p.WithinWeekly, p.WithinMonthly, p.WithinYearly}
	rules := p.Last != 0 || p.Within != 0 || len(p.Tags) > 0
	for k := range counts {
		rules = rules || counts[k] != 0 || within[k] != 0
	}
	if !rules {
		return true
	}
	zone := p.Zone
	if zone == nil {
		zone = time.UTC
	}
	newer, newest := 0, it.Time
	periods := make([]map[string]bool, 5)
	for k := range periods {
		periods[k] = map[string]bool{}
	}
	for _, o := range items {
		// What must not count: other groups, the future, and bad ones against a good one.
		if o.Group != it.Group || o.Time.After(now) || it.Good && !o.Good {
			continue
		}
		if o.Time.After(it.Time) || o.Time.Equal(it.Time) && o.ID > it.ID {
			newer++
			if o.Time.After(newest) {
				newest = o.Time
			}
			for k := range periods {
				periods[k][localOf(zone, o.Time).period(k)] = true
			}
		}
	}
	age := newest.Sub(it.Time)
	if p.Last < 0 || newer < p.Last || newer < p.Floor || p.Within > 0 && age <= p.Within {
		return true
	}
	for k := range periods {
		first := !periods[k][localOf(zone, it.Time).period(k)]
		if first && (counts[k] < 0 || len(periods[k]) < counts[k] || within[k] > 0 && age <= within[k]) {
			return true
		}
	}
	return false
}

// eras are where calendars are odd: a zone, a time about which points lie.
var eras = []struct{ zone, around string }{
	{"Europe/Berlin", "2026-10-25T01:00:00Z"},
	{"Europe/Berlin", "2027-03-28T01:00:00Z"},
	{"America/New_York", "2026-11-01T06:00:00Z"},
	{"America/New_York", "2021-01-02T00:00:00Z"},    // after the leap year 2020, whose weeks are 53
	{"Australia/Lord_Howe", "2026-04-04T15:00:00Z"}, // half an hour back
	{"Australia/Lord_Howe", "2026-10-03T15:30:00Z"}, // half an hour on
	{"Asia/Kolkata", "2024-02-29T18:30:00Z"},
	{"Pacific/Apia", "2011-12-30T10:00:00Z"},     // the day that did not come
	{"America/St_Johns", "2006-10-29T02:31:00Z"}, // back across midnight, at one past
	{"UTC", "2024-12-30T00:00:00Z"},
	{"UTC", "2028-02-29T12:00:00Z"},
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomPolicy(r *rand.Rand, zone *time.Location) Policy {
	count := func() int {
		if r.IntN(3) > 0 {
			return 0
		}
		return pick(r, 1, 1, 2, 3, 7, 30, Unlimited)
	}
	within := func() time.Duration {
		if r.IntN(6) > 0 {
			return 0
		}
		return pick(r, time.Hour, 36*time.Hour, 30*24*time.Hour, 400*24*time.Hour, time.Duration(1+r.Int64N(1e17)))
	}
	p := Policy{
		Last: count(), Hourly: count(), Daily: count(), Weekly: count(), Monthly: count(), Yearly: count(),
		Within: within(), WithinHourly: within(), WithinDaily: within(), WithinWeekly: within(), WithinMonthly: within(), WithinYearly: within(),
		Zone: zone, Floor: pick(r, 0, 0, 1, 2, 5),
	}
	if zone == time.UTC && r.IntN(2) == 0 {
		p.Zone = nil
	}
	if r.IntN(4) == 0 {
		p.Tags = []string{pick(r, "legal-hold", "env=prod", "env=", "none")}
	}
	return p
}

func randomItems(r *rand.Rand, around time.Time) []Item {
	step := pick(r, time.Minute, 20*time.Minute, time.Hour, 7*time.Hour, 24*time.Hour, 9*24*time.Hour, 45*24*time.Hour)
	items := make([]Item, r.IntN(60))
	for i := range items {
		it := &items[i]
		it.ID, it.Group = fmt.Sprintf("%03d", i), pick(r, "a", "a", "b")
		it.Time = around.Add(time.Duration(r.Int64N(int64(40*step))) - 20*step)
		switch r.IntN(6) {
		case 0: // exactly on a border, or at the time of another
			it.Time = it.Time.Truncate(pick(r, time.Hour, 24*time.Hour))
		case 1:
			it.Time = items[r.IntN(i+1)].Time
			if it.Time.IsZero() {
				it.Time = around
			}
		}
		it.Good, it.Pinned = r.IntN(8) > 0, r.IntN(20) == 0
		if r.IntN(10) == 0 {
			it.Tags = map[string]string{pick(r, "legal-hold", "env"): pick(r, "", "prod")}
		}
	}
	return items
}

func TestAgainstOracle(t *testing.T) {
	const cases = 10_000
	seed := uint64(20261123)
	r := rand.New(rand.NewPCG(seed, 1))
	kept, forgotten := 0, 0
	for n := range cases {
		era := eras[n%len(eras)]
		zone, err := time.LoadLocation(era.zone)
		if err != nil {
			t.Fatal(err)
		}
		around, err := time.Parse(time.RFC3339, era.around)
		if err != nil {
			t.Fatal(err)
		}
		p, items := randomPolicy(r, zone), randomItems(r, around)
		now := around.Add(time.Duration(r.Int64N(int64(48*time.Hour))) * pick[time.Duration](r, 0, -1, 1, 1000))
		want := oracle(p, items, now)
		got := Apply(p, items, now)
		for i, d := range got {
			if d.ID != items[i].ID || d.Keep != want[d.ID] || len(d.Reasons) == 0 {
				t.Fatalf("seed %d, case %d in %s: item %+v: got %+v, must be kept: %v\npolicy %+v\nnow %s", seed, n, era.zone, items[i], d, want[d.ID], p, now)
			}
			if d.Keep {
				kept++
			} else {
				forgotten++
			}
		}
		checkSafety(t, p, items, got, now)
		checkOrder(t, r, p, items, got, now)
	}
	if kept < cases || forgotten < cases {
		t.Errorf("%d kept, %d forgotten: the cases prove little", kept, forgotten)
	}
	t.Logf("seed %d: %d policies, %d points kept, %d forgotten", seed, cases, kept, forgotten)
}

// checkSafety checks that what is no good point changes nothing for good ones.
func checkSafety(t *testing.T, p Policy, items []Item, got []Decision, now time.Time) {
	t.Helper()
	var counted []Item
	want := map[string]Decision{}
	for i, it := range items {
		if it.Good && !it.Time.After(now) {
			counted = append(counted, it)
			want[it.ID] = got[i]
		}
	}
	for _, d := range Apply(p, counted, now) {
		if !slices.Equal(d.Reasons, want[d.ID].Reasons) {
			t.Fatalf("without bad and future points %s is %v, with them %v", d.ID, d.Reasons, want[d.ID].Reasons)
		}
	}
}

func checkOrder(t *testing.T, r *rand.Rand, p Policy, items []Item, got []Decision, now time.Time) {
	t.Helper()
	want := map[string]string{}
	for _, d := range got {
		want[d.ID] = strings.Join(d.Reasons, "; ")
	}
	mixed := slices.Clone(items)
	r.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	for _, d := range Apply(p, mixed, now) {
		if s := strings.Join(d.Reasons, "; "); s != want[d.ID] {
			t.Fatalf("in another order %s is kept for %q, not %q", d.ID, s, want[d.ID])
		}
	}
}
