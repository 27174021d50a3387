package api

import "time"

// EventName is the last token of an event's subject.
type EventName string

// The events.
const (
	EventStarted       EventName = "started"
	EventProgress      EventName = "progress"
	EventTaskCompleted EventName = "task_completed"
	EventCompleted     EventName = "completed"
	EventFailed        EventName = "failed"
	EventCancelled     EventName = "cancelled"
)

// EventNames returns all events.
func EventNames() []EventName {
	return []EventName{EventStarted, EventProgress, EventTaskCompleted, EventCompleted, EventFailed, EventCancelled}
}

// Type returns the event's type in the sense of ADR-2.
func (e EventName) Type() string {
	if e == EventTaskCompleted {
		return "io.jetkeep.event.v1.task_completed"
	}
	return "io.jetkeep.event.v1.session_" + string(e)
}

// Final tells whether a session has no events after this one.
func (e EventName) Final() bool {
	return e == EventCompleted || e == EventFailed || e == EventCancelled
}

// EventOf returns the event with which a session ends in the given state, or
// an empty string for states that are not final.
func EventOf(s State) EventName {
	switch s {
	case StateSucceeded, StatePartial, StateSkipped:
		return EventCompleted
	case StateFailed:
		return EventFailed
	case StateCancelled:
		return EventCancelled
	}
	return ""
}

// An Event tells that something happened to a session or to one of its tasks.
type Event struct {
	Type      string    `json:"type" doc:"io.jetkeep.event.v1.session_<event> or io.jetkeep.event.v1.task_completed."`
	ID        string    `json:"id" doc:"Unique; equal when the same event is published twice."`
	Timestamp time.Time `json:"timestamp"`

	Event      EventName `json:"event"`
	Session    string    `json:"session"`
	Kind       Kind      `json:"kind"`
	State      State     `json:"state" doc:"The task's state in progress and task_completed, otherwise the session's."`
	Target     string    `json:"target"`
	Repository string    `json:"repository"`
	Instance   string    `json:"instance,omitempty" doc:"The instance that published the event."`

	Tags map[string]string `json:"tags,omitempty" doc:"The session's; schedule among them if one started it."`

	Task     *TaskView   `json:"task,omitempty" doc:"The task, in progress and task_completed."`
	Tasks    *TaskCounts `json:"tasks,omitempty" doc:"In started and the final events."`
	Progress *Progress   `json:"progress,omitempty" doc:"The session's sums, in the final events."`
	Error    *Error      `json:"error,omitempty"`
}
