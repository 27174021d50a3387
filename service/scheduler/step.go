package scheduler

import (
	"fmt"
	"slices"
	"time"

	"jetkeep/service/api"
)

// Stages of a run.
const (
	StageBackup = "backup"
	StageVerify = "verify"
	StageDrill  = "drill"
	StagePrune  = "prune"
)

// maxSlots bounds how many slots that passed are counted one by one.
const maxSlots = 10_000

// State is what is remembered of a schedule.
type State struct {
	// Settled is the newest slot about which all is decided: it was started, or
	// left out. Slots are due after it.
	Settled     time.Time         `json:"settled"`
	Running     *api.ScheduleRun  `json:"running,omitempty"`
	Recent      []api.ScheduleRun `json:"recent,omitempty"` // newest first
	LastSuccess *api.ScheduleRun  `json:"last_success,omitempty"`
	LastSkipped *api.ScheduleSkip `json:"last_skipped,omitempty"`
}

// A View is what Step needs to know of the session that runs.
type View struct {
	State  api.State
	Ended  time.Time
	Reason string // why it did not succeed
	// Unready means that it ended before its tasks were written, so that nothing
	// was begun.
	Unready bool
}

// Kinds of actions.
const (
	actNothing = iota
	actStart   // the session of Run
	actCancel  // Session, because of Reason
	actWrite   // nothing but the state
)

// An Action is what is to be done. Afterwards, or if there is nothing to do, the
// schedule is looked at again at Wake, or when something changes.
type Action struct {
	Kind    int
	Run     api.ScheduleRun
	Session string
	Reason  string
	Wake    time.Time // zero: nothing is due any more
	// Forget are sessions that fell out of the history.
	Forget []string
	// LeftOut is how many slots the state leaves out that the one before did not.
	LeftOut int
}

// maxReplaced bounds how many sessions of a run are replaced whose makers died.
const maxReplaced = 3

// poll is how often a session that runs is looked at without a cause.
const poll = 5 * time.Second

// Step decides what happens next. session describes the session that s says is
// running, nil if there is none any more. The returned state is to be written
// if the action is not actNothing, before a session is started by who reads it.
func Step(d *Definition, s State, now time.Time, session *View) (State, Action) {
	if s.Running != nil && s.Running.Ended == nil && s.Running.Session != "" {
		if session != nil && !session.State.Final() {
			return d.whileRunning(s, now)
		}
		return d.stageEnded(s, now, session)
	}
	if r := s.Running; r != nil && r.RetryAt != nil {
		slot, _, due := d.due(s, now)
		switch {
		case due.Count > 0 && !slot.IsZero():
			s, forget := d.settle(s) // the next slot takes its place
			s, a := d.begin(s, now)
			a.Forget = append(a.Forget, forget...)
			return s, a
		case d.Paused && !r.Manual:
			s, forget := d.settle(s) // nothing begins by itself while it is paused
			return s, Action{Kind: actWrite, Forget: forget}
		case due.Count > 0: // too late for the next slot, which is to be said
			s = s.leaveOut(due)
			return s, Action{Kind: actWrite, Wake: d.earliest(s, *r.RetryAt), LeftOut: due.Count}
		case now.Before(*r.RetryAt):
			return s, Action{Wake: d.earliest(s, *r.RetryAt)}
		}
		again := api.ScheduleRun{Slot: r.Slot, Manual: r.Manual, Attempt: r.Attempt + 1, Replaced: r.Replaced, Stage: StageBackup}
		return s, Action{Kind: actStart, Run: again, Wake: now.Add(poll)}
	}
	return d.begin(s, now)
}

// begin starts the slot that is due, if one is.
func (d *Definition) begin(s State, now time.Time) (State, Action) {
	slot, before, missed := d.due(s, now)
	if missed.Count == 0 {
		return s, Action{Wake: d.earliest(s, time.Time{})}
	}
	if slot.IsZero() {
		s = s.leaveOut(missed)
		return s, Action{Kind: actWrite, Wake: d.earliest(s, time.Time{}), LeftOut: missed.Count}
	}
	s.Settled = slot
	missed.Count--
	if missed.Count > 0 {
		missed.Last, missed.Reason = before, "they passed together; the newest one ran for all"
		s.LastSkipped = &missed
	}
	run := api.ScheduleRun{Slot: slot, Attempt: 1, Stage: StageBackup}
	return s, Action{Kind: actStart, Run: run, Wake: now.Add(poll), LeftOut: missed.Count}
}

// leaveOut notes slots that are left out, and counts them together with those right
// before them that were left out for the same reason.
func (s State) leaveOut(slots api.ScheduleSkip) State {
	if k := s.LastSkipped; k != nil && k.Reason == slots.Reason && k.Last.Equal(s.Settled) {
		slots.First, slots.Count = k.First, k.Count+slots.Count
	}
	s.Settled, s.LastSkipped = slots.Last, &slots
	return s
}

// due returns the newest slot that is to be started now, the one before it, and
// how many passed since the last one that was settled. The newest is zero if it is
// left out.
func (d *Definition) due(s State, now time.Time) (newest, before time.Time, passed api.ScheduleSkip) {
	if d.Paused {
		return newest, before, passed
	}
	for at := s.Settled; ; {
		slot, ok := d.Timetable.Next(at)
		if !ok || slot.After(now) || d.Timetable.StartOf(d.Name, slot).After(now) {
			break
		}
		if passed.Count == 0 {
			passed.First = slot
		}
		passed.Count++
		newest, before = slot, newest
		passed.Last, at = slot, slot
		if passed.Count == maxSlots {
			// A schedule of seconds after an outage of days: go near its end.
			if jump := now.Add(-time.Hour); jump.After(at) {
				at = jump
			}
		}
	}
	if passed.Count > 0 && d.deadline > 0 && now.Sub(d.waitedSince(s, newest)) > d.deadline {
		passed.Reason = fmt.Sprintf("could not be started within %s", d.deadline)
		return time.Time{}, before, passed
	}
	return newest, before, passed
}

// waitedSince returns from when on the deadline of a slot counts: its time. The one
// of missed: none is about instances that did not run, not about a queue, so there it
// is the end of the predecessor that the slot waited for.
func (d *Definition) waitedSince(s State, slot time.Time) time.Time {
	at := d.Timetable.StartOf(d.Name, slot)
	if d.Overlap != api.OverlapQueue || d.askedDeadline {
		return at
	}
	r := s.Running // which waits for its next try
	if r == nil && len(s.Recent) > 0 {
		r = &s.Recent[0]
	}
	if r != nil && r.Ended != nil && r.Started.Before(at) && r.Ended.After(at) {
		return *r.Ended
	}
	return at
}

// whileRunning decides about slots that come while the predecessor runs.
func (d *Definition) whileRunning(s State, now time.Time) (State, Action) {
	r := s.Running
	if d.timeout > 0 && now.Sub(r.Started) > d.timeout {
		return s, Action{Kind: actCancel, Session: current(r), Reason: fmt.Sprintf("schedule %s: it took longer than %s", d.Name, d.timeout), Wake: now.Add(poll)}
	}
	slot, _, passed := d.due(s, now)
	wake := now.Add(poll)
	if slot.IsZero() {
		if passed.Count == 0 { // the next one is decided about in its time
			wake = d.earliest(s, wake)
		}
		return s, Action{Wake: wake}
	}
	switch d.Overlap {
	case api.OverlapQueue:
		return s, Action{Wake: wake} // it stays due
	case api.OverlapCancel:
		return s, Action{Kind: actCancel, Session: current(r), Reason: fmt.Sprintf("schedule %s: slot %s takes its place", d.Name, slot.Format(time.RFC3339)), Wake: wake}
	}
	passed.Reason = fmt.Sprintf("session %s of slot %s still ran", r.Session, r.Slot.Format(time.RFC3339))
	s = s.leaveOut(passed)
	return s, Action{Kind: actWrite, Wake: d.earliest(s, wake), LeftOut: passed.Count}
}

// stageEnded goes on after a session has ended, or is gone.
func (d *Definition) stageEnded(s State, now time.Time, v *View) (State, Action) {
	r := *s.Running
	s.Running = &r
	if v != nil && v.Unready && v.State == api.StateFailed && r.Replaced < maxReplaced {
		r.Replaced++
		return s, Action{Kind: actStart, Run: r, Wake: now.Add(poll)}
	}
	ok := v != nil && v.State == api.StateSucceeded
	why := "its session is not remembered any more"
	if v != nil {
		why = v.Reason
	}
	switch {
	case r.Stage == StageBackup:
		r.State = api.StateFailed
		if v != nil {
			r.State = v.State
		}
		if !ok {
			r.Reason = why
			return d.failed(s, r, now)
		}
	case !ok:
		r = unfollowed(r, why)
	}
	next := d.after(r.Stage)
	if !ok || next == "" {
		return d.ended(s, r, now)
	}
	r.Stage = next
	return s, Action{Kind: actStart, Run: r, Wake: now.Add(poll)}
}

// unfollowed says why a stage after the backup did not succeed. A backup that is
// not proven is no success.
func unfollowed(r api.ScheduleRun, why string) api.ScheduleRun {
	if r.Reason = r.Stage + ": " + why; r.Stage != StagePrune {
		r.State = api.StateFailed
	}
	return r
}

// after returns the stage that follows another.
func (d *Definition) after(stage string) string {
	switch {
	case stage == StageBackup && d.Verify != "":
		return StageVerify
	case (stage == StageBackup || stage == StageVerify) && d.Drill:
		return StageDrill
	case stage != StagePrune && d.Keep != nil:
		return StagePrune
	}
	return ""
}

// failed ends an attempt; there may be another one.
func (d *Definition) failed(s State, r api.ScheduleRun, now time.Time) (State, Action) {
	// Who cancelled it does not want it tried again.
	if r.Attempt > d.retries || r.State == api.StateCancelled {
		return d.ended(s, r, now)
	}
	at := now.Add(d.retryDelay(r.Attempt)).UTC()
	r.Ended, r.RetryAt, r.Stage = utc(now), &at, ""
	s.Running = &r
	return s, Action{Kind: actWrite, Wake: at}
}

// ended moves a run to those that ended.
func (d *Definition) ended(s State, r api.ScheduleRun, now time.Time) (State, Action) {
	r.Ended, r.RetryAt, r.Stage = utc(now), nil, ""
	s.Running = &r
	s, forget := d.settle(s)
	return s, Action{Kind: actWrite, Wake: d.earliest(s, time.Time{}), Forget: forget}
}

func utc(t time.Time) *time.Time {
	t = t.UTC()
	return &t
}

// settle takes what ran into the history, and returns the sessions that fell
// out of it.
func (d *Definition) settle(s State) (State, []string) {
	r := *s.Running
	r.RetryAt, s.Running = nil, nil
	if r.State == api.StateSucceeded {
		s.LastSuccess = &r
	}
	s.Recent = append([]api.ScheduleRun{r}, s.Recent...)
	var forget []string
	for len(s.Recent) > d.history {
		forget = append(forget, sessionsOf(d.Name, s.Recent[len(s.Recent)-1])...)
		s.Recent = s.Recent[:len(s.Recent)-1]
	}
	return s, forget
}

// sessionsOf returns all sessions of a run, those of earlier attempts, and those
// that were replaced, included.
func sessionsOf(name string, r api.ScheduleRun) []string {
	var out []string
	if r.Session != "" {
		out = append(out, r.Session)
	}
	out = append(out, r.Follow...)
	for attempt := 1; attempt <= r.Attempt; attempt++ {
		for replaced := 0; replaced <= r.Replaced; replaced++ {
			id := sessionOf(name, api.ScheduleRun{Slot: r.Slot, Manual: r.Manual, Attempt: attempt, Replaced: replaced, Stage: StageBackup})
			if !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
	}
	return out
}

// earliest returns when the schedule is due next, or other if that is earlier
// and not zero.
func (d *Definition) earliest(s State, other time.Time) time.Time {
	if d.Paused {
		return other
	}
	if slot, ok := d.Timetable.Next(s.Settled); ok {
		if at := d.Timetable.StartOf(d.Name, slot); other.IsZero() || at.Before(other) {
			return at
		}
	}
	return other
}
