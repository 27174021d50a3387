package natstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// CLI is the nats command among the tools.
const CLI = "nats-0.5.1/nats"

// Tool returns the path of a binary that `make tools` installs: CLI,
// "nats-server-2.14.5".
func Tool(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("find cache directory: %v", err)
	}
	path := filepath.Join(dir, "jetkeep", "tools", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("find tool %s: %v\nrun `make tools`, which builds it", name, err)
	}
	return path
}

// embedded is a run of the server inside this process.
type embedded struct{ server *server.Server }

func runEmbedded(conf string, log *logBuffer) (node, error) {
	o, err := server.ProcessConfigFile(conf)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	o.NoSigs = true
	s, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	s.SetLoggerV2(serverLog{log}, false, false, false)
	s.Start()
	if !o.JetStream || s.JetStreamEnabled() {
		return &embedded{server: s}, nil
	}
	s.Shutdown()
	s.WaitForShutdown()
	return nil, errors.New("JetStream did not start")
}

func (e *embedded) stop() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

func (e *embedded) kill() { e.stop() }

// process is a run of a binary.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process is gone
}

func runProcess(binary, conf string, log *logBuffer) (node, error) {
	cmd := exec.Command(binary, "-c", conf)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// logBuffer keeps what a server said and hands it on.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
	next *logBuffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	b.text.Write(p)
	b.mu.Unlock()
	if b.next != nil {
		return b.next.Write(p)
	}
	return len(p), nil
}

// tail returns the last n bytes at most.
func (b *logBuffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.text.String()
	return text[max(len(text)-n, 0):]
}

// serverLog is the embedded server's logger.
type serverLog struct{ to *logBuffer }

func (l serverLog) line(level, format string, args []any) {
	fmt.Fprintf(l.to, "%s [%s] %s\n", time.Now().Format("15:04:05.000"), level, fmt.Sprintf(format, args...))
}

func (l serverLog) Noticef(format string, v ...any) { l.line("INF", format, v) }
func (l serverLog) Warnf(format string, v ...any)   { l.line("WRN", format, v) }
func (l serverLog) Fatalf(format string, v ...any)  { l.line("FTL", format, v) }
func (l serverLog) Errorf(format string, v ...any)  { l.line("ERR", format, v) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}
