package jetsnap_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"jetkeep/service/jetsnap"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// proxy passes a server's connections on, each byte late by delay.
type proxy struct {
	listener net.Listener
	target   string
	delay    time.Duration
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func startProxy(t *testing.T, target string, delay time.Duration) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: target, delay: delay}
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
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 1<<14)
	p.wg.Go(func() {
		for x := range pieces {
			time.Sleep(time.Until(x.due))
			if _, err := to.Write(x.data); err != nil {
				_ = from.Close()
			}
		}
		_ = to.Close()
	})
	defer close(pieces)
	for {
		buf := make([]byte, 64<<10)
		n, err := from.Read(buf)
		if n > 0 {
			pieces <- piece{buf[:n], time.Now().Add(p.delay)}
		}
		if err != nil {
			return
		}
	}
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

// On a connection with long round trips many chunks are under way at a time.
func TestRestoreIsPipelined(t *testing.T) {
	_, _, conn, config, data := archived(t, "2.14.5")
	c, _ := client(t, natsconn.Options{URL: startProxy(t, conn.NC.ConnectedAddr(), 10*time.Millisecond).url()})
	var most uint64
	info, err := c.Restore(t.Context(), "S", config, bytes.NewReader(data), jetsnap.RestoreOptions{
		ChunkSize: 256 << 10,
		InFlight:  4 << 20,
		Progress:  func(sent, acked uint64) { most = max(most, sent-acked) },
	})
	if err != nil || info.State.Messages != 480 {
		t.Fatalf("%v, %v", info, err)
	}
	if most < 3<<20 || most > 4<<20 {
		t.Errorf("at most %d bytes were under way", most)
	}
}

// A connection that breaks and comes back by itself has lost chunks, and the
// transfer fails in spite of it.
func TestReconnectIsNotHidden(t *testing.T) {
	_, c, conn, config, data := archived(t, natstest.Latest)
	if _, err := c.Restore(t.Context(), "S", config, bytes.NewReader(data), jetsnap.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, conn.NC.ConnectedAddr(), 0)
	c, through := client(t, natsconn.Options{URL: p.url(), Reconnect: true})
	s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.ReadFull(s, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	p.cut()
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, jetsnap.ErrConnectionLost) {
		t.Errorf("snapshot: %v", err)
	}
	err = natstest.Eventually(2*time.Minute, func() error {
		if !through.NC.IsConnected() {
			return errors.New("not connected")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.API.DeleteStream(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	src := io.MultiReader(bytes.NewReader(data[:8<<20]), &hook{f: p.cut}, bytes.NewReader(data[8<<20:]))
	if _, err := c.Restore(t.Context(), "S", config, src, jetsnap.RestoreOptions{}); !errors.Is(err, jetsnap.ErrConnectionLost) {
		t.Errorf("restore: %v", err)
	}
}
