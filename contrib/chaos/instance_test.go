package chaos_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"jetkeep/store/object/objectserver"
	"jetkeep/store/testenv"
)

// command is where TestMain built it.
var command string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if out, err := exec.Command("go", "build", "-o", dir, "jetkeep/cmd/jetkeep").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s\n", err, out)
		os.Exit(1)
	}
	command = filepath.Join(dir, "jetkeep")
	code := objectserver.Main(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// An instance is a process of `jetkeep serve`, which is started again whenever it
// was killed.
type instance struct {
	t      *testing.T
	config string
	name   string
	way    way

	process *os.Process
	ended   chan struct{}
	exit    error // how it ended
	starts  int

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

// newInstance configures one; rest is the configuration of what is not its own.
func newInstance(t *testing.T, name string, w way, rest string) *instance {
	t.Helper()
	x := &instance{t: t, name: name, way: w, config: filepath.Join(t.TempDir(), "jetkeep.conf")}
	text := fmt.Sprintf(`
instance: %q
control { url: %q }
staging { dir: %q }
lease: %q
max_attempts: 20
sweep: "1s"
%s`, name, w.url(), filepath.Join(t.TempDir(), "staging"), lease, rest)
	if err := os.WriteFile(x.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		x.kill(syscall.SIGKILL)
		if t.Failed() {
			log := x.said()
			t.Logf("end of the log of %s:\n%s", name, log[max(0, len(log)-4000):])
		}
	})
	return x
}

// Write keeps what the process writes.
func (x *instance) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.log.Write(p)
}

// said returns a copy of what the process wrote.
func (x *instance) said() []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	return bytes.Clone(x.log.Bytes())
}

// serves waits until the process that was started last serves.
func (x *instance) serves() {
	x.t.Helper()
	testenv.True(x.t, x.name+" to serve", func() bool {
		return bytes.Count(x.said(), []byte("jetkeep serves ")) >= x.starts
	})
}

func (x *instance) start() {
	cmd := exec.Command(command, "serve", "--config", x.config)
	cmd.Stdout, cmd.Stderr = x, x
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		x.t.Errorf("start %s: %v", x.name, err)
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		x.exit = cmd.Wait()
	}()
	x.process, x.ended = cmd.Process, ended
	x.starts++
}

// signal sends a signal, to a process that may have ended meanwhile.
func (x *instance) signal(s syscall.Signal) {
	if x.process != nil {
		_ = x.process.Signal(s)
	}
}

// kill ends the process and waits for that.
func (x *instance) kill(how syscall.Signal) {
	if x.process == nil {
		return
	}
	x.signal(how)
	select {
	case <-x.ended:
	case <-time.After(testenv.Hang):
		x.t.Errorf("%s does not end by %s\n%s", x.name, how, testenv.Report())
		x.signal(syscall.SIGKILL)
		<-x.ended
	}
	x.process = nil
}

// up starts the process again if it ended by itself, as it does when NATS is
// away at its start, and tells whether it had.
func (x *instance) up() bool {
	if x.process != nil {
		select {
		case <-x.ended:
		default:
			return false
		}
	}
	x.start()
	return true
}
