package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"

	"jetkeep/service/archive"
	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/testenv"
)

// A meddler is a target that lets the test act at chosen moments of a capture,
// or change what the server sends.
type meddler struct {
	Target
	snapshots atomic.Int32
	// during is called once, after the first chunk of the first snapshot.
	during func()
	// change replaces the archive of snapshot number n (from 1).
	change func(n int, archive []byte) []byte
	// window keeps the server from sending all of it before during is called.
	window int
}

func (m *meddler) Snapshot(ctx context.Context, stream string, o jetsnap.SnapshotOptions) (io.ReadCloser, error) {
	n := int(m.snapshots.Add(1))
	if m.window > 0 {
		o.ChunkSize, o.WindowSize, o.MaxBuffered = m.window/4, m.window, m.window
	}
	snap, err := m.Target.Snapshot(ctx, stream, o)
	if err != nil {
		return nil, err
	}
	if m.change != nil {
		all, err := io.ReadAll(snap)
		if err != nil {
			return nil, err
		}
		return readCloser{bytes.NewReader(m.change(n, all)), snap}, nil
	}
	if m.during != nil && n == 1 {
		return readCloser{&firstRead{snap, m.during}, snap}, nil
	}
	return snap, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

type firstRead struct {
	io.Reader
	then func()
}

func (f *firstRead) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if f.then != nil {
		f.then()
		f.then = nil
	}
	return n, err
}

// createStream makes a stream of limits retention unless settings say other.
func createStream(t *testing.T, srv *natstest.Server, name string, settings object) {
	t.Helper()
	cfg := object{"name": name, "subjects": []string{strings.ToLower(name)}, "storage": "file", "retention": "limits", "discard": "old", "max_msgs": -1, "max_bytes": -1}
	for k, v := range settings {
		cfg[k] = v
	}
	request(t, srv.Connect(), "STREAM.CREATE."+name, cfg)
}

// TestCapturePurgedStream purges a stream in the middle of its snapshot. The
// servers answer with a failure, with a success that holds a note of the
// failure, or with a success that lacks messages.
func TestCapturePurgedStream(t *testing.T) {
	t.Parallel()
	for _, version := range append(natstest.Versions(), natstest.Latest) {
		for _, keep := range []int{0, 5000} {
			t.Run(fmt.Sprintf("%s/keep=%d", version, keep), func(t *testing.T) {
				t.Parallel()
				srv := natstest.StartVersion(t, version)
				nc := srv.Connect()
				createStream(t, srv, "PURGED", nil)
				publish(t, nc, "purged", 10000, 2000)
				m := &meddler{Target: OfConn(dial(t, srv.URL())), window: 64 << 10, during: func() {
					request(t, nc, "STREAM.PURGE.PURGED", object{"keep": keep})
					publish(t, nc, "purged", 100, 100)
				}}
				got := collect()
				out, err := Capture(t.Context(), m, "PURGED", got, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if d := natstest.Diff(natstest.Records(t, nc, "PURGED"), got.live(out)); d != "" {
					t.Fatal(d)
				}
				if out.Info.State.Messages != uint64(keep+100) {
					t.Errorf("the restore point has %d messages, want %d", out.Info.State.Messages, keep+100)
				}
			})
		}
	}
}

// TestCaptureOfDeletedStream: a stream that goes away is an error, and so is
// one that comes again under the same name.
func TestCaptureOfDeletedStream(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.10.29", "2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			nc := srv.Connect()
			for _, again := range []bool{false, true} {
				createStream(t, srv, "GONE", nil)
				publish(t, nc, "gone", 10000, 2000)
				m := &meddler{Target: OfConn(dial(t, srv.URL())), window: 64 << 10, during: func() {
					request(t, nc, "STREAM.DELETE.GONE", nil)
					if again {
						createStream(t, srv, "GONE", nil)
						publish(t, nc, "gone", 10000, 2000)
					}
				}}
				out, err := Capture(t.Context(), m, "GONE", collect(), Options{Snapshot: jetsnap.SnapshotOptions{IdleTimeout: 5 * time.Second}})
				if err == nil {
					t.Fatalf("again=%v: captured %d messages of a stream that was deleted meanwhile", again, out.Info.State.Messages)
				}
				t.Logf("again=%v: %v", again, err)
			}
		})
	}
}

// TestCaptureOfKilledServer: a server that dies sends nothing at all.
func TestCaptureOfKilledServer(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.9.25", "2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			createStream(t, srv, "KILLED", nil)
			publish(t, srv.Connect(), "killed", 10000, 2000)
			m := &meddler{Target: OfConn(dial(t, srv.URL())), window: 64 << 10, during: srv.Kill}
			_, err := Capture(t.Context(), m, "KILLED", collect(), Options{Snapshot: jetsnap.SnapshotOptions{IdleTimeout: 5 * time.Second}})
			if !errors.Is(err, jetsnap.ErrConnectionLost) && !errors.Is(err, jetsnap.ErrIdle) {
				t.Fatalf("error is %v", err)
			}
		})
	}
}

// TestCaptureOfWorkQueue captures a queue while its messages are consumed.
func TestCaptureOfWorkQueue(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.10.29", "2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			nc := srv.Connect()
			const jobs = 10000
			createStream(t, srv, "JOBS", object{"retention": "workqueue"})
			publish(t, nc, "jobs", jobs, 1500)
			request(t, nc, "CONSUMER.DURABLE.CREATE.JOBS.worker", object{
				"stream_name": "JOBS", "config": object{"durable_name": "worker", "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant", "ack_wait": int64(testenv.Hang), "max_deliver": -1},
			})
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			work := srv.Connect()
			done, ready := 0, make(chan struct{})
			wg.Go(func() {
				for ; ctx.Err() == nil && done < jobs; done++ {
					m, err := work.Request("$JS.API.CONSUMER.MSG.NEXT.JOBS.worker", nil, testenv.Hang)
					if err == nil {
						_, err = work.Request(m.Reply, []byte("+ACK"), testenv.Hang)
					}
					if err != nil {
						t.Error(err)
						return
					}
					if done == 300 {
						close(ready)
					}
				}
			})
			got := collect()
			m := &meddler{Target: OfConn(dial(t, srv.URL())), window: 64 << 10, during: func() {
				testenv.Receive(t, "jobs to be done during the capture", ready)
			}}
			out, err := Capture(t.Context(), m, "JOBS", got, Options{})
			cancel()
			wg.Wait()
			if err != nil {
				t.Fatal(err)
			}
			checkAgainstInfo(t, got.live(out), out)
			if out.Deleted.Empty() && out.Info.State.Messages == jobs {
				t.Error("nothing was consumed during the capture: the test shows nothing")
			}
			if len(out.Consumers) != 1 {
				t.Errorf("%d consumers", len(out.Consumers))
			}
			t.Logf("%d jobs done, %d dead records, notes %q", done, out.Deleted.Len(), out.Notes)
		})
	}
}

// TestCaptureOfDoctoredArchives gives the capture archives that no server makes
// at will, each wrong in one way, and wants the stream whole all the same or an
// error.
func TestCaptureOfDoctoredArchives(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "DOCTORED", nil)
	publish(t, nc, "doctored", 5000, 100)
	request(t, nc, "CONSUMER.DURABLE.CREATE.DOCTORED.worker", object{
		"stream_name": "DOCTORED", "config": object{"durable_name": "worker", "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant"},
	})
	info := natstest.Info(t, nc, "DOCTORED")
	want := natstest.Records(t, nc, "DOCTORED")
	v1 := func(edit func(w *archive.V1Writer) error) []byte {
		var b bytes.Buffer
		w := archive.NewV1Writer(&b, archive.Meta{Stream: "DOCTORED", Config: info.Config, Created: info.Created})
		err := edit(w)
		if err == nil {
			err = w.Close(5000)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	except := func(from, to uint64) []byte {
		return v1(func(w *archive.V1Writer) error {
			for i := range want {
				if s := want[i].Sequence; s >= from && s <= to {
					continue
				}
				if err := w.Record(&want[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	plain := func(b []byte) []byte {
		out, err := io.ReadAll(s2.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	pack := func(b []byte) []byte {
		var out bytes.Buffer
		w := s2.NewWriter(&out)
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	for name, c := range map[string]struct {
		change func(n int, b []byte) []byte
		fails  bool
		noted  string
	}{
		"untouched":             {change: func(_ int, b []byte) []byte { return b }},
		"gap in the middle":     {change: func(int, []byte) []byte { return except(1000, 1999) }, noted: "1000-1999"},
		"first messages absent": {change: func(int, []byte) []byte { return except(1, 10) }, noted: "1-10"},
		"last messages absent":  {change: func(int, []byte) []byte { return except(4991, 5000) }, noted: "4991-5000"},
		"all messages absent":   {change: func(int, []byte) []byte { return except(1, 5000) }, noted: "1-5000"},
		"consumers absent":      {change: func(int, []byte) []byte { return except(1, 0) }, noted: "worker"},
		"end entry absent":      {change: func(_ int, b []byte) []byte { p := plain(b); return pack(p[:len(p)-5]) }, fails: true},
		"cut in a message":      {change: func(_ int, b []byte) []byte { p := plain(b); return pack(p[:len(p)-30]) }, fails: true},
		"cut transfer":          {change: func(_ int, b []byte) []byte { return b[:len(b)/2] }, fails: true},
		"flipped bit":           {change: func(_ int, b []byte) []byte { b[len(b)/2] ^= 4; return b }, fails: true},
		"nothing":               {change: func(int, []byte) []byte { return nil }, fails: true},
		"something behind":      {change: func(_ int, b []byte) []byte { return append(b, b...) }, fails: true},
	} {
		// One after the other: what reads a gap again is a consumer of the stream
		// that others would see.
		t.Run(name, func(t *testing.T) {
			m := &meddler{Target: OfConn(dial(t, srv.URL())), change: c.change}
			got := collect()
			out, err := Capture(t.Context(), m, "DOCTORED", got, Options{})
			if c.fails {
				if err == nil {
					t.Fatal("the archive was accepted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := natstest.Diff(want, got.live(out)); d != "" {
				t.Fatal(d)
			}
			if len(out.Consumers) != 1 || len(out.Consumers[0].Config) == 0 {
				t.Errorf("consumers: %+v", out.Consumers)
			}
			if notes := strings.Join(out.Notes, "\n"); !strings.Contains(notes, c.noted) {
				t.Errorf("notes %q do not name %q", notes, c.noted)
			}
		})
	}
}

// TestCaptureWithServerFaults lets the server's snapshot fail by its own word,
// in the archive of a transfer that ended well: a few times, then always.
func TestCaptureWithServerFaults(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "FAULTY", nil)
	publish(t, nc, "faulty", 3000, 100)
	want := natstest.Records(t, nc, "FAULTY")
	fault := faultyArchive(t, "block 3 could not be read")
	for _, faults := range []int{1, 2, 1000} {
		m := &meddler{Target: OfConn(dial(t, srv.URL())), change: func(n int, b []byte) []byte {
			if n <= faults {
				return fault
			}
			return b
		}}
		got := collect()
		out, err := Capture(t.Context(), m, "FAULTY", got, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d := natstest.Diff(want, got.live(out)); d != "" {
			t.Fatal(d)
		}
		if n := int(m.snapshots.Load()); n != min(faults+1, maxSnapshots) {
			t.Errorf("%d snapshots after %d faults", n, faults)
		}
		if (out.Engine == EngineMessages) != (faults >= maxSnapshots) {
			t.Errorf("engine after %d faults: %s", faults, out.Engine)
		}
	}
}

// faultyArchive is what a server of 2.10 to 2.14 sends that failed to read the
// stream: a whole archive with a note in it.
func faultyArchive(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := s2.NewWriter(&b)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: "errors.txt", Mode: 0o600, Size: int64(len(text)), Format: tar.FormatPAX, ModTime: time.Now()})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = errors.Join(w.Close(), z.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A forger answers with a state of its own making.
type forger struct {
	Target
	forge func(n int, info *jsapi.StreamInfo)
	calls int
}

func (f *forger) StreamInfo(ctx context.Context, stream string, o jsapi.InfoOptions) (*jsapi.StreamInfo, error) {
	info, err := f.Target.StreamInfo(ctx, stream, o)
	f.calls++
	if err == nil {
		f.forge(f.calls, info)
	}
	return info, err
}

// TestCaptureOfContradictions: what the server says must agree with itself and
// with what it gives.
func TestCaptureOfContradictions(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "ODD", nil)
	publish(t, nc, "odd", 1000, 100)
	var incomplete *IncompleteError
	for name, c := range map[string]struct {
		forge func(n int, info *jsapi.StreamInfo)
		want  func(error) bool
	}{
		"more messages counted than there are": {
			func(_ int, i *jsapi.StreamInfo) { i.State.Messages++ },
			func(err error) bool { return errors.Is(err, ErrInconsistent) },
		},
		"a deleted message not named": {
			func(_ int, i *jsapi.StreamInfo) { i.State.Messages-- },
			func(err error) bool { return errors.Is(err, ErrInconsistent) },
		},
		"another life of the stream": {
			func(n int, i *jsapi.StreamInfo) { i.Created = i.Created.Add(time.Duration(n)) },
			func(err error) bool { return errors.Is(err, ErrRecreated) },
		},
		"messages that nobody can read": {
			func(_ int, i *jsapi.StreamInfo) { i.State.LastSeq += 7; i.State.Messages += 7 },
			func(err error) bool {
				return errors.As(err, &incomplete) && incomplete.Missing.Equal(seqset.Of(1001, 1002, 1003, 1004, 1005, 1006, 1007))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Capture(t.Context(), &forger{Target: OfConn(dial(t, srv.URL())), forge: c.forge}, "ODD", collect(), Options{})
			if !c.want(err) {
				t.Fatalf("error is %v", err)
			}
		})
	}
}

// An impostor answers requests for single messages with another content, as a
// server does that lost its last writes and gave their sequences away again.
type impostor struct{ Target }

func (i impostor) Messages(ctx context.Context, stream string, seqs *seqset.Set, fn func(uint64, *record.Record) error) error {
	return i.Target.Messages(ctx, stream, seqs, func(seq uint64, r *record.Record) error {
		if r != nil {
			r.Data = append([]byte("not "), r.Data...)
		}
		return fn(seq, r)
	})
}

func TestCaptureOfForkedStream(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	createStream(t, srv, "FORK", nil)
	publish(t, srv.Connect(), "fork", 100, 100)
	_, err := Capture(t.Context(), impostor{OfConn(dial(t, srv.URL()))}, "FORK", collect(), Options{})
	if !errors.Is(err, ErrRecreated) {
		t.Fatalf("error is %v", err)
	}
}

// TestCaptureWithUnnamedDeletions deletes the messages that old servers leave
// out of their lists of deleted ones.
func TestCaptureWithUnnamedDeletions(t *testing.T) {
	t.Parallel()
	for _, version := range append(natstest.Versions(), natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			nc := srv.Connect()
			const messages = 2300
			createStream(t, srv, "UNNAMED", nil)
			// Enough for a few blocks; one in a hundred is deleted, so that some
			// are the first of theirs.
			publish(t, nc, "unnamed", messages, 8000)
			for seq := 1; seq <= messages; seq++ {
				if seq%100 == 0 || blockStart(seq) {
					request(t, nc, "STREAM.MSG.DELETE.UNNAMED", object{"seq": seq, "no_erase": seq%200 == 0})
				}
			}
			got := collect()
			out, err := Capture(t.Context(), OfConn(dial(t, srv.URL())), "UNNAMED", got, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if d := natstest.Diff(natstest.Records(t, nc, "UNNAMED"), got.live(out)); d != "" {
				t.Fatal(d)
			}
		})
	}
}

// blockStart says whether a message of 8,000 bytes is near the first of a block
// of 8 MiB, which depends on the version by a few messages.
func blockStart(seq int) bool {
	n := seq % 1044
	return n < 10 || n > 1035
}
