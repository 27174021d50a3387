package natstest

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// nowhere is what a node of a Severable cluster tells the others as its address,
// so that they know only those that they were given.
const nowhere = "127.0.0.1:1"

// Severable makes a cluster whose nodes can be cut off by Sever.
func Severable() Option { return func(o *options) { o.severable = true } }

// Sever cuts node i of a Severable cluster off from the other nodes, until Mend.
// Its clients stay.
func (c *Cluster) Sever(i int) {
	c.t.Helper()
	c.each(i, (*wire).cut)
}

// Mend ends what Sever did, and waits until the cluster is whole.
func (c *Cluster) Mend(i int) {
	c.t.Helper()
	c.each(i, (*wire).mend)
	c.AwaitReady()
}

func (c *Cluster) each(i int, do func(*wire)) {
	c.t.Helper()
	if len(c.wires) == 0 {
		c.t.Fatal("the cluster is not Severable")
	}
	for _, w := range c.wires {
		if w.from == i || w.to == i {
			do(w)
		}
	}
}

// routes returns the cluster block of node i of those that listen on ports.
func (c *Cluster) routes(i int, ports []int, o options) string {
	c.t.Helper()
	var routes []string
	advertise := ""
	for j, port := range ports {
		if o.severable && j == i {
			continue
		}
		if o.severable {
			w := newWire(c.t, i, j, port)
			c.wires = append(c.wires, w)
			port = w.port
			advertise = "\n  advertise: \"" + nowhere + "\""
		}
		routes = append(routes, fmt.Sprintf("\"nats-route://127.0.0.1:%d\"", port))
	}
	return fmt.Sprintf("cluster {\n  name: test\n  no_advertise: %t\n  listen: \"127.0.0.1:%d\"%s\n  routes: [%s]\n}", o.hidden, ports[i], advertise, strings.Join(routes, ", "))
}

// A wire is how one node gets to another.
type wire struct {
	from, to int // indexes of nodes
	port     int // where it listens
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	whole bool
	conns map[net.Conn]bool
}

func newWire(t testing.TB, from, to, port int) *wire {
	t.Helper()
	w := &wire{from: from, to: to, port: freePort(t), whole: true, conns: map[net.Conn]bool{}}
	w.target = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	var err error
	if w.listener, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port))); err != nil {
		t.Fatalf("listen between nodes %d and %d: %v", from, to, err)
	}
	w.running.Go(w.accept)
	t.Cleanup(func() {
		_ = w.listener.Close()
		w.cut()
		w.running.Wait()
	})
	return w
}

func (w *wire) accept() {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.running.Go(func() { w.carry(in) })
	}
}

func (w *wire) carry(in net.Conn) {
	defer in.Close()
	out, err := net.DialTimeout("tcp", w.target, startTimeout)
	if err != nil {
		return
	}
	defer out.Close()
	if !w.hold(in, out) {
		return
	}
	defer w.release(in, out)
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(in, out)
		_ = in.Close()
	}()
	_, _ = io.Copy(out, in)
	_ = out.Close()
	<-back
}

// hold says whether the wire is whole and, if so, remembers conns for cut.
func (w *wire) hold(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		if w.whole {
			w.conns[c] = true
		}
	}
	return w.whole
}

func (w *wire) release(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		delete(w.conns, c)
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole = false
	for c := range w.conns {
		_ = c.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole = true
}
