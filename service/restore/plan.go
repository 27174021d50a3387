package restore

import (
	"fmt"
	"slices"
	"time"

	"jetkeep/service/api"
)

// BuildPlan says what restoring the inputs into the target will do. It depends
// on its arguments alone.
func BuildPlan(req Request, inputs []Input, t Target) Plan {
	b := &builder{target: t, inputs: inputs, byName: map[string]*entry{}, existing: map[string]Existing{}}
	for _, e := range t.Streams {
		b.existing[e.Name] = e
	}
	b.parse()
	for _, e := range b.entries {
		b.names(e)
		b.permission(e)
		if e.ready {
			b.method(e)
			b.subjects(e)
			b.replicas(e)
			b.origins(e)
			b.losses(e)
		}
	}
	b.limits()
	return Plan{Streams: b.order()}
}

type entry struct {
	StreamPlan
	in    Input
	cfg   streamConfig
	ready bool // the configuration could be read
}

func (e *entry) problem(code, hint, format string, args ...any) {
	e.Problems = append(e.Problems, Finding{Code: code, Hint: hint, Text: fmt.Sprintf(format, args...)})
}

func (e *entry) warn(code string, messages uint64, format string, args ...any) {
	e.Warnings = append(e.Warnings, Finding{Code: code, Messages: messages, Text: fmt.Sprintf(format, args...)})
}

type builder struct {
	target   Target
	version  version
	inputs   []Input
	entries  []*entry
	byName   map[string]*entry
	existing map[string]Existing
}

// parse makes an entry of each input, with its configuration as the target's
// server takes it.
func (b *builder) parse() {
	v, versionErr := parseVersion(b.target.ServerVersion)
	b.version = v
	for _, in := range b.inputs {
		e := &entry{in: in, StreamPlan: StreamPlan{
			Stream: in.Point.Stream, Point: in.Point.ID,
			Messages: in.Point.Content.Messages, Bytes: in.Point.Content.Bytes, Consumers: len(in.Consumers),
		}}
		b.entries = append(b.entries, e)
		if versionErr != nil {
			e.problem(CodeServer, "", "%v", versionErr)
			continue
		}
		if v.before(minimum) {
			e.problem(CodeServer, "Restore into a newer server.", "the target's server is %s, restores need %s", v, minimum)
			continue
		}
		if err := b.adapt(e); err != nil {
			e.problem(CodeConfig, "", "%v", err)
			continue
		}
		e.ready = true
	}
}

func (b *builder) adapt(e *entry) error {
	cfg, err := parseConfig(e.in.Point.Config)
	if err != nil {
		return err
	}
	e.cfg = cfg
	from, err := parseVersion(e.in.Point.Server)
	if err != nil {
		from = b.version // of unknown origin: keep unknown fields, a strict server will name them
	}
	raw, problems, warnings, err := adaptConfig(e.in.Point.Config, b.version, from)
	if err != nil {
		return err
	}
	e.config = raw
	consumers, p, w, err := adaptConsumers(e.in.Consumers, b.version, from)
	if err != nil {
		return err
	}
	e.consumers, e.Consumers = consumers, len(consumers)
	e.Problems = append(append(e.Problems, problems...), p...)
	e.Warnings = append(append(e.Warnings, warnings...), w...)
	return nil
}

func (b *builder) names(e *entry) {
	if api.Reserved(e.Stream) {
		e.problem(CodeReserved, "", "%s is one of jetkeep's own streams", e.Stream)
	}
	if _, ok := b.existing[e.Stream]; ok {
		e.problem(CodeExists, "Delete the stream, or restore into another account.", "the target has a stream %s", e.Stream)
	}
	if other := b.byName[e.Stream]; other != nil {
		e.problem(CodeTwice, "Choose one of the restore points.", "stream %s is in the request twice, as %s and %s", e.Stream, other.Point, e.Point)
		return
	}
	b.byName[e.Stream] = e
}

func (b *builder) method(e *entry) {
	switch {
	case e.cfg.Storage != "memory":
		e.Method = MethodV1
		if b.target.Clustered {
			e.warn(CodeCreatedLost, 0, "in a cluster the stream may get the time of the restore as its created time")
		}
		return
	case !b.version.before(archiveV2):
		e.Method = MethodV2
	case b.version.before(promotion) || len(e.consumers) > 0 || e.cfg.Mirror != nil || len(e.cfg.Sources) > 0:
		e.problem(CodeMemoryOld, fmt.Sprintf("Restore into a server of %s or newer.", archiveV2),
			"server %s takes no archive of a memory stream, and by way of a mirror only since %s and only without consumers, mirror and sources", b.version, promotion)
		return
	case e.in.Point.State.LastSeq > e.in.Point.Content.LastSeq:
		e.problem(CodeMemoryOld, fmt.Sprintf("Restore into a server of %s or newer.", archiveV2),
			"server %s takes no archive of a memory stream, and a mirror does not take over that the messages %d to %d were deleted",
			b.version, e.in.Point.Content.LastSeq+1, e.in.Point.State.LastSeq)
		return
	default:
		e.Method = MethodMirror
		e.warn(CodePromoted, 0, "server %s takes no archive of a memory stream: it is restored as file stream, mirrored into memory and made independent", b.version)
	}
	e.warn(CodeCreatedLost, 0, "a memory stream gets the time of the restore as its created time")
	if e.cfg.DuplicateWindow > 0 && b.target.Now.Sub(e.in.Point.Time) < e.cfg.DuplicateWindow {
		e.warn(CodeDedupeLost, 0, "a memory stream forgets the message ids of its duplicate window of %s", e.cfg.DuplicateWindow)
	}
}

func (b *builder) subjects(e *entry) {
	for _, x := range b.target.Streams {
		if x.Name == e.Stream {
			continue
		}
		if mine, theirs, ok := overlapping(e.cfg.Subjects, x.Subjects); ok {
			e.problem(CodeSubjects, "", "subject %s overlaps with %s of the target's stream %s", mine, theirs, x.Name)
		}
	}
	for _, o := range b.entries {
		if o == e {
			return // each pair once, at the later one
		}
		if mine, theirs, ok := overlapping(e.cfg.Subjects, o.cfg.Subjects); ok && o.Stream != e.Stream {
			e.problem(CodeSubjects, "", "subject %s overlaps with %s of stream %s of this restore", mine, theirs, o.Stream)
		}
	}
}

func (b *builder) replicas(e *entry) {
	if e.cfg.Replicas <= 1 {
		return
	}
	switch {
	case !b.target.Clustered:
		e.problem(CodeReplicas, "", "the stream has %d replicas, the target is a single server", e.cfg.Replicas)
	case b.target.Peers > 0 && e.cfg.Replicas > b.target.Peers:
		e.problem(CodeReplicas, "", "the stream has %d replicas, the target's cluster has %d servers", e.cfg.Replicas, b.target.Peers)
	}
}

// origins orders the stream after those it takes its messages from, and
// compares how far they are.
func (b *builder) origins(e *entry) {
	for _, name := range e.cfg.origins() {
		if in := b.input(name); in != nil && in.Point.Stream != e.Stream {
			e.After = append(e.After, name)
			b.ahead(e, name, in.Point.State.LastSeq, "restore point")
		} else if x, ok := b.existing[name]; ok {
			b.ahead(e, name, x.LastSeq, "stream in the target")
		} else {
			e.warn(CodeOriginMissing, 0, "its origin %s is not in the target and not part of this restore; it gets no new messages until there is one", name)
		}
	}
	for _, x := range b.target.Streams {
		if slices.Contains(x.Origins, e.Stream) {
			e.warn(CodeSourcedFrom, 0, "stream %s in the target takes its messages from this one and goes on after the last one that it has; "+
				"it takes all again if its server tells by the created time that this is another stream", x.Name)
		}
	}
}

// ahead warns of a mirror that has messages which its origin does not have: the
// origin will give their sequences to other messages, which the mirror skips.
func (b *builder) ahead(e *entry, name string, last uint64, what string) {
	if e.cfg.Mirror == nil || e.cfg.Mirror.Name != name || e.in.Point.State.LastSeq <= last {
		return
	}
	n := e.in.Point.State.LastSeq - last
	e.warn(CodeOriginBehind, n, "the mirror ends at sequence %d, its origin's %s at %d: the next %d messages of the origin are not mirrored",
		e.in.Point.State.LastSeq, what, last, n)
}

func (b *builder) input(stream string) *Input {
	for i := range b.inputs {
		if b.inputs[i].Point.Stream == stream {
			return &b.inputs[i]
		}
	}
	return nil
}

// losses warns of what the server will do at once with the restored messages.
func (b *builder) losses(e *entry) {
	b.expiry(e)
	if e.Messages == 0 {
		return
	}
	if e.cfg.AllowMsgTTL {
		e.warn(CodeTTL, 0, "messages whose own TTL ended since they were published expire at once; how many is known after the restore")
	}
	if e.cfg.Schedules {
		e.warn(CodeSchedules, 0, "scheduled messages that are due since the backup (%s) are published at once", e.in.Point.Time.UTC().Format(time.RFC3339))
	}
	if (e.cfg.Retention == "workqueue" || e.cfg.Retention == "interest") && (b.target.Clustered || e.Method == MethodV2) {
		e.warn(CodeAcked, 0, "messages that all consumers had acknowledged are removed at once")
	}
}

func (b *builder) expiry(e *entry) {
	s := e.in.Point.State
	if e.cfg.MaxAge <= 0 || e.Messages == 0 {
		return
	}
	border := b.target.Now.Add(-e.cfg.MaxAge)
	switch {
	case !s.LastTime.After(border):
		e.warn(CodeExpire, e.Messages, "all %d messages are older than max_age (%s) and expire at once", e.Messages, e.cfg.MaxAge)
	case !s.FirstTime.After(border):
		share := uint64(float64(e.Messages) * float64(border.Sub(s.FirstTime)) / float64(s.LastTime.Sub(s.FirstTime)))
		n := min(max(share, 1), e.Messages-1)
		e.warn(CodeExpire, n, "about %d of %d messages are older than max_age (%s) and expire at once", n, e.Messages, e.cfg.MaxAge)
	}
}

// limits compares what all streams together need with the account's limits.
func (b *builder) limits() {
	type sum struct{ memory, storage, streams int64 }
	sums := map[string]*sum{}
	for _, e := range b.entries {
		if !e.ready || len(e.Problems) > 0 {
			continue
		}
		l, tier, flat := b.target.limits(e.cfg.Replicas)
		n := sums[tier]
		if n == nil {
			n = &sum{l.Memory, l.Storage, l.Streams}
			sums[tier] = n
		}
		need := max(int64(e.in.Point.State.Bytes), e.cfg.MaxBytes, 0)
		if flat {
			need *= int64(max(e.cfg.Replicas, 1))
		}
		n.streams++
		if e.cfg.Storage == "memory" {
			n.memory += need
			b.over(e, CodeMemory, "bytes of memory", l.MaxMemory, n.memory)
		} else {
			n.storage += need
			b.over(e, CodeStorage, "bytes of storage", l.MaxStorage, n.storage)
		}
		b.over(e, CodeStreams, "streams", l.MaxStreams, n.streams)
		b.over(e, CodeConsumers, "consumers of one stream", l.MaxConsumers, int64(e.Consumers))
	}
}

func (b *builder) over(e *entry, code, what string, limit, need int64) {
	if limit > 0 && need > limit {
		e.problem(code, "Raise the account's limit, or restore fewer streams.", "with it the account has %d %s, its limit is %d", need, what, limit)
	}
}

// order puts each stream after its origins. Streams that wait for each other
// source in a circle; the one that comes first in the request goes first.
func (b *builder) order() []StreamPlan {
	var out []StreamPlan
	done := map[string]bool{}
	left := slices.Clone(b.entries)
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(e *entry) bool {
			return !slices.ContainsFunc(e.After, func(n string) bool { return !done[n] })
		})
		if i < 0 {
			i = 0
			b.cut(left[0], done)
		}
		e := left[i]
		left = slices.Delete(left, i, i+1)
		done[e.Stream] = true
		e.Action = ActionRestore
		if len(e.Problems) > 0 {
			e.Action = ActionRefuse
		}
		out = append(out, e.StreamPlan)
	}
	return out
}

func (b *builder) cut(e *entry, done map[string]bool) {
	waits := slices.DeleteFunc(slices.Clone(e.After), func(n string) bool { return done[n] })
	e.warn(CodeCycle, 0, "it and %v source from each other in a circle, so it is restored before them", waits)
	e.After = slices.DeleteFunc(e.After, func(n string) bool { return !done[n] })
}
