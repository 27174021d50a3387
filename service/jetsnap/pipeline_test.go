package jetsnap_test

import (
	"bytes"
	"encoding/json"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
)

// Many chunks are under way at a time, as many as the window holds and no more: the
// server acknowledges nothing of them until the sender waits for it. What shows that it
// does is the single byte that it sends then, after some seconds without a word.
func TestRestoreIsPipelined(t *testing.T) {
	t.Parallel()
	const (
		chunk  = 256 << 10
		window = 4 << 20
	)
	c, _, nc := responder(t)
	serve(t, nc, "$JS.API.STREAM.RESTORE.S", func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"deliver_subject":"$JS.SNAPSHOT.RESTORE.S.abc"}`))
	})
	serve(t, nc, "$JS.API.INFO", func(m *nats.Msg) { _ = m.Respond([]byte(`{}`)) })
	ahead := 0 // bytes that are not acknowledged, but for single ones
	var held []*nats.Msg
	var waited atomic.Bool // by the sender, for acknowledgements
	first := true
	serve(t, nc, "$JS.SNAPSHOT.RESTORE.S.abc", func(m *nats.Msg) {
		switch {
		case len(m.Data) == 0:
			if !waited.Load() {
				t.Errorf("all was sent, of which the server acknowledged nothing")
			}
			_ = m.Respond([]byte(`{"config":{"name":"S"},"state":{"messages":7}}`))
		case first, waited.Load(): // nothing follows the first one before it has arrived
			first = false
			_ = m.Respond(nil)
		default:
			held = append(held, m)
			if len(m.Data) > 1 {
				ahead += len(m.Data)
				return
			}
			if ahead <= window-chunk {
				return // it waited for its source
			}
			if waited.Store(true); ahead > window {
				t.Errorf("%d bytes were under way", ahead)
			}
			for _, m := range held {
				_ = m.Respond(nil)
			}
		}
	})
	o := patient
	o.ChunkSize, o.InFlight = chunk, window
	o.Progress = func(sent, acked uint64) {
		if sent-acked > window+1000 { // there are that few single bytes
			t.Errorf("%d bytes are under way", sent-acked)
		}
	}
	if _, err := c.Restore(t.Context(), "S", json.RawMessage(`{"name":"S"}`), bytes.NewReader(make([]byte, 3*window)), o); err != nil {
		t.Fatal(err)
	}
	if !waited.Load() {
		t.Error("the sender never waited for the server")
	}
}
