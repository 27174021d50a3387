package jetsnap_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// Every server's snapshot comes through whole, and what it sent restores.
func TestVersions(t *testing.T) {
	t.Parallel()
	for _, version := range append(natstest.Versions(), natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			c, conn := client(t, natsconn.Options{URL: srv.URL()})
			fill(t, conn.NC, streamS, "s.a", 12000, 1024)
			natstest.Delete(t, conn.NC, "S", 1, 5, 12000)
			want, count := natstest.Digest(t, conn.NC, "S")

			snap, data := take(t, c, "S")
			if len(data) < 12_000_000 {
				t.Fatalf("only %d bytes", len(data))
			}
			var state struct{ Messages uint64 }
			if err := json.Unmarshal(snap.State, &state); err != nil || state.Messages != count {
				t.Fatalf("state %s: %v", snap.State, err)
			}
			var sent, acked uint64
			var info *jsapi.StreamInfo
			inTime(t, func() (err error) {
				remove(t, conn, "S")
				o := patient
				o.ChunkSize = 256 << 10
				o.Progress = func(s, a uint64) { sent, acked = s, a }
				info, err = c.Restore(t.Context(), "S", snap.Config, bytes.NewReader(data), o)
				return err
			})
			if info.State.Messages != count || info.Name() != "S" {
				t.Fatalf("restored %s", info.Raw)
			}
			if sent != uint64(len(data)) || acked != sent {
				t.Fatalf("progress says %d sent, %d acknowledged of %d", sent, acked, len(data))
			}
			if got, _ := natstest.Digest(t, conn.NC, "S"); got != want {
				t.Fatal("restored stream differs")
			}
		})
	}
}
