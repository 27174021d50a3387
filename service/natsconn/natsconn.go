// Package natsconn connects to NATS.
//
// Dial returns a connection that works or an error, in bounded time; it never
// waits for a server to appear. A connection for transfers does not reconnect:
// once lost, every use of it fails. Permissions that the server refuses later
// are recorded with the connection, so that the call which suffers names the
// subject. Secrets show neither in errors nor in logs.
package natsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jsapi"
)

// DefaultTimeout bounds the connecting to one server.
const DefaultTimeout = 5 * time.Second

// dialTimeout bounds Dial over all servers of a list.
const dialTimeout = 20 * time.Second

// Conn is a connection to one account.
type Conn struct {
	NC  *nats.Conn
	API *jsapi.Client

	options Options
	closed  chan struct{}
}

// Dial connects.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	s, err := o.settings()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c := &Conn{options: o, closed: make(chan struct{})}
	violations := new(jsapi.Violations)
	d := &dialer{ctx: ctx, timeout: o.timeout()}
	opts := slices.Concat(s.opts, c.natsOptions(&o, violations, d))
	nc, err := nats.Connect(s.url, opts...)
	d.finish()
	if err == nil && ctx.Err() != nil {
		nc.Close()
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("connect to %s: %w", WithoutLogin(s.url), context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", WithoutLogin(s.url), o.advise(err))
	}
	c.NC = nc
	c.API = jsapi.New(nc, jsapi.Options{
		Domain: s.domain, APIPrefix: s.prefix, Timeout: o.RequestTimeout, Violations: violations,
	})
	return c, nil
}

func (o *Options) timeout() time.Duration {
	if o.Timeout > 0 {
		return o.Timeout
	}
	return DefaultTimeout
}

func (c *Conn) natsOptions(o *Options, v *jsapi.Violations, d *dialer) []nats.Option {
	log := o.Log
	name := o.Name
	if name == "" {
		name = "jetkeep"
	}
	opts := []nats.Option{
		nats.Name(name),
		nats.Timeout(o.timeout()),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(3), // a server that takes in a restore may not answer for a while
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			v.Record(err)
			log.Warn("connection reports an error", "name", name, "error", err)
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("connection is lost", "name", name, "error", err)
			}
		}),
		func(no *nats.Options) error {
			if no.CustomDialer == nil { // a proxy's stays
				no.CustomDialer, no.SkipHostLookup = d, true
			}
			return nil
		},
	}
	if !o.Reconnect {
		return append(opts, nats.NoReconnect())
	}
	return append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(time.Second), nats.ReconnectBufSize(-1),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("connection is back", "name", name) }))
}

// Another dials a further connection with the same options, for a transfer
// that must not share one.
func (c *Conn) Another(ctx context.Context, name string) (*Conn, error) {
	o := c.options
	o.Reconnect = false
	if name != "" {
		o.Name = name
	}
	return Dial(ctx, o)
}

// ServerVersion returns the version of the server that the connection is to;
// in a domain behind a leaf node the streams' server may have another.
func (c *Conn) ServerVersion() string { return c.NC.ConnectedServerVersion() }

// closeWait bounds how long Close waits for the connection's goroutines.
const closeWait = 5 * time.Second

// Close ends the connection and waits for what runs on it.
func (c *Conn) Close() {
	c.NC.Close()
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-c.closed:
	case <-t.C:
	}
}

// dialer lets the context of Dial end what nats.go does without one.
type dialer struct {
	timeout time.Duration

	mu    sync.Mutex
	ctx   context.Context // of Dial, nil once it is over
	stops []func() bool
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	ctx := d.ctx
	d.mu.Unlock()
	if ctx == nil {
		ctx = context.Background() // a reconnect, bounded by the timeout
	}
	nd := net.Dialer{Timeout: d.timeout}
	conn, err := nd.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx != nil {
		d.stops = append(d.stops, context.AfterFunc(d.ctx, func() { _ = conn.Close() }))
	}
	return conn, nil
}

// finish releases connections from the context of Dial.
func (d *dialer) finish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, stop := range d.stops {
		stop()
	}
	d.ctx, d.stops = nil, nil
}

// IsUnreachable says whether err of Dial means that no server answered as one: it
// may not have begun, or nothing is behind what takes connections for it.
func IsUnreachable(err error) bool {
	if IsAuthorization(err) || errors.Is(err, ErrInvalidOptions) {
		return false
	}
	for _, e := range []error{
		nats.ErrNoServers, nats.ErrTimeout, nats.ErrConnectionClosed, nats.ErrMaxConnectionsExceeded, nats.ErrStaleConnection,
		context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var dns *net.DNSError
	var op *net.OpError
	if errors.As(err, &dns) {
		return true
	}
	// An alert of TLS, by them or by us, is a refusal and not an absence.
	return errors.As(err, &op) && op.Op != "remote error" && op.Op != "local error"
}

// IsAuthorization says whether err of Dial means that the server refused the
// login.
func IsAuthorization(err error) bool {
	for _, e := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
