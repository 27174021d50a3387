package jetsnap_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jetsnap"
	"jetkeep/service/natsconn"
	"jetkeep/store/testenv"
)

// TestLateListener restores to a server whose subscription is known only a while
// after its answer, as in a cluster: each chunk must arrive, once and in order.
func TestLateListener(t *testing.T) {
	t.Parallel()
	data := make([]byte, 5000)
	for i := range data {
		data[i] = byte(i)
	}
	for name, sent := range map[string]struct {
		slow  bool // the source has no more until the first chunk arrived
		chunk int
	}{"small chunks": {false, 300}, "a slow source": {true, 300}, "one chunk": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, conn, nc := responder(t)
			tries := 0
			inTime(t, func() error {
				tries++
				l := &lateListener{
					conn: conn, nc: nc, stream: fmt.Sprint("S", tries),
					looks: make(chan struct{}), arrived: make(chan struct{}), over: make(chan struct{}),
				}
				return l.restore(t, c, data, sent.slow, sent.chunk)
			})
		})
	}
}

// A lateListener is a server that takes in one restore, and listens to its chunks
// only when the sender was told that nobody does.
type lateListener struct {
	conn    *natsconn.Conn // of the sender
	nc      *nats.Conn
	stream  string
	looks   chan struct{} // of the sender, at what has become of the restore
	arrived chan struct{}
	over    chan struct{}
	got     []byte
	wg      sync.WaitGroup
}

func (l *lateListener) restore(t *testing.T, c *jetsnap.Client, data []byte, slow bool, chunk int) error {
	t.Helper()
	answered := make(chan uint64, 1)
	api, err := l.nc.Subscribe("$JS.API.STREAM.RESTORE."+l.stream, func(m *nats.Msg) {
		answered <- l.conn.NC.Stats().InMsgs
		_ = m.Respond([]byte(`{"deliver_subject":"$JS.SNAPSHOT.RESTORE.` + l.stream + `.abc"}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Unsubscribe()
	if err := l.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	source := io.Reader(bytes.NewReader(data))
	if slow {
		source = io.MultiReader(bytes.NewReader(data[:300]), &hook{func() { l.either(l.arrived) }}, bytes.NewReader(data[300:]))
	}
	result := make(chan error, 1)
	l.wg.Go(func() {
		defer close(l.over)
		o := patient
		o.ChunkSize = chunk
		o.Progress = func(uint64, uint64) {
			select {
			case l.looks <- struct{}{}:
			default:
			}
		}
		_, err := c.Restore(t.Context(), l.stream, json.RawMessage(`{"name":"`+l.stream+`"}`), source, o)
		result <- err
	})
	defer l.wg.Wait()
	before := testenv.Receive(t, "the request", answered)
	testenv.True(t, "the news that nobody listens", func() bool {
		return l.conn.NC.Stats().InMsgs >= before+2 || len(result) > 0 // the answer, and the news
	})
	sub, err := l.nc.Subscribe("$JS.SNAPSHOT.RESTORE."+l.stream+".abc", l.take)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := testenv.Receive(t, "the end of the restore", result); err != nil {
		return err
	}
	if !bytes.Equal(l.got, data) {
		return fmt.Errorf("%d bytes of %d arrived, or other ones", len(l.got), len(data))
	}
	return nil
}

// either waits for an event or the end of the restore.
func (l *lateListener) either(event chan struct{}) {
	select {
	case <-event:
	case <-l.over:
	}
}

// take takes a chunk, the first one only after the sender had the occasion to send
// it again, which it must not.
func (l *lateListener) take(m *nats.Msg) {
	if len(l.got) == 0 {
		close(l.arrived)
		for range 5 {
			l.either(l.looks)
		}
	}
	l.got = append(l.got, m.Data...)
	if len(m.Data) > 0 {
		_ = m.Respond(nil)
		return
	}
	_ = m.Respond([]byte(`{"config":{"name":"` + l.stream + `"},"state":{"messages":7}}`))
}
