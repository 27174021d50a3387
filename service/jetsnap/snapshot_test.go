package jetsnap_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// big makes a stream S larger than the windows of all servers together.
func big(t *testing.T, conn *natsconn.Conn, config string) {
	t.Helper()
	fill(t, conn.NC, config, "s.a", 480, 64<<10)
}

// paced is what a server sends while the reader stalls.
type paced struct {
	version string
	window  int // bytes that come ahead of acknowledgements
}

// A reader that stops for longer than the server's patience gets the whole
// archive in the end, and the server does not flood it meanwhile.
func TestStalledReaderIsPaced(t *testing.T) {
	t.Parallel()
	const (
		patience = 5 * time.Second // of every server; later than that is no fault
		buffer   = 1 << 20
	)
	for _, tc := range testenv.Some([]paced{
		{"2.10.29", 2 * 8 << 20}, // two windows that the server has by itself
		{"2.14.5", buffer},
		{natstest.Latest, buffer},
	}...) {
		t.Run(tc.version, func(t *testing.T) {
			t.Parallel()
			c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, tc.version).URL()})
			big(t, conn, streamS)
			inTime(t, func() error {
				begun := time.Now()
				s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: buffer, IdleTimeout: testenv.Hang})
				if err != nil {
					return err
				}
				defer s.Close()
				n := 0
				testenv.True(t, "a full buffer, for longer than the server waits", func() bool {
					over, _ := s.Over()
					n = s.Buffered()
					return over || n >= buffer && time.Since(begun) > patience+2*time.Second
				})
				// Each acknowledgement lets one more chunk come.
				trickle := int(time.Since(begun)/jetsnap.PaceInterval+1) * jetsnap.DefaultChunkSize
				if most := buffer + tc.window + trickle; n > most {
					return fmt.Errorf("%d bytes wait for the reader, more than %d", n, most)
				}
				all, err := io.Copy(io.Discard, s)
				if err == nil && all < 480*64<<10 {
					return fmt.Errorf("%d bytes", all)
				}
				return err
			})
		})
	}
}

func TestReaderThatNeverComes(t *testing.T) {
	t.Parallel()
	c, conn := client(t, natsconn.Options{URL: natstest.Start(t).URL()})
	big(t, conn, streamS)
	inTime(t, func() error {
		s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10, HardLimit: 512 << 10, IdleTimeout: testenv.Hang})
		if err != nil {
			return err
		}
		defer s.Close()
		testenv.True(t, "the end of a snapshot that nobody reads", func() bool { over, _ := s.Over(); return over })
		_, err = io.Copy(io.Discard, s)
		return expect(err, jetsnap.ErrStalled)
	})
}

func TestSnapshotRefused(t *testing.T) {
	t.Parallel()
	c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, "2.14.5").URL()})
	natstest.MakeStream(t, conn.NC, `{"name":"M","subjects":["m"],"storage":"memory"}`)
	for stream, want := range map[string]error{
		"NONE": jsapi.ErrStreamNotFound,
		"M":    jsapi.ErrNoSnapshot,
		"a.b":  jsapi.ErrInvalidName,
		"":     jsapi.ErrInvalidName,
	} {
		if _, err := c.Snapshot(t.Context(), stream, jetsnap.SnapshotOptions{}); !errors.Is(err, want) {
			t.Errorf("stream %q: %v", stream, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Snapshot(ctx, "M", jetsnap.SnapshotOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// While a snapshot runs on a server before 2.15 another one is refused; after
// the first was cancelled, the server is free again sooner than it is if it is left to
// itself. The machine may be slower than that, but then it is not the next time.
func TestCancelFreesServer(t *testing.T) {
	t.Parallel()
	for _, version := range append(natstest.Versions(), natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, version).URL()})
			big(t, conn, streamS)
			left := 5 * time.Second // how long the server waits for acknowledgements
			if strings.HasPrefix(version, "2.10.") || strings.HasPrefix(version, "2.11.") {
				left = 2 * time.Second
			}
			testenv.Until(t, "an end that the cancellation made", func() error {
				d, err := cancelled(t, c, version)
				if err == nil && d > left*3/5 {
					err = fmt.Errorf("free after %s", d)
				}
				return err
			})
		})
	}
}

// cancelled begins a snapshot of S, cancels it, and returns how long it is until
// another one comes through.
func cancelled(t *testing.T, c *jetsnap.Client, version string) (time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	s, err := c.Snapshot(ctx, "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10, HardLimit: 64 << 20, IdleTimeout: testenv.Hang})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if version != natstest.Latest && version != "2.6.1" {
		second, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{IdleTimeout: testenv.Hang})
		if err == nil {
			second.Close()
			if over, why := s.Over(); over {
				return 0, why // too early, for the server gave the first one up
			}
		}
		if !errors.Is(err, jetsnap.ErrInProgress) {
			t.Errorf("second snapshot: %v", err)
		}
	}
	reason := errors.New("enough")
	cancel(reason)
	start := time.Now()
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, reason) {
		return 0, expect(err, reason)
	}
	var free time.Duration
	testenv.Until(t, "another snapshot", func() error {
		again, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{IdleTimeout: testenv.Hang})
		if err != nil {
			if !errors.Is(err, jetsnap.ErrInProgress) {
				t.Fatal(err)
			}
			return err
		}
		defer again.Close()
		free = time.Since(start)
		_, err = io.Copy(io.Discard, again)
		return err
	})
	return free, nil
}

func TestServerKilled(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	_, conn := client(t, natsconn.Options{URL: srv.URL()})
	big(t, conn, streamS)
	inTime(t, func() error {
		c, _ := client(t, natsconn.Options{URL: srv.URL()})
		s, err := begin(t, c, testenv.Hang)
		if err != nil {
			return err
		}
		srv.Kill()
		_, err = io.Copy(io.Discard, s)
		srv.Start()
		return expect(err, jetsnap.ErrConnectionLost)
	})
}

// A server before 2.15 sends no end of the snapshot of a deleted stream.
func TestStreamDeleted(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.10.29", "2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, version).URL()})
			big(t, conn, streamS)
			// That it is silent would be noticed far too late.
			s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10, IdleTimeout: testenv.Hang})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := conn.API.DeleteStream(t.Context(), "S"); err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, s)
			if version == natstest.Latest && err == nil && n < 480*64<<10 {
				// 2.15 ends it as a success that lacks the rest. That the
				// stream is gone is all there is to see.
				_, err = conn.API.StreamInfo(t.Context(), "S", jsapi.InfoOptions{})
			}
			if err == nil {
				t.Fatalf("%d bytes and no error", n)
			}
			var status *jetsnap.StatusError
			if !errors.Is(err, jsapi.ErrStreamNotFound) && !errors.As(err, &status) {
				t.Errorf("got %v", err)
			}
		})
	}
}

const noAck = `
accounts { A { jetstream: enabled
  users: [ {user: all, password: pw},
    {user: part, password: pw, permissions: {
      publish: ["$JS.API.>"], subscribe: ["_INBOX.>"] }} ] } }
`

// Without permission to acknowledge, a small stream comes through and a large
// one fails with the name of what is missing.
func TestAckForbidden(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.10.29", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version, natstest.Config(noAck))
			_, all := client(t, natsconn.Options{URL: srv.URL(), User: "all", Password: "pw"})
			big(t, all, streamS)
			c, _ := client(t, natsconn.Options{URL: srv.URL(), User: "part", Password: "pw"})
			var denied *jsapi.PermissionError
			inTime(t, func() error {
				s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{IdleTimeout: testenv.Hang})
				if err != nil {
					return err
				}
				defer s.Close()
				if _, err = io.Copy(io.Discard, s); err == nil {
					return errors.New("it came through")
				}
				if errors.As(err, &denied) && denied.Op == jsapi.OpPublish {
					return nil
				}
				return err
			})
			if want := "$JS.SNAPSHOT.ACK.S."; len(denied.Subject) < len(want) || denied.Subject[:len(want)] != want {
				t.Errorf("names %q", denied.Subject)
			}
		})
	}
}
