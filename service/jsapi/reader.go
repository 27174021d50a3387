package jsapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// Bounds of ReadStream.
const (
	// heartbeat is how often the server shows life while it has nothing to send.
	heartbeat = 2 * time.Second
	// silence is how long nothing may come before a new consumer is made.
	silence = 5 * heartbeat
	// maxRestarts is how many consumers in a row may bring nothing.
	maxRestarts = 5
	// leftover is how long a consumer lives on that could not be deleted.
	leftover = 30 * time.Second
)

// errGap means that a message of the consumer did not arrive.
var errGap = errors.New("message of the consumer is missing")

// ReadStream reads all messages of a stream from first to last, in order, with
// a consumer that does not acknowledge and is deleted afterwards. It is several
// times as fast as Messages. The record is valid until fn returns.
//
// It proves by the consumer's own numbers that nothing was lost on the way, and
// starts again behind the last message where something was; whatever the
// consumer did not deliver at the end of the range is asked for one by one. If
// it returns nil, fn was called for every message that was there all the time.
//
// It fails with ErrConsumerRefused where a consumer would change the stream or
// cannot be had. Messages reads those; fn may have been called by then.
func (c *Client) ReadStream(ctx context.Context, stream string, first, last uint64, fn func(*record.Record) error) error {
	if first == 0 {
		first = 1
	}
	info, err := c.StreamInfo(ctx, stream, InfoOptions{})
	if err != nil {
		return err
	}
	var cfg struct {
		Retention string `json:"retention"`
	}
	if err := json.Unmarshal(info.Config, &cfg); err != nil {
		return fmt.Errorf("read configuration of stream %s: %w", stream, err)
	}
	if cfg.Retention != "" && cfg.Retention != "limits" {
		return fmt.Errorf("read stream %s: %w: its retention is %s", stream, ErrConsumerRefused, cfg.Retention)
	}
	r := &streamReader{c: c, stream: stream, next: max(first, info.State.FirstSeq), last: min(last, info.State.LastSeq), fn: fn}
	if err := r.run(ctx); err != nil {
		return fmt.Errorf("read stream %s: %w", stream, err)
	}
	return nil
}

// streamReader is one run of ReadStream.
type streamReader struct {
	c      *Client
	stream string
	next   uint64 // first sequence not yet delivered to fn
	last   uint64
	fn     func(*record.Record) error
	idle   int // heartbeats before the consumer's first message
}

func (r *streamReader) run(ctx context.Context) error {
	for fruitless := 0; r.next <= r.last; {
		before := r.next
		done, err := r.consume(ctx)
		switch {
		case done && err == nil:
			return r.rest(ctx)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !worthAnother(err):
			return err
		}
		if r.next > before {
			fruitless = 0
		} else if fruitless++; fruitless == maxRestarts {
			return fmt.Errorf("%d consumers in a row brought nothing, the last error: %w", fruitless, err)
		}
	}
	return nil
}

// A restartable error is one that another consumer may not meet.
type restartable struct{ err error }

func (e *restartable) Error() string { return e.err.Error() }
func (e *restartable) Unwrap() error { return e.err }

func worthAnother(err error) bool {
	var again *restartable
	return errors.As(err, &again)
}

// consume reads with one consumer until it has nothing more (true), or until
// something is wrong with it.
func (r *streamReader) consume(ctx context.Context) (bool, error) {
	w, err := dialWire(ctx, r.c.nc)
	if err != nil {
		if errors.Is(err, ErrConnectionLost) && r.c.nc.IsClosed() {
			return false, err
		}
		return false, fmt.Errorf("%w: %w", ErrConsumerRefused, err)
	}
	defer w.close()
	w.idle = silence
	defer context.AfterFunc(ctx, w.close)()
	inbox := r.c.nc.NewInbox()
	_ = w.conn.SetDeadline(time.Now().Add(wireHandshake)) // a closed connection shows below
	if err := w.subscribe(inbox); err != nil {
		if errors.Is(err, ErrPermission) {
			return false, fmt.Errorf("%w: %w", ErrConsumerRefused, err)
		}
		return false, &restartable{err}
	}
	r.idle = 0
	name, pending, err := r.create(ctx, inbox)
	if err != nil {
		return false, err
	}
	defer r.remove(ctx, name)
	if pending == 0 {
		return true, nil
	}
	return r.deliver(w)
}

// create makes the consumer; the server names it.
func (r *streamReader) create(ctx context.Context, inbox string) (name string, pending uint64, err error) {
	reply, err := r.c.Call(ctx, "CONSUMER.CREATE."+r.stream, map[string]any{
		"stream_name": r.stream,
		"config": map[string]any{
			"deliver_subject":    inbox,
			"deliver_policy":     "by_start_sequence",
			"opt_start_seq":      r.next,
			"ack_policy":         "none",
			"replay_policy":      "instant",
			"flow_control":       true,
			"idle_heartbeat":     heartbeat,
			"inactive_threshold": leftover,
			"mem_storage":        true,
			"num_replicas":       1,
		},
	})
	var api *APIError
	switch {
	case errors.Is(err, ErrStreamNotFound), errors.Is(err, ErrConnectionLost):
		return "", 0, err
	case errors.As(err, &api), errors.Is(err, ErrPermission):
		return "", 0, fmt.Errorf("%w: %w", ErrConsumerRefused, err)
	case errors.Is(err, ErrNoReply):
		return "", 0, &restartable{err}
	case err != nil:
		return "", 0, err
	}
	var info ConsumerInfo
	if err := json.Unmarshal(reply, &info); err != nil || info.Name == "" {
		return "", 0, fmt.Errorf("%w: consumer without a name", ErrInvalidReply)
	}
	return info.Name, info.NumPending, nil
}

// remove deletes the consumer, also when ctx is over. Where that fails the
// server does it, for the consumer's subject has no listener any more.
func (r *streamReader) remove(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.c.timeout)
	defer cancel()
	_, _ = r.c.Call(ctx, "CONSUMER.DELETE."+r.stream+"."+name, nil)
}

// deliver hands the consumer's messages on until there are none left.
func (r *streamReader) deliver(w *wire) (bool, error) {
	var rec record.Record
	for delivered := uint64(0); ; {
		d, err := w.next()
		if err != nil {
			if errors.Is(err, ErrPermission) { // to answer flow control
				return false, fmt.Errorf("%w: %w", ErrConsumerRefused, err)
			}
			return false, &restartable{fmt.Errorf("%w: %v", ErrConnectionLost, err)}
		}
		if isStatus(d) {
			if done, err := r.status(w, d, delivered); done || err != nil {
				return done, err
			}
			continue
		}
		meta, err := parseAck(d.reply)
		if err != nil {
			return false, err
		}
		if meta.consumer != delivered+1 || meta.stream < r.next {
			return false, &restartable{fmt.Errorf("%w: number %d after %d", errGap, meta.consumer, delivered)}
		}
		delivered++
		if meta.stream > r.last {
			r.next = meta.stream
			return true, nil
		}
		rec = record.Record{Sequence: meta.stream, Time: meta.time, Subject: d.subject, Header: d.header, Data: d.data}
		if err := r.fn(&rec); err != nil {
			return false, err
		}
		r.next = meta.stream + 1
		if meta.stream == r.last || meta.pending == 0 {
			return true, nil
		}
	}
}

// isStatus says whether a message is the server's and not the stream's.
func isStatus(d *delivery) bool {
	return len(d.data) == 0 && bytes.HasPrefix(d.header, []byte("NATS/1.0 "))
}

// status handles flow control and heartbeats. It returns true when the server
// has nothing more to send.
func (r *streamReader) status(w *wire, d *delivery, delivered uint64) (bool, error) {
	if !bytes.HasPrefix(d.header, []byte("NATS/1.0 100")) {
		return false, &restartable{fmt.Errorf("%w: consumer ended with %.60q", ErrInvalidReply, d.header)}
	}
	if len(d.reply) > 0 {
		return false, again(w.publish(d.reply))
	}
	if stalled := headerValue(d.header, "Nats-Consumer-Stalled"); len(stalled) > 0 {
		return false, again(w.publish(stalled))
	}
	if v := headerValue(d.header, "Nats-Last-Consumer"); len(v) > 0 {
		last, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil || last != delivered {
			return false, &restartable{fmt.Errorf("%w: the server sent %q, %d arrived", errGap, v, delivered)}
		}
		r.idle++
		return delivered > 0 || r.idle > 1, nil
	}
	return false, nil
}

func again(err error) error {
	if err == nil {
		return nil
	}
	return &restartable{fmt.Errorf("%w: %v", ErrConnectionLost, err)}
}

func headerValue(header []byte, name string) []byte {
	for line := range bytes.SplitSeq(header, []byte("\r\n")) {
		if k, v, ok := bytes.Cut(line, []byte(":")); ok && string(k) == name {
			return bytes.Trim(v, " \t") // a subject may end with other white space
		}
	}
	return nil
}

// ackMeta is what a delivered message's reply subject says of it.
type ackMeta struct {
	stream, consumer, pending uint64
	time                      int64
}

// parseAck reads $JS.ACK.<stream>.<consumer>.<times delivered>.<stream
// sequence>.<consumer sequence>.<time>.<pending>; with a domain and an account
// before the stream, and more behind, in the longer form.
func parseAck(reply []byte) (ackMeta, error) {
	var m ackMeta
	f := bytes.Split(reply, []byte("."))
	from := 5
	if len(f) > 9 {
		from = 7
	}
	if len(f) < from+4 || !bytes.HasPrefix(reply, []byte("$JS.ACK.")) {
		return m, fmt.Errorf("%w: reply subject %.200q of a message", ErrInvalidReply, reply)
	}
	var ts uint64
	for i, to := range []*uint64{&m.stream, &m.consumer, &ts, &m.pending} {
		var end int
		var err error
		if *to, end, err = number(f[from+i], 0); err != nil || end != len(f[from+i]) {
			return m, fmt.Errorf("%w: reply subject %.200q of a message", ErrInvalidReply, reply)
		}
	}
	m.time = int64(ts)
	return m, nil
}

// rest asks for what the consumer did not deliver of the end of the range,
// though the server says that it is there.
func (r *streamReader) rest(ctx context.Context) error {
	if r.next > r.last {
		return nil
	}
	info, err := r.c.StreamInfo(ctx, r.stream, InfoOptions{DeletedDetails: true})
	if err != nil {
		return err
	}
	left := new(seqset.Set)
	left.AddRange(max(r.next, info.State.FirstSeq), min(r.last, info.State.LastSeq))
	left.Subtract(info.State.Deleted)
	return r.c.Messages(ctx, r.stream, left, func(_ uint64, rec *record.Record) error {
		if rec == nil {
			return nil
		}
		return r.fn(rec)
	})
}
