package jetsnap_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// archived makes stream S on a new server, snapshots and deletes it.
func archived(t *testing.T, version string) (*natstest.Server, *jetsnap.Client, *natsconn.Conn, json.RawMessage, []byte) {
	t.Helper()
	srv := natstest.StartVersion(t, version)
	c, conn := client(t, natsconn.Options{URL: srv.URL()})
	big(t, conn, streamS)
	snap, data := take(t, c, "S")
	remove(t, conn, "S")
	return srv, c, conn, snap.Config, data
}

var restoreVersions = testenv.Some("2.6.1", "2.10.29", "2.14.5", natstest.Latest)

// A restore that ends early leaves no stream of a V1 archive, at once, and the
// whole archive can be restored right after.
func TestRestoreCut(t *testing.T) {
	t.Parallel()
	for _, version := range restoreVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			_, c, conn, config, data := archived(t, version)
			broken := errors.New("source broke")
			inTime(t, func() error {
				remove(t, conn, "S") // what a V2 archive left behind
				src := io.MultiReader(bytes.NewReader(data[:len(data)/2]), failing{broken})
				_, err := c.Restore(t.Context(), "S", config, src, patient)
				return expect(err, broken)
			})
			// An unexpected end that the source reports is no end of the archive.
			inTime(t, func() error {
				src := io.MultiReader(bytes.NewReader(data[:len(data)/2]), failing{io.ErrUnexpectedEOF})
				_, err := c.Restore(t.Context(), "S", config, src, patient)
				if errors.Is(err, jsapi.ErrStreamExists) {
					return nil
				}
				return expect(err, io.ErrUnexpectedEOF)
			})
			if version == natstest.Latest {
				remove(t, conn, "S") // what V2 archives leave behind is the caller's to delete
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
	testenv.Until(t, "a restore of all of it", func() (err error) {
		info, err = c.Restore(t.Context(), "S", config, bytes.NewReader(data), patient)
		return err
	})
	if info.State.Messages != 480 {
		t.Fatalf("%d messages", info.State.Messages)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Garbage is refused by an acknowledgement or at the end, with the server's
// words either way, and leaves nothing.
func TestRestoreGarbage(t *testing.T) {
	t.Parallel()
	for _, version := range restoreVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, conn := client(t, natsconn.Options{URL: natstest.StartVersion(t, version).URL()})
			for _, size := range []int{100, 20 << 20} {
				junk := bytes.Repeat([]byte("no archive "), size/11)
				inTime(t, func() error {
					_, err := c.Restore(t.Context(), "S", json.RawMessage(streamS), bytes.NewReader(junk), patient)
					var api *jsapi.APIError
					if errors.As(err, &api) && api.ErrCode != 0 {
						return nil
					}
					return fmt.Errorf("%d bytes: %w", size, err)
				})
			}
			gone(t, conn, "S")
		})
	}
}

func TestRestoreRefused(t *testing.T) {
	t.Parallel()
	_, c, conn, config, data := archived(t, "2.14.5")
	restore := func(ctx context.Context, stream string, config string, data []byte) error {
		_, err := c.Restore(ctx, stream, json.RawMessage(config), bytes.NewReader(data), patient)
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
	t.Parallel()
	_, _, _, config, data := archived(t, "2.14.5")
	srv := natstest.StartVersion(t, "2.14.5", natstest.Config(noChunks))
	for user, prefix := range map[string]string{"part": "$JS.SNAPSHOT.RESTORE.S.", "none": "$JS.API.STREAM.RESTORE.S"} {
		c, _ := client(t, natsconn.Options{URL: srv.URL(), User: user, Password: "pw"})
		_, err := c.Restore(t.Context(), "S", config, bytes.NewReader(data), patient) // else it would be that it is silent
		var denied *jsapi.PermissionError
		if !errors.As(err, &denied) || !strings.HasPrefix(denied.Subject, prefix) {
			t.Errorf("user %s: %v", user, err)
		}
	}
}

// A source that is silent for longer than the server's patience, which is 5 s, does
// not end the restore.
func TestRestoreSlowSource(t *testing.T) {
	t.Parallel()
	for _, version := range restoreVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv, c, conn, config, data := archived(t, version)
			watcher := srv.Connect()
			inTime(t, func() error {
				remove(t, conn, "S")
				// Four bytes are sent one at a time, each 1.5 s after what came before.
				single, over := make(chan struct{}, 1000), make(chan struct{})
				seen, err := watcher.Subscribe("$JS.SNAPSHOT.RESTORE.S.*", func(m *nats.Msg) {
					if len(m.Data) == 1 {
						single <- struct{}{}
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				defer seen.Unsubscribe()
				if err := watcher.Flush(); err != nil {
					t.Fatal(err)
				}
				half := len(data)/2 + 7
				waits := &hook{f: func() {
					for range 4 {
						select {
						case <-single:
						case <-over:
						case <-time.After(testenv.Hang):
							t.Error("the server was left without a byte")
							return
						}
					}
				}}
				src := io.MultiReader(bytes.NewReader(data[:half]), waits, bytes.NewReader(data[half:]))
				info, err := c.Restore(t.Context(), "S", config, src, patient)
				close(over)
				if err == nil && info.State.Messages != 480 {
					return fmt.Errorf("%d messages", info.State.Messages)
				}
				return err
			})
			if _, n := natstest.Digest(t, conn.NC, "S"); n != 480 {
				t.Errorf("%d messages read back", n)
			}
		})
	}
}

// A cancelled restore ends at once, tells the writer of the pipe why, and makes
// the server drop what it got before its own patience ends.
func TestRestoreCancelled(t *testing.T) {
	t.Parallel()
	for _, version := range restoreVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			_, c, conn, config, data := archived(t, version)
			ended, err := conn.NC.SubscribeSync("$JS.EVENT.ADVISORY.STREAM.RESTORE_COMPLETE.S")
			if err != nil {
				t.Fatal(err)
			}
			reason := errors.New("enough")
			inTime(t, func() error {
				remove(t, conn, "S") // what a V2 archive left behind
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				r, w := io.Pipe()
				var wg sync.WaitGroup
				wg.Go(func() {
					_, _ = w.Write(data[:len(data)/2])
					cancel(reason)
					_, _ = w.Write(data[len(data)/2 : len(data)-1]) // what of it is read depends
				})
				_, err := c.Restore(ctx, "S", config, r, patient)
				wg.Wait()
				if _, werr := w.Write(data[:1]); werr == nil || !errors.Is(err, werr) && !errors.Is(werr, reason) {
					t.Errorf("writer of the pipe got %v", werr)
				}
				return expect(err, reason)
			})
			// A server that runs out of patience tells nobody.
			if _, err := ended.NextMsg(testenv.Hang); err != nil {
				t.Errorf("the server did not end the restore: %v\n%s", err, testenv.Report())
			}
			if version != natstest.Latest {
				whole(t, c, config, data)
			}
		})
	}
}

func TestRestoreServerKilled(t *testing.T) {
	t.Parallel()
	srv, _, _, config, data := archived(t, natstest.Latest)
	inTime(t, func() error {
		c, conn := client(t, natsconn.Options{URL: srv.URL()})
		remove(t, conn, "S")
		killer := io.MultiReader(bytes.NewReader(data[:len(data)/2]), &hook{f: srv.Kill}, bytes.NewReader(data[len(data)/2:]))
		_, err := c.Restore(t.Context(), "S", config, killer, patient)
		srv.Restart()
		return expect(err, jetsnap.ErrConnectionLost)
	})
}

// hook calls f when it is read, and is empty.
type hook struct{ f func() }

func (h *hook) Read([]byte) (int, error) {
	h.f()
	return 0, io.EOF
}
