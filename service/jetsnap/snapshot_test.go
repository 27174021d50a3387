package jetsnap_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// big makes a stream S larger than the windows of all servers together.
func big(t *testing.T, conn *natsconn.Conn, config string) {
	t.Helper()
	fill(t, conn.NC, config, "s.a", 480, 64<<10)
}

// A reader that stops for longer than the server's patience gets the whole
// archive in the end, and the server does not flood it meanwhile.
func TestStalledReaderIsPaced(t *testing.T) {
	for _, tc := range []struct {
		version string
		most    int // bytes that may have come while nobody read
	}{
		{"2.10.29", 21 << 20}, // two windows of 8 MiB, MaxBuffered and the trickle
		{"2.14.5", 5 << 20},
		{natstest.Latest, 5 << 20},
	} {
		t.Run(tc.version, func(t *testing.T) {
			t.Parallel()
			c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, tc.version).URL()})
			big(t, conn, streamS)
			s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			time.Sleep(12 * time.Second)
			if n := s.Buffered(); n < 1<<20 || n > tc.most {
				t.Errorf("%d bytes wait for the reader", n)
			}
			n, err := io.Copy(io.Discard, s)
			if err != nil || n < 480*64<<10 {
				t.Fatalf("%d bytes, %v", n, err)
			}
		})
	}
}

func TestReaderThatNeverComes(t *testing.T) {
	c, conn := client(t, natsconn.Options{URL: natstest.Start(t).URL()})
	big(t, conn, streamS)
	s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10, HardLimit: 512 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	filled := false
	err = natstest.Eventually(2*time.Minute, func() error {
		n := s.Buffered()
		filled = filled || n > 0
		if !filled || n > 0 {
			return errors.New("still buffering")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, jetsnap.ErrStalled) {
		t.Fatalf("got %v", err)
	}
}

func TestSnapshotRefused(t *testing.T) {
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
// the first was cancelled, the server is free again soon.
func TestCancelFreesServer(t *testing.T) {
	for _, version := range []string{"2.6.1", "2.8.2", "2.9.25", "2.10.29", "2.12.6", "2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, version).URL()})
			big(t, conn, streamS)
			// Left to itself a server waits 5 s for acknowledgements. A machine may
			// be as slow as that, but not each time.
			d := time.Hour
			for try := 0; try < 5 && d > 3*time.Second; try++ {
				d = cancelled(t, c, version)
			}
			if d > 3*time.Second {
				t.Errorf("free after %s", d)
			}
		})
	}
}

// cancelled begins a snapshot of S, cancels it, and returns how long it is until
// another one comes through.
func cancelled(t *testing.T, c *jetsnap.Client, version string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	s, err := c.Snapshot(ctx, "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10, HardLimit: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if version != natstest.Latest && version != "2.6.1" {
		if _, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{}); !errors.Is(err, jetsnap.ErrInProgress) {
			t.Errorf("second snapshot: %v", err)
		}
	}
	reason := errors.New("enough")
	cancel(reason)
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, reason) {
		t.Errorf("cancelled snapshot: %v", err)
	}
	start := time.Now()
	err = natstest.Eventually(2*time.Minute, func() error {
		again, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{})
		if err != nil {
			if !errors.Is(err, jetsnap.ErrInProgress) {
				t.Fatal(err)
			}
			return err
		}
		defer again.Close()
		_, err = io.Copy(io.Discard, again)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

func TestServerKilled(t *testing.T) {
	srv := natstest.Start(t)
	c, conn := client(t, natsconn.Options{URL: srv.URL()})
	big(t, conn, streamS)
	s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.ReadFull(s, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, jetsnap.ErrConnectionLost) {
		t.Fatalf("got %v", err)
	}
}

// A server before 2.15 sends no end of the snapshot of a deleted stream.
func TestStreamDeleted(t *testing.T) {
	for _, version := range []string{"2.10.29", "2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, version).URL()})
			big(t, conn, streamS)
			s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := conn.API.DeleteStream(t.Context(), "S"); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			n, err := io.Copy(io.Discard, s)
			if version == natstest.Latest && err == nil && n < 1<<20 {
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
			if d := time.Since(start); d > time.Minute {
				t.Errorf("noticed after %s", d)
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
	for _, version := range []string{"2.10.29", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			srv := natstest.StartVersion(t, version, natstest.Config(noAck))
			_, all := client(t, natsconn.Options{URL: srv.URL(), User: "all", Password: "pw"})
			big(t, all, streamS)
			c, _ := client(t, natsconn.Options{URL: srv.URL(), User: "part", Password: "pw"})
			s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			start := time.Now()
			_, err = io.Copy(io.Discard, s)
			var denied *jsapi.PermissionError
			if !errors.As(err, &denied) || denied.Op != jsapi.OpPublish {
				t.Fatalf("got %v", err)
			}
			if want := "$JS.SNAPSHOT.ACK.S."; len(denied.Subject) < len(want) || denied.Subject[:len(want)] != want {
				t.Errorf("names %q", denied.Subject)
			}
			if d := time.Since(start); d > time.Minute {
				t.Errorf("noticed after %s", d)
			}
		})
	}
}
