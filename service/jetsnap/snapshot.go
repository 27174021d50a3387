package jetsnap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jsapi"
)

// Defaults and bounds of a snapshot.
const (
	// DefaultChunkSize is small because servers of 2.12 to 2.14 report most
	// failed snapshots as successes with chunks of 1 MiB and few with these.
	DefaultChunkSize   = 128 << 10
	DefaultWindowSize  = 8 << 20
	DefaultMaxBuffered = 16 << 20
	// stallRoom is what may arrive beyond MaxBuffered: what the server has on
	// its way when the reader stops, up to two windows on servers before 2.12
	// (which take no window size from us), and then the trickle of pacing.
	stallRoom = 32 << 20
	// paceInterval is the time between two acknowledgements while the reader
	// stalls. Servers give up after 5 s without one, 2.10 and 2.11 after 2 s.
	paceInterval = 750 * time.Millisecond
	// oldWindow is the fixed window of servers before 2.12. They run ahead of
	// it, and then count an acknowledgement only if it brings what is not
	// acknowledged below the window.
	oldWindow = 8 << 20
	// oldChunkSize is for servers before 2.10, which send a chunk each 10 ms
	// even if nothing is acknowledged: 3 MB a second and not 12.
	oldChunkSize = 32 << 10
	// probeAfter is how long the server may be silent before it is asked
	// whether the stream is still there, and how often after that.
	probeAfter = 4 * time.Second
)

// SnapshotOptions of one snapshot; zero values are the defaults.
type SnapshotOptions struct {
	ChunkSize   int           // of one message, 1 KiB to 1 MiB
	WindowSize  int           // what the server may send ahead of acknowledgements, from 2.12 on
	IdleTimeout time.Duration // how long the server may be silent
	// MaxBuffered is how many bytes may wait for the reader before
	// acknowledgements are paced.
	MaxBuffered int
	// HardLimit is how many may wait at most; the snapshot then fails with
	// ErrStalled. MaxBuffered and 32 MiB if zero. Servers before 2.10 cannot be
	// slowed down below 100 chunks a second.
	HardLimit   int
	NoConsumers bool // leave the consumers out
}

func (o *SnapshotOptions) defaults(serverVersion string) {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if before210(serverVersion) {
		set(&o.ChunkSize, oldChunkSize)
	}
	set(&o.ChunkSize, DefaultChunkSize)
	set(&o.MaxBuffered, DefaultMaxBuffered)
	set(&o.WindowSize, min(DefaultWindowSize, max(o.MaxBuffered, o.ChunkSize)))
	set(&o.HardLimit, o.MaxBuffered+stallRoom)
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = DefaultIdleTimeout
	}
}

func before210(version string) bool {
	var major, minor int
	n, _ := fmt.Sscanf(version, "%d.%d.", &major, &minor) // an unknown version counts as new
	return n == 2 && (major < 2 || major == 2 && minor < 10)
}

// A Snapshot is one that the server is sending. Close must be called.
type Snapshot struct {
	Config json.RawMessage // of the stream, verbatim
	State  json.RawMessage // of the stream when the snapshot began, verbatim

	c      *Client
	stream string
	o      SnapshotOptions
	link   *link
	sub    *nats.Subscription
	inbox  string
	stop   chan struct{}
	done   sync.WaitGroup
	undo   []func()

	mu       sync.Mutex
	ready    sync.Cond // something to read, or the end
	chunks   [][]byte
	offset   int // read of the first chunk
	buffered int
	owed     []ack // acknowledgements held back
	owing    int   // bytes of those
	acked    time.Time
	heard    time.Time
	chunk    int    // number of the last chunk
	ackBase  string // what the server's acknowledgement subjects begin with
	ended    bool   // the server sent its last message, and it said success
	err      error  // what ended it otherwise
}

type ack struct {
	subject string
	size    int
}

// Snapshot asks the server for a snapshot of the stream. The snapshot ends with
// ctx. Errors of the server are *jsapi.APIError: jsapi.ErrStreamNotFound,
// ErrInProgress, jsapi.ErrNoSnapshot among them.
func (c *Client) Snapshot(ctx context.Context, stream string, o SnapshotOptions) (*Snapshot, error) {
	if err := jsapi.CheckName(stream); err != nil {
		return nil, fmt.Errorf("stream name: %w", err)
	}
	nc := c.api.Conn()
	o.defaults(nc.ConnectedServerVersion())
	s := &Snapshot{
		c: c, stream: stream, o: o, link: newLink(nc), inbox: nc.NewInbox(),
		stop: make(chan struct{}), heard: time.Now(),
	}
	s.ready.L = &s.mu
	s.undo = append(s.undo, s.link.release, c.api.Violations().Watch(s.suffers, func(p *jsapi.PermissionError) { s.fail(p) }))
	if err := s.begin(ctx); err != nil {
		_ = s.Close() // returns nil
		return nil, fmt.Errorf("snapshot stream %s: %w", stream, err)
	}
	return s, nil
}

func (s *Snapshot) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	sub, err := s.link.nc.Subscribe(s.inbox, s.receive)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w: %v", s.inbox, ErrConnectionLost, err)
	}
	s.sub = sub
	// receive never blocks and has bounds of its own.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribe %s: %w: %v", s.inbox, ErrConnectionLost, err)
	}
	reply, err := s.c.api.CallWithin(ctx, "STREAM.SNAPSHOT."+s.stream, map[string]any{
		"deliver_subject": s.inbox,
		"chunk_size":      s.o.ChunkSize,
		"window_size":     s.o.WindowSize,
		"no_consumers":    s.o.NoConsumers,
	}, s.o.IdleTimeout)
	if err != nil {
		return err
	}
	var head struct{ Config, State json.RawMessage }
	if err := json.Unmarshal(reply, &head); err != nil || len(head.Config) == 0 {
		return fmt.Errorf("%w: neither configuration nor error in it", jsapi.ErrInvalidReply)
	}
	s.Config, s.State = head.Config, head.State
	stopCtx := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	s.undo = append(s.undo, func() { stopCtx() })
	s.done.Add(1)
	go s.watch(ctx)
	return nil
}

// suffers says whether a refused permission is one that the snapshot needs.
func (s *Snapshot) suffers(p *jsapi.PermissionError) bool {
	if p.Op == jsapi.OpSubscribe {
		return p.Subject == s.inbox
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ackBase != "" && strings.HasPrefix(p.Subject, s.ackBase)
}

// receive takes one message of the server. It never waits for the reader.
func (s *Snapshot) receive(m *nats.Msg) {
	if !s.link.intact() {
		s.fail(ErrConnectionLost)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.ended {
		return
	}
	s.heard = time.Now()
	if len(m.Data) == 0 {
		s.end(m)
		return
	}
	if err := s.count(m); err != nil {
		s.failLocked(err)
		return
	}
	s.chunks = append(s.chunks, m.Data)
	s.buffered += len(m.Data)
	if s.buffered > s.o.HardLimit {
		s.failLocked(fmt.Errorf("%w: %d bytes wait for it", ErrStalled, s.buffered))
		return
	}
	if m.Reply != "" {
		s.owed = append(s.owed, ack{m.Reply, len(m.Data)})
		s.owing += len(m.Data)
	}
	if s.buffered <= s.o.MaxBuffered {
		s.pay(len(s.owed))
	}
	s.ready.Broadcast()
}

// end takes the server's last message. Its status is missing on servers before
// 2.10, and on later ones if the whole snapshot fits into one chunk.
func (s *Snapshot) end(m *nats.Msg) {
	if code := m.Header.Get("Status"); code != "" && code != "204" {
		s.failLocked(&StatusError{Code: code, Text: m.Header.Get("Description")})
		return
	}
	s.ended = true
	s.ready.Broadcast()
}

// count checks that no chunk is missing. A chunk's reply subject ends in its
// size and its number; the last chunk has none.
func (s *Snapshot) count(m *nats.Msg) error {
	if m.Reply == "" {
		return nil
	}
	rest, number, ok := cutNumber(m.Reply)
	base, size, ok2 := cutNumber(rest)
	if !ok || !ok2 {
		return fmt.Errorf("%w: acknowledgement subject %q", jsapi.ErrInvalidReply, m.Reply)
	}
	s.ackBase = base
	if number != s.chunk+1 || size != len(m.Data) {
		return fmt.Errorf("%w: chunk %d of %d bytes arrived as number %d of %d bytes", ErrGap, s.chunk+1, len(m.Data), number, size)
	}
	s.chunk = number
	return nil
}

func cutNumber(subject string) (rest string, n int, ok bool) {
	i := strings.LastIndexByte(subject, '.')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.Atoi(subject[i+1:])
	return subject[:i], n, err == nil
}

// pay sends n of the acknowledgements that are owed.
func (s *Snapshot) pay(n int) {
	for _, a := range s.owed[:n] {
		if err := s.link.nc.Publish(a.subject, nil); err != nil {
			s.failLocked(fmt.Errorf("%w: %v", ErrConnectionLost, err))
			return
		}
		s.owing -= a.size
	}
	if n > 0 {
		s.owed = append(s.owed[:0], s.owed[n:]...)
		s.acked = time.Now()
	}
}

// Read reads the archive as the server compresses it.
func (s *Snapshot) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.chunks) == 0 && !s.ended && s.err == nil {
		s.ready.Wait()
	}
	switch {
	case s.err != nil:
		return 0, fmt.Errorf("read snapshot of stream %s: %w", s.stream, s.err)
	case len(s.chunks) == 0:
		return 0, io.EOF
	}
	n := copy(p, s.chunks[0][s.offset:])
	s.offset += n
	if s.offset == len(s.chunks[0]) {
		s.buffered -= len(s.chunks[0])
		s.chunks[0], s.chunks, s.offset = nil, s.chunks[1:], 0
		if len(s.chunks) == 0 {
			s.chunks = nil
		}
		if s.buffered <= s.o.MaxBuffered && !s.ended {
			s.pay(len(s.owed))
		}
	}
	return n, nil
}

// Close ends the snapshot and the server's side of it: since 2.12 at once, on
// older servers as soon as its window is full. It returns nil.
func (s *Snapshot) Close() error {
	s.fail(ErrClosed)
	s.mu.Lock()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	if s.err == nil { // it had ended well
		s.err = ErrClosed
	}
	s.chunks, s.buffered, s.owed = nil, 0, nil
	s.mu.Unlock()
	s.done.Wait()
	for _, f := range s.undo {
		f()
	}
	return nil
}

func (s *Snapshot) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(err)
}

// failLocked ends the snapshot with an error unless it ended before, and lets
// the server know by taking the interest away.
func (s *Snapshot) failLocked(err error) {
	if s.sub != nil {
		_ = s.sub.Unsubscribe() // fails only without a connection
		s.sub = nil
	}
	if s.ended || s.err != nil {
		return
	}
	s.err = err
	s.chunks, s.buffered, s.owed = nil, 0, nil
	s.ready.Broadcast()
}

// watch paces acknowledgements and notices silence and lost connections.
func (s *Snapshot) watch(ctx context.Context) {
	defer s.done.Done()
	tick := time.NewTicker(paceInterval / 3)
	defer tick.Stop()
	probes := s.prober(ctx)
	defer probes.stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.link.status:
			if !s.link.intact() {
				s.fail(ErrConnectionLost)
				return
			}
		case <-tick.C:
			silence, over := s.tend()
			if over {
				return
			}
			if silence > s.o.IdleTimeout {
				s.fail(fmt.Errorf("%w for %s", ErrIdle, s.o.IdleTimeout))
				return
			}
			if silence > probeAfter {
				probes.ask()
			}
		case err := <-probes.verdict:
			s.fail(err)
			return
		}
	}
}

// payLittle sends one acknowledgement that lets the server send one chunk.
func (s *Snapshot) payLittle() {
	n, owing := 1, s.owing-s.owed[0].size
	for n < len(s.owed) && owing >= oldWindow {
		owing -= s.owed[n].size
		n++
	}
	s.pay(n)
}

// tend sends a paced acknowledgement if one is due.
func (s *Snapshot) tend() (silence time.Duration, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.err != nil {
		return 0, true
	}
	if len(s.owed) > 0 && time.Since(s.acked) >= paceInterval {
		s.payLittle()
	}
	return time.Since(s.heard), false
}

// A prober asks a silent server whether the stream is still there: a server
// that deletes a stream sends no more of its snapshot, not even an end.
type prober struct {
	verdict chan error
	ask     func()
	stop    func()
}

func (s *Snapshot) prober(ctx context.Context) *prober {
	ctx, cancel := context.WithCancel(ctx)
	p := &prober{verdict: make(chan error, 1)}
	var wg sync.WaitGroup
	var last time.Time
	busy := make(chan struct{}, 1)
	p.ask = func() {
		if time.Since(last) < probeAfter {
			return
		}
		select {
		case busy <- struct{}{}:
		default:
			return
		}
		last = time.Now()
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-busy }()
			_, err := s.c.api.StreamInfo(ctx, s.stream, jsapi.InfoOptions{})
			if errors.Is(err, jsapi.ErrStreamNotFound) || errors.Is(err, jsapi.ErrConnectionLost) {
				select {
				case p.verdict <- err:
				default:
				}
			}
		}()
	}
	p.stop = func() { cancel(); wg.Wait() }
	return p
}
