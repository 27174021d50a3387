package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/store"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// A Progress is told what a job does. Begin comes once for each attempt, since
// an attempt that fails starts from nothing.
type Progress interface {
	Begin(messages, bytes uint64)
	Add(messages, bytes uint64)
	SetStored(stored, uploaded uint64)
}

// A Job backs up one stream into a repository.
type Job struct {
	// Dial connects to the target. Each attempt takes a connection of its own.
	Dial       func(context.Context) (*natsconn.Conn, error)
	Repository *store.Repository
	Staging    *staging.Area
	// Point names what is made: Task, Backup, Target, Stream and Tags. The rest
	// is filled in.
	Point    store.Point
	Progress Progress
	// Room waits until there is room to back up another large stream and returns
	// what ends its stay; nil means that there always is.
	Room func(context.Context) (leave func(), err error)
	// Suspect returns the id of a damaged restore point for which nothing is to
	// be built on p, empty if p is as good as is known. It may be nil.
	Suspect func(p store.Point) string
	// Fence is called right before the commit record is written; if it fails,
	// nothing is.
	Fence    func(context.Context) error
	Log      *slog.Logger
	Snapshot jetsnap.SnapshotOptions
}

// retryPauses are the times between the attempts at a capture that something
// passing has ended: an election takes up to 10 s or so.
func retryPauses() []time.Duration {
	return []time.Duration{time.Second, 4 * time.Second, 10 * time.Second}
}

// Run makes the restore point. One that an earlier run of the same task has
// committed is returned as it is, so that a task may be run again after a
// crash at any moment.
func (j *Job) Run(ctx context.Context) (store.Point, error) {
	pauses := retryPauses()
	full := "" // why the stream is stored in full, once that is known
	for {
		p, err := j.attempt(ctx, full)
		var unusable *unusableError
		switch {
		case err == nil || ctx.Err() != nil:
			return p, err
		case full == "" && errors.As(err, &unusable):
			full = unusable.note
			j.Log.Warn("increment is impossible, storing in full", "stream", j.Point.Stream, "reason", full)
		case len(pauses) > 0 && Passing(err):
			j.Log.Warn("capture ended, trying again", "stream", j.Point.Stream, "after", pauses[0], "error", err)
			if err := pause(ctx, pauses[0]); err != nil {
				return store.Point{}, err
			}
			pauses = pauses[1:]
		default:
			return p, err
		}
	}
}

// Passing says whether an error of a capture may be gone when it is tried
// again: what breaks when servers restart and leaders change, and when what an
// increment refers to is pruned meanwhile.
func Passing(err error) bool {
	for _, e := range []error{
		jetsnap.ErrConnectionLost, jetsnap.ErrIdle, jetsnap.ErrGap, jetsnap.ErrInProgress, jsapi.ErrNoReply,
		jsapi.ErrNoJetStream, archive.ErrCorrupt, archive.ErrTruncated, ErrRecreated, ErrInconsistent,
		nats.ErrNoServers, nats.ErrTimeout, store.ErrPruned,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var missing *jsapi.MissingError
	var refused *jsapi.APIError
	var network *net.OpError
	return jsapi.IsConnectionError(err) || errors.As(err, &missing) || errors.As(err, &network) ||
		errors.As(err, &refused) && refused.Code == 503
}

// attempt captures once. It is an increment on the stream's newest restore
// point, unless full says why it must not be.
func (j *Job) attempt(ctx context.Context, full string) (store.Point, error) {
	p, err := j.Repository.Point(ctx, j.Point.Task)
	if err == nil || !errors.Is(err, store.ErrNoPoint) {
		return p, err
	}
	conn, err := j.Dial(ctx)
	if err != nil {
		return store.Point{}, err
	}
	defer conn.Close()
	leave, err := j.enter(ctx, conn)
	if err != nil {
		return store.Point{}, err
	}
	defer leave()
	w, err := j.Repository.NewWriter(ctx, store.WriterOptions{
		Staging: j.Staging, Task: j.Point.Task, Target: j.Point.Target, Stream: j.Point.Stream,
		OnProgress: func(_, stored, uploaded uint64) { j.Progress.SetStored(stored, uploaded) },
	})
	if err != nil {
		return store.Point{}, err
	}
	defer w.Abort()
	d := descent{job: j, w: w, full: full}
	out, err := Capture(ctx, OfConn(conn), j.Point.Stream, w, Options{
		Snapshot: j.Snapshot, Log: j.Log,
		Started: func(info *jsapi.StreamInfo, alive *seqset.Set) error {
			j.Progress.Begin(info.State.Messages, info.State.Bytes)
			return d.begin(ctx, info, alive)
		},
		Read: func(size int) { j.Progress.Add(1, uint64(size)) },
	})
	if err != nil {
		return store.Point{}, d.explain(err)
	}
	content, err := w.Finish(ctx, out.Deleted)
	if err != nil {
		return store.Point{}, d.explain(fmt.Errorf("store stream %s: %w", j.Point.Stream, err))
	}
	if err := prove(j.Point.Stream, out, content); err != nil {
		return store.Point{}, err
	}
	return j.commit(ctx, out, content, d, conn.ServerVersion())
}

// smallStream is the size up to which a stream needs no room: its backup takes
// less memory than what every backup takes.
const smallStream = 2 << 20

// enter waits for room if the stream is large. It is asked for before the
// capture, which begins with what the stream is then.
func (j *Job) enter(ctx context.Context, conn *natsconn.Conn) (leave func(), err error) {
	if j.Room == nil {
		return func() {}, nil
	}
	info, err := conn.API.StreamInfo(ctx, j.Point.Stream, jsapi.InfoOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask for size of stream %s: %w", j.Point.Stream, err)
	}
	if info.State.Bytes <= smallStream {
		return func() {}, nil
	}
	return j.Room(ctx)
}

// prove compares what was stored with what the server says that there is. The
// digest is over all that was captured: the messages, and those which went away
// before the moment.
func prove(stream string, out *Outcome, content store.Content) error {
	want, gone := alive(out.Info), out.Deleted.Len()
	if content.Messages != want.Len() || content.Extra.Count != gone || out.Captured != want.Len()+gone {
		return fmt.Errorf("stream %s has %d messages, %d were captured of which %d went away, %d and %d are stored: %w",
			stream, want.Len(), out.Captured, gone, content.Messages, content.Extra.Count, ErrInconsistent)
	}
	if content.Deleted.Count < content.Extra.Count {
		return fmt.Errorf("stream %s: %d messages went away while they were captured, %d are stored as deleted: %w",
			stream, content.Extra.Count, content.Deleted.Count, ErrInconsistent)
	}
	if !want.Empty() && (content.FirstSeq != want.First() || content.LastSeq != want.Last()) {
		return fmt.Errorf("stream %s reaches from %d to %d, what was stored from %d to %d: %w",
			stream, want.First(), want.Last(), content.FirstSeq, content.LastSeq, ErrInconsistent)
	}
	return nil
}

// commit makes the restore point visible.
func (j *Job) commit(ctx context.Context, out *Outcome, content store.Content, d descent, server string) (store.Point, error) {
	p := j.Point
	consumers, err := encodeConsumers(out.Consumers)
	if err == nil {
		p.Consumers, err = j.Repository.PutConsumers(ctx, content, consumers)
	}
	if err != nil {
		return store.Point{}, err
	}
	st := &out.Info.State
	p.ID = p.Task
	p.Lineage = d.lineage
	p.Created, p.Time = out.Info.Created.UTC(), out.Moment
	p.Config, p.Sources = out.Info.Config, sources(out.Info)
	p.State = store.State{
		Messages: st.Messages, Bytes: st.Bytes, FirstSeq: st.FirstSeq, LastSeq: st.LastSeq,
		FirstTime: st.FirstTime, LastTime: st.LastTime, NumDeleted: st.NumDeleted, Consumers: len(out.Consumers),
	}
	p.Server, p.Engine, p.Notes, p.Content = server, out.Engine, slices.Concat(d.notes, out.Notes), content
	if err := j.Fence(ctx); err != nil {
		return store.Point{}, err
	}
	err = j.Repository.Commit(ctx, p)
	if errors.Is(err, store.ErrPointExists) {
		// An earlier claim on this task was quicker than we knew; its point is
		// as good.
		return j.Repository.Point(ctx, p.Task)
	}
	return p, err
}

// sources returns what the server says of the streams that this one takes its
// messages from; since 2.15 that is how far it has come with each.
func sources(info *jsapi.StreamInfo) json.RawMessage {
	var answer struct {
		Sources json.RawMessage `json:"sources"`
	}
	if json.Unmarshal(info.Raw, &answer) != nil || string(answer.Sources) == "null" {
		return nil
	}
	return answer.Sources
}

func encodeConsumers(consumers []archive.Consumer) ([]json.RawMessage, error) {
	// What nobody could read must not be stored.
	if err := archive.CheckMemory(consumers); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrBounds, err)
	}
	out := make([]json.RawMessage, len(consumers))
	for i := range consumers {
		raw, err := json.Marshal(&consumers[i])
		if err != nil {
			return nil, fmt.Errorf("encode consumer %s: %w", consumers[i].Name, err)
		}
		out[i] = raw
	}
	return out, nil
}
