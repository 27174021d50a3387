package restore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

func messages(t testing.TB, nc *nats.Conn, stream string) uint64 {
	t.Helper()
	return natstest.Info(t, nc, stream).State.Messages
}

func awaitMessages(t testing.TB, nc *nats.Conn, stream string, want uint64) {
	t.Helper()
	testenv.Until(t, "the messages of stream "+stream, func() error {
		if n := messages(t, nc, stream); n != want {
			return fmt.Errorf("it has %d messages, want %d", n, want)
		}
		return nil
	})
}

// checkSourcing fails unless the stream took nothing from its origin that it
// had, and takes all that is new. A source takes messages in their order, so
// that with the newest one all that it would take once more have come.
func checkSourcing(t *testing.T, nc *nats.Conn, what string, had uint64) {
	t.Helper()
	for range 2 { // a new leader may begin anew after the first
		last := publish(t, nc, "in.x", 5)
		had += 5
		testenv.Until(t, "the newest message to be sourced", func() error {
			records := natstest.Records(t, nc, "ALL")
			if n := len(records); n == 0 || !bytes.Equal(records[n-1].Data, last) {
				return fmt.Errorf("the last of %d is another one", n)
			}
			return nil
		})
		if n := messages(t, nc, "ALL"); n != had {
			t.Fatalf("%s: stream ALL has %d messages after 5 more, want %d", what, n, had)
		}
	}
}

// sourcedPoints makes an origin and a stream that sources it, and keeps both.
func sourcedPoints(t *testing.T, s *natstest.Server, origin, all, more string) (k *kept, in, out store.Point) {
	t.Helper()
	nc := s.Connect()
	conn := dial(t, s.URL())
	create(t, nc, fmt.Sprintf(`{"name":"IN","subjects":["in.>"],"storage":%q,"num_replicas":1}`, origin))
	create(t, nc, fmt.Sprintf(`{"name":"ALL","storage":%q,"num_replicas":1,"sources":[{"name":"IN"%s}]}`, all, more))
	publish(t, nc, "in.x", 50)
	awaitMessages(t, nc, "ALL", 50)
	k = newKept()
	return k, k.capture(t, conn, "IN"), k.capture(t, conn, "ALL")
}

// A stream with a source never sources a message of its origin twice, and
// misses none, on every version, whether its origin is restored before it or
// after it or has been there all the time.
func TestSources(t *testing.T) {
	t.Parallel()
	everyVersion(t, func(t *testing.T, s *natstest.Server, version string) {
		orders := []string{"origin first"}
		if version == "2.9.25" || version == "2.14.5" || version == natstest.Latest {
			orders = everyOrder // what differs lies between these
		}
		sourcesInOrders(t, s, "file", "file", orders)
	})
	for _, st := range [][2]string{{"memory", "file"}, {"file", "memory"}, {"memory", "memory"}} {
		t.Run(natstest.Latest+"/"+st[0]+"/"+st[1], func(t *testing.T) {
			t.Parallel()
			sourcesInOrders(t, natstest.Start(t), st[0], st[1], everyOrder)
		})
	}
}

var everyOrder = []string{"origin first", "origin later", "origin stays"}

func sourcesInOrders(t *testing.T, s *natstest.Server, origin, all string, orders []string) {
	k, in, out := sourcedPoints(t, s, origin, all, "")
	nc := s.Connect()
	for _, order := range orders {
		if order != "origin stays" {
			drop(t, nc, "IN")
		}
		drop(t, nc, "ALL")
		if order == "origin first" {
			mustExecute(t, s.URL(), k, in)
		}
		if r := mustExecute(t, s.URL(), k, out); !r.Verified {
			t.Errorf("%s: result %+v", order, r)
		}
		if order == "origin later" {
			mustExecute(t, s.URL(), k, in)
		}
		if origin == "file" && all == "file" {
			s.Restart() // before a new message says how far the source is
		}
		checkSourcing(t, s.Connect(), order, 50)
		// What follows needs the origin as it was.
		drop(t, nc, "IN")
		mustExecute(t, s.URL(), k, in)
	}
}

// A stream that holds no message of its source any more does not begin again.
func TestSourceOfEmptyStream(t *testing.T) {
	t.Parallel()
	everyVersion(t, func(t *testing.T, s *natstest.Server, version string) {
		for _, storage := range []string{"file", "memory"} {
			if storage == "memory" && version != natstest.Latest {
				continue
			}
			nc := s.Connect()
			create(t, nc, fmt.Sprintf(`{"name":"IN","subjects":["in.>"],"storage":%q,"num_replicas":1}`, storage))
			create(t, nc, fmt.Sprintf(`{"name":"ALL","storage":%q,"num_replicas":1,"sources":[{"name":"IN"}]}`, storage))
			publish(t, nc, "in.x", 50)
			awaitMessages(t, nc, "ALL", 50)
			natstest.MustRequest(t, nc, "STREAM.PURGE.ALL", nil, nil)
			k := newKept()
			conn := dial(t, s.URL())
			in, out := k.capture(t, conn, "IN"), k.capture(t, conn, "ALL")
			drop(t, nc, "ALL", "IN")
			mustExecute(t, s.URL(), k, in)
			r := mustExecute(t, s.URL(), k, out)
			if !hasFinding(r.Warnings, CodeSourcePinned) {
				t.Errorf("%s: result %+v", storage, r)
			}
			checkSourcing(t, s.Connect(), storage, 0)
			drop(t, nc, "ALL", "IN")
		}
	})
}

// Two sources of one origin with filters and transforms are told apart.
func TestSourcesWithFilters(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	create(t, nc, `{"name":"IN","subjects":["in.>"],"storage":"memory","num_replicas":1}`)
	create(t, nc, `{"name":"ALL","storage":"file","num_replicas":1,"sources":[
		{"name":"IN","filter_subject":"in.a"},
		{"name":"IN","subject_transforms":[{"src":"in.x","dest":"out.x"},{"src":"in.y","dest":""}]}]}`)
	publish(t, nc, "in.a", 10)
	publish(t, nc, "in.x", 10)
	publish(t, nc, "in.y", 10)
	publish(t, nc, "in.a", 5)
	awaitMessages(t, nc, "ALL", 35)
	k := newKept()
	in, out := k.capture(t, conn, "IN"), k.capture(t, conn, "ALL")
	drop(t, nc, "ALL", "IN")
	mustExecute(t, s.URL(), k, in)
	r := mustExecute(t, s.URL(), k, out)
	if !r.Verified {
		t.Errorf("result %+v", r)
	}
	cfg, err := parseConfig(natstest.Info(t, nc, "ALL").Config)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := cfg.Sources[0].OptStartSeq, cfg.Sources[1].OptStartSeq; a != 36 || b != 31 {
		t.Errorf("sources start at %d and %d, want 36 and 31", a, b)
	}
	checkSourcing(t, nc, "filters", 35)
	publish(t, nc, "in.a", 3) // the newest of the other source
	awaitMessages(t, nc, "ALL", 48)
}

// A mirror comes back as a mirror, with its consumer, and goes on behind its
// origin, whether that was restored before or after.
func TestMirror(t *testing.T) {
	t.Parallel()
	everyVersion(t, func(t *testing.T, s *natstest.Server, version string) {
		for _, storage := range []string{"file", "memory"} {
			if storage == "memory" && version != natstest.Latest {
				continue
			}
			for _, later := range []bool{false, true} {
				if later && version == "2.6.1" {
					continue // it never looks again for an origin that was not there
				}
				nc := s.Connect()
				conn := dial(t, s.URL())
				create(t, nc, fmt.Sprintf(`{"name":"IN","subjects":["in.>"],"storage":%q,"num_replicas":1}`, storage))
				create(t, nc, fmt.Sprintf(`{"name":"COPY","storage":%q,"num_replicas":1,"mirror":{"name":"IN"}}`, storage))
				publish(t, nc, "in.x", 50)
				awaitMessages(t, nc, "COPY", 50)
				consumer(t, nc, "COPY", `{"durable_name":"WORK","ack_policy":"explicit","ack_wait":3600000000000}`)
				pull(t, nc, "COPY", "WORK", 10, func(i int) bool { return i < 5 })
				awaitPending(t, nc, "COPY", 5)
				was := natstest.Consumers(t, nc, "COPY")
				k := newKept()
				in, copied := k.capture(t, conn, "IN"), k.capture(t, conn, "COPY")
				drop(t, nc, "COPY", "IN")
				points := []store.Point{in, copied}
				if later {
					points = []store.Point{copied, in}
				}
				for _, p := range points {
					if r := mustExecute(t, s.URL(), k, p); !r.Verified {
						t.Errorf("result %+v", r)
					}
				}
				is := natstest.Consumers(t, nc, "COPY")
				if len(is) != 1 || is[0].AckFloor != was[0].AckFloor || is[0].Delivered != was[0].Delivered {
					t.Errorf("consumers %+v, want %+v", is, was)
				}
				publish(t, nc, "in.x", 10)
				awaitMessages(t, nc, "COPY", 60)
				wantRecords(t, nc, "COPY", natstest.Records(t, nc, "IN"))
				drop(t, nc, "COPY", "IN")
			}
		}
	})
}

func awaitPending(t *testing.T, nc *nats.Conn, stream string, want int) {
	t.Helper()
	testenv.Until(t, "acknowledgements to be processed", func() error {
		if c := natstest.Consumers(t, nc, stream); len(c) != 1 || c[0].NumAckPending != want {
			return fmt.Errorf("consumers %+v", c)
		}
		return nil
	})
}

func sourceRecord(seq uint64, value string) *record.Record {
	return &record.Record{Sequence: seq, Subject: []byte("s"), Header: []byte("NATS/1.0\r\nOther: x\r\nNats-Stream-Source: " + value + "\r\n\r\n")}
}

func TestSourceScan(t *testing.T) {
	var sources []origin
	if err := json.Unmarshal([]byte(`[{"name":"A"},{"name":"A","filter_subject":"x.>"},
		{"name":"A","subject_transforms":[{"src":"a","dest":"b"},{"src":"","dest":""}]},
		{"name":"B","external":{"api":"$JS.far.API"}}]`), &sources); err != nil {
		t.Fatal(err)
	}
	s := newSourceScan(sources)
	for _, r := range []*record.Record{
		sourceRecord(1, "A 5 > > subj IDENT1"),
		sourceRecord(2, "A 9 x.> > subj"),
		sourceRecord(3, "A 7 a\f> b\f> subj IDENT2"),
		sourceRecord(4, "B:"+serverHash("$JS.far.API")+" 3 > > subj IDENT3"),
		sourceRecord(5, "B 99 > > subj IDENT3"),
		sourceRecord(6, "A 6 > > subj IDENT4"),
		{Sequence: 9, Subject: []byte("s")},
	} {
		s.add(r)
	}
	want := []sourced{
		{seq: 6, ident: "IDENT4", fields: 6, at: 6, after: 1},
		{seq: 9, fields: 5, at: 2, after: 5},
		{seq: 7, ident: "IDENT2", fields: 6, at: 3, after: 4},
		{seq: 3, ident: "IDENT3", fields: 6, at: 4, after: 3},
	}
	for i := range want {
		if s.last[i] != want[i] {
			t.Errorf("source %d: %+v, want %+v", i, s.last[i], want[i])
		}
	}
	old := newSourceScan(sources)
	old.add(sourceRecord(1, "A 12"))
	if old.last[0].seq != 12 || old.last[1].seq != 12 || old.last[3].seq != 0 {
		t.Errorf("short header: %+v", old.last)
	}
}
