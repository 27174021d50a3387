package archive_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// goldenVersions are the versions of the golden archives, oldest first: all of
// them are read with every change.
var goldenVersions = []string{"2.6.1", "2.8.2", "2.9.25", "2.10.29", "2.11.12", "2.12.6", "2.14.5", newestGolden}

// newestGolden is the one of format V2.
const newestGolden = "2.15.2"

// versions are the servers that the tests run against, oldest first.
func versions() []string { return append(natstest.Versions(), natstest.Latest) }

// from tells whether a version is at least 2.minor.
func from(version string, minor int) bool {
	var n int
	if _, err := fmt.Sscanf(version, "2.%d.", &n); err != nil {
		panic(err)
	}
	return n >= minor
}

// A testServer is one real server on loopback, with a connection.
type testServer struct {
	*natstest.Server
	t       testing.TB
	version string
	nc      *nats.Conn
}

func startServer(t testing.TB, version string, o ...natstest.Option) *testServer {
	t.Helper()
	s := &testServer{t: t, version: version, Server: natstest.StartVersion(t, version, o...)}
	s.nc = s.Connect()
	return s
}

func (s *testServer) restart() {
	s.t.Helper()
	s.nc.Close()
	s.Restart()
	s.nc = s.Connect()
}

// try makes one request of the JetStream API.
func (s *testServer) try(subject string, request, response any) error {
	var body []byte
	switch r := request.(type) {
	case nil:
	case string:
		body = []byte(r)
	default:
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		body = b
	}
	m, err := s.nc.Request("$JS.API."+subject, body, testenv.Hang)
	if err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	var e struct{ Error json.RawMessage }
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return fmt.Errorf("%s: %w: %s", subject, err, m.Data)
	}
	if e.Error != nil {
		return fmt.Errorf("%s: %s", subject, e.Error)
	}
	if response == nil {
		return nil
	}
	return json.Unmarshal(m.Data, response)
}

func (s *testServer) api(subject string, request, response any) {
	s.t.Helper()
	check(s.t, s.try(subject, request, response))
}

type streamInfo struct {
	Config  json.RawMessage `json:"config"`
	Created time.Time       `json:"created"`
	State   struct {
		Messages uint64    `json:"messages"`
		Bytes    uint64    `json:"bytes"`
		FirstSeq uint64    `json:"first_seq"`
		LastSeq  uint64    `json:"last_seq"`
		First    time.Time `json:"first_ts"`
		Last     time.Time `json:"last_ts"`
		Deleted  []uint64  `json:"deleted"`
	} `json:"state"`
}

func (s *testServer) info(stream string) streamInfo {
	s.t.Helper()
	var i streamInfo
	s.api("STREAM.INFO."+stream, `{"deleted_details":true}`, &i)
	return i
}

// errSlow is the server's word that the test took too long to acknowledge, which
// on a loaded machine it does.
var errSlow = errors.New("the server gave up waiting for the test")

// snapshot drains the server's snapshot of a stream, and meanwhile is called before
// each of its chunks is acknowledged.
func (s *testServer) snapshot(stream string, sizes map[string]any, meanwhile func()) (b []byte) {
	s.t.Helper()
	testenv.Until(s.t, "a snapshot of "+stream, func() (err error) {
		b, err = s.trySnapshot(stream, sizes, meanwhile)
		if err != nil && !errors.Is(err, errSlow) {
			s.t.Fatal(err)
		}
		return err
	})
	return b
}

func (s *testServer) trySnapshot(stream string, sizes map[string]any, meanwhile func()) ([]byte, error) {
	s.t.Helper()
	inbox := nats.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	check(s.t, err)
	defer sub.Unsubscribe()
	check(s.t, sub.SetPendingLimits(-1, -1))
	request := map[string]any{"deliver_subject": inbox}
	for k, v := range sizes {
		request[k] = v
	}
	s.api("STREAM.SNAPSHOT."+stream, request, nil)
	var b []byte
	for {
		m, err := sub.NextMsg(testenv.Hang)
		if err != nil {
			return nil, err
		}
		if len(m.Data) == 0 {
			switch st := m.Header.Get("Status"); st {
			case "", "204":
				return b, nil
			case "408":
				return nil, errSlow
			default:
				return nil, errors.New(st + " " + m.Header.Get("Description"))
			}
		}
		b = append(b, m.Data...)
		meanwhile()
		if m.Reply != "" { // later versions ask for an answer to some chunks only
			check(s.t, m.Respond(nil))
		}
	}
}

// quickly are the sizes of a snapshot that is taken as quickly as can be.
var quickly = map[string]any{"chunk_size": 128 << 10}

func nothingMeanwhile() {}

// restore gives an archive to the server.
func (s *testServer) restore(stream string, config json.RawMessage, b []byte) error {
	s.t.Helper()
	var r struct {
		Deliver string `json:"deliver_subject"`
	}
	if err := s.try("STREAM.RESTORE."+stream, map[string]any{"config": config, "state": struct{}{}}, &r); err != nil {
		return err
	}
	for chunk := range slices.Chunk(b, 128<<10) {
		m, err := s.nc.Request(r.Deliver, chunk, testenv.Hang)
		if err != nil {
			return err
		}
		if len(m.Data) > 0 {
			return errors.New(string(m.Data))
		}
	}
	m, err := s.nc.Request(r.Deliver, nil, testenv.Hang)
	if err != nil {
		return err
	}
	var e struct{ Error json.RawMessage }
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return err
	}
	if e.Error != nil {
		return errors.New(string(e.Error))
	}
	return nil
}

// message reads one message; nil if there is none.
func (s *testServer) message(stream string, seq uint64) *record.Record {
	s.t.Helper()
	var r struct {
		Message struct {
			Subject string    `json:"subject"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err := s.try("STREAM.MSG.GET."+stream, map[string]uint64{"seq": seq}, &r)
	if err != nil && strings.Contains(err.Error(), "no message found") {
		return nil
	}
	if err != nil && strings.Contains(err.Error(), "deleted message") {
		return nil
	}
	check(s.t, err)
	m := r.Message
	return &record.Record{Sequence: seq, Time: m.Time.UnixNano(), Subject: []byte(m.Subject), Header: m.Header, Data: m.Data}
}

// digest reads all of a stream's messages, and returns the sequences between
// them that have none. Only reading tells: 2.6.1 leaves a deleted message out of
// its list if it was the first of its block.
func (s *testServer) digest(stream string) (sum record.Sum, deleted []uint64) {
	s.t.Helper()
	st := s.info(stream).State
	for seq := st.FirstSeq; seq <= st.LastSeq; seq++ {
		if r := s.message(stream, seq); r != nil {
			sum.Add(record.Append(nil, r))
		} else {
			deleted = append(deleted, seq)
		}
	}
	if sum.Count() != st.Messages {
		s.t.Fatalf("server %s: read %d messages of %s, it has %d", s.version, sum.Count(), stream, st.Messages)
	}
	return sum, deleted
}

type consumerInfo struct {
	Name        string          `json:"name"`
	Created     time.Time       `json:"created"`
	Config      json.RawMessage `json:"config"`
	Delivered   infoPair        `json:"delivered"`
	AckFloor    infoPair        `json:"ack_floor"`
	AckPending  int             `json:"num_ack_pending"`
	Redelivered int             `json:"num_redelivered"`
}

type infoPair struct {
	Consumer uint64 `json:"consumer_seq"`
	Stream   uint64 `json:"stream_seq"`
}

func (s *testServer) consumers(stream string) []consumerInfo {
	s.t.Helper()
	var r struct {
		Consumers []consumerInfo `json:"consumers"`
	}
	s.api("CONSUMER.LIST."+stream, nil, &r)
	slices.SortFunc(r.Consumers, func(a, b consumerInfo) int { return strings.Compare(a.Name, b.Name) })
	return r.Consumers
}

// publish stores a message and returns its sequence.
func (s *testServer) publish(subject string, header nats.Header, data []byte) uint64 {
	s.t.Helper()
	m, err := s.nc.RequestMsg(&nats.Msg{Subject: subject, Header: header, Data: data}, testenv.Hang)
	check(s.t, err)
	var r struct {
		Seq   uint64
		Error json.RawMessage
	}
	check(s.t, json.Unmarshal(m.Data, &r))
	if r.Error != nil {
		s.t.Fatalf("publish to %s: %s", subject, r.Error)
	}
	return r.Seq
}

// next pulls up to n messages.
func (s *testServer) next(stream, consumer string, n int) []*nats.Msg {
	s.t.Helper()
	inbox := nats.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	check(s.t, err)
	defer sub.Unsubscribe()
	check(s.t, s.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer, inbox, fmt.Appendf(nil, `{"batch":%d}`, n)))
	var out []*nats.Msg
	for range n {
		m, err := sub.NextMsg(testenv.Hang)
		check(s.t, err)
		if m.Header.Get("Status") != "" {
			s.t.Fatalf("pull from %s: %v", consumer, m.Header)
		}
		out = append(out, m)
	}
	return out
}

// ack answers a delivered message and waits until the server has taken the answer
// in.
func (s *testServer) ack(m *nats.Msg, answer string) {
	s.t.Helper()
	_, err := s.nc.Request(m.Reply, []byte(answer), testenv.Hang)
	check(s.t, err)
}
