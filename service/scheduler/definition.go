// Package scheduler runs schedules without a leader: every instance looks at
// every schedule, and of all that start a slot one wins.
//
// The id of a session derives from the schedule, the slot and the attempt, and
// a session is only ever created, so a slot has one session whoever starts it
// and however late. What became of a slot is written by compare-and-set; who
// loses looks again. The time is the server's. So clocks that differ, restarts and
// instances that were asleep change when something starts, and nothing else.
//
// What happens next is decided by Step, which is pure.
package scheduler

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"jetkeep/schedule"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/store/retain"
)

const (
	defaultHistory  = 10
	maxHistory      = 100
	maxRetries      = 20
	defaultDelay    = time.Minute
	defaultBackoff  = 2
	maxBackoff      = 10
	maxDelay        = 24 * time.Hour
	missedDeadline  = time.Minute // of slots where missed ones are not made up for
	maxScheduleName = 64
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// A Definition is a schedule that was read and understood.
type Definition struct {
	api.Schedule
	Timetable *schedule.Timetable

	deadline, timeout, delay time.Duration
	askedDeadline            bool // and not the one of missed: none
	backoff                  float64
	retries, history         int
}

// Parse understands a schedule. What is wrong is an *api.Error that names the
// field.
func Parse(s api.Schedule) (*Definition, error) {
	d := &Definition{Schedule: s, delay: defaultDelay, backoff: defaultBackoff, history: defaultHistory}
	if !namePattern.MatchString(s.Name) || len(s.Name) > maxScheduleName {
		return nil, wrong("name", "%q is no name: letters, digits, _ and -, at most %d", s.Name, maxScheduleName)
	}
	spec := schedule.Spec{Cron: s.Cron, Zone: s.Zone}
	if s.Start != nil {
		spec.Start = *s.Start
	}
	if s.End != nil {
		spec.End = *s.End
	}
	err := durations(map[string]duration{
		"jitter": {s.Jitter, &spec.Jitter}, "start_deadline": {s.Deadline, &d.deadline}, "timeout": {s.Timeout, &d.timeout},
	})
	if err != nil {
		return nil, err
	}
	if d.Timetable, err = schedule.New(spec); err != nil {
		var field *schedule.FieldError
		if errors.As(err, &field) {
			return nil, wrong(field.Field, "%v", field.Err)
		}
		return nil, wrong("cron", "%v", err)
	}
	if err := d.choices(); err != nil {
		return nil, err
	}
	if err := d.retry(); err != nil {
		return nil, err
	}
	return d, d.follow()
}

func wrong(field, format string, args ...any) error {
	return api.Errorf(api.CodeInvalidRequest, "field %s: %s", field, fmt.Sprintf(format, args...)).WithField(field)
}

// A duration is a field's text and where its value goes.
type duration struct {
	text string
	to   *time.Duration
}

func durations(fields map[string]duration) error {
	for name, f := range fields {
		if f.text == "" {
			continue
		}
		v, err := retain.ParseDuration(f.text)
		if err != nil || v < 0 {
			return wrong(name, "%q is no duration, such as 90s, 30m or 2h", f.text)
		}
		*f.to = v
	}
	return nil
}

func (d *Definition) choices() error {
	for _, c := range []struct {
		field string
		value *string
		of    []string
	}{
		{"overlap", &d.Overlap, []string{api.OverlapSkip, api.OverlapQueue, api.OverlapCancel}},
		{"missed", &d.Missed, []string{api.MissedOnce, api.MissedNone}},
	} {
		if *c.value == "" {
			*c.value = c.of[0]
		}
		if !slices.Contains(c.of, *c.value) {
			return wrong(c.field, "%q is none of %s", *c.value, strings.Join(c.of, ", "))
		}
	}
	d.askedDeadline = d.deadline > 0
	if d.Missed == api.MissedNone && !d.askedDeadline {
		d.deadline = missedDeadline
	}
	if d.History < 0 || d.History > maxHistory {
		return wrong("history", "%d, must be 1 to %d, or 0 for %d", d.History, maxHistory, defaultHistory)
	}
	if d.History > 0 {
		d.history = d.History
	}
	return nil
}

func (d *Definition) retry() error {
	r := d.Retry
	if r == nil {
		return nil
	}
	if r.Count < 0 || r.Count > maxRetries {
		return wrong("retry.count", "%d, must be 0 to %d", r.Count, maxRetries)
	}
	if r.Backoff != 0 && (r.Backoff < 1 || r.Backoff > maxBackoff || math.IsNaN(r.Backoff)) {
		return wrong("retry.backoff", "%v, must be 1 to %d", r.Backoff, maxBackoff)
	}
	d.retries = r.Count
	if r.Backoff != 0 {
		d.backoff = r.Backoff
	}
	if err := durations(map[string]duration{"retry.delay": {r.Delay, &d.delay}}); err != nil {
		return err
	}
	if d.delay > maxDelay {
		return wrong("retry.delay", "%s, must be at most %s", r.Delay, maxDelay)
	}
	return nil
}

func (d *Definition) follow() error {
	if d.Verify != "" && !slices.Contains(api.Levels(), d.Verify) {
		return wrong("verify", "%q is none of the levels %v", d.Verify, api.Levels())
	}
	if d.Keep == nil {
		return nil
	}
	policy, err := config.PolicyOf(*d.Keep)
	if err != nil {
		return wrong("keep", "%v", err)
	}
	if policy.Empty() {
		return wrong("keep", "a policy without a rule keeps everything")
	}
	return nil
}

// Slots returns the next slots after a moment, none of a schedule that is
// paused.
func (d *Definition) Slots(after time.Time, n int) []api.ScheduleSlot {
	out := []api.ScheduleSlot{}
	for len(out) < n && !d.Paused {
		slot, ok := d.Timetable.Next(after)
		if !ok {
			break
		}
		out = append(out, api.ScheduleSlot{
			Time: slot, Local: slot.In(d.Timetable.Zone()).Format("2006-01-02 15:04:05 MST"), Start: d.Timetable.StartOf(d.Name, slot),
		})
		after = slot
	}
	return out
}

// Upcoming returns the next slots to be started: among them one that is put off by
// its jitter at the moment.
func (d *Definition) Upcoming(settled, now time.Time, n int) []api.ScheduleSlot {
	after := now
	if jitter := d.Timetable.Spec().Jitter; jitter > 0 && !settled.IsZero() && !d.Paused {
		if after = now.Add(-jitter); settled.After(after) {
			after = settled
		}
		for slot, ok := d.Timetable.Next(after); ok && !d.Timetable.StartOf(d.Name, slot).After(now); slot, ok = d.Timetable.Next(after) {
			after = slot
		}
	}
	return d.Slots(after, n)
}

// retryDelay returns how long after an attempt the next one begins.
func (d *Definition) retryDelay(attempt int) time.Duration {
	f := float64(d.delay) * math.Pow(d.backoff, float64(attempt-1))
	return time.Duration(min(f, float64(maxDelay)))
}

const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// sessionOf returns the id of the session of a run's stage.
func sessionOf(name string, r api.ScheduleRun) string {
	stage := r.Stage
	if r.Manual { // its slot may be one of the schedule's
		stage = "manual " + stage
		if r.Stage != StageBackup { // and that of another run of the same second
			stage += " of " + r.Session
		}
	}
	if r.Replaced > 0 {
		stage += " again " + strconv.Itoa(r.Replaced)
	}
	return SessionID(name, r.Slot, stage, r.Attempt)
}

// SessionID derives the id of a session: the same for all who would start it.
func SessionID(name string, slot time.Time, stage string, attempt int) string {
	h := sha256.Sum256([]byte(name + "\x00" + slot.UTC().Format(time.RFC3339) + "\x00" + stage + "\x00" + strconv.Itoa(attempt)))
	id := slot.UTC().AppendFormat(nil, "20060102T150405Z-")
	for _, b := range h[:8] {
		id = append(id, idAlphabet[b&31])
	}
	return string(id)
}
