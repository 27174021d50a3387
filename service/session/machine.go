// Package session knows the states of sessions and tasks and keeps them in KV.
//
// Every change of state is a pure function here, and only those that the
// tables of PROTOCOL.md list are possible; others return ErrTransition. The
// store writes each change by compare-and-set on the revision that was read,
// so that of two writers one gets ErrConflict and must look again; it never
// writes over what it has not read. Advance says, from a session and its tasks
// alone, what is to be done next; it may be run by anyone, any number of times.
//
// A session is never left hanging as long as one instance runs and reaches KV:
// if the work queue lost a message or an instance died between two writes,
// Advance finds what is missing. Nothing here looks at a clock to decide who
// owns a task: the work queue's server does, by redelivering the message of a
// task whose owner went silent, and the owner notices by its next
// compare-and-set.
package session

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"jetkeep/service/api"
)

var (
	// ErrTransition means that a session or task is in a state from which the
	// change is not possible.
	ErrTransition = errors.New("change of state is not possible")
	// ErrAbandoned means that a task was lost by its instances too often.
	ErrAbandoned = errors.New("task was lost too often")
	// ErrNotOwner means that a task belongs to another instance or attempt.
	ErrNotOwner = errors.New("task belongs to another instance")
)

// Bounds of what a task or session keeps of texts.
const (
	maxNotes = 32
	maxNote  = 1024
	maxError = 4096
)

// An Owner is one claim on a task.
type Owner struct {
	Instance string
	Attempt  int
}

// Owner returns the claim that the task is under.
func (t *Task) Owner() Owner { return Owner{t.Instance, t.Attempt} }

// Claim gives the task to an instance. A task that is running or committing is
// taken over, which is for those whom the work queue handed its message. With
// ErrAbandoned the task has failed instead, since that many attempts ended in
// a death; the change is to be written all the same.
func (t *Task) Claim(instance string, maxAttempts int, now time.Time) error {
	if t.State.Final() {
		return fmt.Errorf("claim task %s that is %s: %w", t.ID, t.State, ErrTransition)
	}
	if t.Attempt-t.Released >= maxAttempts {
		last := t.Instance
		t.fail(api.Errorf(api.CodeTaskAbandoned, "%d attempts ended without a word, the last one on instance %s", t.Attempt-t.Released, last), now)
		return fmt.Errorf("claim task %s: %w", t.ID, ErrAbandoned)
	}
	t.State, t.Instance, t.Progress = api.StateRunning, instance, ahead(t.Progress)
	t.Attempt++
	if t.Started.IsZero() {
		t.Started = now
	}
	return nil
}

// ahead is the progress of an attempt that has not begun: what there is to do does
// not become unknown by it.
func ahead(p api.Progress) api.Progress {
	return api.Progress{TotalMessages: p.TotalMessages, TotalBytes: p.TotalBytes, TotalKnown: p.TotalKnown}
}

// Outdates tells whether the task is claimed with a later delivery of a message
// than this one, which somebody has who stood still meanwhile: a task that is
// alive must not be taken from its owner by that.
func (t *Task) Outdates(message, delivery uint64) bool {
	claimed := t.State == api.StateRunning || t.State == api.StateCommitting
	return claimed && t.Message == message && delivery > 0 && delivery <= t.Delivery
}

// Renew writes down how far the owner is.
func (t *Task) Renew(o Owner, p api.Progress) error {
	if err := t.owned(o); err != nil {
		return fmt.Errorf("renew task %s: %w", t.ID, err)
	}
	if !p.TotalKnown {
		p.TotalMessages, p.TotalBytes, p.TotalKnown = t.Progress.TotalMessages, t.Progress.TotalBytes, t.Progress.TotalKnown
	}
	t.Progress = p
	return nil
}

// Commit moves a running task to committing.
func (t *Task) Commit(o Owner) error {
	if err := t.owned(o); err != nil {
		return fmt.Errorf("commit task %s: %w", t.ID, err)
	}
	t.State = api.StateCommitting
	return nil
}

// Succeed ends the task with its result.
func (t *Task) Succeed(o Owner, r Result, p api.Progress, now time.Time) error {
	if err := t.owned(o); err != nil {
		return fmt.Errorf("finish task %s: %w", t.ID, err)
	}
	// What was to be done was an estimate, and is known now.
	p.TotalMessages, p.TotalBytes, p.TotalKnown, p.Remaining = p.Messages, p.Bytes, true, 0
	t.State, t.Ended, t.Progress = api.StateSucceeded, now, p
	t.Note(r.Notes...)
	r.Notes = nil
	t.Result = &r
	if t.RestorePoint == "" {
		t.RestorePoint = r.RestorePoint
	}
	return nil
}

// Fail ends the task with an error; one of api.CodeCancelled makes it
// cancelled. What was found until then is kept.
func (t *Task) Fail(o Owner, e *api.Error, r Result, p api.Progress, now time.Time) error {
	if err := t.owned(o); err != nil {
		return fmt.Errorf("finish task %s: %w", t.ID, err)
	}
	t.Progress = p
	if r.Verification != nil || r.Pruned != nil {
		t.Result = &Result{Verification: r.Verification, Pruned: r.Pruned}
	}
	t.fail(e, now)
	return nil
}

// Release gives the task back as if it had not been claimed.
func (t *Task) Release(o Owner) error {
	if err := t.owned(o); err != nil {
		return fmt.Errorf("release task %s: %w", t.ID, err)
	}
	t.State, t.Instance, t.Progress = api.StatePending, "", ahead(t.Progress)
	t.Released++
	return nil
}

// Cancel ends a task that nobody works on.
func (t *Task) Cancel(reason string, now time.Time) error {
	if t.State != api.StatePending {
		return fmt.Errorf("cancel task %s that is %s: %w", t.ID, t.State, ErrTransition)
	}
	t.fail(cancelError(reason), now)
	return nil
}

// Refuse fails a task that nobody works on.
func (t *Task) Refuse(e *api.Error, now time.Time) error {
	if t.State != api.StatePending {
		return fmt.Errorf("refuse task %s that is %s: %w", t.ID, t.State, ErrTransition)
	}
	t.fail(e, now)
	return nil
}

func (t *Task) fail(e *api.Error, now time.Time) {
	t.State, t.Ended = api.StateFailed, now
	if e.ErrCode == api.CodeCancelled {
		t.State = api.StateCancelled
	}
	c := *e
	c.Description = clip(c.Description, maxError)
	t.Error = &c
}

// Note adds what is worth knowing, as far as there is room.
func (t *Task) Note(notes ...string) {
	for _, n := range notes {
		if len(t.Notes) == maxNotes {
			return
		}
		t.Notes = append(t.Notes, clip(n, maxNote))
	}
}

func (t *Task) owned(o Owner) error {
	switch {
	case t.State != api.StateRunning && t.State != api.StateCommitting:
		return fmt.Errorf("it is %s: %w", t.State, ErrTransition)
	case t.Owner() != o:
		return fmt.Errorf("it is with %s, attempt %d: %w", t.Instance, t.Attempt, ErrNotOwner)
	}
	return nil
}

func cancelError(reason string) *api.Error {
	if reason == "" {
		reason = "the session was cancelled"
	}
	return api.Errorf(api.CodeCancelled, "%s", reason)
}

// RequestCancel asks for the end of a session.
func (s *Session) RequestCancel(reason string) error {
	if s.State.Final() {
		return fmt.Errorf("cancel session %s that is %s: %w", s.ID, s.State, ErrTransition)
	}
	if !s.Cancel {
		s.Cancel, s.Reason = true, reason
	}
	return nil
}

// Actions are what is to be done next about a session. Tasks are named by id.
type Actions struct {
	Cancel []string // pending tasks to cancel
	Refuse []string // pending tasks that fail with Why, for the hooks before them failed
	Why    *api.Error
	Submit []string  // tasks that the work queue should hold
	State  api.State // what the session should become; empty for no change
	Error  *api.Error
}

// Advance says what is to be done next. The order matters: cancel and submit
// first, then write the state. It is idempotent: once done, it says nothing.
func Advance(s *Session, tasks []*Task) Actions {
	var a Actions
	if s.State.Final() || !s.Ready {
		return a
	}
	byID := make(map[string]*Task, len(tasks))
	for _, t := range tasks {
		byID[t.ID] = t
	}
	before := byID[HookID(s.ID, HookBefore)]
	for _, t := range tasks {
		pending := t.State == api.StatePending
		switch {
		case t.State.Final():
		case pending && t.Hook == HookAfter:
			if final(tasks, t) {
				a.Submit = append(a.Submit, t.ID)
			}
		case pending && s.Cancel:
			a.Cancel = append(a.Cancel, t.ID)
		case pending && t != before && before != nil && before.State != api.StateSucceeded:
			if before.State.Final() {
				a.Refuse, a.Why = append(a.Refuse, t.ID), before.Error
			}
		case !pending || startable(t, byID):
			a.Submit = append(a.Submit, t.ID)
		}
	}
	c := Count(tasks)
	state := reached(s, tasks, c)
	if state != s.State && len(a.Cancel)+len(a.Refuse) == 0 {
		a.State = state
		a.Error = verdict(s, tasks, c, state)
	}
	return a
}

// final tells whether all tasks but one are.
func final(tasks []*Task, but *Task) bool {
	return !slices.ContainsFunc(tasks, func(t *Task) bool { return t != but && !t.State.Final() })
}

// Outcome returns how a session ends whose tasks, but for that of the hooks after
// them, have ended.
func Outcome(s *Session, tasks []*Task) (api.State, *api.Error) {
	c := Count(tasks)
	state := ended(s, c)
	return state, verdict(s, tasks, c, state)
}

// startable tells whether every task that this one waits for is final. One
// that is not there cannot be waited for.
func startable(t *Task, byID map[string]*Task) bool {
	return !slices.ContainsFunc(t.After, func(id string) bool {
		o := byID[id]
		return o != nil && !o.State.Final()
	})
}

// reached returns the state that follows from the tasks' states.
func reached(s *Session, tasks []*Task, c api.TaskCounts) api.State {
	if final(tasks, nil) {
		return ended(s, c)
	}
	begun, committing := false, c.Running > 0
	for _, t := range tasks {
		begun = begun || t.State != api.StatePending
		committing = committing && (t.Hook != "" || t.State.Final() || t.State == api.StateCommitting)
	}
	switch {
	case committing || s.State == api.StateCommitting && c.Pending+c.Running == 0:
		return api.StateCommitting
	case begun || s.State != api.StatePending:
		return api.StateRunning
	}
	return api.StatePending
}

func ended(s *Session, c api.TaskCounts) api.State {
	switch {
	case c.Total == c.Succeeded && c.Total >= s.Tasks:
		return api.StateSucceeded
	case c.Cancelled > 0:
		return api.StateCancelled
	case c.Succeeded > 0:
		return api.StatePartial
	}
	return api.StateFailed
}

// verdict sums up the errors of the tasks. If all failed ones have the same
// code, the session has it, too.
func verdict(s *Session, tasks []*Task, c api.TaskCounts, state api.State) *api.Error {
	switch state {
	case api.StateCancelled:
		return cancelError(s.Reason)
	case api.StatePartial, api.StateFailed:
	default:
		return nil
	}
	var first *Task
	same := true
	for _, t := range tasks {
		if t.Hook == HookBefore && t.State == api.StateFailed && t.Error != nil {
			return t.Error
		}
		if t.Hook != "" || t.State != api.StateFailed || t.Error == nil {
			continue
		}
		if first == nil {
			first = t
		}
		same = same && t.Error.ErrCode == first.Error.ErrCode
	}
	if first == nil {
		return api.Errorf(api.CodeInternal, "%d of %d tasks are not there", s.Tasks-c.Total, s.Tasks)
	}
	text := first.Error.Description
	if first.Stream != "" {
		text = fmt.Sprintf("stream %s: %s", first.Stream, text)
	}
	if c.Total > 1 {
		text = fmt.Sprintf("%d of %d streams failed, the first one is %s: %s", c.Failed, c.Total, first.Stream, first.Error.Description)
	}
	code, hint := api.CodeTasksFailed, ""
	if same {
		code, hint = first.Error.ErrCode, first.Error.Hint
	}
	e := api.Errorf(code, "%s", clip(text, maxError))
	if hint != "" {
		e.Hint = hint
	}
	return e
}

// Move writes the state that Advance decided on into the session.
func (s *Session) Move(a Actions, tasks []*Task, now time.Time) error {
	if s.State.Final() {
		return fmt.Errorf("move session %s that is %s: %w", s.ID, s.State, ErrTransition)
	}
	s.State, s.Error = a.State, a.Error
	if s.Started.IsZero() && a.State != api.StatePending {
		s.Started = now
	}
	if a.State.Final() {
		s.Ended, s.IdentitySealed = now, ""
		c, p := Count(tasks), Sum(tasks)
		if p.Seconds = now.Sub(s.Started).Seconds(); p.Seconds > 0 {
			p.BytesPerSecond, p.MessagesPerSec = float64(p.Bytes)/p.Seconds, float64(p.Messages)/p.Seconds
		}
		s.Counts, s.Progress = &c, &p
	}
	return nil
}

// Abort ends a session that never became ready.
func (s *Session) Abort(e *api.Error, now time.Time) error {
	if s.State.Final() {
		return fmt.Errorf("abort session %s that is %s: %w", s.ID, s.State, ErrTransition)
	}
	s.State, s.Error, s.Ended, s.IdentitySealed = api.StateFailed, e, now, ""
	return nil
}

// Count counts tasks by their state, without those of hooks.
func Count(tasks []*Task) api.TaskCounts {
	var c api.TaskCounts
	for _, t := range tasks {
		if t.Hook != "" {
			continue
		}
		c.Total++
		switch t.State {
		case api.StatePending:
			c.Pending++
		case api.StateRunning, api.StateCommitting:
			c.Running++
		case api.StateSucceeded:
			c.Succeeded++
		case api.StateCancelled:
			c.Cancelled++
		default:
			c.Failed++
		}
	}
	return c
}

// Sum adds up the progress of tasks. The rates are those of the tasks that run. The
// totals are known only if those of all tasks are: a part of them would make the
// work look nearer to its end than it is.
func Sum(tasks []*Task) api.Progress {
	p := api.Progress{TotalKnown: true}
	for _, t := range tasks {
		p.TotalKnown = p.TotalKnown && (t.Progress.TotalKnown || t.State.Final() || t.Hook != "")
		q := t.Progress // nothing, in tasks of hooks
		p.Messages += q.Messages
		p.Bytes += q.Bytes
		p.TotalMessages += q.TotalMessages
		p.TotalBytes += q.TotalBytes
		p.StoredBytes += q.StoredBytes
		p.UploadedBytes += q.UploadedBytes
		if !t.State.Final() {
			p.BytesPerSecond += q.BytesPerSecond
			p.MessagesPerSec += q.MessagesPerSec
			p.Remaining = max(p.Remaining, q.Remaining)
		}
	}
	if !p.TotalKnown {
		p.TotalMessages, p.TotalBytes, p.Remaining = 0, 0, 0
	}
	return p
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && s[most]&0xc0 == 0x80 {
		most--
	}
	return s[:most] + "…"
}
