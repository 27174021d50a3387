// Package jetsnap is a client of the server's protocol for snapshots and
// restores of streams, for every server from 2.6.1 on. It moves bytes; package
// archive knows what they mean.
//
// A Snapshot guarantees that its reader ends with io.EOF only after the server
// said that it sent everything and every chunk before that arrived, by number.
// This proves the transfer, not the archive: servers end failed snapshots with
// a success, and 2.15 those of streams that were purged or deleted meanwhile, so
// the archive and the stream must be checked too. It fails with a typed error
// when the server reports a failure (StatusError), when nothing arrives for too
// long (ErrIdle), when the stream is deleted meanwhile, when the connection
// breaks, even if it comes back (ErrConnectionLost), when a chunk is missing
// (ErrGap), when the reader is too slow for too long (ErrStalled), when the
// server refuses the acknowledgements (jsapi.PermissionError), and when the
// context ends (its cause).
//
// Restore returns the stream as the server describes it only after the server
// acknowledged every chunk and reported the restore as done.
package jetsnap

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jsapi"
)

// What ends a transfer, to tell apart with errors.Is.
var (
	// ErrIdle means that the server fell silent in the middle: it was killed,
	// or the replica that was sending.
	ErrIdle = errors.New("server fell silent during the transfer")
	// ErrStalled means that the reader of a snapshot took nothing for so long
	// that the buffer reached its bound.
	ErrStalled = errors.New("reader of the snapshot stalled")
	// ErrGap means that a chunk of a snapshot did not arrive.
	ErrGap = errors.New("chunk of the snapshot is missing")
	// ErrClosed means that the snapshot was read after Close.
	ErrClosed = errors.New("snapshot is closed")
	// ErrAborted means that the server stopped to listen to a restore without
	// a reason given; it does so when it gets nothing for 5 seconds, and when
	// the replica that restores is shut down.
	ErrAborted = errors.New("server gave up the restore")
	// ErrConnectionLost is that of package jsapi.
	ErrConnectionLost = jsapi.ErrConnectionLost
	// ErrInProgress is that of package jsapi.
	ErrInProgress = jsapi.ErrInProgress
)

// A StatusError is how the server ended a snapshot that failed.
type StatusError struct {
	Code string // 408: our acknowledgements or our interest went missing; 500: the server could not read the stream
	Text string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("server ended the snapshot with %s %s", e.Code, e.Text)
}

// A Client takes and restores snapshots over one connection. A transfer wants
// a connection of its own that does not reconnect: the server works on a
// restore inside its read loop.
type Client struct {
	api *jsapi.Client
}

// New returns a client that uses the connection of api.
func New(api *jsapi.Client) *Client { return &Client{api: api} }

// DefaultIdleTimeout is how long the server may be silent. In a cluster 2.15
// asks the leader of each consumer in turn, up to 2 s each, before it sends.
const DefaultIdleTimeout = 60 * time.Second

// link tells whether a connection was interrupted since the link was made. The
// client library reconnects silently, and what was sent meanwhile is gone.
type link struct {
	nc         *nats.Conn
	status     chan nats.Status
	reconnects uint64
	once       sync.Once
}

func newLink(nc *nats.Conn) *link {
	return &link{
		nc:         nc,
		status:     nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED),
		reconnects: nc.Stats().Reconnects,
	}
}

// intact says whether the connection is the one that it was.
func (l *link) intact() bool {
	return l.nc.IsConnected() && l.nc.Stats().Reconnects == l.reconnects
}

func (l *link) release() {
	l.once.Do(func() { l.nc.RemoveStatusListener(l.status) })
}
