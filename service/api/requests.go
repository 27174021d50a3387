package api

import "time"

// BackupCreateRequest asks for a backup. Every field has a default.
type BackupCreateRequest struct {
	Target     string            `json:"target,omitempty" doc:"Name of the target; default: the first one configured."`
	Repository string            `json:"repository,omitempty" doc:"Name of the repository; default: the first one configured."`
	Streams    []string          `json:"streams,omitempty" doc:"Names, or patterns with * and ?; default: every stream."`
	Exclude    []string          `json:"exclude,omitempty" doc:"Names or patterns to leave out."`
	Tags       map[string]string `json:"tags,omitempty" doc:"Kept with the backup."`
}

// Accepted answers a request that started a session.
type Accepted struct {
	Session    string   `json:"session"`
	Kind       Kind     `json:"kind"`
	State      State    `json:"state"`
	Backup     string   `json:"backup,omitempty" doc:"Id of the backup that will be made, or that is restored or verified."`
	Target     string   `json:"target" doc:"Empty if the session concerns a repository alone."`
	Repository string   `json:"repository"`
	Tasks      int      `json:"tasks" doc:"Number of streams; 1 if the session concerns a repository alone."`
	Warnings   []string `json:"warnings,omitempty"`
}

// BackupListRequest asks for backups, newest first.
type BackupListRequest struct {
	Repository string `json:"repository,omitempty"`
	Target     string `json:"target,omitempty" doc:"Only backups of this target."`
	Stream     string `json:"stream,omitempty" doc:"Only backups that hold this stream; name or pattern."`
	Limit      int    `json:"limit,omitempty" doc:"Entries in the answer, default 100, at most 1000."`
	Cursor     string `json:"cursor,omitempty" doc:"The previous answer's \"next\"."`
}

// BackupListResponse is one page of backups.
type BackupListResponse struct {
	Repository string       `json:"repository"`
	Total      int          `json:"total" doc:"Backups that match, on all pages."`
	Backups    []BackupView `json:"backups"`
	Next       string       `json:"next,omitempty" doc:"Cursor of the next page; left out on the last."`
}

// BackupView sums up a backup.
type BackupView struct {
	Backup      string            `json:"backup"`
	Target      string            `json:"target"`
	Time        time.Time         `json:"time" doc:"The moment of its newest restore point."`
	Streams     int               `json:"streams"`
	Messages    uint64            `json:"messages"`
	Bytes       uint64            `json:"bytes"`
	StoredBytes uint64            `json:"stored_bytes" doc:"Compressed size of everything the backup refers to."`
	NewBytes    uint64            `json:"new_bytes" doc:"What it added to the repository."`
	Damaged     int               `json:"damaged,omitempty" doc:"Restore points that cannot be read; they are not in the sums."`
	Locked      int               `json:"locked,omitempty" doc:"Restore points whose stream and target are sealed; they are in the sums."`
	Pinned      int               `json:"pinned,omitempty" doc:"Restore points that are pinned."`
	Tags        map[string]string `json:"tags,omitempty"`
}

// BackupInfoRequest asks for one backup.
type BackupInfoRequest struct {
	Backup     string `json:"backup"`
	Repository string `json:"repository,omitempty"`
	Limit      int    `json:"limit,omitempty" doc:"Restore points in the answer, default 100, at most 1000."`
	Cursor     string `json:"cursor,omitempty"`
}

// BackupInfoResponse describes one backup with a page of its restore points.
type BackupInfoResponse struct {
	Repository string `json:"repository"`
	BackupView
	RestorePoints []RestorePointView `json:"restore_points"`
	Next          string             `json:"next,omitempty"`
}

// RestorePointView is one stream as it was at one moment.
type RestorePointView struct {
	RestorePoint string     `json:"restore_point"`
	Stream       string     `json:"stream"`
	Time         time.Time  `json:"time" doc:"The moment."`
	Created      time.Time  `json:"created" doc:"When the stream was created."`
	Messages     uint64     `json:"messages"`
	Bytes        uint64     `json:"bytes"`
	FirstSeq     uint64     `json:"first_seq"`
	LastSeq      uint64     `json:"last_seq"`
	Consumers    int        `json:"consumers"`
	Digest       string     `json:"digest"`
	Engine       string     `json:"engine" doc:"How the stream was read."`
	Server       string     `json:"server" doc:"Version of the server."`
	StoredBytes  uint64     `json:"stored_bytes"`
	NewBytes     uint64     `json:"new_bytes"`
	Notes        []string   `json:"notes,omitempty"`
	Retained     *time.Time `json:"retained,omitempty" doc:"Until when the store promised to keep all that it needs."`
	Locked       bool       `json:"locked,omitempty" doc:"The restore point is sealed and the service has no key to it; then id, time and sizes are known."`
	Pinned       *PinView   `json:"pinned,omitempty"`
	Error        *Error     `json:"error,omitempty" doc:"Why the restore point cannot be read; then only its id is known."`
}

// RestoreRequest asks for a restore, or for its plan. Give "backup" or "at" or
// neither: "backup" takes that backup's restore points; otherwise each stream's
// newest restore point is taken, at or before "at" if given.
type RestoreRequest struct {
	Backup     string     `json:"backup,omitempty" doc:"Id of the backup to restore."`
	At         *time.Time `json:"at,omitempty" doc:"Restore each stream's newest restore point at or before this time."`
	Streams    []string   `json:"streams,omitempty" doc:"Names, or patterns with * and ?; default: every stream there is."`
	Exclude    []string   `json:"exclude,omitempty" doc:"Names or patterns to leave out."`
	Repository string     `json:"repository,omitempty" doc:"Name of the repository; default: the first one configured."`
	Target     string     `json:"target,omitempty" doc:"Name of the target to restore into; default: the first one configured."`
	From       string     `json:"from,omitempty" doc:"Name of the target that was backed up; default: that of \"target\". Not with \"backup\"."`
	Verify     *bool      `json:"verify,omitempty" doc:"Read back and compare what was restored; default true."`
	Conflict   string     `json:"conflict,omitempty" doc:"What to do when a stream exists: only \"fail\"."`
	Identity   string     `json:"identity_sealed,omitempty" doc:"An age identity that opens the repository, sealed to the service's xkey."`
}

// RestorePlanResponse says what a restore would do.
type RestorePlanResponse struct {
	Repository string       `json:"repository"`
	Target     string       `json:"target"`
	Server     string       `json:"server" doc:"Version of the target's server."`
	Refused    bool         `json:"refused" doc:"restore.create would refuse: there is a problem."`
	Messages   uint64       `json:"messages"`
	Bytes      uint64       `json:"bytes"`
	Streams    []StreamPlan `json:"streams" doc:"In the order in which they are restored."`
}

// StreamPlan says what a restore would do with one stream.
type StreamPlan struct {
	Stream       string    `json:"stream"`
	RestorePoint string    `json:"restore_point"`
	Time         time.Time `json:"time" doc:"The restore point's moment."`
	Action       string    `json:"action" doc:"restore or refuse."`
	Method       string    `json:"method,omitempty"`
	After        []string  `json:"after,omitempty" doc:"Streams that are restored before this one."`
	Messages     uint64    `json:"messages"`
	Bytes        uint64    `json:"bytes"`
	Consumers    int       `json:"consumers"`
	Problems     []Finding `json:"problems,omitempty" doc:"Why it cannot be restored."`
	Warnings     []Finding `json:"warnings,omitempty" doc:"What will be different."`
}

// Finding is a problem or a warning of a plan.
type Finding struct {
	ErrCode     string `json:"err_code"`
	Description string `json:"description"`
	Hint        string `json:"hint,omitempty"`
	Messages    uint64 `json:"messages,omitempty" doc:"How many messages it is about, if that can be known."`
}

// SessionListRequest asks for sessions, newest first.
type SessionListRequest struct {
	Kind   Kind    `json:"kind,omitempty" doc:"Only sessions of this kind."`
	States []State `json:"states,omitempty" doc:"Only sessions in one of these states."`
	Limit  int     `json:"limit,omitempty" doc:"Entries in the answer, default 100, at most 1000."`
	Cursor string  `json:"cursor,omitempty" doc:"The previous answer's \"next\"."`
}

// SessionListResponse is one page of sessions.
type SessionListResponse struct {
	Total    int           `json:"total" doc:"Sessions that match, on all pages."`
	Sessions []SessionView `json:"sessions"`
	Next     string        `json:"next,omitempty" doc:"Cursor of the next page; left out on the last."`
}

// SessionInfoRequest asks for one session.
type SessionInfoRequest struct {
	Session string `json:"session"`
	Limit   int    `json:"limit,omitempty" doc:"Tasks in the answer, default 100, at most 1000."`
	Cursor  string `json:"cursor,omitempty"`
}

// SessionInfoResponse describes one session with a page of its tasks.
type SessionInfoResponse struct {
	SessionView
	TaskList []TaskView `json:"task_list"`
	Next     string     `json:"next,omitempty"`
}

// SessionCancelRequest asks to cancel a session.
type SessionCancelRequest struct {
	Session string `json:"session"`
	Reason  string `json:"reason,omitempty"`
}

// SessionCancelResponse tells the session's state after the request: it is
// final at once if no task was running.
type SessionCancelResponse struct {
	Session string `json:"session"`
	State   State  `json:"state"`
}

// TargetListRequest asks for the targets.
type TargetListRequest struct{}

// TargetListResponse lists the targets in the order of the configuration.
type TargetListResponse struct {
	Targets []TargetView `json:"targets"`
}

// TargetView is a target as configured, without secrets.
type TargetView struct {
	Target  string `json:"target"`
	Servers string `json:"servers" doc:"Where it connects to, without credentials."`
	Default bool   `json:"default,omitempty"`
}

// TargetInfoRequest asks to connect to a target.
type TargetInfoRequest struct {
	Target string `json:"target,omitempty"`
	Limit  int    `json:"limit,omitempty" doc:"Streams in the answer, default 100, at most 1000."`
	Cursor string `json:"cursor,omitempty"`
}

// TargetInfoResponse describes a target with a page of its streams.
type TargetInfoResponse struct {
	TargetView
	Server       string       `json:"server" doc:"Version of the server."`
	ServerName   string       `json:"server_name,omitempty"`
	Cluster      string       `json:"cluster,omitempty"`
	RoundTrip    float64      `json:"round_trip_ms"`
	Memory       uint64       `json:"memory" doc:"Bytes in use."`
	Storage      uint64       `json:"storage" doc:"Bytes in use."`
	TotalStreams int          `json:"total_streams" doc:"Without jetkeep's own."`
	Streams      []StreamView `json:"streams"`
	Next         string       `json:"next,omitempty"`
}

// StreamView is a stream of a target.
type StreamView struct {
	Stream    string `json:"stream"`
	Messages  uint64 `json:"messages"`
	Bytes     uint64 `json:"bytes"`
	FirstSeq  uint64 `json:"first_seq"`
	LastSeq   uint64 `json:"last_seq"`
	Consumers int    `json:"consumers"`
	Storage   string `json:"storage"`
}

// RepositoryListRequest asks for the repositories.
type RepositoryListRequest struct{}

// RepositoryListResponse lists the repositories in the order of the
// configuration.
type RepositoryListResponse struct {
	Repositories []RepositoryView `json:"repositories"`
}

// RepositoryView is a repository as configured, without secrets.
type RepositoryView struct {
	Repository string `json:"repository"`
	Kind       string `json:"kind" doc:"local, s3 or swift."`
	Location   string `json:"location"`
	Default    bool   `json:"default,omitempty"`

	Keep  *Keep      `json:"keep,omitempty" doc:"The policy of the repository."`
	Prune *PruneView `json:"prune,omitempty" doc:"When it is pruned by itself; left out if the configuration has neither a policy nor times."`
}

// PruneView says when a repository is pruned by itself, and how that went.
type PruneView struct {
	Off     bool       `json:"off,omitempty" doc:"The configuration says that it is not."`
	Cron    string     `json:"cron,omitempty"`
	Zone    string     `json:"zone,omitempty"`
	NextRun *time.Time `json:"next_run,omitempty" doc:"When the next prune is due."`
	LastRun *PruneRun  `json:"last_run,omitempty" doc:"The newest one that was due."`
}

// PruneRun is a prune that a repository did by itself.
type PruneRun struct {
	Slot    time.Time  `json:"slot"`
	Session string     `json:"session"`
	State   State      `json:"state,omitempty" doc:"Left out if the session is not remembered any more."`
	Ended   *time.Time `json:"ended,omitempty"`
	Error   *Error     `json:"error,omitempty"`
}

// RepositoryInfoRequest asks to open a repository.
type RepositoryInfoRequest struct {
	Repository string `json:"repository,omitempty"`
	Probe      *bool  `json:"probe,omitempty" doc:"Try whether the store works: write, read, list and delete a small object. Default true, except in a store that retains whatever is written."`
}
