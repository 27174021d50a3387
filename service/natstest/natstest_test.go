package natstest_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

func TestEmbeddedKeepsItsDataOverARestart(t *testing.T) {
	t.Parallel()
	s := natstest.StartEmbedded(t)
	checkRestart(t, s, (*natstest.Server).Stop)
}

func TestBinaryKeepsItsDataWhenItIsKilled(t *testing.T) {
	t.Parallel()
	s := natstest.StartVersion(t, "2.14.5")
	checkRestart(t, s, (*natstest.Server).Kill)
}

func checkRestart(t *testing.T, s *natstest.Server, end func(*natstest.Server)) {
	t.Helper()
	nc := s.Connect()
	natstest.MakeStream(t, nc, `{"name":"A","subjects":["a"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, nc, "a", 1200, 50)
	before := natstest.Records(t, nc, "A")
	url := s.URL()
	end(s)
	if _, err := nats.Connect(url, nats.Timeout(200*time.Millisecond)); err == nil {
		t.Fatal("the server still answers")
	}
	s.Start()
	if s.URL() != url {
		t.Fatalf("the server moved from %s to %s", url, s.URL())
	}
	if len(before) != 1200 {
		t.Fatalf("read %d messages of 1200", len(before))
	}
	if d := natstest.Diff(before, natstest.Records(t, s.Connect(), "A")); d != "" {
		t.Fatal(d)
	}
}

// Every version starts, takes the sample and gives it back as it was made.
func TestSampleOnEveryVersion(t *testing.T) {
	t.Parallel()
	for _, version := range append(natstest.Versions(), natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := natstest.StartVersion(t, version)
			nc := s.Connect()
			if got := nc.ConnectedServerVersion(); got != version {
				t.Fatalf("version is %s", got)
			}
			checkSample(t, nc, natstest.Sample(t, nc))
		})
	}
}

func TestSampleOnTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	nc := natstest.StartEmbedded(t).Connect()
	if got := nc.ConnectedServerVersion(); got != natstest.Latest {
		t.Fatalf("version is %s, Latest says %s", got, natstest.Latest)
	}
	checkSample(t, nc, natstest.Sample(t, nc))
}

func checkSample(t *testing.T, nc *nats.Conn, names []string) {
	t.Helper()
	if got := natstest.Streams(t, nc); !slices.Equal(got, names) {
		t.Fatalf("streams are %v, Sample says %v", got, names)
	}
	records := natstest.Records(t, nc, "ORDERS")
	if len(records) != 3000-9 || records[0].Sequence != 4 || records[len(records)-1].Sequence != 2999 {
		t.Fatalf("ORDERS has %d messages", len(records))
	}
	header := ""
	for _, r := range records {
		if r.Sequence == 8 {
			header = string(r.Header)
		}
	}
	if !strings.Contains(header, "Trace: a b\r\nTrace: ü\r\n") {
		t.Fatalf("header of message 8 is %q", header)
	}
	consumers := natstest.Consumers(t, nc, "ORDERS")
	if len(consumers) != 2 || consumers[0].Name != "half-done" || consumers[0].NumAckPending == 0 {
		t.Fatalf("consumers are %+v", consumers)
	}
	if got := len(natstest.Records(t, nc, "WORK")); got != 200-40+4 {
		t.Fatalf("WORK has %d messages", got)
	}
	if last := natstest.Info(t, nc, "EMPTY").State.LastSeq; last != 30 {
		t.Fatalf("EMPTY ends at %d", last)
	}
}

func TestDiffFindsEveryKindOfDifference(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect()
	natstest.Sample(t, nc)
	want := natstest.Records(t, nc, "ORDERS")
	got := slices.Clone(want)
	got = slices.Delete(got, 10, 11)
	got[20].Data = append(slices.Clone(got[20].Data), 'x')
	got[21].Time++
	got[22].Subject = []byte("orders.mars")
	got[23].Header = []byte("NATS/1.0\r\n\r\n")
	d := natstest.Diff(want, got)
	for _, part := range []string{"missing", "data of", "time ", "subject ", "header "} {
		if !strings.Contains(d, part) {
			t.Errorf("%q is not in:\n%s", part, d)
		}
	}
	if d := natstest.Diff(got, want); !strings.Contains(d, "should not be there") {
		t.Errorf("no surplus in:\n%s", d)
	}
	a, b := natstest.Sum(want), natstest.Sum(got)
	if a.String() == b.String() {
		t.Error("the digests are equal")
	}
}

func TestConfigAndDomain(t *testing.T) {
	t.Parallel()
	conf := natstest.Config(`accounts { A { jetstream: enabled, users: [{user: a, password: a}] } }`)
	for _, version := range []string{"", "2.10.29"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			var s *natstest.Server
			if version == "" {
				s = natstest.StartEmbedded(t, conf, natstest.Domain("edge"))
			} else {
				s = natstest.StartVersion(t, version, conf, natstest.Domain("edge"))
			}
			if _, err := nats.Connect(s.URL()); err == nil {
				t.Fatal("connected without credentials")
			}
			var info struct {
				Domain string `json:"domain"`
			}
			natstest.MustRequest(t, s.Connect(nats.UserInfo("a", "a")), "INFO", nil, &info)
			if info.Domain != "edge" {
				t.Fatalf("domain is %q", info.Domain)
			}
		})
	}
}

func TestClusterOfBinariesLosesItsLeader(t *testing.T) {
	t.Parallel()
	checkCluster(t, natstest.StartCluster(t, 3, "2.14.5"))
}

func TestClusterOfEmbeddedServers(t *testing.T) {
	t.Parallel()
	checkCluster(t, natstest.StartCluster(t, 3, ""))
}

func checkCluster(t *testing.T, c *natstest.Cluster) {
	t.Helper()
	nc := c.Connect()
	natstest.MakeStream(t, nc, `{"name":"R","subjects":["r"],"storage":"file","retention":"limits","num_replicas":3}`)
	natstest.PublishTo(t, nc, "r", 500, 100)
	before := natstest.Records(t, nc, "R")
	if len(before) != 500 {
		t.Fatalf("read %d messages of 500", len(before))
	}
	was := c.Leader(nc, "R")
	now := c.StepDown(nc, "R")
	if was == now {
		t.Fatalf("node %d leads still", now)
	}
	c.AwaitReplicas(nc, "R")
	c.Kill(now)
	if after := c.Leader(nc, "R"); after == now {
		t.Fatalf("node %d was killed and leads", now)
	}
	c.Restart(now)
	c.AwaitReplicas(nc, "R")
	if d := natstest.Diff(before, natstest.Records(t, nc, "R")); d != "" {
		t.Fatal(d)
	}
}

// What Records returns is what was published: everything else is held against it.
func TestRecordsAreWhatWasPublished(t *testing.T) {
	t.Parallel()
	const quoted = `{"data":"bm8=","x":"\"data\":\""}`
	bodies := [][]byte{nil, {0}, []byte(quoted), []byte("<&>\u2028/+="), make([]byte, 100_000), {0xff, 0xfe, 0xfd}}
	for i := range bodies[4] {
		bodies[4][i] = byte(i * i >> 3)
	}
	for _, version := range testenv.Some("2.6.1", "2.10.29", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			nc := natstest.StartVersion(t, version).Connect()
			natstest.MakeStream(t, nc, `{"name":"S","subjects":["s.>"],"storage":"file","retention":"limits","num_replicas":1}`)
			natstest.Publish(t, nc, len(bodies), func(i int) *nats.Msg {
				m := &nats.Msg{Subject: `s."data":"x"`, Data: bodies[i]}
				if i%2 == 1 {
					m.Header = nats.Header{"K": {quoted}}
				}
				return m
			})
			records := natstest.Records(t, nc, "S")
			if len(records) != len(bodies) {
				t.Fatalf("%d records of %d messages", len(records), len(bodies))
			}
			for i, r := range records {
				header := ""
				if i%2 == 1 {
					header = "NATS/1.0\r\nK: " + quoted + "\r\n\r\n"
				}
				if !bytes.Equal(r.Data, bodies[i]) || string(r.Subject) != `s."data":"x"` || string(r.Header) != header || r.Sequence != uint64(i+1) {
					t.Errorf("message %d came back as %d, %q, %q and %d bytes", i+1, r.Sequence, r.Subject, r.Header, len(r.Data))
				}
			}
		})
	}
}
