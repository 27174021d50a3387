package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/archive"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/store"
	"jetkeep/store/record"
)

// Stages of an execution.
const (
	StageScan    = "scan"
	StageUpload  = "upload"
	StageCheck   = "check"
	StageVerify  = "verify"
	StageCompare = "compare"
)

// A Progress is what an execution has done of its present stage.
type Progress struct {
	Stage    string
	Messages uint64
	Bytes    uint64
	Total    uint64 // messages of the stage
}

// ReadBack gives fn all messages of a stream with sequences from first to
// last, in rising order, at least those that it holds all the while.
type ReadBack func(ctx context.Context, conn *natsconn.Conn, stream string, first, last uint64, fn func(*record.Record) error) error

// A Job is one stream to be restored.
type Job struct {
	// Conn is used by this execution alone: a server works on a restore in
	// the loop that reads the connection.
	Conn  *natsconn.Conn
	Repo  Source
	Point store.Point
	Request
	// ReadBack reads the restored stream; nil means message by message.
	ReadBack ReadBack
	// Repeated says that an earlier execution of the same job may have been
	// interrupted, so that a stream which it left is taken up or replaced.
	Repeated bool
	// Fence is called right before the server is asked to make the stream; an
	// error ends the execution with nothing done. It may be nil.
	Fence func(ctx context.Context) error
	// Progress is called from one goroutine at a time, for every few messages.
	Progress func(Progress)
	Log      *slog.Logger

	patience time.Duration // with a cluster that is not ready; readyPatience if zero
}

// Execute restores the job's stream. See the package comment for what it
// guarantees.
func Execute(ctx context.Context, j Job) (Result, error) {
	x := &execution{Job: j, stream: j.Point.Stream, began: time.Now()}
	if x.Log == nil {
		x.Log = slog.New(slog.DiscardHandler)
	}
	if x.Progress == nil {
		x.Progress = func(Progress) {}
	}
	if x.Fence == nil {
		x.Fence = func(context.Context) error { return nil }
	}
	if x.ReadBack == nil {
		x.ReadBack = ReadMessages
	}
	x.Log = x.Log.With("stream", x.stream, "restore_point", j.Point.ID)
	err := x.run(ctx)
	x.result.Seconds = time.Since(x.began).Seconds()
	if err != nil {
		return x.result, fmt.Errorf("restore stream %s from %s: %w", x.stream, j.Point.ID, err)
	}
	return x.result, nil
}

type execution struct {
	Job
	stream  string
	began   time.Time
	plan    StreamPlan
	cfg     streamConfig
	target  Target
	info    *jsapi.StreamInfo // of the restored stream
	first   *print            // of the first message given to the server
	live    *record.Sum       // digest of the restore point's messages, once they were all read
	whole   atomic.Bool       // the whole archive was given to the server
	arrived atomic.Bool       // the server acknowledged a part of it
	result  Result
}

func (x *execution) warn(code string, messages uint64, format string, args ...any) {
	f := Finding{Code: code, Messages: messages, Text: fmt.Sprintf(format, args...)}
	x.result.Warnings = append(x.result.Warnings, f)
	x.Log.Warn("restore", "warning", f.Code, "text", f.Text)
}

func (x *execution) run(ctx context.Context) error {
	// Before anything is asked of the server.
	if !x.Repo.Readable() {
		return store.ErrLocked
	}
	done, err := x.prepare(ctx)
	if err != nil {
		return err
	}
	if err := x.pinSources(ctx); err != nil {
		return err
	}
	if !done {
		if err := x.bring(ctx); err != nil {
			return err
		}
	}
	if err := x.checkState(ctx); err != nil {
		return x.named(err)
	}
	if err := x.checkConsumers(ctx); err != nil {
		return x.named(err)
	}
	if x.SkipVerify {
		return nil
	}
	if err := x.verify(ctx); err != nil {
		return x.named(err)
	}
	x.result.Verified = true
	return nil
}

// named adds to an error that the stream is there.
func (x *execution) named(err error) error {
	return fmt.Errorf("%w; the restored stream is left as it is", err)
}

// prepare plans for this stream alone, and finds out whether an interrupted
// execution has brought the stream already.
func (x *execution) prepare(ctx context.Context) (done bool, err error) {
	in, err := ReadInput(ctx, x.Repo, x.Point)
	if err != nil {
		return false, err
	}
	if x.cfg, err = parseConfig(x.Point.Config); err != nil {
		return false, err
	}
	if api.Reserved(x.stream) {
		return false, &RefusedError{Stream: x.stream, Problems: []Finding{{Code: CodeReserved, Text: "it is one of jetkeep's own streams"}}}
	}
	there, err := x.surroundings(ctx)
	if err != nil {
		return false, err
	}
	if x.Repeated {
		if there == nil {
			err = x.dropName(ctx, x.Conn, x.stream)
		} else {
			x.plan = BuildPlan(x.Request, []Input{in}, x.target).Streams[0] // for its configuration
			done, err = x.takeUp(ctx, there)
		}
		if err != nil {
			return false, err
		}
	}
	x.plan = BuildPlan(x.Request, []Input{in}, x.target).Streams[0]
	x.result = Result{Stream: x.stream, Point: x.Point.ID, Method: x.plan.Method, Messages: x.plan.Messages, Bytes: x.plan.Bytes,
		Warnings: slices.Clone(x.plan.Warnings)}
	if len(x.plan.Problems) > 0 {
		return false, &RefusedError{Stream: x.stream, Problems: x.plan.Problems}
	}
	return done, nil
}

// surroundings asks for the stream and its origins only: other streams of the
// account were looked at when the whole restore was planned, and the server
// refuses what has become impossible since.
func (x *execution) surroundings(ctx context.Context) (there *jsapi.StreamInfo, err error) {
	x.target = Target{
		ServerVersion: x.Conn.NC.ConnectedServerVersion(),
		Clustered:     x.Conn.NC.ConnectedClusterName() != "",
		Now:           time.Now(),
	}
	for _, name := range append([]string{x.stream}, x.cfg.origins()...) {
		info, err := x.ask(ctx, name)
		if errors.Is(err, jsapi.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask for stream %s: %w", name, err)
		}
		if err := x.target.add(info); err != nil {
			return nil, err
		}
		if name == x.stream {
			there = info
		}
	}
	return there, nil
}

// asks bounds how often a stream is asked for. A cluster does not answer while
// the stream has no leader, or is just being deleted.
const asks = 3

func (x *execution) ask(ctx context.Context, stream string) (info *jsapi.StreamInfo, err error) {
	for range asks {
		info, err = x.Conn.API.StreamInfo(ctx, stream, jsapi.InfoOptions{})
		if !errors.Is(err, jsapi.ErrNoReply) {
			break
		}
	}
	return info, err
}

// pinSources makes sure that no source begins at its origin's first message.
func (x *execution) pinSources(ctx context.Context) error {
	if len(x.cfg.Sources) == 0 {
		return nil
	}
	scan := newSourceScan(x.cfg.Sources)
	err := x.each(ctx, StageScan, func(r *record.Record) error {
		scan.add(r)
		return nil
	})
	if err != nil {
		return err
	}
	v, err := parseVersion(x.target.ServerVersion)
	if err != nil {
		return err
	}
	facts := sourceFacts{
		version: v, clustered: x.target.Clustered, origins: map[string]Existing{},
		removed: x.Point.State.LastSeq > x.Point.State.Messages, last: x.Point.State.LastSeq, moment: x.Point.Time,
	}
	for _, e := range x.target.Streams {
		facts.origins[e.Name] = e
	}
	list, warnings := pins(x.cfg.Sources, scan.last, facts)
	for _, w := range warnings {
		x.warn(w.Code, w.Messages, "%s", w.Text)
	}
	x.plan.config, err = applyPins(x.plan.config, list)
	return err
}

// each reads the restore point to its proven end.
func (x *execution) each(ctx context.Context, stage string, fn func(*record.Record) error) error {
	r, err := x.Repo.Open(ctx, x.Point)
	if err != nil {
		return fmt.Errorf("open restore point: %w", err)
	}
	defer r.Close()
	p := x.meter(stage, x.Point.Content.Messages)
	for {
		rec, err := next(r)
		if err != nil {
			return fmt.Errorf("read restore point: %w", err)
		}
		if rec == nil {
			sum := r.LiveSum()
			x.live = &sum
			p.done()
			return nil
		}
		if err := fn(rec); err != nil {
			return err
		}
		p.add(rec)
	}
}

// A meter tells the progress of a stage every few messages.
type meter struct {
	Progress
	tell func(Progress)
}

const meterStep = 1024

func (x *execution) meter(stage string, total uint64) *meter {
	m := &meter{Progress: Progress{Stage: stage, Total: total}, tell: x.Progress}
	m.done()
	return m
}

func (m *meter) add(r *record.Record) {
	m.Messages++
	m.Bytes += uint64(r.Size())
	if m.Messages%meterStep == 0 {
		m.done()
	}
}

func (m *meter) done() { m.tell(m.Progress) }

// state is the stream as a V2 archive announces it.
func (x *execution) state() archive.State {
	s := x.Point.State
	return archive.State{
		Messages: x.Point.Content.Messages, Bytes: s.Bytes, FirstSeq: s.FirstSeq, LastSeq: s.LastSeq,
		FirstTime: s.FirstTime, LastTime: s.LastTime,
	}
}
