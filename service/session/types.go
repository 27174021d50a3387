package session

import (
	"time"

	"jetkeep/service/api"
)

// A Session is one run, as KV keeps it under its id.
type Session struct {
	ID         string            `json:"id"`
	Kind       api.Kind          `json:"kind"`
	State      api.State         `json:"state"`
	Target     string            `json:"target"`
	Repository string            `json:"repository"`
	Backup     string            `json:"backup,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Tasks      int               `json:"tasks"` // how many there are, <id>.0001 and on
	// Hooks are the tasks besides those that run hooks: HookBefore, HookAfter.
	Hooks   []string  `json:"hooks,omitempty"`
	Created time.Time `json:"created"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Cancel  bool      `json:"cancel,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	// Ready is set when every task is in KV; before, a session is only a claim
	// on its id.
	Ready bool `json:"ready"`
	// Counts and Progress are set when the session ends; until then they are
	// sums over the tasks.
	Counts   *api.TaskCounts `json:"counts,omitempty"`
	Progress *api.Progress   `json:"progress,omitempty"`
	Error    *api.Error      `json:"error,omitempty"`
	// Verify and Prune are what sessions of these kinds do.
	Verify *Verify `json:"verify,omitempty"`
	Prune  *Prune  `json:"prune,omitempty"`
	// IdentitySealed is an identity that the request brought, sealed to the
	// service. It goes when the session ends.
	IdentitySealed string `json:"identity_sealed,omitempty"`
	// Announced is set when the event of its end is known to be published.
	Announced bool `json:"announced,omitempty"`

	// Revision is the KV revision that was read; it is not part of the value.
	Revision uint64 `json:"-"`
}

// A Task is the part of a session that concerns one stream, or the whole of one
// that concerns a repository, as KV keeps it under its id.
type Task struct {
	ID         string    `json:"id"`
	Session    string    `json:"session"`
	Kind       api.Kind  `json:"kind"`
	State      api.State `json:"state"`
	Target     string    `json:"target"`
	Repository string    `json:"repository"`
	Stream     string    `json:"stream"`
	// RestorePoint is what a restore brings back. What a backup makes has the
	// task's id.
	RestorePoint string `json:"restore_point,omitempty"`
	// SkipVerify leaves out reading back what was restored.
	SkipVerify bool `json:"skip_verify,omitempty"`
	// Hook is HookBefore or HookAfter in a task that only runs hooks, and Hooks
	// are their names. All others wait for the one before; the one after waits
	// for all others, and is done even if the session is cancelled.
	Hook  string   `json:"hook,omitempty"`
	Hooks []string `json:"hooks,omitempty"`
	// After names the tasks that must be final before this one starts.
	After []string `json:"after,omitempty"`

	Attempt  int    `json:"attempt,omitempty"`  // how often it was claimed
	Released int    `json:"released,omitempty"` // how often it was handed back in good order
	Instance string `json:"instance,omitempty"`
	// Message and Delivery are the message that the claim was made with, and which
	// of its deliveries.
	Message  uint64    `json:"message,omitempty"`
	Delivery uint64    `json:"delivery,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`

	Progress api.Progress `json:"progress"`
	Result   *Result      `json:"result,omitempty"`
	Notes    []string     `json:"notes,omitempty"`
	Error    *api.Error   `json:"error,omitempty"`

	// Revision is the KV revision that was read; it is not part of the value.
	Revision uint64 `json:"-"`
}

// What a session's hook tasks are called; their ids end with it.
const (
	HookBefore = "before"
	HookAfter  = "after"
)

// A Result is what a succeeded task did.
type Result struct {
	RestorePoint string   `json:"restore_point"`
	Messages     uint64   `json:"messages"`
	Bytes        uint64   `json:"bytes"`
	StoredBytes  uint64   `json:"stored_bytes,omitempty"`
	NewBytes     uint64   `json:"new_bytes,omitempty"`
	Digest       string   `json:"digest,omitempty"`
	Verified     bool     `json:"verified,omitempty"`
	Notes        []string `json:"notes,omitempty"`

	Drilled      *api.Drilled      `json:"drilled,omitempty"`
	Verification *api.Verification `json:"verification,omitempty"`
	Pruned       *api.Pruned       `json:"pruned,omitempty"`
}

// Verify is what a verification looks at. Without points it is the session's
// backup, and without that all of a repository.
type Verify struct {
	Points  []string  `json:"restore_points,omitempty"`
	Level   api.Level `json:"level"`
	Part    int       `json:"part,omitempty"`
	Parts   int       `json:"parts,omitempty"`
	Percent int       `json:"percent,omitempty"`
}

// Prune is what a prune forgets and how long it waits; a wait that is nil is the
// repository's default.
type Prune struct {
	// Keep is a policy that somebody asked to have applied to all restore points.
	Keep *api.Keep `json:"keep,omitempty"`
	// Own is one that decides about its own restore points only. It is apart from
	// Keep, so that an instance of an earlier version, which would apply it to
	// all of them, finds no policy and forgets nothing.
	Own       *OwnPolicy     `json:"own,omitempty"`
	Grace     *time.Duration `json:"grace,omitempty"`
	OrphanAge *time.Duration `json:"orphan_age,omitempty"`
}

// An OwnPolicy is the policy of a schedule, or of a repository.
type OwnPolicy struct {
	Keep *api.Keep `json:"keep"`
	// Schedule made the restore points that the policy decides about; empty for
	// the repository's policy.
	Schedule string `json:"schedule,omitempty"`
	// Target is the one that they are of, empty for any.
	Target string `json:"target,omitempty"`
}
