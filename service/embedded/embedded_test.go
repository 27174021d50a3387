package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	t.Cleanup(cancel)
	return ctx
}

func mustStart(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustStop(t, s) })
	return s
}

func mustStop(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Hang)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, s *Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.URL(), nats.Timeout(testenv.Hang))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestDataSurvivesRestart(t *testing.T) {
	t.Parallel()
	ctx, dir := testContext(t), t.TempDir()
	first := mustStart(t, Options{Dir: dir, Port: RandomPort})
	js := connect(t, first)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := js.Publish(ctx, "s.a", fmt.Appendf(nil, "message %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	mustStop(t, first)

	second := mustStart(t, Options{Dir: dir, Port: RandomPort})
	stream, err := connect(t, second).Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	message, err := stream.GetMsg(ctx, 100)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(message.Data); got != "message 99" {
		t.Errorf("message 100 is %q", got)
	}
}

func TestListensOnLoopback(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Options{Dir: t.TempDir(), Port: RandomPort})
	address, ok := s.server.Addr().(*net.TCPAddr)
	if !ok || !address.IP.IsLoopback() {
		t.Errorf("listens on %v", s.server.Addr())
	}
}

func TestDirectoryIsHeldByOneServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := mustStart(t, Options{Dir: dir, Port: RandomPort})
	if _, err := Start(testContext(t), Options{Dir: dir, Port: RandomPort}); !errors.Is(err, ErrDirInUse) || errors.Is(err, ErrDirNotWritable) {
		t.Errorf("second server in the directory: %v", err)
	}
	mustStop(t, first)
	mustStart(t, Options{Dir: dir, Port: RandomPort})
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	port := l.Addr().(*net.TCPAddr).Port
	dir := t.TempDir()
	if _, err := Start(testContext(t), Options{Dir: dir, Port: port}); !errors.Is(err, ErrPortTaken) {
		t.Errorf("start on a taken port: %v", err)
	}
	// The refusal left the directory free.
	mustStart(t, Options{Dir: dir, Port: RandomPort})
}

func TestDirectoryNotWritable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(testContext(t), Options{Dir: filepath.Join(file, "below"), Port: RandomPort})
	if !errors.Is(err, ErrDirNotWritable) {
		t.Errorf("start below a file: %v", err)
	}
	// A directory in the place of the lock file cannot be opened for writing.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(testContext(t), Options{Dir: dir, Port: RandomPort}); !errors.Is(err, ErrDirNotWritable) {
		t.Errorf("start where no file can be written: %v", err)
	}
}

func TestStartRefusesEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := filepath.Join(t.TempDir(), "d")
	if _, err := Start(ctx, Options{Dir: dir, Port: RandomPort}); !errors.Is(err, context.Canceled) {
		t.Errorf("start with an ended context: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}

func TestFailedStartReportsTheServersReason(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// JetStream keeps its data in a directory of this name.
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(testContext(t), Options{Dir: dir, Port: RandomPort})
	if err == nil || errors.Is(err, ErrNotReady) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start where JetStream cannot: %v", err)
	}
	t.Log(err)
}

func TestShutdownIsIdempotentAndBounded(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Options{Dir: t.TempDir(), Port: RandomPort})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ended); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown with an ended context: %v", err)
	}
	mustStop(t, s)
	mustStop(t, s)
}
