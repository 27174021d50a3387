package natstest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"jetkeep/store/testenv"
)

// A Trouble is what connections through a Proxy suffer from, in one direction.
type Trouble struct {
	// Up is for what clients send. Else it is for what they are sent.
	Up bool
	// Share is the part of connections that suffer, 0 for all of them.
	Share float64
	// What is passed on is late by Latency and up to Jitter more or less, which
	// does not make it less.
	Latency, Jitter time.Duration
	// Rate is how many bytes are passed on a second, 0 for all.
	Rate int
	// Slice cuts what is passed on into pieces of up to so many bytes, with a
	// Pause after each.
	Slice int
	Pause time.Duration
	// Limit is the number of bytes after which a connection ends, 0 for none.
	Limit int64
	// Hold passes nothing on, while connections stay open.
	Hold bool
	// End is how long a connection lives on, 0 for ever. It ends in good order,
	// or, with Reset, as if its other end had crashed.
	End   time.Duration
	Reset bool
}

// A Proxy passes connections on to a server. It can be cut, and disturbed, which
// those connections suffer from that there are and those that come.
type Proxy struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	cut     bool
	refused int // connections, since it was cut
	trouble Trouble
	links   map[*link]bool
}

// NewProxy returns a proxy for a server, an address with a port, which need not
// run yet. It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for %s: %v", target, err)
	}
	p := &Proxy{target: target, listener: l, links: map[*link]bool{}}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Cut()
		p.running.Wait()
	})
	return p
}

// Addr returns where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut breaks every connection, and each that is made, until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.refused = true, 0
	for l := range p.links {
		l.end(true)
	}
}

// Refused returns how many connections were broken that were made since Cut.
func (p *Proxy) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Disturb has connections suffer from a trouble, and from no other any more.
func (p *Proxy) Disturb(trouble Trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = trouble
	for l := range p.links {
		l.suffer(trouble)
	}
}

// Mend ends what Cut and Disturb did.
func (p *Proxy) Mend() {
	p.mu.Lock()
	p.cut = false
	p.mu.Unlock()
	p.Disturb(Trouble{})
}

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.carry(in.(*net.TCPConn)) })
	}
}

func (p *Proxy) carry(in *net.TCPConn) {
	l := &link{in: in, done: make(chan struct{}), changed: make(chan struct{})}
	if !p.hold(l) {
		l.end(true)
		return
	}
	defer p.release(l)
	out, err := net.DialTimeout("tcp", p.target, testenv.Hang)
	if err != nil {
		l.end(true)
		return
	}
	if !l.reach(out.(*net.TCPConn)) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.pass(l.in, l.out, true) })
	both.Go(func() { l.pass(l.out, l.in, false) })
	both.Wait()
	l.end(false)
}

// hold remembers a connection, unless it is to be cut.
func (p *Proxy) hold(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		p.refused++
		return false
	}
	p.links[l] = true
	l.suffer(p.trouble)
	return true
}

func (p *Proxy) release(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
	l.suffer(Trouble{})
}

// A link is a client's connection and that to the server.
type link struct {
	in, out *net.TCPConn

	mu      sync.Mutex
	ended   bool
	trouble Trouble
	passed  int64         // bytes, since there is that trouble
	changed chan struct{} // closed when there is another one
	timer   *time.Timer   // until the end, nil for none
	done    chan struct{} // closed at the end
}

// reach sets the connection to the server, if that of the client is there still.
func (l *link) reach(out *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		_ = out.Close()
		return false
	}
	l.out = out
	return true
}

func (l *link) suffer(trouble Trouble) {
	if trouble.Share > 0 && rand.Float64() >= trouble.Share {
		trouble = Trouble{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.trouble, l.passed = trouble, 0
	close(l.changed)
	l.changed = make(chan struct{})
	if trouble.End > 0 {
		l.timer = time.AfterFunc(trouble.End, func() { l.end(trouble.Reset) })
	}
}

// end closes both connections.
func (l *link) end(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	close(l.done)
	for _, c := range []*net.TCPConn{l.in, l.out} {
		if c == nil {
			continue
		}
		if reset {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
}

// pass carries one direction until it ends. The end of what one side sends is
// told to the other, which may have more to say.
func (l *link) pass(from, to *net.TCPConn, up bool) {
	type piece struct {
		data []byte
		due  time.Time
	}
	var late sync.WaitGroup // pieces
	queue, written := make(chan piece, 1<<10), make(chan struct{})
	go func() {
		defer close(written)
		for x := range queue {
			l.sleep(time.Until(x.due))
			l.write(to, x.data, Trouble{})
			late.Done()
		}
	}()
	for buf := make([]byte, 16<<10); ; {
		n, err := from.Read(buf)
		trouble, more := l.admit(n, up)
		if trouble.Latency > 0 {
			wait := trouble.Latency + time.Duration((2*rand.Float64()-1)*float64(trouble.Jitter))
			late.Add(1)
			queue <- piece{append([]byte(nil), buf[:more]...), time.Now().Add(wait)}
		} else {
			late.Wait()
			l.write(to, buf[:more], trouble)
		}
		switch {
		case errors.Is(err, io.EOF):
		case err != nil || more < n:
			late.Wait()
			l.end(false)
		default:
			continue
		}
		break
	}
	close(queue)
	<-written
	_ = to.CloseWrite()
}

// admit waits while nothing passes, and returns how many of n bytes that are
// there pass then, and what they suffer from.
func (l *link) admit(n int, up bool) (Trouble, int) {
	for {
		l.mu.Lock()
		trouble, changed := l.trouble, l.changed
		if trouble.Up != up {
			trouble = Trouble{}
		}
		if !trouble.Hold {
			if trouble.Limit > 0 {
				n = int(min(int64(n), trouble.Limit-l.passed))
				l.passed += int64(n)
			}
			l.mu.Unlock()
			return trouble, n
		}
		l.mu.Unlock()
		select {
		case <-changed:
		case <-l.done:
			return Trouble{}, 0
		}
	}
}

// write sends data as slowly and in such pieces as a trouble has it. If it cannot
// be sent the link ends.
func (l *link) write(to io.Writer, data []byte, trouble Trouble) {
	if trouble.Rate > 0 {
		l.sleep(time.Duration(len(data)) * time.Second / time.Duration(trouble.Rate))
	}
	for len(data) > 0 {
		n := len(data)
		if trouble.Slice > 0 {
			n = min(n, 1+rand.IntN(trouble.Slice))
		}
		if _, err := to.Write(data[:n]); err != nil {
			l.end(false)
			return
		}
		data = data[n:]
		l.sleep(trouble.Pause)
	}
}

// sleep ends early if the link does.
func (l *link) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.done:
	}
}
