package natstest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"jetkeep/store/testenv"
)

// echo returns a proxy for a server that sends back what it is sent, and says in
// heard when it was sent something.
func echo(t *testing.T) (p *Proxy, heard <-chan int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	said := make(chan int, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1<<20)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					said <- n
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return NewProxy(t, l.Addr().String()), said
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(testenv.Hang))
	return c
}

// answer sends data and returns what comes back before the connection ends, or as
// much as was sent.
func answer(t *testing.T, c net.Conn, data []byte) ([]byte, error) {
	t.Helper()
	go func() { _, _ = c.Write(data) }()
	got := make([]byte, len(data))
	n, err := io.ReadFull(c, got)
	return got[:n], err
}

func TestProxyPassesAllOn(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	p, _ := echo(t)
	for name, trouble := range map[string]Trouble{
		"none":    {},
		"latency": {Latency: time.Millisecond, Jitter: time.Millisecond},
		"slices":  {Slice: 10_000, Pause: time.Microsecond},
		"rate":    {Up: true, Rate: 100 << 20},
	} {
		p.Disturb(trouble)
		c := dial(t, p)
		if got, err := answer(t, c, data); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes: %v", name, len(got), err)
		}
		// The end of what is sent reaches the server, and its end comes back.
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("%s: after the end: %d bytes, %v", name, n, err)
		}
	}
}

// A connection that is there breaks when the proxy is cut, as does a new one until
// it is mended.
func TestProxyIsCut(t *testing.T) {
	p, _ := echo(t)
	old := dial(t, p)
	if _, err := answer(t, old, []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if got, err := answer(t, old, []byte("x")); err == nil {
		t.Errorf("%q came through", got)
	}
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		defer c.Close()
		if got, err := answer(t, c, []byte("x")); err == nil {
			t.Errorf("%q came through", got)
		}
	}
	testenv.True(t, "a connection that is refused", func() bool { return p.Refused() == 1 })
	p.Mend()
	if got, err := answer(t, dial(t, p), []byte("x")); err != nil {
		t.Errorf("mended: %q, %v", got, err)
	}
}

// Connections that are there suffer as new ones do.
func TestProxyDisturbs(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	for name, c := range map[string]struct {
		trouble Trouble
		passes  int
		err     error
	}{
		"limit down": {Trouble{Limit: 12_345}, 12_345, io.ErrUnexpectedEOF},
		"limit up":   {Trouble{Up: true, Limit: 12_345}, 12_345, nil},
		"reset":      {Trouble{Hold: true, End: time.Millisecond, Reset: true}, 0, nil},
		"timeout":    {Trouble{Hold: true, End: time.Millisecond}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := echo(t)
			old := dial(t, p)
			if _, err := answer(t, old, []byte("x")); err != nil {
				t.Fatal(err)
			}
			p.Disturb(c.trouble)
			for _, conn := range []net.Conn{old, dial(t, p)} {
				// One byte too many: what is sent and not read makes an end a reset.
				got, err := answer(t, conn, data[:12_346])
				if err == nil || len(got) > c.passes || c.err != nil && (len(got) != c.passes || !errors.Is(err, c.err)) {
					t.Errorf("%d bytes came through: %v", len(got), err)
				}
			}
			p.Mend()
			if got, err := answer(t, dial(t, p), data); err != nil || !bytes.Equal(got, data) {
				t.Errorf("mended: %d bytes: %v", len(got), err)
			}
		})
	}
}

// A reset is no end in good order. Who only listens is told that.
func TestProxyResets(t *testing.T) {
	p, _ := echo(t)
	c := dial(t, p)
	p.Disturb(Trouble{End: time.Millisecond, Reset: true})
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes, %v", n, err)
	}
	p.Disturb(Trouble{End: time.Millisecond})
	if n, err := dial(t, p).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// What is held comes through when nothing is held any more.
func TestProxyHolds(t *testing.T) {
	p, heard := echo(t)
	c := dial(t, p)
	p.Disturb(Trouble{Up: true, Hold: true})
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	other := dial(t, p)
	if _, err := other.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
		t.Error("what is held came through")
	default:
	}
	p.Disturb(Trouble{Hold: true})
	for range 2 {
		testenv.Receive(t, "what was sent", heard)
	}
	p.Mend()
	for _, c := range []net.Conn{c, other} {
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
}

// No connection suffers, or each does, if that is the share.
func TestProxyDisturbsShare(t *testing.T) {
	p, _ := echo(t)
	broken := 0
	p.Disturb(Trouble{Share: 0.5, Limit: 1})
	testenv.True(t, "one connection that suffers and one that does not", func() bool {
		_, err := answer(t, dial(t, p), []byte("ab"))
		if err != nil {
			broken++
		}
		return broken > 0 && err == nil
	})
}

// A writes remembers how it was written to.
type writes [][]byte

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, bytes.Clone(p))
	return len(p), nil
}

func TestProxySlices(t *testing.T) {
	l, w := &link{done: make(chan struct{})}, new(writes)
	l.write(w, make([]byte, 1000), Trouble{Slice: 10})
	if n := len(*w); n < 100 {
		t.Errorf("%d pieces", n)
	}
	for _, p := range *w {
		if len(p) > 10 {
			t.Errorf("a piece of %d bytes", len(p))
		}
	}
}

// What is late or slow takes at least as long as it should: sooner would be no
// chance of the machine.
func TestProxyIsSlow(t *testing.T) {
	for name, trouble := range map[string]Trouble{"latency": {Latency: 50 * time.Millisecond, Jitter: 10 * time.Millisecond}, "rate": {Up: true, Rate: 100_000}} {
		p, _ := echo(t)
		p.Disturb(trouble)
		begin := time.Now()
		if _, err := answer(t, dial(t, p), make([]byte, 4000)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 40*time.Millisecond {
			t.Errorf("%s: took %s", name, took)
		}
	}
}
