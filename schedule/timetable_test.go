package schedule

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func timetable(t *testing.T, spec Spec) *Timetable {
	t.Helper()
	tt, err := New(spec)
	if err != nil {
		t.Fatal(err)
	}
	return tt
}

func day(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

// slots returns all slots of [from, to).
func slots(tt *Timetable, from, to time.Time) []time.Time {
	var out []time.Time
	for at, ok := tt.Next(from.Add(-1)); ok && at.Before(to); at, ok = tt.Next(at) {
		out = append(out, at)
	}
	return out
}

// A field is a set of numbers and how an expression says it.
type field struct {
	text string
	has  [60]bool
	star bool
}

func randomField(r *rand.Rand, from, to int) field {
	var f field
	add := func(a, b, step int) {
		for v := a; v <= b; v += step {
			f.has[v] = true
		}
	}
	switch r.IntN(4) {
	case 0:
		add(from, to, 1)
		f.text, f.star = "*", true
	case 1:
		step := 1 + r.IntN(to-from)
		add(from, to, step)
		f.text = fmt.Sprintf("%d-%d/%d", from, to, step)
	case 2:
		a := from + r.IntN(to-from+1)
		b := a + r.IntN(to-a+1)
		add(a, b, 1)
		f.text = fmt.Sprintf("%d-%d", a, b)
	default:
		var parts []string
		for range 1 + r.IntN(3) {
			v := from + r.IntN(to-from+1)
			f.has[v] = true
			parts = append(parts, fmt.Sprint(v))
		}
		f.text = strings.Join(parts, ",")
	}
	return f
}

// An oracle reads the rules of the package comment minute by minute, with no
// arithmetic on days or zones.
type oracle struct {
	minute, hour, dom, month, dow field
	zone                          *time.Location
}

func (o oracle) text() string {
	return strings.Join([]string{o.minute.text, o.hour.text, o.dom.text, o.month.text, o.dow.text}, " ")
}

// matches takes a time of day as if it were UTC.
func (o oracle) matches(wall time.Time) bool {
	dom, dow := o.dom.has[wall.Day()], o.dow.has[int(wall.Weekday())]
	days := dom || dow
	if o.dom.star || o.dow.star {
		days = dom && dow
	}
	return days && o.month.has[int(wall.Month())] && o.hour.has[wall.Hour()] && o.minute.has[wall.Minute()]
}

// slots walks through [from, to) after a run-up in which nothing is reported.
func (o oracle) slots(from, to time.Time) []time.Time {
	var out []time.Time
	hourly := !slices.Contains(o.hour.has[:24], false)
	shown := wallOf(from.Add(-48*time.Hour), o.zone) // the latest time of day that clocks have shown
	for at := from.Add(-48 * time.Hour); at.Before(to); at = at.Add(time.Minute) {
		wall := wallOf(at, o.zone)
		due := false
		switch {
		case hourly:
			due = o.matches(wall)
		case wall.After(shown):
			for w := shown.Add(time.Minute); !w.After(wall); w = w.Add(time.Minute) {
				due = due || o.matches(w) // what clocks went over, too
			}
		}
		if wall.After(shown) {
			shown = wall
		}
		if due && !at.Before(from) {
			out = append(out, at)
		}
	}
	return out
}

func wallOf(at time.Time, zone *time.Location) time.Time {
	_, offset := at.In(zone).Zone()
	return at.Add(time.Duration(offset) * time.Second).UTC()
}

func compare(t *testing.T, what string, got, want []time.Time) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Fatalf("%s: slot %s is lost, %d of %d", what, want[i], len(got), len(want))
		case i >= len(want):
			t.Fatalf("%s: slot %s is not due, %d instead of %d", what, got[i], len(got), len(want))
		case !got[i].Equal(want[i]):
			t.Fatalf("%s: slot %d is %s instead of %s", what, i, got[i], want[i])
		}
	}
}

// A year of random expressions in zones whose clocks change at 1, 2, 3 o'clock
// and at midnight, by an hour, by half an hour, by a day, or not at all: others each
// time, and more of them, in a campaign.
func TestAYearAgainstTheOracle(t *testing.T) {
	t.Parallel()
	seed, each := uint64(2), 2
	if os.Getenv("JETKEEP_CAMPAIGN") != "" {
		seed, each = uint64(time.Now().UnixNano()), 10
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	total := 0
	for _, z := range []struct {
		name string
		year int
	}{
		{"Europe/Berlin", 2026}, {"America/New_York", 2027}, {"Australia/Lord_Howe", 2026}, {"Africa/Cairo", 2025},
		{"America/Havana", 2026}, {"Asia/Kathmandu", 2026}, {"Pacific/Apia", 2011}, {"", 2028},
	} {
		zone, err := time.LoadLocation(z.name)
		if err != nil {
			t.Fatal(err)
		}
		for range each {
			o := oracle{
				minute: randomField(r, 0, 59), hour: randomField(r, 0, 23), dom: randomField(r, 1, 31),
				month: randomField(r, 1, 12), dow: randomField(r, 0, 6), zone: zone,
			}
			from, to := day(z.year, 1, 1), day(z.year+1, 1, 3)
			want := o.slots(from, to)
			tt, err := New(Spec{Cron: o.text(), Zone: z.name})
			if err != nil && len(want) == 0 {
				continue // such as 31 February
			}
			if err != nil {
				t.Fatal(err)
			}
			compare(t, fmt.Sprintf("seed %d, %q in %q", seed, o.text(), z.name), slots(tt, from, to), want)
			total += len(want)
		}
	}
	if total < 5_000 {
		t.Errorf("only %d slots were compared", total)
	}
	t.Logf("%d slots", total)
}

func TestChangesOfClocks(t *testing.T) {
	const layout = "2006-01-02T15:04Z07:00"
	for _, tt := range []struct {
		name, cron, zone string
		from, to         time.Time
		want             string
	}{
		{"does not exist", "30 2 * * *", "Europe/Berlin", day(2026, 3, 28), day(2026, 3, 31), "2026-03-28T01:30Z 2026-03-29T01:00Z 2026-03-30T00:30Z"},
		{"several do not exist", "*/20 2 * * *", "Europe/Berlin", day(2026, 3, 29), day(2026, 3, 30), "2026-03-29T01:00Z"},
		{"none and the next", "0 2,3 * * *", "Europe/Berlin", day(2026, 3, 29), day(2026, 3, 30), "2026-03-29T01:00Z"},
		{"exists twice", "30 2 * * *", "Europe/Berlin", day(2026, 10, 24), day(2026, 10, 27), "2026-10-24T00:30Z 2026-10-25T00:30Z 2026-10-26T01:30Z"},
		{"every hour, forward", "30 * * * *", "Europe/Berlin", day(2026, 3, 29), time.Date(2026, 3, 29, 3, 0, 0, 0, time.UTC), "2026-03-29T00:30Z 2026-03-29T01:30Z 2026-03-29T02:30Z"},
		{"every hour, back", "30 * * * *", "Europe/Berlin", day(2026, 10, 25), time.Date(2026, 10, 25, 3, 0, 0, 0, time.UTC), "2026-10-25T00:30Z 2026-10-25T01:30Z 2026-10-25T02:30Z"},
		{"midnight does not exist", "@daily", "Africa/Cairo", day(2025, 4, 23), day(2025, 4, 26), "2025-04-23T22:00Z 2025-04-24T22:00Z 2025-04-25T21:00Z"},
		{"a day does not exist", "0 12 30 12 *", "Pacific/Apia", day(2011, 12, 1), day(2012, 12, 1), "2011-12-30T10:00Z"},
		{"leap day", "0 0 29 2 *", "", day(2026, 1, 1), day(2033, 1, 1), "2028-02-29T00:00Z 2032-02-29T00:00Z"},
		{"day of month or week", "0 0 13 * 5", "", day(2026, 11, 1), day(2026, 11, 21), "2026-11-06T00:00Z 2026-11-13T00:00Z 2026-11-20T00:00Z"},
		{"a star with a step is a star", "0 0 */10 * 6", "", day(2026, 8, 1), day(2026, 12, 1), "2026-08-01T00:00Z 2026-10-31T00:00Z 2026-11-21T00:00Z"},
		{"sunday is 7", "0 0 * * 7", "", day(2026, 11, 1), day(2026, 11, 9), "2026-11-01T00:00Z 2026-11-08T00:00Z"},
		{"up to sunday", "0 0 * * 6-7", "", day(2026, 11, 2), day(2026, 11, 10), "2026-11-07T00:00Z 2026-11-08T00:00Z"},
		{"interval", "@every 9h", "Europe/Berlin", day(2026, 3, 29), day(2026, 3, 30), "2026-03-29T00:00Z 2026-03-29T09:00Z 2026-03-29T18:00Z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, at := range slots(timetable(t, Spec{Cron: tt.cron, Zone: tt.zone}), tt.from, tt.to) {
				got = append(got, at.Format(layout))
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("%s in %s:\n got %s\nwant %s", tt.cron, tt.zone, s, tt.want)
			}
		})
	}
}

// From wherever one asks, the next slot is the same one.
func TestNextDependsOnNothingElse(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, spec := range []Spec{
		{Cron: "*/15 * * * *", Zone: "America/New_York"}, {Cron: "5 1,2,3 * * *", Zone: "America/New_York"},
		{Cron: "@every 7m"}, {Cron: "@every 25h", Start: day(2026, 3, 3).Add(time.Minute)},
	} {
		tt := timetable(t, spec)
		from, to := day(2026, 10, 20), day(2026, 11, 10)
		all := slots(tt, from, to)
		for range 2000 {
			at := from.Add(time.Duration(r.Int64N(int64(to.Sub(from)))))
			want := time.Time{}
			for _, s := range all {
				if s.After(at) {
					want = s
					break
				}
			}
			if want.IsZero() {
				continue
			}
			if got, ok := tt.Next(at.In(time.FixedZone("", 3600))); !ok || !got.Equal(want) {
				t.Fatalf("%s after %s: %s, want %s", spec.Cron, at, got, want)
			}
		}
	}
}

func TestBounds(t *testing.T) {
	start, end := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC), time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]int{"@hourly": 3, "@every 30m": 5, "0 11 * * *": 1} {
		tt := timetable(t, Spec{Cron: text, Start: start, End: end})
		if got := slots(tt, day(2020, 1, 1), day(2030, 1, 1)); len(got) != want || got[0].Before(start) || got[len(got)-1].After(end) {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	for _, tt := range []struct {
		spec  Spec
		field string
	}{
		{Spec{Cron: ""}, "cron"},
		{Spec{Cron: "* * * *"}, "cron"},
		{Spec{Cron: "0 * * * * *"}, "cron"},
		{Spec{Cron: "60 * * * *"}, "cron"},
		{Spec{Cron: "* * * * 8"}, "cron"},
		{Spec{Cron: "* * * * 7/2"}, "cron"},
		{Spec{Cron: "* * * * x-7"}, "cron"},
		{Spec{Cron: "0 0 31 2 *"}, "cron"},
		{Spec{Cron: "TZ=UTC 0 0 * * *"}, "cron"},
		{Spec{Cron: "@sometimes"}, "cron"},
		{Spec{Cron: "@every 0s"}, "cron"},
		{Spec{Cron: "@every 1500ms"}, "cron"},
		{Spec{Cron: "@every"}, "cron"},
		{Spec{Cron: "@daily", Zone: "Middle/Earth"}, "zone"},
		{Spec{Cron: "@daily", Zone: "Local"}, "zone"},
		{Spec{Cron: "@daily", Jitter: -1}, "jitter"},
		{Spec{Cron: "@daily", Jitter: 25 * time.Hour}, "jitter"},
		{Spec{Cron: "@daily", Start: day(2026, 1, 2), End: day(2026, 1, 1)}, "end"},
		{Spec{Cron: "@every 1s", Start: day(2, 1, 1)}, "start"},
		{Spec{Cron: "0 0 29 2 *", Start: day(9998, 1, 1)}, "start"},
		{Spec{Cron: "@yearly", Start: day(2026, 1, 2), End: day(2026, 11, 1)}, "end"},
	} {
		_, err := New(tt.spec)
		wrong := new(FieldError)
		if !errors.As(err, &wrong) || wrong.Field != tt.field {
			t.Errorf("%+v: %v, want an error of field %s", tt.spec, err, tt.field)
		}
	}
}

func TestJitterIsBoundedAndRepeats(t *testing.T) {
	tt := timetable(t, Spec{Cron: "@hourly", Jitter: 10 * time.Minute})
	seen := map[time.Duration]bool{}
	for _, slot := range slots(tt, day(2026, 1, 1), day(2026, 1, 11)) {
		late := tt.StartOf("nightly", slot).Sub(slot)
		if late < 0 || late > 10*time.Minute || late != tt.StartOf("nightly", slot).Sub(slot) {
			t.Fatalf("start of %s is put off by %s", slot, late)
		}
		seen[late/time.Minute] = true
	}
	if len(seen) < 8 {
		t.Errorf("starts are put off by %d different minutes only", len(seen))
	}
	if a, b := tt.StartOf("a", day(2026, 1, 1)), tt.StartOf("b", day(2026, 1, 1)); a.Equal(b) {
		t.Error("two schedules start at the same moment")
	}
}

// With more jitter than there is between slots, each still starts before the next
// one is due.
func TestJitterEndsBeforeTheNextSlot(t *testing.T) {
	for _, text := range []string{"@every 5m", "*/5 * * * *", "0,1 * * * *"} {
		tt := timetable(t, Spec{Cron: text, Jitter: 20 * time.Minute})
		all := slots(tt, day(2026, 1, 1), day(2026, 1, 2))
		for i, slot := range all[:len(all)-1] {
			if start := tt.StartOf("nightly", slot); start.Before(slot) || !start.Before(all[i+1]) {
				t.Fatalf("%s: slot %s starts at %s, when %s is due", text, slot, start, all[i+1])
			}
		}
	}
}
