package jsapi_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/testenv"
)

// rawHeader is one that a client library would not give back as it was.
const rawHeader = "NATS/1.0\r\nb: 2\r\nA:1\r\nb:  3 \r\nZ:\r\n\r\n"

// publishRaw publishes a message with the header's very bytes.
func publishRaw(t *testing.T, addr, subject, header, data string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		subject, len(header), len(header)+len(data), header, data)
	var got []byte
	for !bytes.Contains(got, []byte("PONG")) {
		buf := make([]byte, 4096)
		_ = conn.SetReadDeadline(time.Now().Add(testenv.Hang))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
}

// sample makes stream S with holes, headers and empty messages.
func sample(t *testing.T, conn *natsconn.Conn, storage string) {
	t.Helper()
	natstest.MakeStream(t, conn.NC, `{"name":"S","subjects":["s.>"],"retention":"limits","storage":"`+storage+`","num_replicas":1,"max_consumers":-1,"max_msgs":-1,"max_bytes":-1}`)
	natstest.Publish(t, conn.NC, 3000, func(i int) *nats.Msg {
		m := nats.NewMsg(fmt.Sprintf("s.%d", i%7))
		if i%3 == 0 {
			m.Header.Set("Number", fmt.Sprint(i))
		}
		m.Data = bytes.Repeat([]byte{byte(i)}, i%1500)
		return m
	})
	publishRaw(t, conn.NC.ConnectedAddr(), "s.raw", rawHeader, "x")
	natstest.PublishTo(t, conn.NC, "s.tail", 4, 10)
	natstest.Delete(t, conn.NC, "S", 1, 2, 100, 101, 102, 2500, 3004, 3005)
}

func clone(r *record.Record) record.Record {
	return record.Record{
		Sequence: r.Sequence, Time: r.Time, Subject: bytes.Clone(r.Subject),
		Header: bytes.Clone(r.Header), Data: bytes.Clone(r.Data),
	}
}

// Both readers give every message of every server as it is, and name what is
// not there.
func TestReaders(t *testing.T) {
	t.Parallel()
	for _, version := range append(natstest.Versions(), natstest.Latest) {
		for _, storage := range []string{"file", "memory"} {
			t.Run(version+"/"+storage, func(t *testing.T) {
				t.Parallel()
				conn := dial(t, natsconn.Options{URL: natstest.StartVersion(t, version).URL()})
				sample(t, conn, storage)
				want := natstest.Records(t, conn.NC, "S")
				if len(want) != 2997 || string(want[len(want)-3].Header) != rawHeader {
					t.Fatalf("%d messages, header %q", len(want), want[len(want)-3].Header)
				}
				var got []record.Record
				err := conn.API.ReadStream(t.Context(), "S", 0, 5000, func(r *record.Record) error {
					got = append(got, clone(r))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if d := natstest.Diff(want, got); d != "" {
					t.Errorf("ReadStream: %s", d)
				}
				if left := natstest.Consumers(t, conn.NC, "S"); len(left) != 0 {
					t.Errorf("%d consumers are left", len(left))
				}
				got = got[:0]
				all := new(seqset.Set)
				all.AddRange(1, 3010)
				absent := new(seqset.Set)
				last := uint64(0)
				err = conn.API.Messages(t.Context(), "S", all, func(seq uint64, r *record.Record) error {
					if seq != last+1 {
						t.Errorf("%d after %d", seq, last)
					}
					last = seq
					if r == nil {
						absent.Add(seq)
					} else {
						got = append(got, clone(r))
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if d := natstest.Diff(want, got); d != "" {
					t.Errorf("Messages: %s", d)
				}
				if s := absent.String(); s != "1-2, 100-102, 2500, 3004-3010" {
					t.Errorf("absent: %s", s)
				}
				r, err := conn.API.Message(t.Context(), "S", 3001)
				if err != nil || string(r.Header) != rawHeader {
					t.Errorf("%+v, %v", r, err)
				}
				if _, err := conn.API.Message(t.Context(), "S", 100); !errors.Is(err, jsapi.ErrNoMessage) {
					t.Error(err)
				}
				info, err := conn.API.StreamInfo(t.Context(), "S", jsapi.InfoOptions{DeletedDetails: true})
				if err != nil {
					t.Fatal(err)
				}
				if d := info.State.Deleted.String(); d != "100-102, 2500, 3004-3005" {
					t.Errorf("deleted: %s", d)
				}
				if n := info.State.LastSeq - info.State.FirstSeq + 1 - info.State.Messages; n != info.State.Deleted.Len() {
					t.Errorf("%d deleted by the count of messages, %d by name", n, info.State.Deleted.Len())
				}
				if info.State.Deleted.Len() != info.State.NumDeleted {
					t.Errorf("%d deleted of %d", info.State.Deleted.Len(), info.State.NumDeleted)
				}
			})
		}
	}
}

func TestReadStreamRange(t *testing.T) {
	t.Parallel()
	conn := dial(t, natsconn.Options{URL: natstest.Start(t).URL()})
	sample(t, conn, "file")
	for _, tc := range []struct{ first, last, from, to, n uint64 }{
		{50, 60, 50, 60, 11},
		{100, 102, 0, 0, 0},
		{99, 103, 99, 103, 2},
		{3000, 9000, 3000, 3003, 4},
		{3004, 9000, 0, 0, 0},
		{10, 9, 0, 0, 0},
	} {
		var first, last, n uint64
		err := conn.API.ReadStream(t.Context(), "S", tc.first, tc.last, func(r *record.Record) error {
			if n++; n == 1 {
				first = r.Sequence
			}
			last = r.Sequence
			return nil
		})
		if err != nil || first != tc.from || last != tc.to || n != tc.n {
			t.Errorf("%d-%d: %d messages %d-%d, %v", tc.first, tc.last, n, first, last, err)
		}
	}
	stop := errors.New("stop")
	if err := conn.API.ReadStream(t.Context(), "S", 1, 9, func(*record.Record) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := conn.API.ReadStream(ctx, "S", 1, 3000, func(*record.Record) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left := natstest.Consumers(t, conn.NC, "S"); len(left) != 0 {
		t.Errorf("%d consumers are left", len(left))
	}
	for _, retention := range []string{"interest", "workqueue"} {
		natstest.MakeStream(t, conn.NC, `{"name":"`+retention+`","subjects":["`+retention+`"],"retention":"`+retention+`"}`)
		err := conn.API.ReadStream(t.Context(), retention, 1, 9, func(*record.Record) error { return nil })
		if !errors.Is(err, jsapi.ErrConsumerRefused) {
			t.Errorf("%s: %v", retention, err)
		}
	}
	if err := conn.API.ReadStream(t.Context(), "NONE", 1, 9, nil); !errors.Is(err, jsapi.ErrStreamNotFound) {
		t.Error(err)
	}
}

// The reader's own connection breaks again and again, or loses a piece of the
// stream; what arrives is whole all the same.
func TestReadStreamRestarts(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	direct := dial(t, natsconn.Options{URL: srv.URL()})
	sample(t, direct, "file")
	want := natstest.Records(t, direct.NC, "S")
	p := newCutter(t, direct.NC.ConnectedAddr())
	conn := dial(t, natsconn.Options{URL: p.url()})
	p.cutAfter.Store(200 << 10) // later connections only
	var got []record.Record
	err := conn.API.ReadStream(t.Context(), "S", 1, 5000, func(r *record.Record) error {
		got = append(got, clone(r))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := natstest.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := p.cuts.Load(); n < 5 {
		t.Errorf("only %d connections were cut", n)
	}
}

// A message that is lost between server and reader, in the middle or as the
// last one, is noticed by the consumer's numbers and read again.
func TestReadStreamNoticesLoss(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	direct := dial(t, natsconn.Options{URL: srv.URL()})
	sample(t, direct, "file")
	want := natstest.Records(t, direct.NC, "S")
	for _, drop := range []int64{1, 1000, int64(len(want))} {
		p := newCutter(t, direct.NC.ConnectedAddr())
		p.drop.Store(drop)
		conn := dial(t, natsconn.Options{URL: p.url()})
		var got []record.Record
		err := conn.API.ReadStream(t.Context(), "S", 1, 5000, func(r *record.Record) error {
			got = append(got, clone(r))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := natstest.Diff(want, got); d != "" {
			t.Errorf("message %d lost: %s", drop, d)
		}
		if p.drop.Load() >= 0 {
			t.Errorf("message %d was not lost", drop)
		}
	}
}

const readerAuth = `
accounts { A { jetstream: enabled
  users: [ {user: all, password: pw},
    {user: part, password: pw, permissions: {
      publish: ["$JS.API.STREAM.>", "$JS.API.INFO"], subscribe: ["_INBOX.>"] }},
    {user: deaf, password: pw, permissions: { publish: [">"], subscribe: ["x"] }} ] } }
`

// A refused permission is named, at once, by the call that suffers from it.
func TestPermissions(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, natstest.Config(readerAuth))
	all := dial(t, natsconn.Options{URL: srv.URL(), User: "all", Password: "pw"})
	natstest.MakeStream(t, all.NC, `{"name":"S","subjects":["s"]}`)
	natstest.PublishTo(t, all.NC, "s", 10, 10)
	part := dial(t, natsconn.Options{URL: srv.URL(), User: "part", Password: "pw"})
	deaf := dial(t, natsconn.Options{URL: srv.URL(), User: "deaf", Password: "pw"})
	count := 0
	fn := func(*record.Record) error { count++; return nil }
	if err := all.API.ReadStream(t.Context(), "S", 1, 10, fn); err != nil || count != 10 {
		t.Errorf("%d messages, %v", count, err)
	}
	_, err := part.API.Consumers(t.Context(), "S")
	refused(t, err, jsapi.OpPublish, "$JS.API.CONSUMER.LIST.S")
	err = part.API.ReadStream(t.Context(), "S", 1, 10, fn)
	refused(t, err, jsapi.OpPublish, "$JS.API.CONSUMER.CREATE.S")
	if !errors.Is(err, jsapi.ErrConsumerRefused) {
		t.Error(err)
	}
	for range 2 { // the first refusal of the inbox counts for later calls
		_, err = deaf.API.AccountInfo(t.Context())
		refused(t, err, jsapi.OpSubscribe, "_INBOX.")
	}
	err = deaf.API.Messages(t.Context(), "S", seqset.Of(1, 2), func(uint64, *record.Record) error { return nil })
	refused(t, err, jsapi.OpSubscribe, "_INBOX.")
}

func refused(t *testing.T, err error, op, subject string) {
	t.Helper()
	var denied *jsapi.PermissionError
	if !errors.As(err, &denied) || !errors.Is(err, jsapi.ErrPermission) || denied.Op != op || !strings.HasPrefix(denied.Subject, subject) {
		t.Errorf("got %v", err)
	}
}

// The raw connection logs in by every means that the first one can.
func TestReadStreamLogins(t *testing.T) {
	t.Parallel()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "user.nk")
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	host := func(s *natstest.Server) string { return strings.TrimPrefix(s.URL(), "nats://") }
	users := natstest.Start(t, natstest.Config(
		`authorization { timeout: 60, users: [ {nkey: `+public+`}, {user: u, password: "p w"} ] }`))
	token := natstest.Start(t, natstest.Config(`authorization { timeout: 60, token: tok }`))
	for name, o := range map[string]natsconn.Options{
		"nkey":         {URL: users.URL(), NKeySeedFile: file},
		"user":         {URL: users.URL(), User: "u", Password: "p w"},
		"user in URL":  {URL: "nats://u:p%20w@" + host(users)},
		"token":        {URL: token.URL(), Token: "tok"},
		"token in URL": {URL: "nats://tok@" + host(token)},
	} {
		conn := dial(t, o)
		if _, err := conn.API.StreamInfo(t.Context(), "S", jsapi.InfoOptions{}); errors.Is(err, jsapi.ErrStreamNotFound) {
			natstest.MakeStream(t, conn.NC, `{"name":"S","subjects":["s"]}`)
			natstest.PublishTo(t, conn.NC, "s", 10, 10)
		}
		n := 0
		if err := conn.API.ReadStream(t.Context(), "S", 1, 10, func(*record.Record) error { n++; return nil }); err != nil || n != 10 {
			t.Errorf("%s: %d messages, %v", name, n, err)
		}
	}
}

// cutter passes connections on. It cuts each after a number of bytes from the
// server, if one is given when it begins, and drops one delivered message.
type cutter struct {
	l        net.Listener
	cutAfter atomic.Int64
	cuts     atomic.Int64
	drop     atomic.Int64 // counts down to the message to drop
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go c.pass(in, target, c.cutAfter.Load())
		}
	}()
	return c
}

func (c *cutter) url() string { return "nats://" + c.l.Addr().String() }

func (c *cutter) pass(in net.Conn, target string, limit int64) {
	defer in.Close()
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	r := bufio.NewReaderSize(out, 64<<10)
	for total := int64(0); ; {
		frame, dropped, err := c.frame(r)
		if err != nil {
			return
		}
		if total += int64(len(frame)); limit > 0 && total > limit {
			c.cuts.Add(1)
			// What was passed on must arrive, or nothing might, again and again.
			if tcp, ok := in.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
				<-done
			}
			return
		}
		if dropped {
			continue
		}
		if _, err := in.Write(frame); err != nil {
			return
		}
	}
}

// frame reads one control line with what belongs to it.
func (c *cutter) frame(r *bufio.Reader) (frame []byte, drop bool, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, false, err
	}
	if !bytes.HasPrefix(line, []byte("MSG ")) && !bytes.HasPrefix(line, []byte("HMSG ")) {
		return line, false, nil
	}
	f := bytes.Fields(line)
	size, err := strconv.Atoi(string(f[len(f)-1]))
	if err != nil {
		return nil, false, err
	}
	body := make([]byte, size+2)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, false, err
	}
	if bytes.Contains(line, []byte("$JS.ACK.")) {
		drop = c.drop.Add(-1) == 0
		if drop {
			c.drop.Add(-1)
		}
	}
	return append(line, body...), drop, nil
}
