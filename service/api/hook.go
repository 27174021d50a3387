package api

import "time"

// When a hook is run, and of what.
const (
	HookBefore  = "before"
	HookAfter   = "after"
	HookSession = "session"
	HookTask    = "task"
)

// A HookRequest is what a hook is given: the body of a request to a subject or
// by HTTP, the standard input of a command. The same request may come again,
// after an instance died or lost its task to another: who answers must not mind.
type HookRequest struct {
	Type       string            `json:"type" doc:"io.jetkeep.hook.v1.<when>_<of>, such as io.jetkeep.hook.v1.before_session."`
	Hook       string            `json:"hook" doc:"The hook's name in the configuration."`
	When       string            `json:"when" doc:"before or after."`
	Of         string            `json:"of" doc:"session or task."`
	Timestamp  time.Time         `json:"timestamp"`
	Deadline   time.Time         `json:"deadline" doc:"When nobody waits for an answer any more."`
	Session    string            `json:"session"`
	Kind       Kind              `json:"kind"`
	State      State             `json:"state" doc:"running before; after, how the session ends, or the attempt at the task: a task that is given back for another instance is pending."`
	Target     string            `json:"target"`
	Repository string            `json:"repository"`
	Backup     string            `json:"backup,omitempty"`
	Tags       map[string]string `json:"tags,omitempty" doc:"The session's, schedule among them if one started it."`
	Streams    []string          `json:"streams,omitempty" doc:"Of a session, at most 1000 of them."`
	Tasks      *TaskCounts       `json:"tasks,omitempty" doc:"Of a session."`
	Task       string            `json:"task,omitempty" doc:"Of a task, as is what follows."`
	Stream     string            `json:"stream,omitempty"`
	Attempt    int               `json:"attempt,omitempty" doc:"Which attempt at the task, or at the session's hooks."`
	Instance   string            `json:"instance"`
	Error      *Error            `json:"error,omitempty" doc:"After, why it failed."`
}

// A HookReply answers it. An empty answer, or one that is no JSON object, means
// that all is well.
type HookReply struct {
	Abort  bool   `json:"abort,omitempty" doc:"Before: the work shall not be done."`
	Reason string `json:"reason,omitempty" doc:"Why not, for people."`
	Note   string `json:"note,omitempty" doc:"Kept among the task's notes."`
	Error  *Error `json:"error,omitempty" doc:"The hook failed."`
}
