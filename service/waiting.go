package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
)

const (
	openTimeout = 15 * time.Second
	// openPatience is how long streams and buckets are tried to be opened that
	// may never be there, such as those of an account without JetStream.
	openPatience = time.Minute
	openPause    = 500 * time.Millisecond
	// maxOpenPause is the longest rest before NATS is looked for again.
	maxOpenPause = 5 * time.Second
	// waitingToldEvery is how often it is said that NATS is waited for.
	waitingToldEvery = time.Minute
)

// connect connects to the control account. NATS may begin after the service, so
// that a server which cannot be reached is waited for; one that refuses the login
// or speaks something else is not.
func (s *Service) connect(ctx context.Context) error {
	o := s.config.Control
	o.Reconnect, o.Log = true, s.log
	if o.Name == "" {
		o.Name = "jetkeep " + s.config.Instance
	}
	var told time.Time
	for wait := openPause; ; wait = min(2*wait, maxOpenPause) {
		cctx, cancel := context.WithTimeout(ctx, openTimeout)
		conn, err := natsconn.Dial(cctx, o)
		cancel()
		if err == nil {
			s.conn = conn
			s.closers = append(s.closers, conn.Close)
			return checkVersion(conn.ServerVersion())
		}
		if ctx.Err() != nil || !natsconn.IsUnreachable(err) {
			return fmt.Errorf("control account: %w", err)
		}
		if time.Since(told) > waitingToldEvery {
			told = time.Now()
			s.log.Warn("NATS is not reached, waiting for it", "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("control account: %w", err)
		case <-time.After(wait):
		}
	}
}

// patiently tries again what fails because a cluster is not ready, and for a
// while what may fail for that reason.
func (s *Service) patiently(ctx context.Context, open func(context.Context) error) error {
	var told time.Time
	begun := time.Now()
	for wait := openPause; ; wait = min(2*wait, maxOpenPause) {
		octx, cancel := context.WithTimeout(ctx, openTimeout)
		err := open(octx)
		cancel()
		switch {
		case err == nil:
			return nil
		case s.conn.NC.IsClosed():
			return fmt.Errorf("control account: the connection was closed for good: %w", err)
		case ctx.Err() != nil || !unready(err) || time.Since(begun) > openPatience && !willCome(err):
			return err
		}
		if p := s.refusedAPI(); p != nil {
			return fmt.Errorf("control account: %w", p)
		}
		if time.Since(told) > waitingToldEvery {
			told = time.Now()
			s.log.Warn("JetStream is not ready, waiting for it", "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// refusedAPI returns what the server refused to let us publish or hear: without
// that no answer ever comes.
func (s *Service) refusedAPI() *jsapi.PermissionError {
	prefix := s.conn.API.Subject("")
	return s.conn.API.Violations().Refused(func(p *jsapi.PermissionError) bool {
		return p.Op == jsapi.OpSubscribe || strings.HasPrefix(p.Subject, prefix) || strings.HasPrefix(p.Subject, "$KV.")
	})
}

// unready tells whether an error is one of a cluster that has no leader yet, or
// not enough servers.
func unready(err error) bool {
	const noPeers = 10005 // no suitable peers for placement
	var e *jetstream.APIError
	if errors.As(err, &e) {
		return e.Code == 503 || e.ErrorCode == noPeers
	}
	return willCome(err) || errors.Is(err, nats.ErrNoResponders)
}

// willCome tells whether nobody answered though there is somebody to ask: a
// cluster between two leaders, or a server that went away.
func willCome(err error) bool {
	const notAvailable, notLeader = 10008, 10009 // for now: there is no leader
	var e *jetstream.APIError
	if errors.As(err, &e) {
		return e.ErrorCode == notAvailable || e.ErrorCode == notLeader
	}
	return errors.Is(err, jsapi.ErrNotReady) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, jsapi.ErrNoReply) || errors.Is(err, jsapi.ErrConnectionLost) ||
		errors.Is(err, context.DeadlineExceeded)
}
