package jetsnap_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// archived makes stream S on a new server, snapshots and deletes it.
func archived(t *testing.T, version string) (*natstest.Server, *jetsnap.Client, *natsconn.Conn, json.RawMessage, []byte) {
	t.Helper()
	srv := natstest.StartVersion(t, version)
	c, conn := client(t, natsconn.Options{URL: srv.URL()})
	big(t, conn, streamS)
	snap, data := take(t, c, "S", jetsnap.SnapshotOptions{})
	if err := conn.API.DeleteStream(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	return srv, c, conn, snap.Config, data
}

var restoreVersions = []string{"2.6.1", "2.10.29", "2.14.5", natstest.Latest}

// A restore that ends early leaves no stream of a V1 archive, at once, and the
// whole archive can be restored right after.
func TestRestoreCut(t *testing.T) {
	for _, version := range restoreVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			_, c, conn, config, data := archived(t, version)
			broken := errors.New("source broke")
			src := io.MultiReader(bytes.NewReader(data[:len(data)/2]), failing{broken})
			if _, err := c.Restore(t.Context(), "S", config, src, jetsnap.RestoreOptions{}); !errors.Is(err, broken) {
				t.Fatalf("got %v", err)
			}
			// An unexpected end that the source reports is no end of the archive.
			src = io.MultiReader(bytes.NewReader(data[:len(data)/2]), failing{io.ErrUnexpectedEOF})
			_, err := c.Restore(t.Context(), "S", config, src, jetsnap.RestoreOptions{})
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, jsapi.ErrStreamExists) {
				t.Fatalf("got %v", err)
			}
			if version == natstest.Latest {
				// What V2 archives leave behind is the caller's to delete.
				if err := conn.API.DeleteStream(t.Context(), "S"); err != nil && !errors.Is(err, jsapi.ErrStreamNotFound) {
					t.Fatal(err)
				}
			} else if _, err := conn.API.StreamInfo(t.Context(), "S", jsapi.InfoOptions{}); !errors.Is(err, jsapi.ErrStreamNotFound) {
				t.Fatalf("after the cut: %v", err)
			}
			whole(t, c, config, data)
		})
	}
}

// whole restores S, waiting while the server still clears up a broken attempt.
func whole(t *testing.T, c *jetsnap.Client, config json.RawMessage, data []byte) {
	t.Helper()
	var info *jsapi.StreamInfo
	err := natstest.Eventually(2*time.Minute, func() (err error) {
		info, err = c.Restore(t.Context(), "S", config, bytes.NewReader(data), jetsnap.RestoreOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Messages != 480 {
		t.Fatalf("%d messages", info.State.Messages)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Garbage is refused by an acknowledgement or at the end, with the server's
// words either way, and leaves nothing.
func TestRestoreGarbage(t *testing.T) {
	for _, version := range restoreVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, version).URL()})
			for _, size := range []int{100, 20 << 20} {
				junk := bytes.Repeat([]byte("no archive "), size/11)
				_, err := c.Restore(t.Context(), "S", json.RawMessage(streamS), bytes.NewReader(junk), jetsnap.RestoreOptions{})
				var api *jsapi.APIError
				if !errors.As(err, &api) || api.ErrCode == 0 {
					t.Errorf("%d bytes: %v", size, err)
				}
			}
			gone(t, conn, "S")
		})
	}
}

func TestRestoreRefused(t *testing.T) {
	_, c, conn, config, data := archived(t, "2.14.5")
	restore := func(ctx context.Context, stream string, config string, data []byte) error {
		_, err := c.Restore(ctx, stream, json.RawMessage(config), bytes.NewReader(data), jetsnap.RestoreOptions{})
		return err
	}
	if err := restore(t.Context(), "OTHER", string(config), data); !errors.Is(err, jsapi.ErrInvalidName) {
		t.Errorf("other name: %v", err)
	}
	if err := restore(t.Context(), "S", string(config), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("empty archive: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := restore(ctx, "S", string(config), data); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	natstest.MakeStream(t, conn.NC, streamS)
	if err := restore(t.Context(), "S", string(config), data); !errors.Is(err, jsapi.ErrStreamExists) {
		t.Errorf("existing stream: %v", err)
	}
}

const noChunks = `
accounts { A { jetstream: enabled
  users: [ {user: all, password: pw},
    {user: part, password: pw, permissions: {
      publish: ["$JS.API.>"], subscribe: ["_INBOX.>"] }},
    {user: none, password: pw, permissions: { publish: ["x"], subscribe: ["_INBOX.>"] }} ] } }
`

func TestRestoreForbidden(t *testing.T) {
	_, _, _, config, data := archived(t, "2.14.5")
	srv := natstest.StartVersion(t, "2.14.5", natstest.Config(noChunks))
	for user, prefix := range map[string]string{"part": "$JS.SNAPSHOT.RESTORE.S.", "none": "$JS.API.STREAM.RESTORE.S"} {
		c, _ := client(t, natsconn.Options{URL: srv.URL(), User: user, Password: "pw"})
		start := time.Now()
		_, err := c.Restore(t.Context(), "S", config, bytes.NewReader(data), jetsnap.RestoreOptions{})
		var denied *jsapi.PermissionError
		if !errors.As(err, &denied) || !strings.HasPrefix(denied.Subject, prefix) {
			t.Errorf("user %s: %v", user, err)
		}
		if d := time.Since(start); d > time.Minute {
			t.Errorf("user %s: noticed after %s", user, d)
		}
	}
}

// A source that is silent for longer than the server's patience does not end
// the restore.
func TestRestoreSlowSource(t *testing.T) {
	for _, version := range []string{"2.6.1", "2.10.29", "2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			_, c, conn, config, data := archived(t, version)
			r, w := io.Pipe()
			var wg sync.WaitGroup
			wg.Go(func() {
				half := len(data)/2 + 7
				if _, err := w.Write(data[:half]); err != nil {
					return
				}
				time.Sleep(7 * time.Second)
				if _, err := w.Write(data[half:]); err == nil {
					_ = w.Close()
				}
			})
			defer wg.Wait()
			info, err := c.Restore(t.Context(), "S", config, r, jetsnap.RestoreOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if info.State.Messages != 480 {
				t.Errorf("%d messages", info.State.Messages)
			}
			if _, n := natstest.Digest(t, conn.NC, "S"); n != 480 {
				t.Errorf("%d messages read back", n)
			}
		})
	}
}

// A cancelled restore ends at once, tells the writer of the pipe why, and makes
// the server drop what it got before its own patience ends.
func TestRestoreCancelled(t *testing.T) {
	for _, version := range restoreVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			_, c, conn, config, data := archived(t, version)
			ended, err := conn.NC.SubscribeSync("$JS.EVENT.ADVISORY.STREAM.RESTORE_COMPLETE.S")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("enough")
			r, w := io.Pipe()
			var wg sync.WaitGroup
			wg.Go(func() {
				_, _ = w.Write(data[:len(data)/2])
				cancel(reason)
				_, _ = w.Write(data[len(data)/2 : len(data)-1]) // what of it is read depends
			})
			_, err = c.Restore(ctx, "S", config, r, jetsnap.RestoreOptions{})
			if !errors.Is(err, reason) {
				t.Errorf("got %v", err)
			}
			wg.Wait()
			if _, err := w.Write(data[:1]); !errors.Is(err, reason) {
				t.Errorf("writer of the pipe got %v", err)
			}
			// A server that runs out of patience tells nobody.
			if _, err := ended.NextMsg(2 * time.Minute); err != nil {
				t.Errorf("the server did not end the restore: %v", err)
			}
			if version != natstest.Latest {
				whole(t, c, config, data)
			}
		})
	}
}

func TestRestoreServerKilled(t *testing.T) {
	srv, c, _, config, data := archived(t, natstest.Latest)
	killer := io.MultiReader(bytes.NewReader(data[:len(data)/2]), &hook{f: func() { srv.Kill() }}, bytes.NewReader(data[len(data)/2:]))
	_, err := c.Restore(t.Context(), "S", config, killer, jetsnap.RestoreOptions{})
	if !errors.Is(err, jetsnap.ErrConnectionLost) {
		t.Fatalf("got %v", err)
	}
}

// hook calls f when it is read, and is empty.
type hook struct{ f func() }

func (h *hook) Read([]byte) (int, error) {
	h.f()
	return 0, io.EOF
}
