// Package backup captures one stream of a target, proves that nothing of it is
// missing, and makes a restore point of it.
//
// # What a restore point is
//
// The last answer to STREAM.INFO that a capture asks for defines it: with first
// and last sequence f and l, and the set D of deleted sequences between them,
// the restore point holds exactly the messages f..l without D, as they were
// when the server answered. A snapshot alone cannot give that. What is deleted
// ahead of the server's cursor is missing from it, what replaced it comes too
// late to be in it, so that a key of a busy KV bucket would be gone from the
// backup although the bucket had a value for it at all times; and servers of
// 2.10 to 2.14 lose whole blocks from the snapshot of a stream that rolls, and
// report success. So a snapshot is only the quick way to most of the messages:
// what it lacks is read by sequence until nothing is lacking, and every message
// that is not there is one that the server itself said is deleted.
//
// # When it fails
//
// Capture fails, and no restore point is made, if the stream is deleted or
// recreated meanwhile, if the connection is lost, if the server's own counts
// contradict each other, if a message cannot be read, if the stream changes
// faster than it can be read (IncompleteError names the sequences), and if what
// was stored does not have the counts that the server gave. An acknowledged
// message of a work queue or interest stream that goes away while it is being
// captured is done with, and left out.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"jetkeep/service/archive"
	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// Engines: how the greater part of a stream's messages was read.
const (
	EngineSnapshotV1 = "snapshot_v1"
	EngineSnapshotV2 = "snapshot_v2"
	EngineMessages   = "messages"
)

// Errors of a capture that a caller can tell apart.
var (
	// ErrRecreated means that the stream was deleted and created again while
	// it was captured.
	ErrRecreated = errors.New("stream was recreated during the capture")
	// ErrInconsistent means that the server's own statements about the stream
	// contradict each other.
	ErrInconsistent = errors.New("server's state of the stream is inconsistent")
)

// An IncompleteError names messages that are part of the stream and could not
// be captured.
type IncompleteError struct {
	Stream  string
	Missing *seqset.Set
	Reason  string
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("capture of stream %s is incomplete: %d messages missing (%s): %s",
		e.Stream, e.Missing.Len(), describe(e.Missing), e.Reason)
}

// A Target is what a capture needs of the NATS account that holds the stream.
type Target interface {
	StreamInfo(ctx context.Context, stream string, o jsapi.InfoOptions) (*jsapi.StreamInfo, error)
	Consumers(ctx context.Context, stream string) ([]*jsapi.ConsumerInfo, error)
	// Messages reads single messages in ascending order; a message that does
	// not exist is handed over as nil.
	Messages(ctx context.Context, stream string, seqs *seqset.Set, fn func(seq uint64, r *record.Record) error) error
	// ReadStream reads all messages from first to last, for streams of limits
	// retention.
	ReadStream(ctx context.Context, stream string, first, last uint64, fn func(*record.Record) error) error
	// Snapshot starts the server's snapshot. Its reader ends with io.EOF only
	// if the server reported success or nothing at all.
	Snapshot(ctx context.Context, stream string, o jetsnap.SnapshotOptions) (io.ReadCloser, error)
}

// A Sink takes the captured records. Append takes those with rising sequences,
// AppendRepair those below the last one appended. The record's slices are valid
// until the call returns.
type Sink interface {
	Append(*record.Record) error
	AppendRepair(*record.Record) error
}

// Options of one capture.
type Options struct {
	Snapshot jetsnap.SnapshotOptions
	// Started is told once what there is to read, before the first record, with
	// the sequences that are alive. An error ends the capture.
	Started func(info *jsapi.StreamInfo, alive *seqset.Set) error
	// Read is told of every record captured, with its size in bytes.
	Read func(size int)
	Log  *slog.Logger
}

// An Outcome is what a capture found besides the records.
type Outcome struct {
	Info      *jsapi.StreamInfo // defines the moment and holds the configuration
	Moment    time.Time
	Captured  uint64      // records given to the sink
	Deleted   *seqset.Set // of those, the ones that are not part of the stream any more
	Consumers []archive.Consumer
	Engine    string
	Notes     []string // what was repaired, for people
}

// Bounds of one capture, here together because each trades patience for an
// honest failure.
const (
	// maxRounds bounds how often the stream is asked what there is and the
	// rest is read. Each round takes milliseconds and leaves only what came in
	// meanwhile, so that a stream that needs more is changing faster than it
	// can be read.
	maxRounds = 24
	// maxSnapshots bounds the snapshots tried before the messages are read by
	// sequence: on 2.14 with small chunks, 1 in 10 failed when a purge hit it.
	maxSnapshots = 3
	// busyPatience is how long to wait for another snapshot of the stream to
	// end; servers before 2.15 run one at a time.
	busyPatience = 60 * time.Second
	busyPause    = 500 * time.Millisecond
	// smallSet is the number of messages from which on a reader of the whole
	// stream is quicker than requests for single messages.
	smallSet = 2000
	// largeMessage is the average size of messages from which on it always is.
	largeMessage = 1 << 20
	// smallMessage is up to which size the newest message is remembered whole.
	smallMessage = 64 << 10
)

// Capture reads the stream into sink and returns the outcome that defines the
// restore point. Only with a nil error is what the sink holds, less
// Outcome.Deleted, complete.
func Capture(ctx context.Context, t Target, stream string, sink Sink, o Options) (*Outcome, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &capture{
		t: t, stream: stream, sink: sink, o: o,
		log:       o.Log.With("stream", stream),
		captured:  new(seqset.Set),
		repaired:  new(seqset.Set),
		consumers: map[string]archive.Consumer{},
		engine:    EngineMessages,
	}
	info, err := c.info(ctx)
	if err != nil {
		return nil, err
	}
	c.before = info
	if o.Started != nil {
		if err := o.Started(info, alive(info)); err != nil {
			return nil, err
		}
	}
	if err := c.snapshots(ctx); err != nil {
		return nil, err
	}
	last, err := c.complete(ctx)
	if err != nil {
		return nil, err
	}
	consumers, err := c.completeConsumers(ctx, last.State.LastSeq)
	if err != nil {
		return nil, err
	}
	if err := c.checkFork(ctx); err != nil {
		return nil, err
	}
	// The reads that followed last's answer must have been of the same stream.
	again, err := t.StreamInfo(ctx, stream, jsapi.InfoOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask for state of stream %s: %w", stream, err)
	}
	if !again.Created.Equal(c.before.Created) {
		return nil, fmt.Errorf("stream %s: %w", stream, ErrRecreated)
	}
	return c.outcome(last, consumers), nil
}

type capture struct {
	t      Target
	stream string
	sink   Sink
	o      Options
	log    *slog.Logger

	before    *jsapi.StreamInfo
	captured  *seqset.Set
	last      uint64 // last sequence appended in order
	bound     uint64 // last sequence that the snapshot should hold
	repaired  *seqset.Set
	consumers map[string]archive.Consumer
	engine    string
	notes     []string
	newest    fingerprint
}

func (c *capture) outcome(last *jsapi.StreamInfo, consumers []archive.Consumer) *Outcome {
	deleted := c.captured.Clone()
	deleted.Subtract(alive(last))
	if len(last.State.Lost) > 0 && string(last.State.Lost) != "null" {
		c.note("the server itself reports messages lost to damage before the backup: %s", bounded(string(last.State.Lost)))
	}
	if n := c.repaired.Len(); n > 0 {
		c.note("%d messages that the snapshot lacked were read by sequence (%s)", n, describe(c.repaired))
	}
	return &Outcome{
		Info: last, Moment: moment(last), Captured: c.captured.Len(), Deleted: deleted,
		Consumers: consumers, Engine: c.engine, Notes: c.notes,
	}
}

func (c *capture) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	c.notes = append(c.notes, n)
	c.log.Warn("capture", "note", n)
}

// info asks for the stream's state with its deleted sequences and refuses one
// that contradicts itself or is another stream's.
func (c *capture) info(ctx context.Context) (*jsapi.StreamInfo, error) {
	info, err := c.t.StreamInfo(ctx, c.stream, jsapi.InfoOptions{DeletedDetails: true})
	if err != nil {
		return nil, fmt.Errorf("ask for state of stream %s: %w", c.stream, err)
	}
	if c.before != nil && !c.before.Created.Equal(info.Created) {
		return nil, fmt.Errorf("stream %s, created %s, then %s: %w", c.stream,
			c.before.Created.Format(time.RFC3339Nano), info.Created.Format(time.RFC3339Nano), ErrRecreated)
	}
	if err := c.completeDeleted(ctx, info); err != nil {
		return nil, err
	}
	if n := alive(info).Len(); n != info.State.Messages {
		return nil, fmt.Errorf("stream %s: %w: it counts %d messages, but from %d to %d without %d deleted there are %d",
			c.stream, ErrInconsistent, info.State.Messages, info.State.FirstSeq, info.State.LastSeq, info.State.NumDeleted, n)
	}
	return info, nil
}

// completeDeleted adds deleted sequences that the server counts and does not
// name: 2.8 and 2.9 leave out the last one of a stream in memory, 2.6 the first
// one of a block. A server says of a message that is asked for whether it is
// there; so the likely ones are asked for, and if those are not it, all.
func (c *capture) completeDeleted(ctx context.Context, info *jsapi.StreamInfo) error {
	suspects := alive(info)
	if suspects.Len() <= info.State.Messages {
		return nil
	}
	if err := c.probe(ctx, info, seqset.Of(info.State.LastSeq)); err != nil {
		return err
	}
	if suspects = alive(info); suspects.Len() == info.State.Messages {
		return nil
	}
	c.log.Warn("server does not name all deleted messages, asking for each", "messages", info.State.Messages, "named_alive", suspects.Len())
	return c.probe(ctx, info, suspects)
}

// probe adds to the deleted sequences those of the given ones that are.
func (c *capture) probe(ctx context.Context, info *jsapi.StreamInfo, seqs *seqset.Set) error {
	deleted := info.State.Deleted.Clone()
	err := c.t.Messages(ctx, c.stream, seqs, func(seq uint64, r *record.Record) error {
		if r == nil {
			deleted.Add(seq)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ask for messages of stream %s: %w", c.stream, err)
	}
	info.State.Deleted = deleted
	return nil
}

// add gives one record to the sink unless it was given before.
func (c *capture) add(r *record.Record) error {
	seq := r.Sequence
	var err error
	switch {
	case seq > c.last:
		err = c.sink.Append(r)
		c.last = seq
		c.newest.set(r)
	case c.captured.Contains(seq):
		return nil
	default:
		err = c.sink.AppendRepair(r)
	}
	if err != nil {
		return fmt.Errorf("store record %d of stream %s: %w", seq, c.stream, err)
	}
	c.captured.Add(seq)
	if c.o.Read != nil {
		c.o.Read(r.Size())
	}
	return nil
}

// alive returns the sequences that the stream holds by the server's word.
func alive(info *jsapi.StreamInfo) *seqset.Set {
	s := new(seqset.Set)
	if info.State.Messages == 0 {
		return s
	}
	s.AddRange(info.State.FirstSeq, info.State.LastSeq)
	if info.State.Deleted != nil {
		s.Subtract(info.State.Deleted)
	}
	return s
}

// bounded shortens a text that the server wrote.
func bounded(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// describe names the first few ranges of a set.
func describe(s *seqset.Set) string {
	var b strings.Builder
	n := 0
	for r := range s.Ranges() {
		if n == 8 {
			b.WriteString(", …")
			break
		}
		if n > 0 {
			b.WriteString(", ")
		}
		if r.First == r.Last {
			fmt.Fprintf(&b, "%d", r.First)
		} else {
			fmt.Fprintf(&b, "%d-%d", r.First, r.Last)
		}
		n++
	}
	return b.String()
}
