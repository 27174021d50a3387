package jetsnap

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jsapi"
)

// Defaults and bounds of a restore.
const (
	DefaultRestoreChunk = 1 << 20
	DefaultInFlight     = 8 << 20
	// reserve is how many bytes are kept back to be sent one by one while the
	// source has nothing: a server gives up after 5 s without a chunk.
	reserve   = 512
	keepAlive = 1500 * time.Millisecond
	// installTime and installRate bound how long a server may work on what it
	// has received, as long as it answers other calls. It says nothing of its
	// own meanwhile: V1 archives are unpacked, moved and indexed first.
	installTime = 5 * time.Minute
	installRate = 4 << 20 // bytes of archive a second
	// knockAfter is when a server that owes a reply is asked whether it still
	// listens: another node of its cluster tells if it does not.
	knockAfter = 8 * time.Second
	// The server that takes a restore in answers before all nodes of its cluster
	// have heard that it listens: so the first chunk, a short one, is sent again for
	// a while, at this interval, if nobody got it. Nothing follows it until it has
	// arrived.
	firstChunk  = 4 << 10
	listenTime  = 3 * time.Second // less than the 5 s that the server waits
	listenPause = 20 * time.Millisecond
	// tendInterval is the time between two looks at an upload of which nothing
	// is heard.
	tendInterval = 500 * time.Millisecond
	// settle is how long the reason for an end may come after its sign.
	settle = 2 * time.Second
	// lifeInterval is the time between two questions whether the server lives.
	lifeInterval = 5 * time.Second
)

// RestoreOptions of one restore; zero values are the defaults.
type RestoreOptions struct {
	ChunkSize int // of one message, at most the server's max_payload
	InFlight  int // bytes sent ahead of their acknowledgements
	// IdleTimeout is how long the server may show no life at all: neither
	// acknowledgements nor answers to $JS.API.INFO.
	IdleTimeout time.Duration
	// InstallTimeout is how long it may take over what it has received while
	// it shows life; 5 minutes and a second for each 4 MiB if zero.
	InstallTimeout time.Duration
	// State is sent along as the stream's state if given, verbatim.
	State json.RawMessage
	// Progress is told of the bytes sent and acknowledged so far.
	Progress func(sent, acked uint64)
}

func (o *RestoreOptions) defaults(maxPayload int64) {
	if o.ChunkSize <= 0 {
		o.ChunkSize = DefaultRestoreChunk
	}
	if maxPayload > 0 {
		o.ChunkSize = min(o.ChunkSize, int(maxPayload))
	}
	if o.InFlight <= 0 {
		o.InFlight = DefaultInFlight
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = DefaultIdleTimeout
	}
}

func (o *RestoreOptions) installTimeout(sent uint64) time.Duration {
	if o.InstallTimeout > 0 {
		return o.InstallTimeout
	}
	return installTime + time.Duration(sent/installRate)*time.Second
}

// Restore uploads an archive, read from r to its end, as a stream of that name
// and configuration. If it fails before everything is sent, it makes the server
// drop what it got; a server of 2.15 keeps the partial stream of a V2 archive
// even so, and the caller that knows it made the stream must delete it.
//
// A pipe given as r is closed with the error that ended the restore. Of another
// r, a Read that does not return may be under way when Restore does.
func (c *Client) Restore(ctx context.Context, stream string, config json.RawMessage, r io.Reader, o RestoreOptions) (*jsapi.StreamInfo, error) {
	if err := checkConfig(stream, config); err != nil {
		return nil, fmt.Errorf("restore stream %s: %w", stream, err)
	}
	o.defaults(c.api.Conn().MaxPayload())
	u := newUpload(c, stream, o)
	defer u.close()
	src := newSource(r, o.ChunkSize)
	info, err := u.run(ctx, config, src)
	src.close(err)
	if err != nil {
		return nil, fmt.Errorf("restore stream %s: %w", stream, err)
	}
	return info, nil
}

func checkConfig(stream string, config json.RawMessage) error {
	if err := jsapi.CheckName(stream); err != nil {
		return err
	}
	var head struct{ Name string }
	if err := json.Unmarshal(config, &head); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if head.Name != stream {
		return fmt.Errorf("%w: configuration is for stream %q", jsapi.ErrInvalidName, head.Name)
	}
	return nil
}

// upload is one restore under way.
type upload struct {
	c      *Client
	stream string
	o      RestoreOptions
	link   *link
	inbox  string
	to     string // where the server wants the chunks
	undo   []func()
	event  chan struct{} // something changed
	hold   []byte        // read and not yet sent, at least reserve bytes until the end
	nudged time.Time     // when a byte of those was last sent on its own

	mu     sync.Mutex
	sizes  map[uint64]int // of chunks not yet acknowledged
	next   uint64         // number of the next chunk
	sent   uint64
	acked  uint64
	flying int // bytes
	begun  time.Time
	heard  time.Time
	alive  time.Time
	last   uint64 // number of the end, once sent
	ending bool
	reply  []byte // to the end
	gone   bool   // nobody listens to chunks any more
	missed bool   // nobody listened yet when the first chunk was sent
	err    error
}

func newUpload(c *Client, stream string, o RestoreOptions) *upload {
	nc := c.api.Conn()
	u := &upload{
		c: c, stream: stream, o: o, link: newLink(nc), inbox: nc.NewInbox(),
		event: make(chan struct{}, 1), sizes: map[uint64]int{}, next: 1, heard: time.Now(), alive: time.Now(),
	}
	u.undo = append(u.undo, u.link.release, c.api.Violations().Watch(u.suffers, func(p *jsapi.PermissionError) { u.fail(p) }))
	return u
}

func (u *upload) close() {
	for i := len(u.undo) - 1; i >= 0; i-- {
		u.undo[i]()
	}
}

func (u *upload) suffers(p *jsapi.PermissionError) bool {
	if p.Op == jsapi.OpSubscribe {
		return p.Subject == u.inbox+".*"
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.to != "" && p.Subject == u.to
}

func (u *upload) run(ctx context.Context, config json.RawMessage, src *source) (*jsapi.StreamInfo, error) {
	// The first chunk comes before the request, for the server's patience
	// begins with the request.
	first, err := src.first(ctx)
	if err != nil {
		return nil, err
	}
	if err := u.begin(ctx, config); err != nil {
		return nil, err
	}
	defer u.life(ctx)()
	if err := u.send(ctx, first, src); err != nil {
		u.abort()
		return nil, err
	}
	reply, err := u.finish(ctx)
	if err != nil {
		return nil, err
	}
	info, err := jsapi.ParseStreamInfo(reply)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// begin asks for the restore.
func (u *upload) begin(ctx context.Context, config json.RawMessage) error {
	sub, err := u.link.nc.Subscribe(u.inbox+".*", u.receive)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w: %v", u.inbox, ErrConnectionLost, err)
	}
	u.undo = append(u.undo, func() { _ = sub.Unsubscribe() }) // fails only without a connection
	req := map[string]json.RawMessage{"config": config}
	if len(u.o.State) > 0 {
		req["state"] = u.o.State
	}
	reply, err := u.c.api.CallWithin(ctx, "STREAM.RESTORE."+u.stream, req, u.o.IdleTimeout)
	if err != nil {
		return err
	}
	var where struct {
		Subject string `json:"deliver_subject"`
	}
	if err := json.Unmarshal(reply, &where); err != nil || where.Subject == "" {
		return fmt.Errorf("%w: no subject to send to", jsapi.ErrInvalidReply)
	}
	u.mu.Lock()
	u.to, u.begun = where.Subject, time.Now()
	u.heard, u.alive = u.begun, u.begun
	u.mu.Unlock()
	return nil
}

// receive takes one acknowledgement.
func (u *upload) receive(m *nats.Msg) {
	n, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
	if err != nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.signal()
	if m.Header.Get("Status") == "503" {
		if u.acked == 0 && u.next == 2 && time.Since(u.begun) < listenTime {
			u.missed = true
		} else {
			u.gone = true
		}
		return
	}
	u.heard, u.alive = time.Now(), time.Now()
	if u.ending && n == u.last {
		u.reply = m.Data
		return
	}
	if len(m.Data) > 0 {
		u.failLocked(ackError(m.Data))
		return
	}
	if size, ok := u.sizes[n]; ok {
		delete(u.sizes, n)
		u.flying -= size
		u.acked += uint64(size)
	}
}

// ackError reads the error that an acknowledgement holds. Old servers send a
// line of text instead of JSON.
func ackError(data []byte) error {
	if data[0] == '{' {
		if err := jsapi.ReplyError(data); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %.200q", ErrAborted, data)
}

func (u *upload) signal() {
	select {
	case u.event <- struct{}{}:
	default:
	}
}

func (u *upload) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failLocked(err)
}

func (u *upload) failLocked(err error) {
	if u.err == nil {
		u.err = err
	}
	u.signal()
}

// publish sends one chunk and counts it as under way. For the first one it waits
// until that has arrived, or until the server has given up for long, which the
// next one will tell.
func (u *upload) publish(ctx context.Context, data []byte) error {
	u.mu.Lock()
	n := u.next
	u.next++
	u.sizes[n] = len(data)
	u.flying += len(data)
	u.sent += uint64(len(data))
	u.mu.Unlock()
	err := u.post(n, data)
	if n > 1 || err != nil {
		return err
	}
	return u.until(ctx, listenPause, func() bool { return u.acked > 0 || time.Since(u.begun) > knockAfter }, func() error {
		u.mu.Lock()
		missed := u.missed
		u.missed = false
		u.mu.Unlock()
		if !missed {
			return nil
		}
		return u.post(n, data)
	})
}

func (u *upload) post(n uint64, data []byte) error {
	if !u.link.intact() {
		return ErrConnectionLost
	}
	if err := u.link.nc.PublishRequest(u.to, u.inbox+"."+strconv.FormatUint(n, 10), data); err != nil {
		return fmt.Errorf("%w: %v", ErrConnectionLost, err)
	}
	return nil
}

// send uploads everything that the source has.
func (u *upload) send(ctx context.Context, chunk []byte, src *source) error {
	u.hold = make([]byte, 0, u.o.ChunkSize+reserve)
	for chunk != nil {
		u.hold = append(u.hold, chunk...)
		src.recycle(chunk)
		if err := u.sendHeld(ctx, reserve); err != nil {
			return err
		}
		var err error
		if chunk, err = u.await(ctx, src); err != nil {
			return err
		}
	}
	return u.sendHeld(ctx, 0)
}

// sendHeld sends what is held but for the last keep bytes, as soon as the
// window has room.
func (u *upload) sendHeld(ctx context.Context, keep int) error {
	for len(u.hold) > keep {
		err := u.until(ctx, tendInterval, func() bool {
			n := len(u.hold) - keep
			return n <= 0 || u.flying == 0 || u.flying+n <= u.o.InFlight
		}, func() error {
			if time.Since(u.lastHeard()) < knockAfter {
				return nil
			}
			return u.nudge(ctx, knockAfter)
		})
		if err != nil {
			return err
		}
		n := len(u.hold) - keep
		if u.next == 1 {
			n = min(n, firstChunk)
		}
		if n <= 0 { // it was sent byte by byte meanwhile
			break
		}
		err = u.publish(ctx, u.hold[:n])
		u.hold = append(u.hold[:0], u.hold[n:]...)
		if err != nil {
			return err
		}
	}
	return u.settled()
}

// nudge sends a single byte of what is held, whatever the window, if none was
// sent for some time: to keep the server patient or to see if it is there.
func (u *upload) nudge(ctx context.Context, every time.Duration) error {
	if len(u.hold) == 0 || time.Since(u.nudged) < every {
		return nil
	}
	u.nudged = time.Now()
	err := u.publish(ctx, u.hold[:1])
	u.hold = append(u.hold[:0], u.hold[1:]...)
	return err
}

func (u *upload) lastHeard() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.heard
}

// await returns the source's next chunk, nil at its end.
func (u *upload) await(ctx context.Context, src *source) ([]byte, error) {
	u.nudged = time.Now()
	alive := time.NewTicker(keepAlive / 2)
	defer alive.Stop()
	for {
		select {
		case p := <-src.parts:
			return p.data, p.err
		case <-alive.C:
			if err := u.nudge(ctx, keepAlive); err != nil {
				return nil, err
			}
		case <-u.event:
		case <-u.link.status:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if err := u.settled(); err != nil {
			return nil, err
		}
	}
}

// settled returns what ended the upload, if something did.
func (u *upload) settled() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.err != nil:
		return u.err
	case u.reply != nil:
		return nil
	case !u.link.intact():
		return ErrConnectionLost
	case u.gone:
		return ErrAborted
	}
	return u.patience()
}

// patience returns an error if the server has been silent for too long.
func (u *upload) patience() error {
	if len(u.sizes) == 0 && !u.ending {
		return nil // nothing is owed
	}
	limit := u.o.installTimeout(u.sent)
	switch {
	case time.Since(u.alive) > u.o.IdleTimeout:
		return fmt.Errorf("%w for %s", ErrIdle, u.o.IdleTimeout)
	case time.Since(u.heard) > limit:
		return fmt.Errorf("%w: it answers other calls but did not finish within %s", ErrIdle, limit)
	}
	return nil
}

// until waits for a condition on the upload, an end, or the bounds, and calls
// tend every now and then meanwhile.
func (u *upload) until(ctx context.Context, every time.Duration, ok func() bool, tend func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		u.report()
		if err := u.settled(); err != nil {
			return err
		}
		u.mu.Lock()
		met := ok()
		u.mu.Unlock()
		if met {
			return nil
		}
		select {
		case <-u.event:
		case <-tick.C:
			if err := tend(); err != nil {
				return err
			}
		case <-u.link.status:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (u *upload) report() {
	if u.o.Progress == nil {
		return
	}
	u.mu.Lock()
	sent, acked := u.sent, u.acked
	u.mu.Unlock()
	u.o.Progress(sent, acked)
}
