package restore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"jetkeep/service/archive"
	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/store/record"
)

// bring makes the stream. After an error the stream is not there, or the error
// says that it may be.
func (x *execution) bring(ctx context.Context) error {
	if err := x.Fence(ctx); err != nil {
		return err
	}
	if x.plan.Method == MethodMirror {
		return x.byMirror(ctx)
	}
	info, err := x.tryUpload(ctx, x.stream, x.plan.config, x.plan.Method)
	if err != nil {
		return err
	}
	x.info = info
	return x.pushSequence(ctx)
}

// uploads bounds how often an upload is begun of which nothing arrived. One that
// had begun is not repeated: servers of a cluster before 2.15 may find the end of
// the first one late, and take the stream away that another one made since.
const uploads = 3

// A cluster one of whose servers was just started again, or that elects a
// leader, refuses what it takes a moment later.
const (
	readyPatience = 30 * time.Second
	readyPause    = time.Second
)

// tryUpload uploads and cleans up after a failure.
func (x *execution) tryUpload(ctx context.Context, stream string, config json.RawMessage, m Method) (*jsapi.StreamInfo, error) {
	ready := time.Now().Add(cmp.Or(x.patience, readyPatience))
	for n := 1; ; n++ {
		info, err := x.upload(ctx, stream, config, m)
		if err == nil {
			return info, nil
		}
		left := x.cleanUp(ctx, stream, err)
		same := left == err //nolint:errorlint // the clean-up had nothing to add
		if !same || x.arrived.Load() {
			return nil, left
		}
		switch {
		case errors.Is(err, jsapi.ErrNotReady) && time.Now().Before(ready):
			x.Log.Info("the cluster is not ready, the upload is repeated", "reason", err)
			n--
		case n < uploads && errors.Is(err, jetsnap.ErrAborted):
			x.Log.Info("nothing of the upload arrived, it is repeated", "reason", err)
		default:
			return nil, left
		}
		if sleep(ctx, readyPause) != nil {
			return nil, left
		}
		if err := x.Fence(ctx); err != nil { // much may have happened since bring asked
			return nil, err
		}
	}
}

// pushSequence lets an empty stream go on where it was. Servers of 2.9 drop the
// record that says so, which has no message, but take a purge for it.
func (x *execution) pushSequence(ctx context.Context) error {
	last := x.Point.State.LastSeq
	if x.Point.Content.Messages > 0 || x.info.State.LastSeq > 0 || last == 0 {
		return nil
	}
	if _, err := x.Conn.API.Call(ctx, "STREAM.PURGE."+x.stream, map[string]uint64{"seq": last + 1}); err != nil {
		return x.named(fmt.Errorf("set sequence of empty stream: %w", err))
	}
	info, err := x.Conn.API.StreamInfo(ctx, x.stream, jsapi.InfoOptions{})
	if err != nil {
		return x.named(fmt.Errorf("ask for stream: %w", err))
	}
	x.info = info
	return nil
}

// upload sends the restore point as an archive, made while it is read.
func (x *execution) upload(ctx context.Context, stream string, config json.RawMessage, m Method) (*jsapi.StreamInfo, error) {
	g, gctx := errgroup.WithContext(ctx)
	pr, pw := io.Pipe()
	g.Go(func() error {
		err := x.write(gctx, pw, stream, config, m)
		x.whole.Store(err == nil)
		pw.CloseWithError(err) // nil is the archive's end
		return err
	})
	var info *jsapi.StreamInfo
	g.Go(func() error {
		var err error
		info, err = jetsnap.New(x.Conn.API).Restore(gctx, stream, config, pr, jetsnap.RestoreOptions{
			Progress: func(_, acked uint64) { x.arrived.Store(acked > 0) },
		})
		pr.CloseWithError(errors.Join(errUploadEnded, err))
		return err
	})
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("upload: %w", err)
	}
	return info, nil
}

var errUnsettled = errors.New("the server does not say whether it ended the restore")

// errUploadEnded is what the writer of an archive sees if the server stops
// taking it; the server's reason is the other goroutine's error.
var errUploadEnded = errors.New("upload ended")

func (x *execution) write(ctx context.Context, w io.Writer, stream string, config json.RawMessage, m Method) error {
	var err error
	if m == MethodV2 {
		err = x.writeV2(ctx, w)
	} else {
		err = x.writeV1(ctx, w, stream, config)
	}
	if errors.Is(err, errUploadEnded) {
		<-ctx.Done() // until the other goroutine's error is the group's
		return context.Cause(ctx)
	}
	return err
}

func (x *execution) writeV1(ctx context.Context, w io.Writer, stream string, config json.RawMessage) error {
	created := x.Point.Created
	a := archive.NewV1Writer(w, archive.Meta{
		Stream: stream, Config: config, Created: created, LastTime: x.Point.State.LastTime, Server: x.target.ServerVersion,
		Compression: compression(x.Conn.NC.ConnectedAddr()),
	})
	if err := x.each(ctx, StageUpload, x.keepFirst(a.Record)); err != nil {
		return err
	}
	for _, c := range x.plan.consumers {
		if err := a.Consumer(c); err != nil {
			return err
		}
	}
	return a.Close(x.Point.State.LastSeq)
}

func (x *execution) writeV2(ctx context.Context, w io.Writer) error {
	state := x.state()
	state.Compression = compression(x.Conn.NC.ConnectedAddr())
	a := archive.NewV2Writer(w, state, x.plan.consumers)
	if err := x.each(ctx, StageUpload, x.keepFirst(a.Record)); err != nil {
		return err
	}
	return a.Close()
}

// compression says how to send an archive to a server. On the same machine,
// compressing costs more than what it saves.
func compression(addr string) archive.Compression {
	host, _, err := net.SplitHostPort(addr)
	if err == nil && net.ParseIP(host).IsLoopback() {
		return archive.Stored
	}
	return archive.Compressed
}

// keepFirst remembers the first record, by which a stream is told to be ours.
func (x *execution) keepFirst(fn func(*record.Record) error) func(*record.Record) error {
	x.first = nil
	return func(r *record.Record) error {
		if x.first == nil {
			x.first = printOf(r)
		}
		return fn(r)
	}
}

// Bounds of cleaning up.
const (
	cleanUpTime = 25 * time.Second // less than a service waits for its tasks when it stops
	// aborted is how long a server takes to notice that we gave up.
	aborted = 500 * time.Millisecond
	// settle is how long one holds on to a restore without being told (5 s),
	// and how long the installation of a whole archive is waited for.
	settle = 8 * time.Second
	poll   = 100 * time.Millisecond
)

// cleanUp deletes what a failed upload left, if it is ours, and returns the
// failure with what became of it. The stream did not exist right before.
func (x *execution) cleanUp(ctx context.Context, stream string, failure error) error {
	if errors.Is(failure, jsapi.ErrStreamExists) || errors.Is(failure, jsapi.ErrPermission) {
		return failure // the server began nothing
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	x.Log.Info("clean up after failed upload", "reason", failure)
	conn, err := x.reconnect(ctx)
	if err != nil {
		return fmt.Errorf("%w; whether the server holds a part of stream %s is unknown: %w", failure, stream, err)
	}
	defer conn.Close()
	info, err := x.appears(ctx, conn, stream, failure)
	switch {
	case err != nil:
		return fmt.Errorf("%w; whether the server holds a part of stream %s is unknown: %w", failure, stream, err)
	case info != nil && x.mustStay(stream, info):
		return fmt.Errorf("%w; a stream %s of %d messages is there now, it is left", failure, stream, info.State.Messages)
	case info == nil:
		if err := x.dropName(ctx, conn, stream); err != nil {
			return fmt.Errorf("%w; %w", failure, err)
		}
		return failure
	}
	ours, err := x.ours(ctx, conn, info)
	switch {
	case err != nil:
		return fmt.Errorf("%w; stream %s is there and could not be examined: %w", failure, stream, err)
	case !ours:
		return fmt.Errorf("%w; a stream %s of %d messages is there now, it is left because it may be somebody else's", failure, stream, info.State.Messages)
	}
	// One delete and no second: deleting twice and then reusing the name
	// corrupts the next stream of that name on 2.15.
	if err := conn.API.DeleteStream(ctx, stream); err != nil && !errors.Is(err, jsapi.ErrStreamNotFound) {
		return fmt.Errorf("%w; the part of stream %s that was restored could not be deleted: %w", failure, stream, err)
	}
	return failure
}

// mustStay says whether a stream may hold what somebody relies on, however much
// it looks like ours. This execution may have lost its claim on the task long
// ago, and another one have brought the stream since: then it is whole, and
// messages have been added perhaps. And an archive of the old format appears as
// a whole or not at all, so that a stream with messages is no part of one.
func (x *execution) mustStay(stream string, info *jsapi.StreamInfo) bool {
	if stream != x.stream {
		return false // a temporary stream, whose name is ours alone
	}
	last := info.State.LastSeq
	return last > 0 && last >= x.Point.State.LastSeq || x.plan.Method == MethodV1 && info.State.Messages > 0
}

// dropName frees the name of a stream that is not there. A cluster of 2.15 keeps
// it after a failed restore: it lists the stream, knows nothing else of it, and
// lets nobody make one of that name until it is deleted.
func (x *execution) dropName(ctx context.Context, conn *natsconn.Conn, stream string) error {
	if !x.target.Clustered {
		return nil
	}
	names, err := conn.API.StreamNames(ctx)
	if err != nil {
		return fmt.Errorf("whether the name %s is free again is unknown: %w", stream, err)
	}
	if !slices.Contains(names, stream) {
		return nil
	}
	if _, err := conn.API.StreamInfo(ctx, stream, jsapi.InfoOptions{}); !errors.Is(err, jsapi.ErrStreamNotFound) {
		return fmt.Errorf("a stream %s was made meanwhile, it is left", stream)
	}
	x.Log.Info("free the name that a failed restore occupies", "name", stream)
	if err := conn.API.DeleteStream(ctx, stream); err != nil && !errors.Is(err, jsapi.ErrStreamNotFound) {
		return fmt.Errorf("name %s remains occupied: delete: %w", stream, err)
	}
	return nil
}

// reconnect dials a connection for cleaning up: the job's may be what failed.
func (x *execution) reconnect(ctx context.Context) (*natsconn.Conn, error) {
	for {
		conn, err := x.Conn.Another(ctx, "")
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil || sleep(ctx, time.Second) != nil {
			return nil, err
		}
	}
}

// appears waits until the server must have ended the restore, and returns the
// stream if it is there.
func (x *execution) appears(ctx context.Context, conn *natsconn.Conn, stream string, failure error) (*jsapi.StreamInfo, error) {
	deadline := time.Now().Add(settle)
	var answered *jsapi.APIError
	switch {
	case errors.As(failure, &answered):
		deadline = time.Now() // by its answer it has ended it
	case !x.whole.Load() && x.Conn.NC.IsConnected() && !errors.Is(failure, jetsnap.ErrAborted) && !errors.Is(failure, jetsnap.ErrIdle):
		deadline = time.Now().Add(aborted) // it was told, and cannot complete it
	}
	for {
		info, err := conn.API.StreamInfo(ctx, stream, jsapi.InfoOptions{})
		if err != nil && !errors.Is(err, jsapi.ErrStreamNotFound) && !errors.Is(err, jsapi.ErrNoReply) {
			return nil, err
		}
		// A cluster does not answer for a stream that is being restored, at least
		// as long as its group has no leader.
		if !time.Now().Before(deadline) && !errors.Is(err, jsapi.ErrNoReply) {
			return info, nil
		}
		if sleep(ctx, poll) != nil {
			return nil, cmp.Or(err, errUnsettled)
		}
	}
}

// ours tells whether a stream is what this restore point makes: its first
// message is the point's first, in time and content, or it has none and is as
// far as the point's, or never had one and is configured like the point's.
func (x *execution) ours(ctx context.Context, conn *natsconn.Conn, info *jsapi.StreamInfo) (bool, error) {
	s, p := info.State, x.Point.State
	switch {
	case s.Messages == 0 && s.LastSeq == 0:
		diff, err := differences(x.plan.config, info.Config)
		return len(diff) == 0, err
	case s.Messages == 0:
		return s.FirstSeq == p.FirstSeq || s.LastSeq == p.LastSeq, nil
	}
	want := x.first
	if want == nil {
		var err error
		if want, err = x.firstRecord(ctx); err != nil || want == nil {
			return false, err
		}
	}
	got, err := conn.API.Message(ctx, info.Name(), want.sequence)
	if errors.Is(err, jsapi.ErrNoMessage) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return *want == *printOf(got), nil
}

// A print stands for a record, which may be large.
type print struct {
	sequence uint64
	hash     [32]byte // of its encoding, so of its time and content too
}

func printOf(r *record.Record) *print { return &print{r.Sequence, record.HashOf(r)} }

func (x *execution) firstRecord(ctx context.Context) (*print, error) {
	r, err := x.Repo.Open(ctx, x.Point)
	if err != nil {
		return nil, fmt.Errorf("open restore point: %w", err)
	}
	defer r.Close()
	rec, err := next(r)
	if err != nil || rec == nil {
		return nil, err
	}
	return printOf(rec), nil
}

// takeUp decides about a stream that is there when an interrupted execution is
// repeated. A stream that holds all of the restore point is taken as it is, a
// part of it is deleted; anything else is somebody's and left.
func (x *execution) takeUp(ctx context.Context, info *jsapi.StreamInfo) (done bool, err error) {
	ours, err := x.ours(ctx, x.Conn, info)
	if err != nil {
		return false, fmt.Errorf("examine stream %s: %w", x.stream, err)
	}
	whole := info.State.LastSeq >= x.Point.State.LastSeq
	if !ours || !whole && x.cfg.Storage != "memory" {
		return false, nil // the plan refuses it as existing; we leave no part of a file stream
	}
	x.forget(x.stream)
	if whole {
		x.info = info
		return true, nil
	}
	x.Log.Info("delete what an interrupted restore left", "messages", info.State.Messages)
	if err := x.Conn.API.DeleteStream(ctx, x.stream); err != nil {
		return false, fmt.Errorf("delete the part of stream %s that an interrupted restore left: %w", x.stream, err)
	}
	return false, nil
}

// forget takes a stream out of what the plan sees of the target.
func (x *execution) forget(stream string) {
	for i := range x.target.Streams {
		if x.target.Streams[i].Name == stream {
			x.target.Streams = append(x.target.Streams[:i], x.target.Streams[i+1:]...)
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
