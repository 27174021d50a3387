package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/service/api"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/testenv"
)

// TestMain lets the test binary be the command: under the name jetkeep it runs
// main, so that scripts run it under the race detector if the tests do.
func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"jetkeep":   func() { os.Exit(mainCode()) },
		heldCommand: func() { os.Exit(mainOn(heldStreams)) },
	})
}

// heldCommand is the command that stops where holdVariable says: after it wrote a
// line to standard error that matches, until its standard input has ended or it
// was interrupted. So a test can do something in the middle of it, however fast it
// is.
const (
	heldCommand  = "jetkeep-held"
	holdVariable = "JETKEEP_TEST_HOLD"
)

func heldStreams(ctx context.Context) stdio {
	at, let := regexp.MustCompile(os.Getenv(holdVariable)), make(chan struct{})
	go func() {
		defer close(let)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return stdio{out: os.Stdout, err: writerFunc(func(p []byte) (int, error) {
		n, err := os.Stderr.Write(p)
		if at.Match(p) {
			select {
			case <-let:
			case <-ctx.Done():
			}
		}
		return n, err
	})}
}

// tests removes what was built once for several tests.
type tests struct{ *testing.M }

func (m tests) Run() int {
	code := m.M.Run()
	if builtDir != "" {
		_ = os.RemoveAll(builtDir)
	}
	objectserver.StopAll()
	return code
}

// builtDir is the directory that built made.
var builtDir string

// built builds the command as its users do, in a temporary directory.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "jetkeep-test-")
	if err != nil {
		return "", err
	}
	builtDir = dir
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "jetkeep"), ".").CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
})

// binary returns the path of the command.
func binary(t testing.TB) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "jetkeep")
}

// A served is a running `jetkeep serve --embedded`.
type served struct {
	t      testing.TB
	cmd    *exec.Cmd
	url    string
	first  string // line of the output
	exited chan struct{}
	err    error

	mu     sync.Mutex
	output strings.Builder
}

// startServe starts the service in a directory and waits for its startup line.
func startServe(t testing.TB, command, data string, args ...string) *served {
	t.Helper()
	s := &served{t: t, exited: make(chan struct{})}
	s.cmd = exec.Command(command, append([]string{"serve", "--embedded", "--data", data, "--port", "0"}, args...)...)
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = writerFunc(s.add)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.signal(syscall.SIGKILL); <-s.exited })
	started := make(chan []string, 1)
	go func() {
		defer close(s.exited)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			_, _ = s.add(append(lines.Bytes(), '\n'))
			if url := startupURL.FindString(lines.Text()); url != "" {
				select {
				case started <- []string{url, lines.Text()}:
				default:
				}
			}
		}
		s.err = s.cmd.Wait()
	}()
	select {
	case line := <-started:
		s.url, s.first = line[0], line[1]
	case <-s.exited:
		t.Fatalf("serve ended: %v\n%s", s.err, s.log())
	case <-time.After(testenv.Hang):
		t.Fatalf("serve did not start:\n%s\n%s", s.log(), testenv.Report())
	}
	return s
}

var startupURL = regexp.MustCompile(`nats://[0-9.]+:[0-9]+`)

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (s *served) add(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.Write(p)
}

func (s *served) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.String()
}

func (s *served) signal(sig os.Signal) { _ = s.cmd.Process.Signal(sig) }

// wait waits for the end of the process and returns its exit code.
func (s *served) wait() int {
	s.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(testenv.Hang):
		s.t.Fatalf("serve did not end:\n%s\n%s", s.log(), testenv.Report())
	}
	if exit := new(exec.ExitError); errors.As(s.err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func (s *served) connect() *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// request sends a request as any program could, without the client.
func request[T any](t testing.TB, nc *nats.Conn, endpoint, body string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Hang)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, api.DefaultPrefix+"."+endpoint, []byte(body))
	if err != nil {
		t.Fatalf("request %s: %v", endpoint, err)
	}
	if code := reply.Header.Get(api.HeaderErrorCode); code != "" {
		t.Fatalf("request %s: %s %s", endpoint, code, reply.Data)
	}
	var answer T
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		t.Fatalf("answer of %s: %v\n%s", endpoint, err, reply.Data)
	}
	return answer
}

// small is the size of sample data where there need not be much of it.
func small() sample.Size {
	return sample.Size{Orders: 1000, Keys: 60, Object: 2 << 20, WorkJobs: 100}
}

// ended waits until a session has ended.
func ended(t testing.TB, nc *nats.Conn, session string) (info api.SessionInfoResponse) {
	t.Helper()
	testenv.Until(t, "the end of session "+session, func() error {
		info = request[api.SessionInfoResponse](t, nc, api.SessionInfo, `{"session":"`+session+`"}`)
		if !info.State.Final() {
			return fmt.Errorf("it is %s: %+v", info.State, info)
		}
		return nil
	})
	return info
}
