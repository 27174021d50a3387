package jsapi

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// Bounds of Messages.
const (
	// inFlight is how many requests are under way at most. A server works on
	// them one after the other; more hide round trips of up to some 20 ms.
	inFlight = 256
	// inFlightBytes bounds the replies that may be on their way, estimated from
	// those that came.
	inFlightBytes = 8 << 20
	// mostPending bounds them even if all are as large as messages can be: a
	// server cuts a connection that has 64 MiB pending, and on a busy machine
	// small messages followed by large ones came to that.
	mostPending = 48 << 20
	// firstEstimate is the size of a reply assumed before the first one came.
	firstEstimate = 128 << 10
	// resendAfter is when an unanswered request is repeated: a leader that
	// changes drops what it had not answered. Reading twice does no harm.
	resendAfter = 3 * time.Second
)

// Messages reads the messages with the given sequences and calls fn with each
// in rising order, with nil for one that is not there. The record is valid
// until fn returns. It works with streams of every kind and leaves no trace in
// them. If it returns nil, fn was called for every sequence.
func (c *Client) Messages(ctx context.Context, stream string, seqs *seqset.Set, fn func(seq uint64, r *record.Record) error) error {
	if err := CheckName(stream); err != nil {
		return fmt.Errorf("stream name: %w", err)
	}
	if seqs.Empty() {
		return ctx.Err()
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	next, stop := iter.Pull(seqs.All())
	defer stop()
	f := &fetch{
		c: c, subject: c.Subject("STREAM.MSG.GET." + stream), inbox: c.nc.NewInbox(),
		want: next, wake: make(chan struct{}, 1), estimate: firstEstimate,
	}
	defer c.violations.Watch(func(p *PermissionError) bool {
		return p.Subject == f.subject || strings.HasPrefix(p.Subject, f.inbox)
	}, func(p *PermissionError) { fail(p) })()
	sub, err := c.nc.Subscribe(f.inbox+".*", f.receive)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", f.inbox, lost(err))
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only without a connection
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribe %s: %w", f.inbox, err)
	}
	if err := f.run(ctx, fn); err != nil {
		return fmt.Errorf("read messages of stream %s: %w", stream, err)
	}
	return nil
}

// fetch is one run of Messages.
type fetch struct {
	c       *Client
	subject string
	inbox   string
	want    func() (uint64, bool)
	dec     decoder
	// estimate of a reply's size: the largest lately seen.
	estimate float64

	wake chan struct{}
	mu   sync.Mutex // guards what follows
	ring [inFlight]request
	head uint64 // number of the oldest request not yet delivered
	tail uint64 // number of the next request
}

type request struct {
	seq   uint64
	sent  time.Time
	reply *nats.Msg
}

// receive files a reply under its request.
func (f *fetch) receive(m *nats.Msg) {
	n, err := strconv.ParseUint(m.Subject[len(f.inbox)+1:], 10, 64)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n < f.head || n >= f.tail {
		return // a second answer to a repeated request
	}
	f.ring[n%inFlight].reply = m
	if n == f.head {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

func (f *fetch) run(ctx context.Context, fn func(uint64, *record.Record) error) error {
	tick := time.NewTicker(resendAfter / 4)
	defer tick.Stop()
	more, moved := true, time.Now()
	for {
		if more {
			var err error
			if more, err = f.fill(); err != nil {
				return err
			}
		}
		seq, reply, ok := f.pop()
		switch {
		case ok:
			moved = time.Now()
			if err := f.deliver(seq, reply, fn); err != nil {
				return err
			}
			continue
		case f.idle():
			return nil
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if err := f.check(moved); err != nil {
				return err
			}
		}
	}
}

// fill sends requests while the bounds allow; it returns false when there are
// no more to send.
func (f *fetch) fill() (bool, error) {
	window := f.window()
	f.mu.Lock()
	defer f.mu.Unlock()
	// Requests go out in bursts, so that they share writes.
	if f.tail-f.head > window*3/4 {
		return true, nil
	}
	for f.tail-f.head < window {
		seq, ok := f.want()
		if !ok {
			return false, nil
		}
		f.ring[f.tail%inFlight] = request{seq: seq, sent: time.Now()}
		f.tail++
		if err := f.send(f.tail - 1); err != nil {
			return false, err
		}
	}
	return true, nil
}

// window is how many requests may be under way.
func (f *fetch) window() uint64 {
	n := min(inFlight, inFlightBytes/f.estimate)
	if largest := f.c.nc.MaxPayload(); largest > 0 {
		n = min(n, mostPending/(float64(largest)*4/3)) // base64
	}
	return uint64(max(1, n))
}

func (f *fetch) send(n uint64) error {
	body := append(strconv.AppendUint([]byte(`{"seq":`), f.ring[n%inFlight].seq, 10), '}')
	return lost(f.c.nc.PublishRequest(f.subject, f.inbox+"."+strconv.FormatUint(n, 10), body))
}

func (f *fetch) pop() (uint64, *nats.Msg, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &f.ring[f.head%inFlight]
	if f.head == f.tail || r.reply == nil {
		return 0, nil, false
	}
	seq, reply := r.seq, r.reply
	r.reply = nil
	f.head++
	return seq, reply, true
}

func (f *fetch) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.head == f.tail
}

func (f *fetch) deliver(seq uint64, m *nats.Msg, fn func(uint64, *record.Record) error) error {
	if m.Header.Get("Status") == "503" {
		return fmt.Errorf("%w: nobody listens on %s", ErrNoJetStream, f.subject)
	}
	f.estimate = max(f.estimate*0.99, float64(len(m.Data)), 1024)
	r, err := f.dec.message(m.Data, seq)
	if absent(err) {
		r, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("message %d: %w", seq, err)
	}
	return fn(seq, r)
}

// check looks after requests that were not answered.
func (f *fetch) check(moved time.Time) error {
	if f.c.nc.IsClosed() {
		return ErrConnectionLost
	}
	if time.Since(moved) > f.c.timeout {
		return fmt.Errorf("%w within %s", ErrNoReply, f.c.timeout)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := f.head; n < f.tail; n++ {
		r := &f.ring[n%inFlight]
		if r.reply != nil || time.Since(r.sent) < resendAfter {
			continue
		}
		r.sent = time.Now()
		// A connection that is just coming back takes the next repetition.
		if err := f.send(n); err != nil && !errors.Is(err, ErrConnectionLost) {
			return err
		}
	}
	return nil
}
