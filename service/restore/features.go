package restore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// A loss says what becomes of a stream whose server does not know a field.
type loss int

const (
	// The zero value is for fields as old as the oldest server we restore into.
	_ loss = iota
	// silent fields make no difference to a restored stream.
	silent
	// lessens: the stream goes without something that its messages and their
	// readers do not depend on.
	lessens
	// changes: the stream would take, keep, remove or hand out other messages
	// than before, so that the restore is refused.
	changes
)

// A feature is one field of a configuration: since which server it exists and
// what a server does without it.
type feature struct {
	field string
	since version
	loss  loss
	what  string
}

// streamFeatures are all fields of a stream's configuration. A server before
// 2.11 ignores a field that it does not know, one since 2.12 refuses the whole
// request with it, so a field that is younger than the target is never sent.
var streamFeatures = []feature{
	{field: "name"}, {field: "description"}, {field: "subjects"}, {field: "retention"},
	{field: "max_consumers"}, {field: "max_msgs"}, {field: "max_bytes"}, {field: "max_age"},
	{field: "max_msgs_per_subject"}, {field: "max_msg_size"}, {field: "discard"}, {field: "storage"},
	{field: "num_replicas"}, {field: "no_ack"}, {field: "template_owner"}, {field: "duplicate_window"},
	{field: "placement"}, {field: "mirror"}, {field: "sources"},
	{"sealed", version{2, 6, 2}, changes, "the stream would accept messages again"},
	{"deny_delete", version{2, 6, 2}, lessens, "messages could be deleted"},
	{"deny_purge", version{2, 6, 2}, lessens, "the stream could be purged"},
	{"allow_rollup_hdrs", version{2, 6, 2}, changes, "rollups would be kept as plain messages, KV purges and object stores do not work"},
	{"republish", version{2, 8, 3}, changes, "messages would not be republished"},
	{"allow_direct", version{2, 9, 0}, lessens, "no direct gets"},
	{"mirror_direct", version{2, 9, 0}, lessens, "the mirror serves no direct gets for its origin"},
	{"discard_new_per_subject", version{2, 9, 0}, changes, "a full subject would take new messages"},
	{"compression", version{2, 10, 0}, lessens, "messages are stored uncompressed"},
	{"first_seq", version{2, 10, 0}, silent, ""},
	{"subject_transform", version{2, 10, 0}, changes, "new messages would be stored under other subjects"},
	{"consumer_limits", version{2, 10, 0}, lessens, "new consumers get other defaults"},
	{"metadata", version{2, 10, 0}, lessens, "the stream's metadata is not kept"},
	{"allow_msg_ttl", version{2, 11, 0}, changes, "messages would not expire by their TTL"},
	{"subject_delete_marker_ttl", version{2, 11, 0}, changes, "no delete markers would be written"},
	{"allow_msg_counter", version{2, 12, 0}, changes, "counters would not count"},
	{"allow_atomic", version{2, 12, 0}, changes, "atomic batches would be refused"},
	{"allow_msg_schedules", version{2, 12, 0}, changes, "scheduled messages would not be published"},
	{"persist_mode", version{2, 12, 0}, lessens, "messages are persisted in the default mode"},
	{"allow_batched", version{2, 14, 0}, changes, "fast batches would be refused"},
}

// consumerFeatures are all fields of a consumer's configuration. A server
// ignores those in an archive that it does not know.
var consumerFeatures = []feature{
	{field: "durable_name"}, {field: "description"}, {field: "deliver_subject"}, {field: "deliver_group"},
	{field: "deliver_policy"}, {field: "opt_start_seq"}, {field: "opt_start_time"}, {field: "ack_policy"},
	{field: "ack_wait"}, {field: "max_deliver"}, {field: "filter_subject"}, {field: "replay_policy"},
	{field: "rate_limit_bps"}, {field: "sample_freq"}, {field: "max_waiting"}, {field: "max_ack_pending"},
	{field: "idle_heartbeat"}, {field: "flow_control"}, {field: "direct"},
	{"headers_only", version{2, 6, 2}, changes, "it would deliver whole messages"},
	{"max_batch", version{2, 7, 0}, lessens, "pulls are not bounded"},
	{"max_expires", version{2, 7, 0}, lessens, "pulls are not bounded"},
	{"backoff", version{2, 7, 1}, lessens, "redeliveries follow ack_wait alone"},
	{"inactive_threshold", version{2, 8, 0}, lessens, "it goes away, or stays, by the server's default"},
	{"num_replicas", version{2, 8, 3}, lessens, "it has as many replicas as its stream"},
	{"mem_storage", version{2, 8, 3}, lessens, "its state is stored like its stream"},
	{"max_bytes", version{2, 8, 3}, lessens, "pulls are not bounded"},
	{"name", version{2, 9, 0}, silent, ""},
	{"filter_subjects", version{2, 10, 0}, changes, "it would deliver all subjects"},
	{"metadata", version{2, 10, 0}, lessens, "its metadata is not kept"},
	{"pause_until", version{2, 11, 0}, changes, "it would not be paused"},
	{"priority_groups", version{2, 11, 0}, changes, "it would have no priority groups"},
	{"priority_policy", version{2, 11, 0}, changes, "it would have no priority groups"},
	{"priority_timeout", version{2, 11, 0}, changes, "it would have no priority groups"},
	{"sourcing", version{2, 14, 0}, silent, ""},
}

// originFeatures are the fields of a mirror or a source.
var originFeatures = []feature{
	{field: "name"}, {field: "opt_start_seq"}, {field: "opt_start_time"}, {field: "filter_subject"}, {field: "external"},
	{"subject_transforms", version{2, 10, 0}, changes, "it would take other messages from its origin, under other subjects"},
	{"consumer", version{2, 14, 0}, changes, "it would not use the consumer that was made for it"},
}

// valueFeatures are values that a server does not know in a field that it does.
var valueFeatures = []struct {
	field, value string
	since        version
}{
	{"priority_policy", "prioritized", version{2, 12, 0}},
	{"ack_policy", "flow_control", version{2, 14, 0}},
}

// adapt returns the object without the fields that a server of version v does
// not know, and what is lost with them. Fields that this program does not know
// either are kept for a server at least as new as the one they came from.
func adapt(object map[string]json.RawMessage, table []feature, owner string, v, from version) (problems, warnings []Finding) {
	byField := map[string]feature{}
	for _, f := range table {
		byField[f.field] = f
	}
	for _, field := range sortedKeys(object) {
		f, ok := byField[field]
		switch {
		case !ok && v.before(from):
			if !isZero(object[field]) {
				warnings = append(warnings, Finding{Code: CodeUnknownField,
					Text: fmt.Sprintf("%s: field %s came from server %s, whether %s knows it is unknown; it is left out", owner, field, from, v)})
			}
			delete(object, field)
		case ok && v.before(f.since):
			if p := f.finding(owner, object[field], v); p != nil && f.loss == changes {
				problems = append(problems, *p)
			} else if p != nil {
				warnings = append(warnings, *p)
			}
			delete(object, field)
		}
	}
	for _, f := range valueFeatures {
		if string(object[f.field]) == `"`+f.value+`"` && v.before(f.since) {
			problems = append(problems, Finding{Code: CodeFeature,
				Text: fmt.Sprintf("%s: %s %q needs server %s, the target has %s", owner, f.field, f.value, f.since, v)})
		}
	}
	return problems, warnings
}

func (f feature) finding(owner string, value json.RawMessage, v version) *Finding {
	if f.loss == silent || isZero(value) {
		return nil
	}
	code := CodeFeatureDropped
	if f.loss == changes {
		code = CodeFeature
	}
	return &Finding{Code: code, Text: fmt.Sprintf("%s: %s needs server %s, the target has %s: %s", owner, f.field, f.since, v, f.what)}
}

// isZero tells whether a field says the same as its absence.
func isZero(v json.RawMessage) bool {
	switch s := string(bytes.TrimSpace(v)); s {
	case "", "null", "false", "0", `""`, "[]", "{}", `"none"`, `"default"`:
		return true
	default:
		if !strings.HasPrefix(s, "{") {
			return false
		}
		var m map[string]json.RawMessage
		if json.Unmarshal(v, &m) != nil {
			return false
		}
		for _, f := range m {
			if !isZero(f) {
				return false
			}
		}
		return true
	}
}

// levelKey is where a server of 2.11 and newer notes the API level that a
// configuration needs. A restore takes it as it is given; a server whose level
// is lower keeps the stream offline.
const levelKey = "_nats.req.level"

// level returns the API level of a server.
func (v version) level() int {
	for _, l := range []struct {
		since version
		level int
	}{{version{2, 15, 0}, 5}, {version{2, 14, 0}, 4}, {version{2, 12, 6}, 3}, {version{2, 12, 0}, 2}, {version{2, 11, 0}, 1}} {
		if !v.before(l.since) {
			return l.level
		}
	}
	return -1
}

// adaptMetadata removes what a server adds to the metadata in its answers and
// takes for the user's if it is older than that habit, and the API level if a
// server of version v does not have it.
func adaptMetadata(object map[string]json.RawMessage, v, from version) error {
	return filterMetadata(object, func(key, value string) bool {
		if !strings.HasPrefix(key, "_nats.") {
			return true
		}
		level, err := strconv.Atoi(value)
		return key == levelKey && err == nil && v.level() >= 0 && (!v.before(from) || level <= v.level())
	})
}

func filterMetadata(object map[string]json.RawMessage, keep func(key, value string) bool) error {
	raw, ok := object["metadata"]
	if !ok {
		return nil
	}
	var m map[string]string
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("decode metadata: %w", err)
	}
	maps.DeleteFunc(m, func(k, v string) bool { return !keep(k, v) })
	if len(m) == 0 {
		delete(object, "metadata")
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode metadata: %w", err)
	}
	object["metadata"] = b
	return nil
}
