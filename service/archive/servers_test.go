package archive_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"jetkeep/store/record"
)

// versions are the servers that the tests run against. All but the embedded
// one are programs in the tools directory.
var versions = []string{"2.6.1", "2.8.2", "2.9.25", "2.10.29", "2.11.12", "2.12.6", "2.14.5", embedded}

// embedded is the version of the server that is compiled in.
const embedded = server.VERSION

// goldenVersions are the servers that made the golden archives.
var goldenVersions = []string{"2.6.1", "2.8.2", "2.9.25", "2.10.29", "2.11.12", "2.12.6", "2.14.5", "2.15.2"}

// from tells whether a version is at least 2.minor.
func from(version string, minor int) bool {
	var n int
	if _, err := fmt.Sscanf(version, "2.%d.", &n); err != nil {
		panic(err)
	}
	return n >= minor
}

// A testServer is one real server on loopback.
type testServer struct {
	t       testing.TB
	version string
	dir     string
	config  string // of JetStream
	port    int
	stopped func()
	nc      *nats.Conn
}

// program returns the path of an old server, or fails the test: a test that
// cannot run must not look as if it had.
func program(t testing.TB, version string) string {
	t.Helper()
	dir := os.Getenv("JETKEEP_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		check(t, err)
		dir = filepath.Join(cache, "jetkeep", "tools")
	}
	p := filepath.Join(dir, "nats-server-"+version)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("server %s is not installed: %v", version, err)
	}
	return p
}

func startServer(t testing.TB, version string) *testServer {
	t.Helper()
	s := &testServer{t: t, version: version, dir: t.TempDir(), port: -1}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *testServer) start() {
	s.t.Helper()
	if s.version == embedded {
		s.startEmbedded()
	} else {
		s.startProgram()
	}
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", s.port), nats.NoReconnect())
	check(s.t, err)
	s.nc = nc
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if err := s.try("INFO", nil, nil); err == nil {
			return
		} else if time.Now().After(deadline) {
			s.t.Fatalf("JetStream of server %s did not come up: %v", s.version, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *testServer) startEmbedded() {
	s.t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: s.port, JetStream: true, StoreDir: s.dir, NoSigs: true, NoLog: true})
	check(s.t, err)
	srv.Start()
	if !srv.ReadyForConnections(2 * time.Minute) {
		s.t.Fatal("embedded server did not come up")
	}
	s.port = srv.Addr().(*net.TCPAddr).Port
	s.stopped = func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
}

func (s *testServer) startProgram() {
	s.t.Helper()
	cmd := exec.Command(program(s.t, s.version), "-js", "-sd", s.dir, "-a", "127.0.0.1", "-p", fmt.Sprint(s.port))
	if s.config != "" {
		file := filepath.Join(s.t.TempDir(), "server.conf")
		check(s.t, os.WriteFile(file, fmt.Appendf(nil, "listen: %q\njetstream { store_dir: %q, %s }\n", "127.0.0.1:"+fmt.Sprint(s.port), s.dir, s.config), 0o600))
		cmd.Args = []string{cmd.Path, "-c", file}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	check(s.t, err)
	check(s.t, cmd.Start())
	port := make(chan int, 1)
	var done sync.WaitGroup
	done.Go(func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if _, addr, ok := strings.Cut(sc.Text(), "client connections on 127.0.0.1:"); ok {
				var n int
				fmt.Sscan(addr, &n)
				port <- n
			}
		}
	})
	s.stopped = func() {
		cmd.Process.Signal(syscall.SIGTERM)
		done.Wait()
		cmd.Wait()
	}
	select {
	case s.port = <-port:
	case <-time.After(2 * time.Minute):
		s.stopped()
		s.t.Fatalf("server %s did not come up", s.version)
	}
}

func (s *testServer) stop() {
	if s.stopped == nil {
		return
	}
	s.nc.Close()
	s.stopped()
	s.stopped = nil
}

func (s *testServer) restart() {
	s.t.Helper()
	s.stop()
	s.start()
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
	m, err := s.nc.Request("$JS.API."+subject, body, time.Minute)
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

// snapshot drains the server's snapshot of a stream.
func (s *testServer) snapshot(stream string) ([]byte, error) {
	s.t.Helper()
	inbox := nats.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	check(s.t, err)
	defer sub.Unsubscribe()
	check(s.t, sub.SetPendingLimits(-1, -1))
	s.api("STREAM.SNAPSHOT."+stream, map[string]any{"deliver_subject": inbox, "chunk_size": 128 << 10}, nil)
	var b []byte
	for {
		m, err := sub.NextMsg(time.Minute)
		if err != nil {
			return nil, err
		}
		if len(m.Data) == 0 {
			if st := m.Header.Get("Status"); st != "" && st != "204" {
				return nil, errors.New(st + " " + m.Header.Get("Description"))
			}
			return b, nil
		}
		b = append(b, m.Data...)
		if m.Reply != "" {
			check(s.t, m.Respond(nil))
		}
	}
}

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
		m, err := s.nc.Request(r.Deliver, chunk, time.Minute)
		if err != nil {
			return err
		}
		if len(m.Data) > 0 {
			return errors.New(string(m.Data))
		}
	}
	m, err := s.nc.Request(r.Deliver, nil, time.Minute)
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
	m, err := s.nc.RequestMsg(&nats.Msg{Subject: subject, Header: header, Data: data}, time.Minute)
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
		m, err := sub.NextMsg(time.Minute)
		check(s.t, err)
		if m.Header.Get("Status") != "" {
			s.t.Fatalf("pull from %s: %v", consumer, m.Header)
		}
		out = append(out, m)
	}
	return out
}
