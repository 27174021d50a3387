package jetsnap_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

// client connects with the options of a transfer. Its calls end by themselves only if
// the server hangs, but to a cluster: there a request is lost that comes during an
// election.
func client(t *testing.T, o natsconn.Options) (*jetsnap.Client, *natsconn.Conn) {
	t.Helper()
	o.Timeout = testenv.Hang
	if o.RequestTimeout == 0 {
		o.RequestTimeout = testenv.Hang
	}
	var c *natsconn.Conn
	testenv.Until(t, "a connection", func() (err error) {
		c, err = natsconn.Dial(t.Context(), o)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
			t.Fatal(err)
		}
		return err
	})
	t.Cleanup(c.Close)
	return jetsnap.New(c.API), c
}

// inTime tries what a server gives up when it hears nothing of this process for some
// seconds by a clock of its own, until that has not been the reason for the end. What
// always ends like that ends the test.
func inTime(t *testing.T, try func() error) {
	t.Helper()
	var last error
	testenv.Until(t, "a transfer that the server does not give up as late", func() error {
		last = try()
		var status *jetsnap.StatusError
		if errors.As(last, &status) && status.Code == "408" || errors.Is(last, jetsnap.ErrAborted) || errors.Is(last, jsapi.ErrNoReply) {
			t.Logf("it is tried again: %v", last)
			return last
		}
		return nil
	})
	if last != nil {
		t.Fatal(last)
	}
}

// fill makes a stream of n messages of size bytes that hardly compress.
func fill(t *testing.T, nc *nats.Conn, config string, subject string, n, size int) {
	t.Helper()
	natstest.MakeStream(t, nc, config)
	r := rand.New(rand.NewSource(1))
	natstest.Publish(t, nc, n, func(i int) *nats.Msg {
		m := nats.NewMsg(subject)
		m.Header.Set("Number", fmt.Sprint(i))
		m.Data = make([]byte, size)
		r.Read(m.Data)
		return m
	})
}

const streamS = `{"name":"S","subjects":["s.>"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"discard":"old","storage":"file","num_replicas":1}`

// take drains a whole snapshot.
func take(t *testing.T, c *jetsnap.Client, stream string) (s *jetsnap.Snapshot, data []byte) {
	t.Helper()
	inTime(t, func() (err error) {
		if s, err = c.Snapshot(t.Context(), stream, jetsnap.SnapshotOptions{IdleTimeout: testenv.Hang}); err != nil {
			return err
		}
		defer s.Close()
		data, err = io.ReadAll(s)
		return err
	})
	return s, data
}

// begin begins a snapshot of stream S whose buffer is small, and reads the first
// MiB of it.
func begin(t *testing.T, c *jetsnap.Client, idle time.Duration) (*jetsnap.Snapshot, error) {
	t.Helper()
	s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10, IdleTimeout: idle})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := io.ReadFull(s, make([]byte, 1<<20)); err != nil {
		return nil, err
	}
	return s, nil
}

// expect returns an error that tells of err if that is not as wanted.
func expect(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	if err == nil {
		return fmt.Errorf("no error, want %v", want)
	}
	return fmt.Errorf("want %v, got %w", want, err)
}

// patient are the options of a restore that ends only for what the server says.
var patient = jetsnap.RestoreOptions{IdleTimeout: testenv.Hang, InstallTimeout: testenv.Hang}

// remove deletes a stream that may be there.
func remove(t *testing.T, c *natsconn.Conn, stream string) {
	t.Helper()
	testenv.Until(t, "the deletion of stream "+stream, func() error {
		err := c.API.DeleteStream(t.Context(), stream)
		if err == nil || errors.Is(err, jsapi.ErrStreamNotFound) {
			return nil
		}
		if !errors.Is(err, jsapi.ErrNoReply) {
			t.Fatal(err)
		}
		return err
	})
	gone(t, c, stream)
}

// gone waits until the server has no such stream.
func gone(t *testing.T, c *natsconn.Conn, stream string) {
	t.Helper()
	testenv.Until(t, "the end of stream "+stream, func() error {
		_, err := c.API.StreamInfo(t.Context(), stream, jsapi.InfoOptions{})
		return expect(err, jsapi.ErrStreamNotFound)
	})
}
