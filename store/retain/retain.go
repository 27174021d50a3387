// Package retain decides which restore points to keep. It is pure: a policy,
// the points and the time go in, decisions with their reasons come out.
//
// What it guarantees:
//
//   - A point is kept if any rule keeps it: the rules are united.
//   - Only good points count. One that is not good, because it cannot be read
//     or its verification failed, never takes the place of a good one. It is
//     kept where it would be kept if it were good, so that a verdict that was
//     wrong costs nothing, and ages out as the others do.
//   - Points dated after now count for nothing and are kept until their time
//     comes: a clock that was ahead when a point was made pushes no other out.
//     Whatever else a clock behind does is to keep more.
//   - Durations count back from the newest good point of the group, not from
//     now, so a stream that is not backed up any more, or a clock that is ahead
//     when the policy is applied, empties no group.
//   - Pinned points are kept, and a policy without a rule keeps all.
//   - The same input gives the same decisions, in whatever order the points come.
//
// What it cannot see: a clock that was years ahead both when a point was made
// and when the policy is applied. A duration then reaches back from that point,
// and only counts and the floor keep what is older.
package retain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Unlimited, as a count of a Policy, keeps without a limit.
const Unlimited = -1

// A Policy says what to keep of each group. The zero Policy keeps all.
type Policy struct {
	// Last keeps so many of the newest points.
	Last int
	// Hourly to Yearly keep the newest point of each of so many of the newest
	// periods that have one.
	Hourly, Daily, Weekly, Monthly, Yearly int

	// Within keeps what is at most so much older than the newest point, and
	// WithinHourly to WithinYearly of that the newest point of each period.
	Within                                                               time.Duration
	WithinHourly, WithinDaily, WithinWeekly, WithinMonthly, WithinYearly time.Duration

	// Tags keeps points that have one of these tags: "key", or "key=value".
	Tags []string

	// Zone is where hours, days, weeks (ISO 8601), months and years begin; UTC
	// if nil. Where clocks are put back, the hour that comes twice is two.
	Zone *time.Location
	// Floor is how many of the newest good points are kept in any case.
	Floor int
}

// An Item is what a Policy judges a restore point by.
type Item struct {
	ID     string // decides between points of the same time: the greater is newer
	Group  string // policies count in each group apart: a stream of a target
	Time   time.Time
	Tags   map[string]string
	Pinned bool
	Good   bool
}

// A Decision is what becomes of one Item, and why.
type Decision struct {
	ID      string
	Keep    bool
	Reasons []string // never empty
}

// Empty says whether no rule is set, so that everything is kept. A floor alone
// is no rule: it is what the rules must leave.
func (p *Policy) Empty() bool {
	if p.Last != 0 || p.Within > 0 || len(p.Tags) > 0 {
		return false
	}
	for _, c := range p.classes() {
		if c.count != 0 || c.within > 0 {
			return false
		}
	}
	return true
}

// Apply decides about each item, in the order of items.
func Apply(p Policy, items []Item, now time.Time) []Decision {
	out := make([]Decision, len(items))
	groups := map[string][]int{}
	for i := range items {
		out[i].ID = items[i].ID
		groups[items[i].Group] = append(groups[items[i].Group], i)
	}
	for _, members := range groups {
		p.applyGroup(items, members, now, out)
	}
	for i := range out {
		d := &out[i]
		d.Keep = len(d.Reasons) > 0
		if !d.Keep {
			d.Reasons = []string{"no rule keeps it"}
		}
	}
	return out
}

// applyGroup adds the reasons for keeping the members of one group.
func (p *Policy) applyGroup(items []Item, members []int, now time.Time, out []Decision) {
	slices.SortFunc(members, func(a, b int) int { return newer(&items[a], &items[b]) })
	keep := func(i int, reason string) { out[i].Reasons = append(out[i].Reasons, reason) }
	var good, all []int // that count, newest first
	empty := p.Empty()
	for _, i := range members {
		it := &items[i]
		if it.Pinned {
			keep(i, "pinned")
		}
		for _, tag := range p.Tags {
			if tagged(it.Tags, tag) {
				keep(i, "tag "+tag)
			}
		}
		switch {
		case empty:
			keep(i, "the policy has no rule")
			continue
		case it.Time.After(now):
			keep(i, "dated in the future, "+p.zoned(it.Time).Format(time.RFC3339))
			continue
		}
		all = append(all, i)
		if it.Good {
			good = append(good, i)
		}
	}
	p.rules(items, good, keep)
	p.rules(items, all, func(i int, reason string) {
		if !items[i].Good {
			keep(i, "not good, else "+reason)
		}
	})
}

// newer orders the newest item first.
func newer(a, b *Item) int {
	if c := b.Time.Compare(a.Time); c != 0 {
		return c
	}
	return cmp.Compare(b.ID, a.ID)
}

func tagged(tags map[string]string, want string) bool {
	key, value, valued := strings.Cut(want, "=")
	got, ok := tags[key]
	return ok && (!valued || got == value)
}

// rules goes through points that count, newest first, and calls keep for each
// that a rule keeps.
func (p *Policy) rules(items []Item, order []int, keep func(i int, reason string)) {
	if len(order) == 0 {
		return
	}
	newest := items[order[0]].Time
	classes := p.classes()
	seen := make([]map[string]bool, len(classes))
	for n, i := range order {
		t := items[i].Time
		age := newest.Sub(t)
		if p.Last < 0 || n < p.Last {
			keep(i, fmt.Sprintf("last %d%s", n+1, limit(p.Last)))
		}
		if p.Within > 0 && age <= p.Within {
			keep(i, "within "+FormatDuration(p.Within))
		}
		for k := range classes {
			c := &classes[k]
			period := c.period(p.zoned(t))
			if seen[k][period] {
				continue
			}
			if seen[k] == nil {
				seen[k] = map[string]bool{}
			}
			seen[k][period] = true
			where := fmt.Sprintf("%s %s in %s", c.name, period, p.zoned(t).Location())
			if c.count < 0 || len(seen[k]) <= c.count {
				keep(i, where)
			}
			if c.within > 0 && age <= c.within {
				keep(i, where+" within "+FormatDuration(c.within))
			}
		}
		if n < p.Floor {
			keep(i, floorReason(p.Floor))
		}
	}
}

func limit(n int) string {
	if n < 0 {
		return ""
	}
	return fmt.Sprintf(" of %d", n)
}

func floorReason(n int) string {
	if n == 1 {
		return "floor: the newest"
	}
	return fmt.Sprintf("floor: one of the newest %d", n)
}

func (p *Policy) zoned(t time.Time) time.Time {
	if p.Zone == nil {
		return t.UTC()
	}
	return t.In(p.Zone)
}

// A class keeps one point for each period.
type class struct {
	name   string
	count  int
	within time.Duration
	period func(t time.Time) string // names the period that t is in
}

func (p *Policy) classes() []class {
	return []class{
		{"hourly", p.Hourly, p.WithinHourly, hour},
		{"daily", p.Daily, p.WithinDaily, day},
		{"weekly", p.Weekly, p.WithinWeekly, week},
		{"monthly", p.Monthly, p.WithinMonthly, month},
		{"yearly", p.Yearly, p.WithinYearly, year},
	}
}

// The offset keeps the two hours of one name apart when clocks are put back.
func hour(t time.Time) string  { return t.Format("2006-01-02 15h -07:00") }
func day(t time.Time) string   { return t.Format(time.DateOnly) }
func month(t time.Time) string { return t.Format("2006-01") }
func year(t time.Time) string  { return t.Format("2006") }

func week(t time.Time) string {
	y, w := t.ISOWeek()
	return fmt.Sprintf("%04d-W%02d", y, w)
}
