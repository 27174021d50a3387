// Package schedule says when things are due. It knows nothing of what they
// are.
//
// A Timetable yields slots: the moments at which something is due, each the
// same for everybody who asks, whenever and wherever they ask. So several
// instances need no leader to agree what the next slot is.
//
// Slots come from five cron fields in a time zone, read as crontab(5) does, or
// from an interval. Where clocks change:
//
//   - A time of day that does not exist, because clocks went forward over it,
//     is due once, at the moment when they did. If several fall into the same
//     gap, they are that one slot.
//   - A time of day that exists twice, because clocks went back, is due once,
//     the first time.
//   - A schedule whose hours are all 24 names no time of day but means every
//     hour: it goes on through a change, so no real hour is left out and none
//     is run for that did not happen.
//
// Intervals do not know clocks: they count from the schedule's start, or from
// 1970-01-01 UTC if it has none.
package schedule

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	// MinEvery is the shortest interval.
	MinEvery = time.Second
	// MaxJitter bounds how late a slot may be started on purpose.
	MaxJitter = 24 * time.Hour
	// horizon is how far a slot may be away: 29 February falls on a given day
	// of the week once in 40 years at the worst.
	horizon = 41
	// far is more than any two clocks on earth differ, and their changes.
	far = 40 * time.Hour

	// A start outside of these years is a mistake, and so far away that
	// durations could not count from it.
	minYear, maxYear = 1900, 2200

	everyPrefix = "@every "
	allHours    = 1<<24 - 1
	starBit     = 1 << 63 // of cron.SpecSchedule: the field is a star
)

// A Spec says when something is due.
type Spec struct {
	// Cron is five fields (minute, hour, day of the month, month, day of the
	// week), @yearly, @monthly, @weekly, @daily, @hourly, or @every and a
	// duration such as 15m.
	Cron string
	// Zone is the IANA name of a time zone, empty for UTC.
	Zone string
	// Start and End bound the slots, both included. Zero means no bound.
	Start, End time.Time
	// Jitter is the most that a start is put off, so that not all of them begin
	// at once. It does not change the slots.
	Jitter time.Duration
}

// A FieldError names the field of a Spec that is wrong.
type FieldError struct {
	Field string // in the words of a configuration: cron, zone, start, end, jitter
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// A Timetable yields the slots of a Spec. It does not change.
type Timetable struct {
	spec  Spec
	zone  *time.Location
	every time.Duration // 0 if it follows the fields
	cron  *cron.SpecSchedule
}

// New reads a Spec. What is wrong is a *FieldError; a schedule that is never
// due is wrong, too.
func New(spec Spec) (*Timetable, error) {
	t := &Timetable{spec: spec}
	var err error
	switch {
	case spec.Zone == "Local": // differs from host to host
		return nil, &FieldError{"zone", errors.New("must be a name such as Europe/Berlin, not the host's own")}
	case spec.Jitter < 0 || spec.Jitter > MaxJitter:
		return nil, &FieldError{"jitter", fmt.Errorf("must be between 0 and %s", MaxJitter)}
	case !spec.Start.IsZero() && (spec.Start.Year() < minYear || spec.Start.Year() > maxYear):
		return nil, &FieldError{"start", fmt.Errorf("must be in the years %d to %d", minYear, maxYear)}
	case !spec.Start.IsZero() && !spec.End.IsZero() && spec.End.Before(spec.Start):
		return nil, &FieldError{"end", errors.New("is before start")}
	}
	if t.zone, err = time.LoadLocation(spec.Zone); err != nil {
		return nil, &FieldError{"zone", fmt.Errorf("%q is no time zone such as Europe/Berlin: %w", spec.Zone, err)}
	}
	if err := t.parse(); err != nil {
		return nil, &FieldError{"cron", fmt.Errorf("%q: %w", spec.Cron, err)}
	}
	from := spec.Start
	if from.IsZero() {
		from = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if _, ok := t.Next(from.Add(-1)); !ok {
		if spec.End.IsZero() {
			return nil, &FieldError{"cron", fmt.Errorf("%q: is never due", spec.Cron)}
		}
		if !spec.Start.IsZero() {
			return nil, &FieldError{"end", errors.New("no slot is due between start and end")}
		}
	}
	return t, nil
}

func (t *Timetable) parse() error {
	text := strings.TrimSpace(t.spec.Cron)
	if every, ok := strings.CutPrefix(text, everyPrefix); ok {
		d, err := time.ParseDuration(strings.TrimSpace(every))
		if err != nil || d < MinEvery || d%time.Second != 0 {
			return fmt.Errorf("the interval must be whole seconds, such as 15m")
		}
		t.every = d
		return nil
	}
	options := cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow
	if strings.HasPrefix(text, "@") {
		options = cron.Descriptor
	} else {
		fields := strings.Fields(text)
		if len(fields) != 5 {
			return fmt.Errorf("has %d fields instead of minute, hour, day of the month, month and day of the week", len(fields))
		}
		var err error
		if fields[4], err = sunday(fields[4]); err != nil {
			return err
		}
		text = strings.Join(fields, " ")
	}
	s, err := cron.NewParser(options).Parse(text)
	if err != nil {
		return fmt.Errorf("is no schedule: %w", err)
	}
	parsed, ok := s.(*cron.SpecSchedule)
	if !ok {
		return errors.New("is no schedule of five fields")
	}
	// To crontab(5) a star with a step is a star, to the parser it is none.
	if f := strings.Fields(text); len(f) == 5 {
		if strings.HasPrefix(f[2], "*") {
			parsed.Dom |= starBit
		}
		if strings.HasPrefix(f[4], "*") {
			parsed.Dow |= starBit
		}
	}
	t.cron = parsed
	return nil
}

// sunday writes days of the week without 7, which crontabs have for Sunday as
// well as 0 and the parser has not.
func sunday(field string) (string, error) {
	parts := strings.Split(field, ",")
	for i, part := range parts {
		span, step, stepped := strings.Cut(part, "/")
		from, to, ranged := strings.Cut(span, "-")
		if from != "7" && to != "7" {
			continue
		}
		if !ranged {
			if stepped { // from Sunday on, which is the last day
				return "", fmt.Errorf("day of the week %q: write 0 for Sunday", part)
			}
			parts[i] = "0"
			continue
		}
		first, err := strconv.Atoi(from)
		every := 1
		if err == nil && stepped {
			every, err = strconv.Atoi(step)
		}
		if err != nil || first < 0 || first > 7 || to != "7" || every < 1 {
			return "", fmt.Errorf("day of the week %q: write 0 for Sunday", part)
		}
		var days []string
		for d := first; d <= 7; d += every {
			days = append(days, strconv.Itoa(d%7))
		}
		parts[i] = strings.Join(days, ",")
	}
	return strings.Join(parts, ","), nil
}

// Spec returns what the timetable was made of.
func (t *Timetable) Spec() Spec { return t.spec }

// Zone returns the time zone of the fields.
func (t *Timetable) Zone() *time.Location { return t.zone }

// Next returns the first slot after a moment, in UTC, and whether there is one.
func (t *Timetable) Next(after time.Time) (time.Time, bool) {
	if start := t.spec.Start; !start.IsZero() && after.Before(start) {
		after = start.Add(-1)
	}
	next, ok := t.nextInterval(after), true
	if t.every == 0 {
		next, ok = t.nextFields(after)
	}
	if !ok || !t.spec.End.IsZero() && next.After(t.spec.End) {
		return time.Time{}, false
	}
	return next.UTC(), true
}

// nextInterval counts from the start.
func (t *Timetable) nextInterval(after time.Time) time.Time {
	if t.every == 0 {
		return time.Time{}
	}
	anchor := t.spec.Start
	if anchor.IsZero() {
		anchor = time.Unix(0, 0)
	}
	n := after.Sub(anchor) / t.every
	next := anchor.Add(n * t.every)
	for !next.After(after) {
		next = next.Add(t.every)
	}
	for before := next.Add(-t.every); before.After(after); before = before.Add(-t.every) {
		next = before
	}
	return next
}

// nextFields goes through the days of the zone.
func (t *Timetable) nextFields(after time.Time) (time.Time, bool) {
	local := after.In(t.zone)
	year, month, day := local.Date()
	for date := time.Date(year, month, day, 0, 0, 0, 0, time.UTC); date.Year() <= year+horizon; date = date.AddDate(0, 0, 1) {
		if !t.dayMatches(date) {
			continue
		}
		if next, ok := t.nextOf(date, after); ok {
			return next, true
		}
	}
	return time.Time{}, false
}

// dayMatches reads the fields of the day as crontab(5) does: of the day of the
// month and that of the week one is enough, unless one of them is a star.
func (t *Timetable) dayMatches(date time.Time) bool {
	c := t.cron
	if c.Month&(1<<uint(date.Month())) == 0 {
		return false
	}
	dom, dow := c.Dom&(1<<uint(date.Day())) != 0, c.Dow&(1<<uint(date.Weekday())) != 0
	if c.Dom&starBit != 0 || c.Dow&starBit != 0 {
		return dom && dow
	}
	return dom || dow
}

// nextOf returns the first slot of a day that is after a moment.
func (t *Timetable) nextOf(date, after time.Time) (time.Time, bool) {
	if t.cron.Hour&allHours == allHours {
		return t.nextHourly(date, after)
	}
	for hours := t.cron.Hour & allHours; hours != 0; hours &= hours - 1 {
		for minutes := t.cron.Minute &^ starBit; minutes != 0; minutes &= minutes - 1 {
			wall := date.Add(time.Duration(bits.TrailingZeros64(hours))*time.Hour + time.Duration(bits.TrailingZeros64(minutes))*time.Minute)
			if at := instant(wall, t.zone); at.After(after) {
				return at, true
			}
		}
	}
	return time.Time{}, false
}

// nextHourly looks at every minute that the day really has.
func (t *Timetable) nextHourly(date, after time.Time) (time.Time, bool) {
	at, end := instant(date, t.zone), instant(date.AddDate(0, 0, 1), t.zone)
	if at.Before(after) {
		at = at.Add(after.Sub(at).Truncate(time.Minute))
	}
	for ; at.Before(end); at = at.Add(time.Minute) {
		if at.After(after) && t.cron.Minute&(1<<uint(at.In(t.zone).Minute())) != 0 {
			return at, true
		}
	}
	return time.Time{}, false
}

// instant returns when clocks in a zone show the time that wall has in UTC: the
// first time if they do so twice, and the moment when they went over it if they
// never do.
func instant(wall time.Time, zone *time.Location) time.Time {
	_, before := wall.Add(-far).In(zone).Zone()
	_, later := wall.Add(far).In(zone).Zone()
	first := wall.Add(-time.Duration(before) * time.Second)
	if shows(first, wall, zone) {
		return first
	}
	second := wall.Add(-time.Duration(later) * time.Second)
	if shows(second, wall, zone) {
		return second
	}
	change, _ := first.In(zone).ZoneBounds()
	return change
}

func shows(at, wall time.Time, zone *time.Location) bool {
	_, offset := at.In(zone).Zone()
	return at.Add(time.Duration(offset) * time.Second).Equal(wall)
}

// StartOf returns when a slot is to be started: up to the jitter later, and
// before the next slot, by an amount that depends on name and slot only. Were it
// later than that, two slots would be due at once, and one of them left out.
func (t *Timetable) StartOf(name string, slot time.Time) time.Time {
	if t.spec.Jitter <= 0 {
		return slot
	}
	most := t.spec.Jitter
	if next, ok := t.Next(slot); ok {
		most = min(most, next.Sub(slot)-1)
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", name, slot.Unix())
	return slot.Add(time.Duration(h.Sum64() % uint64(most+1)))
}
