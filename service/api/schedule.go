package api

import "time"

// What a schedule does when its predecessor still runs.
const (
	OverlapSkip   = "skip"   // leaves the slot out
	OverlapQueue  = "queue"  // waits for its end; of several slots the newest runs
	OverlapCancel = "cancel" // cancels it
)

// What becomes of slots that passed while no instance ran.
const (
	MissedOnce = "once" // the newest of them runs
	MissedNone = "none" // none of them
)

// ScheduleLabel is the key of a stream's metadata that names the schedule by
// which the stream is backed up.
const ScheduleLabel = "jetkeep.schedule"

// ScheduleTag is the tag of a session that has the name of the schedule which
// started it.
const ScheduleTag = "schedule"

// Schedule says when which streams are backed up.
type Schedule struct {
	Name       string            `json:"name" doc:"Letters, digits, _ and -."`
	Cron       string            `json:"cron,omitempty" doc:"Required. Five fields (minute, hour, day of the month, month, day of the week), @yearly, @monthly, @weekly, @daily, @hourly, or @every and a duration such as 15m."`
	Zone       string            `json:"zone,omitempty" doc:"Time zone of the fields, such as Europe/Berlin; default UTC."`
	Start      *time.Time        `json:"start,omitempty" doc:"No slot before this moment."`
	End        *time.Time        `json:"end,omitempty" doc:"No slot after this moment."`
	Jitter     string            `json:"jitter,omitempty" doc:"The most that a start is put off, the same for a slot whoever starts it."`
	Paused     bool              `json:"paused,omitempty" doc:"No slot is due while it is paused, and none is made up for afterwards."`
	Target     string            `json:"target,omitempty" doc:"Name of the target; default: the first one configured."`
	Repository string            `json:"repository,omitempty" doc:"Name of the repository; default: the first one configured."`
	Streams    []string          `json:"streams,omitempty" doc:"Names, or patterns with * and ?, looked up at each run; default: every stream. Those whose metadata has jetkeep.schedule=NAME come on top."`
	Exclude    []string          `json:"exclude,omitempty" doc:"Names or patterns to leave out."`
	OptIn      bool              `json:"opt_in,omitempty" doc:"Only the streams whose metadata has jetkeep.schedule=NAME, and those named."`
	Tags       map[string]string `json:"tags,omitempty" doc:"Kept with each backup, and a tag schedule with the name besides."`
	Overlap    string            `json:"overlap,omitempty" doc:"What to do when the predecessor still runs: skip, queue or cancel; default skip."`
	Missed     string            `json:"missed,omitempty" doc:"What to do with slots that passed while no instance ran: once or none; default once."`
	Deadline   string            `json:"start_deadline,omitempty" doc:"A slot that could not be started within this time is left out. Default: none, and 1m where missed is none."`
	Timeout    string            `json:"timeout,omitempty" doc:"What runs is cancelled when a backup and what follows it take longer."`
	Retry      *ScheduleRetry    `json:"retry,omitempty" doc:"What to do when a session fails; default: nothing until the next slot."`
	Verify     Level             `json:"verify,omitempty" doc:"Verify each backup at this level when it has been made."`
	Drill      bool              `json:"drill,omitempty" doc:"Then restore it into a scratch server and compare."`
	Keep       *Keep             `json:"keep,omitempty" doc:"Then forget what this policy does not keep of what the schedule made, and prune."`
	History    int               `json:"history,omitempty" doc:"Sessions that are remembered, default 10, at most 100."`
}

// ScheduleRetry says how often a run that failed is tried again before the next
// slot.
type ScheduleRetry struct {
	Count   int     `json:"count" doc:"At most 20."`
	Delay   string  `json:"delay,omitempty" doc:"Before the first one; default 1m."`
	Backoff float64 `json:"backoff,omitempty" doc:"Each delay is so many times the one before, 1 to 10; default 2."`
}

// SchedulePutRequest makes a schedule, or changes what it gives of the one of that
// name. Objects are changed field by field: of a policy, too, only what is given.
type SchedulePutRequest struct {
	Schedule
	Reset    []string `json:"reset,omitempty" doc:"Fields that go back to their defaults before the others are set, such as zone, keep or keep.daily."`
	Replace  bool     `json:"replace,omitempty" doc:"The request says all of it: what it does not give goes back to its default, but for paused."`
	Revision *uint64  `json:"revision,omitempty" doc:"Change the schedule only if it is at this revision, as the answer to the last change and schedule.info say it; 0: only if there is none."`
	DryRun   bool     `json:"dry_run,omitempty" doc:"Say what would change, and change nothing."`
}

// SchedulePutResponse answers with what changed and with the next runs.
type SchedulePutResponse struct {
	Name     string           `json:"name"`
	Created  bool             `json:"created" doc:"There was none of this name."`
	DryRun   bool             `json:"dry_run,omitempty" doc:"Nothing was done."`
	Revision uint64           `json:"revision" doc:"Of the schedule as it is now."`
	Changes  []ScheduleChange `json:"changes" doc:"What is different from before, in the order of the fields; all that is set if it was created."`
	Schedule Schedule         `json:"schedule" doc:"The schedule as it is now, or would be."`
	Policy   *SchedulePolicy  `json:"policy,omitempty" doc:"Left out where it was paused or resumed only."`
	Next     []ScheduleSlot   `json:"next" doc:"The next five, none while it is paused or after its end."`
}

// ScheduleChange is a field of a schedule that is different from before.
type ScheduleChange struct {
	Field string `json:"field" doc:"With its place, such as keep.daily."`
	From  string `json:"from,omitempty" doc:"What it was, as text; left out if it was not set."`
	To    string `json:"to,omitempty" doc:"What it is; left out if it is not set any more."`
}

// Whose policy decides about a restore point.
const (
	PolicySchedule   = "schedule"
	PolicyRepository = "repository"
	PolicyNone       = "none"
)

// SchedulePolicy says who forgets what a schedule makes.
type SchedulePolicy struct {
	Policy string `json:"policy" doc:"schedule: its own policy; repository: that of its repository; none: nothing is forgotten by itself."`
	Points *int   `json:"restore_points,omitempty" doc:"How many there are that it decides about because the schedule made them, or an earlier one of its name; left out if the repository did not answer."`
	Text   string `json:"text" doc:"The same for people."`
}

// ScheduleSlot is a moment at which a schedule is due.
type ScheduleSlot struct {
	Time  time.Time `json:"time" doc:"In UTC."`
	Local string    `json:"local" doc:"The same on the clocks of the schedule's zone."`
	Start time.Time `json:"start" doc:"When it is to begin, after its jitter."`
}

// ScheduleNameRequest names a schedule.
type ScheduleNameRequest struct {
	Name string `json:"name"`
}

// ScheduleListRequest asks for the schedules in order of their names.
type ScheduleListRequest struct {
	Limit  int    `json:"limit,omitempty" doc:"Entries in the answer, default 100, at most 1000."`
	Cursor string `json:"cursor,omitempty" doc:"The previous answer's \"next\"."`
}

// ScheduleListResponse is a page of schedules.
type ScheduleListResponse struct {
	Total     int            `json:"total"`
	Schedules []ScheduleView `json:"schedules"`
	Next      string         `json:"next,omitempty"`
}

// ScheduleView is a schedule and how it goes.
type ScheduleView struct {
	Schedule
	Revision    uint64        `json:"revision" doc:"Which change of it this is, for schedule.put."`
	NextRun     *ScheduleSlot `json:"next_run,omitempty"`
	Running     *ScheduleRun  `json:"running,omitempty" doc:"What runs, or waits for its next try."`
	LastRun     *ScheduleRun  `json:"last_run,omitempty" doc:"What ended last."`
	LastSuccess *ScheduleRun  `json:"last_success,omitempty"`
	LastSkipped *ScheduleSkip `json:"last_skipped,omitempty" doc:"The last slots that were left out, and why."`
}

// ScheduleInfoResponse is all there is to know of one.
type ScheduleInfoResponse struct {
	ScheduleView
	Next   []ScheduleSlot `json:"next" doc:"The next five."`
	Recent []ScheduleRun  `json:"recent" doc:"What ended, the newest first."`
}

// ScheduleRun is what a slot became.
type ScheduleRun struct {
	Slot    time.Time `json:"slot"`
	Manual  bool      `json:"manual,omitempty" doc:"It was triggered by hand; its slot is the moment of that."`
	Attempt int       `json:"attempt"`
	Session string    `json:"session,omitempty" doc:"Of the backup; empty if none could be started."`
	Stage   string    `json:"stage,omitempty" doc:"Of a run that goes on: backup, verify, drill or prune."`
	Follow  []string  `json:"follow,omitempty" doc:"Sessions that verify, drill and prune after it."`
	// Replaced sessions count as no attempt: nothing was begun.
	Replaced int        `json:"replaced,omitempty" doc:"Sessions of it that others replaced: the instance that made them died before their tasks were written."`
	Started  time.Time  `json:"started"`
	Late     float64    `json:"late_seconds" doc:"How long after its time it was started."`
	Ended    *time.Time `json:"ended,omitempty"`
	State    State      `json:"state,omitempty" doc:"How it ended; failed, too, if the backup could not be verified or its drill failed."`
	Reason   string     `json:"reason,omitempty" doc:"Why it did not succeed, or why what follows did not."`
	RetryAt  *time.Time `json:"retry_at,omitempty" doc:"When it is tried again."`
}

// ScheduleSkip tells of slots that were left out.
type ScheduleSkip struct {
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Count  int       `json:"count"`
	Reason string    `json:"reason"`
}

// ScheduleDeleteResponse answers a deletion.
type ScheduleDeleteResponse struct {
	Name string `json:"name"`
}
