package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

// A collection keeps what a capture gives, for comparison.
type collection struct {
	records map[uint64]record.Record
	repairs int
	last    uint64
}

func collect() *collection { return &collection{records: map[uint64]record.Record{}} }

func (c *collection) Append(r *record.Record) error {
	if r.Sequence <= c.last {
		return fmt.Errorf("record %d appended after %d", r.Sequence, c.last)
	}
	c.last = r.Sequence
	return c.keep(r)
}

func (c *collection) AppendRepair(r *record.Record) error {
	if r.Sequence >= c.last {
		return fmt.Errorf("record %d given as a repair, the last one is %d", r.Sequence, c.last)
	}
	c.repairs++
	return c.keep(r)
}

func (c *collection) keep(r *record.Record) error {
	if _, twice := c.records[r.Sequence]; twice {
		return fmt.Errorf("record %d given twice", r.Sequence)
	}
	c.records[r.Sequence] = record.Record{
		Sequence: r.Sequence, Time: r.Time,
		Subject: bytes.Clone(r.Subject), Header: bytes.Clone(r.Header), Data: bytes.Clone(r.Data),
	}
	return nil
}

// live returns the records of the restore point in order.
func (c *collection) live(out *Outcome) []record.Record {
	list := make([]record.Record, 0, len(c.records))
	for seq, r := range c.records {
		if !out.Deleted.Contains(seq) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b record.Record) int {
		if a.Sequence < b.Sequence {
			return -1
		}
		return 1
	})
	return list
}

func dial(t *testing.T, url string) *natsconn.Conn {
	t.Helper()
	conn, err := natsconn.Dial(t.Context(), natsconn.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// checkAgainstInfo fails unless the captured records are exactly those that the
// outcome's own definition of the restore point names.
func checkAgainstInfo(t *testing.T, got []record.Record, out *Outcome) {
	t.Helper()
	want := alive(out.Info)
	for i := range got {
		if !want.Contains(got[i].Sequence) {
			t.Fatalf("message %d is captured and not part of the stream", got[i].Sequence)
		}
	}
	if uint64(len(got)) != want.Len() {
		t.Fatalf("%d messages captured of %d", len(got), want.Len())
	}
}

func request(t *testing.T, nc *nats.Conn, subject string, body any) {
	t.Helper()
	natstest.MustRequest(t, nc, subject, body, nil)
}

type object = map[string]any

// publish sends n messages of the given size whose content follows from their
// number, and waits until they are stored.
func publish(t *testing.T, nc *nats.Conn, subject string, n, size int) {
	t.Helper()
	natstest.Publish(t, nc, n, func(i int) *nats.Msg { return &nats.Msg{Subject: subject, Data: payload(i, size)} })
}

// payload does not compress, so that a server sends a snapshot in about as many
// bytes as the stream has, and can be held in the middle of it.
func payload(i, size int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	p := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(p)
	return p
}

// TestCaptureOfQuietStream compares the capture of a stream that nobody
// changes with what the server's API says, for every version.
func TestCaptureOfQuietStream(t *testing.T) {
	t.Parallel()
	for _, version := range append(natstest.Versions(), natstest.Latest) {
		for _, storage := range []string{"file", "memory"} {
			t.Run(version+"/"+storage, func(t *testing.T) {
				t.Parallel()
				srv := natstest.StartVersion(t, version)
				nc := srv.Connect()
				request(t, nc, "STREAM.CREATE.ORDERS", object{
					"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": storage,
					"retention": "limits", "discard": "old", "num_replicas": 1, "max_msgs": -1, "max_bytes": -1, "max_consumers": -1, "max_age": 0,
				})
				publish(t, nc, "orders.new", 3000, 300)
				m := nats.NewMsg("orders.header")
				m.Header.Set("Colour", "blue")
				m.Data = []byte("with a header")
				if err := nc.PublishMsg(m); err != nil {
					t.Fatal(err)
				}
				publish(t, nc, "orders.new", 50, 10)
				for _, seq := range []int{1, 2, 700, 701, 3050, 3051} {
					request(t, nc, "STREAM.MSG.DELETE.ORDERS", object{"seq": seq, "no_erase": seq%2 == 0})
				}
				request(t, nc, "CONSUMER.DURABLE.CREATE.ORDERS.worker", object{
					"stream_name": "ORDERS", "config": object{"durable_name": "worker", "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant", "ack_wait": 30e9, "max_deliver": -1},
				})
				got := collect()
				out, err := Capture(t.Context(), OfConn(dial(t, srv.URL())), "ORDERS", got, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if d := natstest.Diff(natstest.Records(t, nc, "ORDERS"), got.live(out)); d != "" {
					t.Fatal(d)
				}
				if len(out.Consumers) != 1 || out.Consumers[0].Name != "worker" {
					t.Fatalf("consumers: %+v", out.Consumers)
				}
				if want := engineFor(version, storage); out.Engine != want {
					t.Errorf("engine is %s, want %s", out.Engine, want)
				}
				if len(out.Notes) > 0 {
					t.Errorf("notes of an undisturbed capture: %q", out.Notes)
				}
			})
		}
	}
}

func engineFor(version, storage string) string {
	switch {
	case version == natstest.Latest:
		return EngineSnapshotV2
	case storage == "memory":
		return EngineMessages
	}
	return EngineSnapshotV1
}

// TestCaptureOfBusyBucket captures a bucket while its keys are updated and
// deleted. Every key must have the value that it had at one moment: that at the
// outcome's last sequence. A snapshot alone loses keys here.
func TestCaptureOfBusyBucket(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.10.29", "2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			nc := srv.Connect()
			request(t, nc, "STREAM.CREATE.KV_BUSY", object{
				"name": "KV_BUSY", "subjects": []string{"$KV.BUSY.>"}, "storage": "file", "max_msgs_per_subject": 1,
				"discard": "new", "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true, "retention": "limits",
			})
			const keys, ahead = 8000, 500
			bucket := &writer{nc: srv.Connect(), keys: keys, ready: make(chan struct{})}
			natstest.Publish(t, nc, keys, func(i int) *nats.Msg { return bucket.next(i) })
			stop := bucket.run(t, ahead)
			// So many updates come after the snapshot began, and others meanwhile.
			m := &meddler{Target: OfConn(dial(t, srv.URL())), window: 64 << 10, during: func() {
				testenv.Receive(t, "updates during the capture", bucket.ready)
			}}
			got := collect()
			out, err := Capture(t.Context(), m, "KV_BUSY", got, Options{})
			stop()
			if err != nil {
				t.Fatal(err)
			}
			checkAgainstInfo(t, got.live(out), out)
			updates := bucket.check(t, got.live(out), out.Info.State.LastSeq)
			t.Logf("%d updates up to the moment, %d later, %d records captured, %d of them dead; notes %q",
				updates, len(bucket.log)-updates, len(got.records), out.Deleted.Len(), out.Notes)
			if updates < keys+ahead {
				t.Error("nothing was updated during the capture: the test shows nothing")
			}
		})
	}
}

// A writer updates the keys of a bucket and remembers the sequence of each
// update.
type writer struct {
	nc    *nats.Conn
	keys  int
	log   []int         // key of each sequence, from 1 on
	ready chan struct{} // closed once there are enough updates
}

// next makes an update of a key.
func (w *writer) next(key int) *nats.Msg {
	m := &nats.Msg{Subject: fmt.Sprintf("$KV.BUSY.k%d", key), Data: payload(len(w.log), 1000)}
	w.log = append(w.log, key)
	return m
}

// run updates each key once more, until it is stopped, and says so when that are
// enough. No key is updated again: else a capture that the machine slows down
// could find each of its rounds overtaken.
func (w *writer) run(t *testing.T, enough int) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; i < w.keys && ctx.Err() == nil; i++ {
			if _, err := w.nc.RequestMsg(w.next(i*7919%w.keys), testenv.Hang); err != nil {
				t.Error(err)
				return
			}
			if i+1 == enough {
				close(w.ready)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// check compares the captured values with the newest of each key up to the
// given sequence, and returns how many updates that is.
func (w *writer) check(t *testing.T, got []record.Record, last uint64) int {
	t.Helper()
	newest := map[string]uint64{}
	for i, key := range w.log[:last] {
		newest[fmt.Sprintf("$KV.BUSY.k%d", key)] = uint64(i + 1)
	}
	for _, r := range got {
		if newest[string(r.Subject)] != r.Sequence {
			t.Fatalf("%s is captured at revision %d and was at %d", r.Subject, r.Sequence, newest[string(r.Subject)])
		}
		delete(newest, string(r.Subject))
	}
	for key, seq := range newest {
		t.Fatalf("%d keys are missing, among them %s at revision %d", len(newest), key, seq)
	}
	return int(last)
}

// TestCaptureOfRollingStream captures streams whose oldest blocks a limit
// removes meanwhile. Servers of 2.10 to 2.14 then leave out a block that lives
// and report success; TestCaptureOfArchiveWithoutBlock has it for certain.
func TestCaptureOfRollingStream(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.10.29", "2.11.12", "2.12.6", "2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			nc := srv.Connect()
			request(t, nc, "STREAM.CREATE.ROLL", object{
				"name": "ROLL", "subjects": []string{"roll"}, "storage": "file", "max_msgs": 5000, "max_bytes": -1, "retention": "limits", "discard": "old",
			})
			publish(t, nc, "roll", 5000, 8000)
			// The server is held at the first blocks while two go away.
			m := &meddler{Target: OfConn(dial(t, srv.URL())), window: 64 << 10, during: func() {
				publish(t, nc, "roll", 2500, 8000)
			}}
			got := collect()
			out, err := Capture(t.Context(), m, "ROLL", got, Options{})
			if err != nil {
				t.Fatal(err)
			}
			checkAgainstInfo(t, got.live(out), out)
			t.Logf("notes %q", out.Notes)
		})
	}
}
