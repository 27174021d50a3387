// Package api defines what jetkeep speaks: the subjects of its endpoints, the
// bodies of requests and answers, error codes and events. It uses the standard
// library only, so that any program can import it.
//
// Decode takes exactly what PROTOCOL.md describes: a field that does not exist,
// a field given twice, a second value and a body over the bound are errors that
// name the place. Validate checks what a schema cannot say and names the field.
// Neither looks at the world; whether a stream exists is for the service.
package api

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

const (
	// Service is the micro service's name and queue group.
	Service = "jetkeep"
	// DefaultPrefix starts every subject unless another is configured.
	DefaultPrefix = "jetkeep.v1"
)

// Names of the streams and buckets that jetkeep keeps for itself.
const (
	ReservedPrefix  = "JETKEEP_"
	BucketSessions  = "JETKEEP_SESSIONS"
	BucketSchedules = "JETKEEP_SCHEDULES"
	BucketState     = "JETKEEP_STATE"
	BucketUploads   = "JETKEEP_UPLOADS"
	StreamTasks     = "JETKEEP_TASKS"
	StreamEvents    = "JETKEEP_EVENTS"
)

// Bounds of what is accepted. They are far above what anybody needs and keep
// one request from taking the service's memory.
const (
	MaxBody     = 256 << 10
	MaxName     = 255
	MaxPatterns = 1000
	MaxTags     = 32
	MaxTagKey   = 64
	MaxTagValue = 256
	MaxText     = 1024
	MaxLimit    = 1000
	// MaxPoints is how many restore points a request can name.
	MaxPoints = 1000
	// MaxSealed bounds an identity that is sealed to the service.
	MaxSealed = 16 << 10
)

// DefaultLimit is how many entries a page of a list has.
const DefaultLimit = 100

// Names of the endpoints, <noun>.<verb>.
const (
	BackupCreate     = "backup.create"
	BackupList       = "backup.list"
	BackupInfo       = "backup.info"
	BackupDelete     = "backup.delete"
	BackupPin        = "backup.pin"
	BackupUnpin      = "backup.unpin"
	BackupVerify     = "backup.verify"
	BackupDrill      = "backup.drill"
	RestorePlan      = "restore.plan"
	RestoreCreate    = "restore.create"
	SessionList      = "session.list"
	SessionInfo      = "session.info"
	SessionCancel    = "session.cancel"
	RepositoryList   = "repository.list"
	RepositoryInfo   = "repository.info"
	RepositoryVerify = "repository.verify"
	RepositoryPrune  = "repository.prune"
	RepositoryAccept = "repository.accept"
	InstanceList     = "instance.list"
	SchedulePut      = "schedule.put"
	ScheduleList     = "schedule.list"
	ScheduleInfo     = "schedule.info"
	ScheduleDelete   = "schedule.delete"
	SchedulePause    = "schedule.pause"
	ScheduleResume   = "schedule.resume"
	ScheduleTrigger  = "schedule.trigger"
	TargetList       = "target.list"
	TargetInfo       = "target.info"
)

// An Endpoint is one request that the service answers.
type Endpoint struct {
	Name        string // <noun>.<verb>
	Description string
	Request     any // a zero value of the request's type
	Response    any // a zero value of the answer's type
}

// Endpoints returns all endpoints in the order of PROTOCOL.md.
func Endpoints() []Endpoint {
	return []Endpoint{
		{BackupCreate, "Back up streams of a target into a repository", BackupCreateRequest{}, Accepted{}},
		{BackupList, "List the backups of a repository", BackupListRequest{}, BackupListResponse{}},
		{BackupInfo, "Describe one backup and its restore points", BackupInfoRequest{}, BackupInfoResponse{}},
		{BackupDelete, "Forget a backup or single restore points", BackupDeleteRequest{}, BackupDeleteResponse{}},
		{BackupPin, "Keep a backup or restore points from being forgotten", BackupPinRequest{}, BackupPinResponse{}},
		{BackupUnpin, "Take pins away", BackupUnpinRequest{}, BackupPinResponse{}},
		{BackupVerify, "Verify a backup or single restore points", BackupVerifyRequest{}, Accepted{}},
		{BackupDrill, "Restore a backup into a scratch server and compare", BackupDrillRequest{}, Accepted{}},
		{RestorePlan, "Say what a restore would do, and do nothing", RestoreRequest{}, RestorePlanResponse{}},
		{RestoreCreate, "Restore streams from a repository into a target", RestoreRequest{}, Accepted{}},
		{SessionList, "List sessions", SessionListRequest{}, SessionListResponse{}},
		{SessionInfo, "Describe one session and its tasks", SessionInfoRequest{}, SessionInfoResponse{}},
		{SessionCancel, "Cancel a session", SessionCancelRequest{}, SessionCancelResponse{}},
		{RepositoryList, "List the repositories", RepositoryListRequest{}, RepositoryListResponse{}},
		{RepositoryInfo, "Open a repository and describe it", RepositoryInfoRequest{}, RepositoryInfoResponse{}},
		{RepositoryVerify, "Verify a whole repository, or a part of it", RepositoryVerifyRequest{}, Accepted{}},
		{RepositoryPrune, "Forget by a policy, and delete what no restore point needs", RepositoryPruneRequest{}, RepositoryPruneResponse{}},
		{RepositoryAccept, "Accept a repository that was replaced", RepositoryAcceptRequest{}, RepositoryAcceptResponse{}},
		{InstanceList, "List the instances of the service", InstanceListRequest{}, InstanceListResponse{}},
		{SchedulePut, "Make a schedule, or change what is given of one", SchedulePutRequest{}, SchedulePutResponse{}},
		{ScheduleList, "List the schedules", ScheduleListRequest{}, ScheduleListResponse{}},
		{ScheduleInfo, "Describe a schedule, how it went and when it is due", ScheduleNameRequest{}, ScheduleInfoResponse{}},
		{ScheduleDelete, "Delete a schedule; its backups stay", ScheduleNameRequest{}, ScheduleDeleteResponse{}},
		{SchedulePause, "Pause a schedule", ScheduleNameRequest{}, SchedulePutResponse{}},
		{ScheduleResume, "Resume a schedule; what passed is not made up for", ScheduleNameRequest{}, SchedulePutResponse{}},
		{ScheduleTrigger, "Run a schedule now", ScheduleNameRequest{}, Accepted{}},
		{TargetList, "List the targets", TargetListRequest{}, TargetListResponse{}},
		{TargetInfo, "Connect to a target and describe it", TargetInfoRequest{}, TargetInfoResponse{}},
	}
}

// Subjects builds the subjects below a prefix. Its zero value is not usable;
// see NewSubjects.
type Subjects struct{ prefix string }

// NewSubjects checks the prefix; an empty one means DefaultPrefix.
func NewSubjects(prefix string) (Subjects, error) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	if err := ValidatePrefix(prefix); err != nil {
		return Subjects{}, err
	}
	return Subjects{prefix}, nil
}

// ValidatePrefix tells whether subjects can start with prefix.
func ValidatePrefix(prefix string) error {
	if len(prefix) > 128 {
		return fmt.Errorf("prefix is longer than 128 bytes")
	}
	for token := range strings.SplitSeq(prefix, ".") {
		if !nameToken.MatchString(token) {
			return fmt.Errorf("prefix %q: each part must consist of letters, digits, _ and -", prefix)
		}
	}
	return nil
}

// Prefix returns what every subject starts with.
func (s Subjects) Prefix() string { return s.prefix }

// Endpoint returns the subject of an endpoint.
func (s Subjects) Endpoint(name string) string { return s.prefix + "." + name }

// Events returns the subject that matches every event.
func (s Subjects) Events() string { return s.prefix + ".event.>" }

// SessionEvents returns the subject that matches every event of one session.
func (s Subjects) SessionEvents(session string) string {
	return s.prefix + ".event.*." + session + ".*"
}

// Event returns the subject of one event.
func (s Subjects) Event(kind Kind, session string, e EventName) string {
	return s.prefix + ".event." + string(kind) + "." + session + "." + string(e)
}

// Tasks returns the subject that matches every task.
func (s Subjects) Tasks() string { return s.prefix + ".task.>" }

// TasksOf returns the subject that matches every task of one kind.
func (s Subjects) TasksOf(kind Kind) string { return s.prefix + ".task." + string(kind) + ".>" }

// SessionTasks returns the subject that matches every task of one session.
func (s Subjects) SessionTasks(session string) string { return s.prefix + ".task.*." + session + ".*" }

// Task returns the subject of one task. A subject for each lets the work queue
// refuse a second message of a task.
func (s Subjects) Task(kind Kind, task string) string {
	return s.prefix + ".task." + string(kind) + "." + task
}

// Kind is what a session does.
type Kind string

// The kinds of sessions.
const (
	KindBackup  Kind = "backup"
	KindRestore Kind = "restore"
	KindVerify  Kind = "verify"
	KindPrune   Kind = "prune"
	KindDrill   Kind = "drill"
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{KindBackup, KindRestore, KindVerify, KindPrune, KindDrill} }

// State is the state of a session or of a task.
type State string

// The states. Partial and skipped are states of sessions only.
const (
	StatePending    State = "pending"
	StateRunning    State = "running"
	StateCommitting State = "committing"
	StateSucceeded  State = "succeeded"
	StatePartial    State = "partial"
	StateFailed     State = "failed"
	StateCancelled  State = "cancelled"
	StateSkipped    State = "skipped"
)

// States returns all states.
func States() []State {
	return []State{StatePending, StateRunning, StateCommitting, StateSucceeded, StatePartial, StateFailed, StateCancelled, StateSkipped}
}

// Final tells whether a session or task in this state stays as it is.
func (s State) Final() bool {
	switch s {
	case StateSucceeded, StatePartial, StateFailed, StateCancelled, StateSkipped:
		return true
	}
	return false
}

// Progress is how far a task or session is.
type Progress struct {
	Messages       uint64  `json:"messages" doc:"Messages done."`
	Bytes          uint64  `json:"bytes" doc:"Bytes done, before compression."`
	TotalMessages  uint64  `json:"total_messages" doc:"Messages to do, 0 while not known."`
	TotalBytes     uint64  `json:"total_bytes" doc:"Bytes to do, 0 while not known."`
	TotalKnown     bool    `json:"total_known,omitempty" doc:"The totals are known, of a session those of all its tasks: 0 is none then."`
	StoredBytes    uint64  `json:"stored_bytes" doc:"Bytes after compression."`
	UploadedBytes  uint64  `json:"uploaded_bytes" doc:"Bytes that have reached the repository."`
	BytesPerSecond float64 `json:"bytes_per_second" doc:"Smoothed over the last seconds."`
	MessagesPerSec float64 `json:"messages_per_second" doc:"Smoothed over the last seconds."`
	Seconds        float64 `json:"seconds" doc:"Time since the work began."`
	Remaining      float64 `json:"remaining_seconds,omitempty" doc:"Estimate of the time left; left out while there is none."`
}

// SessionView is a session as others see it.
type SessionView struct {
	Session    string            `json:"session" doc:"The session's id; sorts by time."`
	Kind       Kind              `json:"kind"`
	State      State             `json:"state"`
	Target     string            `json:"target" doc:"Empty in sessions that concern a repository alone."`
	Repository string            `json:"repository"`
	Backup     string            `json:"backup,omitempty" doc:"The backup made, restored or verified; left out when there are several."`
	Tags       map[string]string `json:"tags,omitempty"`
	Created    time.Time         `json:"created"`
	Started    *time.Time        `json:"started,omitempty"`
	Ended      *time.Time        `json:"ended,omitempty"`
	Cancel     bool              `json:"cancel,omitempty" doc:"Cancellation was asked for."`
	Reason     string            `json:"reason,omitempty" doc:"Why it was cancelled or skipped."`
	Tasks      TaskCounts        `json:"tasks"`
	Progress   Progress          `json:"progress"`
	Error      *Error            `json:"error,omitempty"`
}

// TaskCounts counts tasks by their state.
type TaskCounts struct {
	Total     int `json:"total"`
	Pending   int `json:"pending"`
	Running   int `json:"running" doc:"Running or committing."`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled"`
}

// TaskView is one task as others see it.
type TaskView struct {
	Task         string     `json:"task" doc:"<session>.<number>; also the id of the restore point that a backup makes."`
	Stream       string     `json:"stream" doc:"Empty in sessions that concern a repository alone."`
	Hook         string     `json:"hook,omitempty" doc:"before or after, in the tasks that only run the session's hooks; they are not counted."`
	State        State      `json:"state"`
	RestorePoint string     `json:"restore_point,omitempty" doc:"What was made or is restored."`
	Attempts     int        `json:"attempts" doc:"How often an instance took the task."`
	Instance     string     `json:"instance,omitempty" doc:"Who works or worked on it."`
	Started      *time.Time `json:"started,omitempty"`
	Ended        *time.Time `json:"ended,omitempty"`
	Progress     Progress   `json:"progress"`
	Verified     bool       `json:"verified,omitempty" doc:"A restored stream was read back and equals its restore point."`
	Digest       string     `json:"digest,omitempty" doc:"Digest over the messages."`
	Notes        []string   `json:"notes,omitempty" doc:"What was repaired or is different, for people."`

	Drilled      *Drilled      `json:"drilled,omitempty" doc:"What a drill measured."`
	Verification *Verification `json:"verification,omitempty" doc:"What a verification found."`
	Pruned       *Pruned       `json:"pruned,omitempty" doc:"What a prune did."`

	Error *Error `json:"error,omitempty"`
}

var nameToken = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
