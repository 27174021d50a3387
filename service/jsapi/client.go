// Package jsapi is a thin client of the JetStream API that keeps what the
// server says verbatim: configurations stay JSON, so that fields newer than
// this program survive, headers keep their bytes and times their nanoseconds.
//
// It guarantees that every call ends, by its own deadline if the caller's
// context has no earlier one; that no reply over a stated bound is accepted;
// that an error of the server, a refused permission, a missing JetStream and a
// lost connection are each told apart; and that a reader of many messages
// either delivers every message it was asked for, says of each one that is not
// there that it is not, or fails.
//
// A call fails with ErrNoReply when the server does not answer, which also
// happens when a cluster has no leader for what was asked: it may be repeated.
package jsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Bounds of single calls.
const (
	// DefaultTimeout is how long one call waits for its reply.
	DefaultTimeout = 10 * time.Second
	// DetailTimeout is how long a call waits whose reply the server needs time
	// to build: the deleted sequences of a stream (0.3 s a million).
	DetailTimeout = 60 * time.Second
	// MaxReply is the size of the largest reply accepted. A server cuts a
	// connection that has more than 64 MiB pending (its default), so that few
	// can be larger.
	MaxReply = 256 << 20
)

const defaultPrefix = "$JS.API"

// Options of a Client.
type Options struct {
	Domain     string        // JetStream domain; the API is then at $JS.<domain>.API
	APIPrefix  string        // overrides the API's prefix, for imports under another subject
	Timeout    time.Duration // of a call, DefaultTimeout if zero
	Violations *Violations   // what Record of the connection's error handler fills
}

// A Client speaks the JetStream API over one connection. It is safe for use by
// several goroutines.
type Client struct {
	nc         *nats.Conn
	prefix     string
	timeout    time.Duration
	violations *Violations
}

// New returns a client over nc. Without Options.Violations a refused
// permission shows only as ErrNoReply.
func New(nc *nats.Conn, o Options) *Client {
	c := &Client{nc: nc, prefix: Prefix(o.Domain, o.APIPrefix), timeout: o.Timeout, violations: o.Violations}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.violations == nil {
		c.violations = new(Violations)
	}
	return c
}

// Prefix returns the subject prefix of the API for a domain or an explicit
// prefix, which wins.
func Prefix(domain, explicit string) string {
	switch {
	case explicit != "":
		return strings.TrimSuffix(explicit, ".")
	case domain != "":
		return "$JS." + domain + ".API"
	}
	return defaultPrefix
}

// Conn returns the connection that the client uses.
func (c *Client) Conn() *nats.Conn { return c.nc }

// Violations returns what the server refused on the connection.
func (c *Client) Violations() *Violations { return c.violations }

// Subject returns the full subject of an API call, such as "STREAM.INFO.X".
func (c *Client) Subject(call string) string { return c.prefix + "." + call }

// Call makes one API call and returns the reply's bytes. An error in the reply
// is returned as *APIError; req may be nil.
func (c *Client) Call(ctx context.Context, call string, req any) ([]byte, error) {
	return c.call(ctx, call, req, c.timeout)
}

func (c *Client) call(ctx context.Context, call string, req any, timeout time.Duration) ([]byte, error) {
	var body []byte
	if req != nil {
		b, err := json.Marshal(req)
		if err != nil {
			return nil, fmt.Errorf("encode request %s: %w", call, err)
		}
		body = b
	}
	reply, err := c.request(ctx, c.Subject(call), body, timeout)
	if err != nil {
		return nil, err
	}
	if len(reply) > MaxReply {
		return nil, fmt.Errorf("call %s: %w", call, &TooLargeError{What: "reply in bytes", Size: uint64(len(reply)), Limit: MaxReply})
	}
	if err := ReplyError(reply); err != nil {
		return nil, fmt.Errorf("call %s: %w", call, err)
	}
	return reply, nil
}

// request sends one request and returns the reply's data.
func (c *Client) request(ctx context.Context, subject string, body []byte, timeout time.Duration) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("call %s: %w", subject, context.Cause(ctx))
	}
	rctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rctx, fail := context.WithCancelCause(rctx)
	defer fail(nil)
	concerns := c.concerns(subject)
	defer c.violations.Watch(concerns, func(p *PermissionError) { fail(p) })()
	// The inbox of replies is subscribed to once for a connection, so that its
	// refusal may be long past. One of the subject may have been lifted since.
	if p := c.violations.Refused(func(p *PermissionError) bool { return p.Op == OpSubscribe && concerns(p) }); p != nil {
		return nil, fmt.Errorf("call %s: %w", subject, p)
	}
	msg, err := c.nc.RequestMsgWithContext(rctx, &nats.Msg{Subject: subject, Data: body})
	if err == nil {
		return msg.Data, nil
	}
	return nil, fmt.Errorf("call %s: %w", subject, c.classify(ctx, rctx, err, timeout))
}

// Refused tells whether the server refuses to the user in use what is published on a
// subject. It publishes an empty request there, so that the subject must be one where
// nothing is done about such a one. False means as well that it could not be told
// within the timeout.
func (c *Client) Refused(ctx context.Context, subject string, timeout time.Duration) bool {
	_, err := c.request(ctx, subject, nil, timeout)
	var p *PermissionError
	return errors.As(err, &p) && p.Op == OpPublish && p.Subject == subject
}

// concerns says which refusals make a request to subject hopeless.
func (c *Client) concerns(subject string) func(*PermissionError) bool {
	inbox := nats.InboxPrefix
	if p := c.nc.Opts.InboxPrefix; p != "" {
		inbox = p + "."
	}
	return func(p *PermissionError) bool {
		if p.Op == OpPublish {
			return p.Subject == subject
		}
		return strings.HasPrefix(p.Subject, inbox) && strings.HasSuffix(p.Subject, ".*")
	}
}

// classify turns what ended a request into the errors of this package.
func (c *Client) classify(ctx, rctx context.Context, err error, timeout time.Duration) error {
	var denied *PermissionError
	switch {
	case errors.As(context.Cause(rctx), &denied):
		return denied
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: nobody listens", ErrNoJetStream)
	case IsConnectionError(err) || c.nc.IsClosed():
		return fmt.Errorf("%w: %v", ErrConnectionLost, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, context.Canceled):
		return fmt.Errorf("%w within %s", ErrNoReply, timeout)
	}
	return err
}

// IsConnectionError says whether err of nats.go means that the connection is
// gone.
func IsConnectionError(err error) bool {
	for _, e := range []error{
		nats.ErrConnectionClosed, nats.ErrDisconnected, nats.ErrStaleConnection,
		nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded, nats.ErrConnectionDraining,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// lost makes ErrConnectionLost of an error of nats.go that means it.
func lost(err error) error {
	if err != nil && IsConnectionError(err) {
		return fmt.Errorf("%w: %v", ErrConnectionLost, err)
	}
	return err
}

// ReplyError returns the *APIError that a reply of the API holds, nil if it
// holds none.
func ReplyError(reply []byte) error {
	e, ok, err := member(reply, "error")
	if err != nil {
		return fmt.Errorf("%w: %v", ErrInvalidReply, err)
	}
	if !ok {
		return nil
	}
	var api APIError
	if err := json.Unmarshal(e, &api); err != nil {
		return fmt.Errorf("%w: %v", ErrInvalidReply, err)
	}
	return &api
}

// CallWithin is Call with a timeout of its own, for calls that make the server
// work before it answers.
func (c *Client) CallWithin(ctx context.Context, call string, req any, timeout time.Duration) ([]byte, error) {
	return c.call(ctx, call, req, timeout)
}
