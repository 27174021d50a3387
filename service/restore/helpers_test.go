package restore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// kept holds restore points in memory. What it keeps comes from the server's
// messages one by one and from its snapshot's consumers.
type kept struct {
	mu        sync.Mutex
	records   map[string][]record.Record
	consumers map[string][]archive.Consumer
	// cut ends a reader with an error after so many messages.
	cut map[string]int
	// hook is called before each message is read.
	hook   func(n int)
	locked bool
}

func (k *kept) Readable() bool { return !k.locked }

func newKept() *kept {
	return &kept{records: map[string][]record.Record{}, consumers: map[string][]archive.Consumer{}, cut: map[string]int{}}
}

var errCut = errors.New("restore point is damaged")

type keptReader struct {
	k       *kept
	id      string
	records []record.Record
	n       int
}

func (r *keptReader) Next() (*record.Record, error) {
	if r.k.hook != nil {
		r.k.hook(r.n)
	}
	if cut, ok := r.k.cut[r.id]; ok && r.n == cut {
		return nil, errCut
	}
	if r.n == len(r.records) {
		return nil, io.EOF
	}
	r.n++
	return &r.records[r.n-1], nil
}

func (r *keptReader) LiveSum() record.Sum { return natstest.Sum(r.records[:r.n]) }
func (r *keptReader) Close()              {}

func (k *kept) Open(_ context.Context, p store.Point) (Records, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &keptReader{k: k, id: p.ID, records: k.records[p.ID]}, nil
}

func (k *kept) Consumers(_ context.Context, p store.Point) ([]archive.Consumer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.consumers[p.ID]), nil
}

// put keeps a stream's records as a restore point.
func (k *kept) put(p store.Point, records []record.Record, consumers []archive.Consumer) store.Point {
	k.mu.Lock()
	defer k.mu.Unlock()
	p.ID = fmt.Sprintf("20260101T000000Z-aaaaaaaa.%04d", len(k.records))
	k.records[p.ID], k.consumers[p.ID] = records, consumers
	p.Content.Messages = uint64(len(records))
	p.Content.Digest = natstest.Sum(records).String()
	if n := len(records); n > 0 {
		p.Content.FirstSeq, p.Content.LastSeq = records[0].Sequence, records[n-1].Sequence
	}
	return p
}

type consumerVisitor struct{ consumers []archive.Consumer }

func (*consumerVisitor) Record(*record.Record) error { return nil }
func (*consumerVisitor) Tombstone(uint64) error      { return nil }
func (v *consumerVisitor) Consumer(c archive.Consumer) error {
	v.consumers = append(v.consumers, c)
	return nil
}

// capture makes a restore point of a stream.
func (k *kept) capture(t testing.TB, conn *natsconn.Conn, stream string) store.Point {
	t.Helper()
	info := natstest.Info(t, conn.NC, stream)
	p := store.Point{
		Stream: stream, Created: info.Created, Time: time.Now(), Config: info.Config,
		Server: conn.NC.ConnectedServerVersion(),
	}
	p.State.Messages, p.State.Bytes = info.State.Messages, info.State.Bytes
	p.State.FirstSeq, p.State.LastSeq = info.State.FirstSeq, info.State.LastSeq
	p.State.FirstTime, p.State.LastTime = info.State.FirstTime, info.State.LastTime
	var consumers []archive.Consumer
	if info.State.Consumers > 0 || len(natstest.Consumers(t, conn.NC, stream)) > 0 {
		consumers = snapshotConsumers(t, conn, stream)
	}
	return k.put(p, natstest.Records(t, conn.NC, stream), consumers)
}

// snapshotConsumers returns a stream's consumers as a snapshot has them. In a cluster
// the server that makes it may learn of a consumer later than the one that leads the
// consumer.
func snapshotConsumers(t testing.TB, conn *natsconn.Conn, stream string) []archive.Consumer {
	t.Helper()
	var v consumerVisitor
	testenv.Until(t, "the consumers of "+stream+" in a snapshot", func() error {
		v = consumerVisitor{}
		s, err := jetsnap.New(conn.API).Snapshot(t.Context(), stream, jetsnap.SnapshotOptions{})
		if err != nil {
			return err
		}
		defer s.Close()
		if _, err := archive.Read(s, stream, &v); err != nil {
			return err
		}
		if listed := natstest.Consumers(t, conn.NC, stream); len(listed) == 0 || len(v.consumers) < len(listed) {
			return fmt.Errorf("it has %d, %d are listed", len(v.consumers), len(listed))
		}
		return nil
	})
	return v.consumers
}

func dial(t testing.TB, url string) *natsconn.Conn {
	t.Helper()
	c, err := natsconn.Dial(t.Context(), natsconn.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func create(t testing.TB, nc *nats.Conn, config string) {
	t.Helper()
	var c struct{ Name string }
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "stream "+c.Name+" to be made", func() error { return natstest.Request(nc, "STREAM.CREATE."+c.Name, config, nil) })
}

func consumer(t testing.TB, nc *nats.Conn, stream, config string) {
	t.Helper()
	var c struct {
		Durable string `json:"durable_name"`
	}
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	natstest.MustRequest(t, nc, "CONSUMER.DURABLE.CREATE."+stream+"."+c.Durable,
		fmt.Sprintf(`{"stream_name":%q,"config":%s}`, stream, config), nil)
}

// patience is how long a server that changes its leader is given before it is
// asked again.
const patience = 30 * time.Second

// request sends a message to a stream. That of a cluster has not always a leader:
// a message that nobody answered is sent again unless it was stored.
func request(t testing.TB, nc *nats.Conn, m *nats.Msg) *nats.Msg {
	t.Helper()
	var r *nats.Msg
	testenv.Until(t, "a message to "+m.Subject+" to be stored", func() (err error) {
		if r, err = nc.RequestMsg(m, patience); errors.Is(err, nats.ErrTimeout) && isStored(nc, m) {
			r, err = &nats.Msg{Data: []byte(`{}`)}, nil
		}
		return err
	})
	return r
}

// isStored says whether the newest message of the subject has the content of m.
func isStored(nc *nats.Conn, m *nats.Msg) bool {
	var page struct {
		Streams []string `json:"streams"`
	}
	if natstest.Request(nc, "STREAM.NAMES", map[string]string{"subject": m.Subject}, &page) != nil || len(page.Streams) != 1 {
		return false
	}
	var last struct {
		Message struct {
			Data []byte `json:"data"`
		} `json:"message"`
	}
	err := natstest.Request(nc, "STREAM.MSG.GET."+page.Streams[0], map[string]string{"last_by_subj": m.Subject}, &last)
	return err == nil && len(m.Data) > 0 && bytes.Equal(last.Message.Data, m.Data)
}

// publish sends n messages, waits until the last is stored and returns its data.
func publish(t testing.TB, nc *nats.Conn, subject string, n int) (last []byte) {
	t.Helper()
	for i := range n {
		m := nats.NewMsg(subject)
		m.Data = fmt.Appendf(nil, "%s %d %d", subject, i, time.Now().UnixNano())
		m.Header.Set("Number", fmt.Sprint(i))
		r := request(t, nc, m)
		if err := jsapi.ReplyError(r.Data); err != nil {
			t.Fatalf("publish to %s: %v", subject, err)
		}
		last = m.Data
	}
	return last
}

// pull fetches n messages for a consumer and acknowledges those for which ack
// returns true.
func pull(t testing.TB, nc *nats.Conn, stream, durable string, n int, ack func(i int) bool) {
	t.Helper()
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var first *nats.Msg
	// A cluster's consumer has no leader at once. A request that one may have taken
	// in ends before the next is made.
	body := fmt.Appendf(nil, `{"batch":%d,"expires":%d}`, n, patience/2)
	testenv.Until(t, "messages for consumer "+durable, func() (err error) {
		if err := nc.PublishRequest(fmt.Sprintf("$JS.API.CONSUMER.MSG.NEXT.%s.%s", stream, durable), inbox, body); err != nil {
			return err
		}
		if first, err = sub.NextMsg(patience); err == nil && first.Header.Get("Status") != "" {
			return fmt.Errorf("status %v", first.Header)
		}
		return err
	})
	for i := range n {
		m := first
		if i > 0 {
			if m, err = sub.NextMsg(testenv.Hang); err != nil {
				t.Fatal(err)
			}
		}
		if ack(i) {
			if err := m.Respond([]byte("+ACK")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func drop(t testing.TB, nc *nats.Conn, streams ...string) {
	t.Helper()
	for _, s := range streams {
		natstest.MustRequest(t, nc, "STREAM.DELETE."+s, nil, nil)
	}
}

// execute restores a point on a connection of its own.
func execute(t testing.TB, url string, k *kept, p store.Point, change ...func(*Job)) (Result, error) {
	t.Helper()
	j := Job{Conn: dial(t, url), Repo: k, Point: p, patience: testenv.Hang}
	for _, c := range change {
		c(&j)
	}
	r, err := Execute(t.Context(), j)
	j.Conn.Close()
	return r, err
}

func mustExecute(t testing.TB, url string, k *kept, p store.Point, change ...func(*Job)) Result {
	t.Helper()
	r, err := execute(t, url, k, p, change...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantRecords fails unless the stream holds exactly what was kept.
func wantRecords(t testing.TB, nc *nats.Conn, stream string, want []record.Record) {
	t.Helper()
	if d := natstest.Diff(want, natstest.Records(t, nc, stream)); d != "" {
		t.Errorf("stream %s:\n%s", stream, d)
	}
}

func hasFinding(list []Finding, code string) bool {
	for _, f := range list {
		if f.Code == code {
			return true
		}
	}
	return false
}

// awaitRestores waits until the server has ended, in whatever way, every restore
// that it began.
func awaitRestores(t testing.TB, s *natstest.Server) {
	t.Helper()
	testenv.Until(t, "the server to end its restores", func() error {
		log := s.Log()
		ended := strings.Count(log, "Restore failed for") + strings.Count(log, "Completed restore of")
		if begun := strings.Count(log, "Starting restore for stream"); ended != begun {
			return fmt.Errorf("%d of %d have ended", ended, begun)
		}
		return nil
	})
}
