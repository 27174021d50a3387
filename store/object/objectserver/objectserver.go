// Package objectserver starts real object stores for tests: versitygw and MinIO
// for S3, OpenStack Swift with its own authentication and with Keystone.
//
// A test process has at most one server of a kind. It starts when a test first
// asks for it, on free ports of the loopback interface and in a temporary
// directory, and Main stops it, by pid, when the tests have run. If the process
// is killed the kernel ends the servers with it. Tests keep apart by buckets,
// containers and prefixes of their own.
//
// What is needed is installed by `make tools`; a test that does not find it
// fails and says so.
package objectserver

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"jetkeep/store/freeport"
)

const (
	// startTimeout bounds the start of a server; Keystone makes its database.
	startTimeout = 5 * time.Minute
	stopTimeout  = 10 * time.Second
	// startTries is how often a server is started that did not come up: a free
	// port may be taken before it is used.
	startTries = 3
)

// Main runs the tests of a package and stops what they started. Its result is
// for os.Exit.
func Main(m *testing.M) int {
	defer StopAll()
	return m.Run()
}

// StopAll stops every server. Main does it; call it yourself only where the
// tests' main function is another one.
func StopAll() {
	running.mu.Lock()
	defer running.mu.Unlock()
	for _, s := range running.servers {
		s.stop()
	}
	running.servers = map[string]*server{}
}

var running = struct {
	mu      sync.Mutex
	servers map[string]*server
}{servers: map[string]*server{}}

// A server is the processes of one store and their directory.
type server struct {
	dir   string
	procs []*process
	value any // what tests are given
}

func (s *server) stop() {
	for i := len(s.procs) - 1; i >= 0; i-- {
		s.procs[i].stop()
	}
	_ = os.RemoveAll(s.dir) // in the temporary directory
}

// once returns what start made, the first time or before. A start that fails is
// tried again with other ports.
func once[T any](t testing.TB, kind string, start func(*server) (T, error)) T {
	t.Helper()
	running.mu.Lock()
	defer running.mu.Unlock()
	if s := running.servers[kind]; s != nil {
		for _, p := range s.procs {
			if p.ended() {
				t.Fatalf("%s: %s ended:\n%s", kind, p.name, p.log.tail())
			}
		}
		return s.value.(T)
	}
	var last error
	for range startTries {
		dir, err := os.MkdirTemp("", "objectserver-")
		if err != nil {
			t.Fatalf("start %s: %v", kind, err)
		}
		s := &server{dir: dir}
		value, err := start(s)
		if err == nil {
			s.value = value
			running.servers[kind] = s
			return value
		}
		last = err
		s.stop()
		missing := new(missingError)
		if errors.As(err, &missing) {
			break
		}
	}
	t.Fatalf("start %s: %v", kind, last)
	panic("unreachable")
}

// A missingError is a tool that is not installed.
type missingError struct{ path string }

func (e *missingError) Error() string {
	return e.path + " is not there: run `make tools`, which installs it"
}

// tool returns the path of what `make tools` built.
func tool(name string) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return installed(filepath.Join(dir, "jetkeep", "tools", name))
}

func installed(path string) (string, error) {
	if _, err := os.Stat(path); err != nil {
		return "", &missingError{path}
	}
	return path, nil
}

// A process is one program that runs.
type process struct {
	name string
	make func() *exec.Cmd
	log  *logBuffer
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// run starts a program. Its directory is the server's.
func (s *server) run(name string, env []string, binary string, args ...string) error {
	p := &process{name: name, log: new(logBuffer), make: func() *exec.Cmd {
		cmd := exec.Command(binary, args...)
		cmd.Dir = s.dir
		cmd.Env = append(os.Environ(), env...)
		cmd.WaitDelay = time.Second
		cmd.SysProcAttr = dieWithParent()
		return cmd
	}}
	if err := p.start(); err != nil {
		return err
	}
	s.procs = append(s.procs, p)
	return nil
}

// start starts the program, the first time or again.
func (p *process) start() error {
	cmd, done := p.make(), make(chan struct{})
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		defer close(done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	p.cmd, p.done = cmd, done
	return nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// await waits until every check passes. It fails at once if a process ends.
func (s *server) await(checks ...func() error) error {
	deadline := time.Now().Add(startTimeout)
	for {
		var err error
		for _, check := range checks {
			if err = check(); err != nil {
				break
			}
		}
		if err == nil {
			return nil
		}
		for _, p := range s.procs {
			if p.ended() {
				return fmt.Errorf("%s ended:\n%s", p.name, p.log.tail())
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready within %s: %w\n%s", startTimeout, err, s.logs())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *server) logs() string {
	var b strings.Builder
	for _, p := range s.procs {
		fmt.Fprintf(&b, "%s:\n%s\n", p.name, p.log.tail())
	}
	return b.String()
}

// probe asks whether a server answers, again and again; patient asks once.
var (
	probe   = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	patient = &http.Client{Timeout: startTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
)

// answers checks that a URL answers with one of the statuses, 2xx if none is
// given.
func answers(url string, header http.Header, statuses ...int) func() error {
	return func() error {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		req.Header = header
		resp, err := probe.Do(req)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode/100 == 2 {
			return nil
		}
		for _, s := range statuses {
			if resp.StatusCode == s {
				return nil
			}
		}
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
}

func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		var err error
		if ports[i], err = freeport.Get(); err != nil {
			return nil, err
		}
	}
	return ports, nil
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// logBuffer keeps the end of what a process said.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

const maxLog = 64 << 10

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if len(b.text) > 2*maxLog {
		b.text = append(b.text[:0], b.text[len(b.text)-maxLog:]...)
	}
	return len(p), nil
}

func (b *logBuffer) tail() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	const most = 4 << 10
	return string(b.text[max(0, len(b.text)-most):])
}
