// Package natstest starts real nats-servers for tests and looks at their
// streams with eyes of its own.
//
// Start runs the released binary of the version that this module is built with as
// a child process, StartVersion that of another version, StartCluster several of
// one version, and StartEmbedded runs a server inside the test's process, where
// the race detector makes it slow. Each listens on a loopback port of its own,
// keeps its data in a temporary directory, is stopped when the test ends and shows
// the end of its log if the test failed. A server that is stopped or killed can be
// started again on the same directory and port.
//
// Records, Info and Consumers ask the server's API one message at a time and
// share no code with jetkeep's own clients and codecs, so that tests can check
// one against the other.
//
// Every helper ends the test when it cannot do its work: there is no mode in
// which a missing binary or a late server makes a test pass or be skipped.
// Helpers must therefore run on the test's goroutine. It is test support:
// nothing but tests may import it.
package natstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/store/freeport"
	"jetkeep/store/testenv"
)

// Latest is the version of the server's module, whose binary Start runs.
const Latest = "2.15.3"

// Versions returns versions that `make tools` installs, oldest first, without
// Latest: in a campaign all of them, else the oldest and 2.11.
func Versions() []string {
	if testenv.Campaign() {
		return []string{"2.6.1", "2.8.2", "2.9.25", "2.10.29", "2.11.12", "2.12.6", "2.14.5"}
	}
	return []string{"2.6.1", "2.11.12"}
}

type options struct {
	name   string
	dir    string
	domain string
	config string
	plain  bool // without JetStream
	http   bool // with the monitoring port
	hidden bool // of a cluster that tells clients nothing of its other nodes
	// severable nodes reach each other by wires that can be cut.
	severable bool
}

// An Option changes how a server is started.
type Option func(*options)

// Name sets the server's name.
func Name(name string) Option { return func(o *options) { o.name = name } }

// Dir sets the directory of JetStream's data, default a temporary one.
func Dir(dir string) Option { return func(o *options) { o.dir = dir } }

// Domain sets the JetStream domain.
func Domain(domain string) Option { return func(o *options) { o.domain = domain } }

// Config adds text in the language of nats-server.conf: accounts, permissions,
// leaf nodes, limits. A setting given twice counts as it is given last.
func Config(text string) Option { return func(o *options) { o.config += text + "\n" } }

// WithoutJetStream starts a server that has no JetStream.
func WithoutJetStream() Option { return func(o *options) { o.plain = true } }

// Hidden keeps a cluster's nodes from telling clients of each other, so that a
// client uses the addresses that it was given and no others.
func Hidden() Option { return func(o *options) { o.hidden = true } }

// Server is one server, running or stopped.
type Server struct {
	t       testing.TB
	version string // empty for the embedded one
	options options
	conf    string // path of the configuration file
	port    int
	http    int
	past    *logBuffer // of all its runs

	mu   sync.Mutex
	node node // nil while it is stopped
}

// node is one run of a server.
type node interface {
	stop() // orderly, waits
	kill() // at once, as far as the kind of node can
}

// Start starts the binary of Latest and waits until it serves.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	return newServer(t, Latest, opts)
}

// StartEmbedded starts a server in this process and waits until it serves.
func StartEmbedded(t testing.TB, opts ...Option) *Server {
	t.Helper()
	return newServer(t, "", opts)
}

// StartVersion starts a released binary, one of Versions or Latest, and waits
// until it serves.
func StartVersion(t testing.TB, version string, opts ...Option) *Server {
	t.Helper()
	return newServer(t, version, opts)
}

func newServer(t testing.TB, version string, opts []Option) *Server {
	t.Helper()
	s := prepare(t, version, opts)
	s.Start()
	return s
}

// prepare makes a server that is not started yet.
func prepare(t testing.TB, version string, opts []Option) *Server {
	t.Helper()
	s := &Server{t: t, version: version, past: &logBuffer{}}
	for _, o := range opts {
		o(&s.options)
	}
	if s.options.name == "" {
		s.options.name = "test" + strings.ReplaceAll(version, ".", "-")
	}
	if s.options.dir == "" {
		s.options.dir = t.TempDir()
	}
	s.conf = filepath.Join(t.TempDir(), "nats-server.conf")
	s.port = freePort(t)
	if s.options.http {
		s.http = freePort(t)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("log of server %s:\n%s", s.options.name, s.past.tail(6000))
		}
	})
	return s
}

// Start starts the server again, on the same port and data, and waits until it
// serves.
func (s *Server) Start() {
	s.t.Helper()
	s.launch()
	s.await()
}

// launch starts the server and does not wait.
func (s *Server) launch() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node != nil {
		s.t.Fatalf("start server %s: it runs", s.options.name)
	}
	if err := os.WriteFile(s.conf, []byte(s.render()), 0o600); err != nil {
		s.t.Fatalf("write configuration of server %s: %v", s.options.name, err)
	}
	run := &logBuffer{next: s.past}
	var err error
	if s.version == "" {
		s.node, err = runEmbedded(s.conf, run)
	} else {
		s.node, err = runProcess(Tool(s.t, "nats-server-"+s.version), s.conf, run)
	}
	if err != nil {
		s.node = nil
		s.t.Fatalf("start server %s: %v\n%s", s.options.name, err, run.tail(4000))
	}
}

// await waits until a client can connect.
func (s *Server) await() {
	s.t.Helper()
	s.mu.Lock()
	n := s.node
	s.mu.Unlock()
	err := Eventually(testenv.Hang, func() error {
		if p, ok := n.(*process); ok {
			select {
			case <-p.done:
				return permanentError{errors.New("process ended")}
			default:
			}
		}
		return greets(s.port)
	})
	if err != nil {
		s.t.Fatalf("await server %s: %v\n%s\n%s", s.options.name, err, s.past.tail(4000), testenv.Report())
	}
}

// greets succeeds if a nats-server answers on the port. It opens its ports
// after it has recovered its streams.
func greets(port int) error {
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if !strings.HasPrefix(line, "INFO ") {
		return fmt.Errorf("read greeting: got %q", line)
	}
	return nil
}

func (s *Server) render() string {
	var b strings.Builder
	fmt.Fprintf(&b, "server_name: %q\nlisten: \"127.0.0.1:%d\"\n", s.options.name, s.port)
	if s.http != 0 {
		fmt.Fprintf(&b, "http: \"127.0.0.1:%d\"\n", s.http)
	}
	if !s.options.plain {
		fmt.Fprintf(&b, "jetstream {\n  store_dir: %q\n  max_memory_store: 1GB\n  max_file_store: 20GB\n", s.options.dir)
		if s.options.domain != "" {
			fmt.Fprintf(&b, "  domain: %q\n", s.options.domain)
		}
		b.WriteString("}\n")
	}
	// A client is given 2 s to log in otherwise, which a busy machine may need. What
	// has users of its own says so itself.
	b.WriteString("authorization { timeout: 60 }\n")
	b.WriteString(s.options.config)
	return b.String()
}

// URL returns the address that clients connect to.
func (s *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

// Port returns the port of the server.
func (s *Server) Port() int { return s.port }

// Dir returns the directory of JetStream's data.
func (s *Server) Dir() string { return s.options.dir }

// ServerName returns the server's name.
func (s *Server) ServerName() string { return s.options.name }

// Log returns what the server said in all its runs.
func (s *Server) Log() string { return s.past.tail(1 << 30) }

// Embedded returns the server object, nil if this is a binary or stopped.
func (s *Server) Embedded() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.node.(*embedded); ok {
		return e.server
	}
	return nil
}

// Stop stops the server in order and waits until it is gone. A server that
// does not run stays as it is.
func (s *Server) Stop() { s.end(node.stop) }

// Kill ends a binary by SIGKILL. The embedded server cannot be killed: it is
// stopped.
func (s *Server) Kill() { s.end(node.kill) }

func (s *Server) end(how func(node)) {
	s.mu.Lock()
	n := s.node
	s.node = nil
	s.mu.Unlock()
	if n != nil {
		how(n)
	}
}

// Restart stops the server and starts it again.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// Connect connects a client, which is closed when the test ends.
func (s *Server) Connect(opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	return Connect(s.t, s.URL(), opts...)
}

// Connect connects a client, which is closed when the test ends. url may list
// several servers.
func Connect(t testing.TB, url string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.Timeout(20 * time.Second), nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatalf("connect to %s: %v", url, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Context returns the test's context with a deadline that only a hang reaches. What
// the client's library is asked for without a deadline it gives up after 5 s.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	t.Cleanup(cancel)
	return ctx
}

// freePort returns a port that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	port, err := freeport.Get()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// permanentError ends an Eventually at once.
type permanentError struct{ error }

// Eventually calls try until it returns nil, for at most the given time, and
// returns its last error.
func Eventually(limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		if p := (permanentError{}); errors.As(err, &p) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pause)
	}
}

// LibraryLeaks are goroutines that the client's library leaves behind, to be
// passed over by goleak: an object store that is closed at once after a Put, or a
// publisher that is cleaned up, takes away the channel that one of them is about
// to wait on.
func LibraryLeaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreTopFunction("github.com/nats-io/nats%2ego.(*js).resetPendingAcksOnReconnect"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"),
	}
}
