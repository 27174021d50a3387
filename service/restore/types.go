package restore

import (
	"encoding/json"
	"fmt"
	"time"

	"jetkeep/service/archive"
	"jetkeep/store"
)

// A Request says how to restore.
type Request struct {
	// SkipVerify leaves out reading back what was restored.
	SkipVerify bool
}

// An Input is one restore point to be restored, with its consumers.
type Input struct {
	Point     store.Point
	Consumers []archive.Consumer
}

// A Target is what a plan needs to know of the account to restore into.
type Target struct {
	ServerVersion string
	Clustered     bool
	Peers         int // servers of the cluster, 0 if unknown
	Limits        Limits
	// Tiers replace Limits in an account that has limits by the number of
	// replicas; the keys are R1, R3 and so on.
	Tiers   map[string]Limits
	Streams []Existing
	// Refused is, by stream, a subject that a restore of it publishes on and that
	// the user in use may not.
	Refused map[string]string
	Now     time.Time
}

// limits returns what holds for streams of so many replicas, under which name,
// and whether replicas count against it.
func (t Target) limits(replicas int) (l Limits, tier string, flat bool) {
	if len(t.Tiers) == 0 {
		return t.Limits, "", true
	}
	tier = fmt.Sprintf("R%d", max(replicas, 1))
	return t.Tiers[tier], tier, false
}

// Limits are an account's limits and what of them is used. A limit that is
// zero or below is none.
type Limits struct {
	MaxMemory, MaxStorage, MaxStreams, MaxConsumers int64
	Memory, Storage, Streams                        int64
}

// Existing is a stream that the target has.
type Existing struct {
	Name     string
	Subjects []string
	Created  time.Time
	LastSeq  uint64
	Origins  []string // streams of the same account that it mirrors or sources
}

// Actions of a plan for one stream.
const (
	ActionRestore = "restore"
	ActionRefuse  = "refuse"
)

// Codes of problems and warnings.
const (
	CodeExists           = "stream_exists"
	CodePermission       = "permission_denied"
	CodeReserved         = "stream_reserved"
	CodeTwice            = "stream_twice"
	CodeSubjects         = "subjects_overlap"
	CodeReplicas         = "replicas_unavailable"
	CodeStorage          = "storage_exceeded"
	CodeMemory           = "memory_exceeded"
	CodeStreams          = "streams_exceeded"
	CodeConsumers        = "consumers_exceeded"
	CodeMemoryOld        = "memory_unsupported"
	CodeFeature          = "feature_unsupported"
	CodeFeatureDropped   = "feature_dropped"
	CodeUnknownField     = "field_unknown"
	CodeConfig           = "config_invalid"
	CodeServer           = "server_too_old"
	CodeCycle            = "origin_cycle"
	CodeOriginMissing    = "origin_missing"
	CodeOriginBehind     = "origin_behind"
	CodeSourcedFrom      = "sourced_from"
	CodeSourcePinned     = "source_pinned"
	CodeSourceAgain      = "sourced_again"
	CodeConfigChanged    = "config_changed"
	CodeConsumerGone     = "consumer_gone"
	CodeRemoved          = "messages_removed"
	CodeExpire           = "messages_expire"
	CodeTTL              = "ttl_expires"
	CodeSchedules        = "schedules_fire"
	CodeCreatedLost      = "created_lost"
	CodeDedupeLost       = "dedupe_lost"
	CodeAcked            = "acked_removed"
	CodePromoted         = "restored_by_mirror"
	CodeInternalConsumer = "internal_consumer"
)

// A Finding is a problem or a warning of a plan.
type Finding struct {
	Code string `json:"err_code"`
	Text string `json:"description"`
	Hint string `json:"hint,omitempty"`
	// Messages is how many messages it is about, if that can be known.
	Messages uint64 `json:"messages,omitempty"`
}

// A Plan is what a restore will do.
type Plan struct {
	Streams []StreamPlan `json:"streams"` // in an order that is good to follow
}

// Refused tells whether the plan has a problem.
func (p Plan) Refused() bool {
	for i := range p.Streams {
		if len(p.Streams[i].Problems) > 0 {
			return true
		}
	}
	return false
}

// A StreamPlan is what will be done for one stream.
type StreamPlan struct {
	Stream    string    `json:"stream"`
	Point     string    `json:"restore_point"`
	Action    string    `json:"action"`
	Method    Method    `json:"method,omitempty"`
	After     []string  `json:"after,omitempty"` // streams of this plan to restore before
	Messages  uint64    `json:"messages"`
	Bytes     uint64    `json:"bytes"`
	Consumers int       `json:"consumers"`
	Problems  []Finding `json:"problems,omitempty"`
	Warnings  []Finding `json:"warnings,omitempty"`

	// config is the stream's configuration as the target takes it.
	config json.RawMessage
	// consumers are those to restore, as the target takes them.
	consumers []archive.Consumer
}

// A Method is how a stream is brought to the target.
type Method string

// The methods: an archive in the old format for file streams, in the new one
// for memory streams, and for memory streams on servers before 2.15 a file
// stream in the old format that the memory stream mirrors until it is promoted.
const (
	MethodV1     Method = "archive_v1"
	MethodV2     Method = "archive_v2"
	MethodMirror Method = "mirror"
)

// A Result is what one execution did.
type Result struct {
	Stream   string    `json:"stream"`
	Point    string    `json:"restore_point"`
	Method   Method    `json:"method"`
	Messages uint64    `json:"messages"` // given to the server
	Bytes    uint64    `json:"bytes"`
	Verified bool      `json:"verified"`
	Digest   string    `json:"digest,omitempty"` // of the messages read back
	Expired  uint64    `json:"expired,omitempty"`
	Warnings []Finding `json:"warnings,omitempty"`
	Seconds  float64   `json:"seconds"`
}
