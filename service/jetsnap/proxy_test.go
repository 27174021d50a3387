package jetsnap_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"jetkeep/service/jetsnap"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// proxy passes a server's connections on.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: target}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		p.wg.Go(func() { p.pass(in, out) })
		p.wg.Go(func() { p.pass(out, in) })
	}
}

func (p *proxy) pass(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
}

// cut breaks every connection; new ones are accepted.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// A connection that breaks and comes back by itself has lost chunks, and the
// transfer fails in spite of it.
func TestReconnectIsNotHidden(t *testing.T) {
	t.Parallel()
	_, c, conn, config, data := archived(t, natstest.Latest)
	whole(t, c, config, data)
	p := startProxy(t, conn.NC.ConnectedAddr())
	c, through := client(t, natsconn.Options{URL: p.url(), Reconnect: true})
	back := func() {
		testenv.True(t, "the connection that is back", through.NC.IsConnected)
	}
	inTime(t, func() error {
		back()
		s, err := begin(t, c, testenv.Hang)
		if err != nil {
			return err
		}
		p.cut()
		_, err = io.Copy(io.Discard, s)
		return expect(err, jetsnap.ErrConnectionLost)
	})
	inTime(t, func() error {
		back()
		remove(t, conn, "S")
		src := io.MultiReader(bytes.NewReader(data[:8<<20]), &hook{f: p.cut}, bytes.NewReader(data[8<<20:]))
		_, err := c.Restore(t.Context(), "S", config, src, patient)
		return expect(err, jetsnap.ErrConnectionLost)
	})
}
