package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/record"
)

// makeOrders makes a stream with deletes at both ends and inside, a trailing
// gap, a message id and a consumer with messages pending.
func makeOrders(t *testing.T, nc *nats.Conn, config string) {
	t.Helper()
	create(t, nc, config)
	publish(t, nc, "orders.new", 60)
	publishID(t, nc, "once", false)
	publish(t, nc, "orders.new", 1)
	for _, seq := range []int{1, 2, 17, 30, 31, 32, 62} {
		natstest.MustRequest(t, nc, "STREAM.MSG.DELETE.ORDERS", fmt.Sprintf(`{"seq":%d}`, seq), nil)
	}
	consumer(t, nc, "ORDERS", `{"durable_name":"WORK","ack_policy":"explicit","ack_wait":3600000000000,"max_ack_pending":100}`)
	pull(t, nc, "ORDERS", "WORK", 20, func(i int) bool { return i < 5 || i%3 == 0 })
	awaitPending(t, nc, "ORDERS", 10)
}

// publishID publishes a message with an id and checks whether the stream knew it.
func publishID(t *testing.T, nc *nats.Conn, id string, known bool) {
	t.Helper()
	m := nats.NewMsg("orders.id")
	m.Header.Set("Nats-Msg-Id", id)
	r := request(t, nc, m)
	var ack struct{ Duplicate bool }
	if err := json.Unmarshal(r.Data, &ack); err != nil {
		t.Fatal(err)
	}
	if ack.Duplicate != known {
		t.Errorf("message id %s: answer %s, want duplicate %v", id, r.Data, known)
	}
}

func checkOrders(t *testing.T, nc *nats.Conn, k *kept, p store.Point, was []natstest.ConsumerInfo) {
	t.Helper()
	wantRecords(t, nc, "ORDERS", k.records[p.ID])
	info := natstest.Info(t, nc, "ORDERS")
	if info.State.FirstSeq != 3 || info.State.LastSeq != 62 {
		t.Errorf("sequences %d to %d, want 3 to 62", info.State.FirstSeq, info.State.LastSeq)
	}
	is := natstest.Consumers(t, nc, "ORDERS")
	if len(is) != 1 || len(was) != 1 {
		t.Fatalf("consumers %v, want %v", is, was)
	}
	if is[0].Delivered != was[0].Delivered || is[0].AckFloor != was[0].AckFloor || is[0].NumAckPending != was[0].NumAckPending {
		t.Errorf("consumer is %+v, was %+v", is[0], was[0])
	}
}

// everyVersion runs a test on a fresh server of each version.
func everyVersion(t *testing.T, test func(t *testing.T, s *natstest.Server, version string)) {
	for _, v := range append(natstest.Versions(), natstest.Latest) {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			if v == natstest.Latest {
				test(t, natstest.Start(t), v)
			} else {
				test(t, natstest.StartVersion(t, v), v)
			}
		})
	}
}

// A file stream comes back exactly, into every version, with its created time,
// its dedupe window, its consumer and its sequences.
func TestFileStreamIntoEveryVersion(t *testing.T) {
	t.Parallel()
	source := natstest.Start(t)
	nc := source.Connect()
	makeOrders(t, nc, `{"name":"ORDERS","subjects":["orders.*"],"storage":"file","num_replicas":1,"duplicate_window":3600000000000}`)
	k := newKept()
	p := k.capture(t, dial(t, source.URL()), "ORDERS")
	was := natstest.Consumers(t, nc, "ORDERS")
	create(t, nc, `{"name":"DENSE","subjects":["dense"],"storage":"file","num_replicas":1}`)
	publish(t, nc, "dense", 50)
	natstest.MustRequest(t, nc, "STREAM.PURGE.DENSE", `{"seq":11}`, nil)
	dense := k.capture(t, dial(t, source.URL()), "DENSE")
	everyVersion(t, func(t *testing.T, s *natstest.Server, version string) {
		if r := mustExecute(t, s.URL(), k, dense); !r.Verified {
			t.Errorf("result %+v", r)
		}
		wantRecords(t, s.Connect(), "DENSE", k.records[dense.ID])
		r := mustExecute(t, s.URL(), k, p)
		if !r.Verified || r.Digest != p.Content.Digest || r.Method != MethodV1 || len(r.Warnings) > 0 {
			t.Errorf("result %+v", r)
		}
		nc := s.Connect()
		checkOrders(t, nc, k, p, was)
		if got := natstest.Info(t, nc, "ORDERS").Created; !got.Equal(p.Created) {
			t.Errorf("created %s, want %s", got, p.Created)
		}
		publishID(t, nc, "once", true)
		publish(t, nc, "orders.new", 1)
		if got := natstest.Info(t, nc, "ORDERS").State.LastSeq; got != 63 {
			t.Errorf("next sequence is %d, want 63", got)
		}
		had := natstest.Records(t, nc, "ORDERS")
		s.Restart()
		nc = s.Connect()
		wantRecords(t, nc, "ORDERS", had)
		if got := natstest.Info(t, nc, "ORDERS").Created; !got.Equal(p.Created) {
			t.Errorf("created %s after a restart, want %s", got, p.Created)
		}
	})
}

// A memory stream comes back exactly on 2.15, and on servers before only where
// that can be done; elsewhere it is refused and nothing is made.
func TestMemoryStream(t *testing.T) {
	t.Parallel()
	source := natstest.Start(t)
	nc := source.Connect()
	makeOrders(t, nc, `{"name":"ORDERS","subjects":["orders.*"],"storage":"memory","num_replicas":1}`)
	k := newKept()
	conn := dial(t, source.URL())
	p := k.capture(t, conn, "ORDERS")
	was := natstest.Consumers(t, nc, "ORDERS")
	create(t, nc, `{"name":"PLAIN","subjects":["plain.>"],"storage":"memory","num_replicas":1,"max_age":3600000000000}`)
	publish(t, nc, "plain.a", 300)
	for _, seq := range []int{1, 5, 6, 7, 299} {
		natstest.MustRequest(t, nc, "STREAM.MSG.DELETE.PLAIN", fmt.Sprintf(`{"seq":%d}`, seq), nil)
	}
	plain := k.capture(t, conn, "PLAIN")
	everyVersion(t, func(t *testing.T, s *natstest.Server, version string) {
		nc := s.Connect()
		v, err := parseVersion(version)
		if err != nil {
			t.Fatal(err)
		}
		if !v.before(archiveV2) {
			r := mustExecute(t, s.URL(), k, p)
			if !r.Verified || r.Method != MethodV2 {
				t.Errorf("result %+v", r)
			}
			checkOrders(t, nc, k, p, was)
		} else if _, err := execute(t, s.URL(), k, p); !errors.Is(err, ErrRefused) {
			t.Errorf("error %v, want %v", err, ErrRefused)
		}
		if v.before(promotion) {
			if _, err := execute(t, s.URL(), k, plain); !errors.Is(err, ErrRefused) {
				t.Errorf("error %v, want %v", err, ErrRefused)
			}
			if s := natstest.Streams(t, nc); len(s) > 0 {
				t.Errorf("streams %v, want none", s)
			}
			return
		}
		r := mustExecute(t, s.URL(), k, plain)
		if !r.Verified || hasFinding(r.Warnings, CodeConfigChanged) {
			t.Errorf("result %+v", r)
		}
		wantRecords(t, nc, "PLAIN", k.records[plain.ID])
		publish(t, nc, "plain.a", 1)
		if got := natstest.Info(t, nc, "PLAIN").State.LastSeq; got != 301 {
			t.Errorf("next sequence is %d, want 301", got)
		}
		for _, name := range natstest.Streams(t, nc) {
			if strings.HasPrefix(name, "JETKEEP_") {
				t.Errorf("stream %s is left", name)
			}
		}
	})
}

// An empty stream goes on with the sequence after its last one, everywhere.
func TestEmptyStreamKeepsItsSequence(t *testing.T) {
	t.Parallel()
	everyVersion(t, func(t *testing.T, s *natstest.Server, version string) {
		nc := s.Connect()
		conn := dial(t, s.URL())
		for _, storage := range []string{"file", "memory"} {
			if storage == "memory" && version != natstest.Latest {
				continue
			}
			create(t, nc, fmt.Sprintf(`{"name":"EMPTY","subjects":["empty"],"storage":%q,"num_replicas":1}`, storage))
			publish(t, nc, "empty", 7)
			natstest.MustRequest(t, nc, "STREAM.PURGE.EMPTY", nil, nil)
			k := newKept()
			p := k.capture(t, conn, "EMPTY")
			drop(t, nc, "EMPTY")
			if r := mustExecute(t, s.URL(), k, p); !r.Verified {
				t.Errorf("result %+v", r)
			}
			if storage == "file" {
				s.Restart()
				nc, conn = s.Connect(), dial(t, s.URL())
			}
			publish(t, nc, "empty", 1)
			if got := natstest.Info(t, nc, "EMPTY").State; got.LastSeq != 8 || got.Messages != 1 {
				t.Errorf("%s: state %+v, want message 8 alone", storage, got)
			}
			drop(t, nc, "EMPTY")
		}
	})
}

// Settings that touch what is stored or removed come back as they were.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	for name, config := range map[string]string{
		"sealed":    `"subjects":["c.>"]`,
		"discard":   `"subjects":["c.>"],"discard":"new","max_msgs":20`,
		"perSubj":   `"subjects":["c.>"],"discard":"new","max_msgs_per_subject":20,"discard_new_per_subject":true,"max_msgs":100`,
		"republish": `"subjects":["c.>"],"republish":{"src":">","dest":"re.>"}`,
		"transform": `"subjects":["c.>"],"subject_transform":{"src":"c.>","dest":"d.>"}`,
		"consumers": `"subjects":["c.>"],"max_consumers":3,"consumer_limits":{"max_ack_pending":9},"metadata":{"team":"x"}`,
		"s2":        `"subjects":["c.>"],"compression":"s2","allow_direct":true,"deny_delete":true,"allow_rollup_hdrs":true`,
		"ttl":       `"subjects":["c.>"],"allow_msg_ttl":true,"subject_delete_marker_ttl":60000000000,"max_age":3600000000000`,
		"atomic":    `"subjects":["c.>"],"allow_atomic":true,"allow_msg_schedules":true,"first_seq":1000`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, storage := range []string{"file", "memory"} {
				if storage == "memory" && name == "s2" {
					continue // memory is not compressed
				}
				create(t, nc, fmt.Sprintf(`{"name":"CONF","storage":%q,"num_replicas":1,%s}`, storage, config))
				publish(t, nc, "c.x", 10)
				if name == "sealed" {
					update(t, nc, "CONF", "sealed", "true")
				}
				k := newKept()
				p := k.capture(t, conn, "CONF")
				drop(t, nc, "CONF")
				r := mustExecute(t, s.URL(), k, p)
				if !r.Verified || hasFinding(r.Warnings, CodeConfigChanged) {
					t.Errorf("result %+v", r)
				}
				if got := natstest.Info(t, nc, "CONF").Config; !sameJSON(got, p.Config) {
					t.Errorf("%s: configuration %s, want %s", storage, got, p.Config)
				}
				drop(t, nc, "CONF")
			}
		})
	}
}

func update(t *testing.T, nc *nats.Conn, stream, field, value string) {
	t.Helper()
	o, err := decodeObject(natstest.Info(t, nc, stream).Config)
	if err != nil {
		t.Fatal(err)
	}
	o[field] = json.RawMessage(value)
	natstest.MustRequest(t, nc, "STREAM.UPDATE."+stream, o, nil)
}

// A stream that exists, or that is jetkeep's own, is not touched.
func TestNothingIsRestoredOver(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	k := newKept()
	for _, name := range []string{"HERE", "JETKEEP_TASKS", "KV_JETKEEP_SESSIONS", "OBJ_JETKEEP_X"} {
		create(t, nc, fmt.Sprintf(`{"name":%q,"subjects":["x.%s"],"storage":"file","num_replicas":1}`, name, name))
		publish(t, nc, "x."+name, 3)
		p := k.capture(t, conn, name)
		publish(t, nc, "x."+name, 1)
		before := natstest.Records(t, nc, name)
		want := ErrExists
		if name != "HERE" {
			want = ErrReserved
		}
		for _, repeated := range []bool{false, name != "HERE"} {
			if _, err := execute(t, s.URL(), k, p, func(j *Job) { j.Repeated = repeated }); !errors.Is(err, want) || !errors.Is(err, ErrRefused) {
				t.Errorf("%s: error %v, want %v", name, err, want)
			}
		}
		wantRecords(t, nc, name, before)
		if name == "HERE" {
			continue
		}
		drop(t, nc, name)
		if _, err := execute(t, s.URL(), k, p); !errors.Is(err, ErrReserved) {
			t.Errorf("%s: error %v, want %v", name, err, ErrReserved)
		}
	}
}

// A restore point that turns out damaged on the way leaves nothing, neither in
// the way of 2.14, which shows a stream as a whole or not at all, nor in that
// of 2.15, whose partial stream is deleted.
func TestDamagedPointLeavesNothing(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	for _, storage := range []string{"file", "memory"} {
		k, p := big(t, s, conn, storage, 4000)
		for _, cut := range []int{0, 1, 3000, 4000} {
			k.cut[p.ID] = cut
			_, err := execute(t, s.URL(), k, p)
			if !errors.Is(err, errCut) {
				t.Errorf("%s cut at %d: error %v, want %v", storage, cut, err, errCut)
			}
			if got := natstest.Streams(t, nc); len(got) > 0 {
				t.Fatalf("%s cut at %d: streams %v are left (%v)", storage, cut, got, err)
			}
		}
		delete(k.cut, p.ID)
		mustExecute(t, s.URL(), k, p)
		drop(t, nc, "BIG")
	}
}

// big makes a restore point with messages that do not compress.
func big(t *testing.T, s *natstest.Server, conn *natsconn.Conn, storage string, n int) (*kept, store.Point) {
	t.Helper()
	nc := s.Connect()
	create(t, nc, fmt.Sprintf(`{"name":"BIG","subjects":["big"],"storage":%q,"num_replicas":1}`, storage))
	publish(t, nc, "big", 3)
	k := newKept()
	p := k.capture(t, conn, "BIG")
	drop(t, nc, "BIG")
	records := make([]record.Record, n)
	x := uint64(1)
	for i := range records {
		data := make([]byte, 1024)
		for j := range data {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			data[j] = byte(x)
		}
		records[i] = record.Record{Sequence: uint64(i + 1), Time: p.Created.UnixNano() + int64(i+1), Subject: []byte("big"), Data: data}
	}
	p.State.Messages, p.State.LastSeq, p.State.FirstSeq = uint64(n), uint64(n), 1
	p.State.LastTime = time.Unix(0, records[n-1].Time)
	p.State.Bytes = uint64(n) * 1100
	return k, k.put(p, records, nil)
}

// A cancelled restore ends, as an error, and leaves nothing.
func TestCancelledRestoreLeavesNothing(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	for _, storage := range []string{"file", "memory"} {
		k, p := big(t, s, conn, storage, 4000)
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stopped by the test")
		k.hook = func(n int) {
			if n == 3000 {
				cancel(stop)
			}
		}
		c := dial(t, s.URL())
		_, err := Execute(ctx, Job{Conn: c, Repo: k, Point: p})
		if !errors.Is(err, stop) {
			t.Errorf("%s: error %v, want %v", storage, err, stop)
		}
		awaitRestores(t, s)
		if got := natstest.Streams(t, nc); len(got) > 0 {
			t.Fatalf("%s: streams %v are left", storage, got)
		}
	}
}

// What an interrupted execution left is replaced or taken up when it is
// repeated, and a stream of somebody else is not.
func TestRepeatedRestore(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	repeated := func(j *Job) { j.Repeated = true }
	for _, storage := range []string{"file", "memory"} {
		k, p := big(t, s, conn, storage, 500)
		mustExecute(t, s.URL(), k, p)
		if r := mustExecute(t, s.URL(), k, p, repeated); !r.Verified {
			t.Errorf("%s: result %+v", storage, r)
		}
		drop(t, nc, "BIG")
		// A partial stream, as a killed service leaves it of a memory stream.
		part := p
		part.State.LastSeq, part.State.Messages = 100, 100
		part = k.put(part, k.records[p.ID][:100], nil)
		part.Created = time.Now()
		mustExecute(t, s.URL(), k, part)
		if storage == "file" {
			if _, err := execute(t, s.URL(), k, p, repeated); !errors.Is(err, ErrExists) {
				t.Errorf("part of a file stream: error %v, want %v", err, ErrExists)
			}
			wantRecords(t, nc, "BIG", k.records[part.ID])
		} else {
			if r := mustExecute(t, s.URL(), k, p, repeated); !r.Verified {
				t.Errorf("%s: result %+v", storage, r)
			}
			wantRecords(t, nc, "BIG", k.records[p.ID])
		}
		drop(t, nc, "BIG")
		create(t, nc, fmt.Sprintf(`{"name":"BIG","subjects":["other"],"storage":%q,"num_replicas":1}`, storage))
		publish(t, nc, "other", 600)
		other := natstest.Records(t, nc, "BIG")
		if _, err := execute(t, s.URL(), k, p, repeated); !errors.Is(err, ErrExists) {
			t.Errorf("%s: error %v, want %v", storage, err, ErrExists)
		}
		wantRecords(t, nc, "BIG", other)
		drop(t, nc, "BIG")
	}
}

// The server's own refusal is passed on and leaves what was there.
func TestServerRefuses(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	k, p := big(t, s, conn, "file", 100)
	create(t, nc, `{"name":"OTHER","subjects":["big"],"storage":"file","num_replicas":1}`)
	publish(t, nc, "big", 2)
	_, err := execute(t, s.URL(), k, p)
	var api *jsapi.APIError
	if !errors.As(err, &api) || api.ErrCode != 10065 {
		t.Errorf("error %v, want the server's 10065", err)
	}
	if got := natstest.Streams(t, nc); len(got) != 1 {
		t.Errorf("streams %v, want OTHER", got)
	}
	fence := errors.New("claim is lost")
	drop(t, nc, "OTHER")
	if _, err := execute(t, s.URL(), k, p, func(j *Job) { j.Fence = func(context.Context) error { return fence } }); !errors.Is(err, fence) {
		t.Errorf("error %v, want %v", err, fence)
	}
	if got := natstest.Streams(t, nc); len(got) != 0 {
		t.Errorf("streams %v, want none", got)
	}
}
