package natstest

import (
	"net"
	"strings"
	"sync"
	"testing"
)

// A Gate is a proxy before servers. It can hold what goes one way when a part of it
// has passed, so that something happens in the middle, however fast or slow the
// machine is.
type Gate struct {
	t  testing.TB
	wg sync.WaitGroup

	mu     sync.Mutex
	opened *sync.Cond
	left   map[Way]int // bytes that may pass; a way without a bound is not in it
	conns  map[net.Conn]bool
	ended  bool
}

// A Way is a direction through a gate.
type Way string

const (
	Upstream   Way = "to the server"
	Downstream Way = "to the client"
)

// NewGate makes a gate that lets everything through.
func NewGate(t testing.TB) *Gate {
	g := &Gate{t: t, left: map[Way]int{}, conns: map[net.Conn]bool{}}
	g.opened = sync.NewCond(&g.mu)
	t.Cleanup(func() {
		g.Open()
		g.mu.Lock()
		g.ended = true
		for c := range g.conns {
			c.Close()
		}
		g.mu.Unlock()
		g.wg.Wait()
	})
	return g
}

// Before returns the address of the gate before a server.
func (g *Gate) Before(s *Server) string {
	g.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	g.wg.Go(func() { g.accept(l, strings.TrimPrefix(s.URL(), "nats://")) })
	return "nats://" + l.Addr().String()
}

func (g *Gate) accept(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", to)
		if err != nil {
			c.Close() // as a server that is gone
			continue
		}
		if !g.keep(c, s) {
			c.Close()
			s.Close()
			return
		}
		g.wg.Go(func() { g.pass(c, s, Upstream) })
		g.wg.Go(func() { g.pass(s, c, Downstream) })
	}
}

// keep remembers connections for the end, unless that has come.
func (g *Gate) keep(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		g.conns[c] = true
	}
	return !g.ended
}

func (g *Gate) pass(from, to net.Conn, w Way) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		g.take(w, n)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// take waits until n bytes may pass.
func (g *Gate) take(w Way, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		left, bound := g.left[w]
		if !bound {
			return
		}
		if left >= n {
			g.left[w] = left - n
			return
		}
		g.opened.Wait()
	}
}

// Hold lets no more than n bytes pass from now on.
func (g *Gate) Hold(w Way, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left[w] = n
}

// Open lets everything pass again.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.left)
	g.opened.Broadcast()
}
