package archive_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// TestRolling takes snapshots of a stream whose oldest blocks go away between
// one chunk and the next. Servers of 2.10 to 2.14 then often leave out a block, give another
// one twice, and report success; the summary must tell of each block that is
// missing, and the messages given must be right.
func TestRolling(t *testing.T) {
	t.Parallel()
	const messages = 20000
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, version)
			s.api("STREAM.CREATE.ROLL", fmt.Sprintf(`{"name":"ROLL","subjects":["roll"],"retention":"limits","storage":"file","num_replicas":1,"max_consumers":-1,"max_msgs":%d,"max_bytes":-1,"discard":"old"}`, messages), nil)
			fill(s, messages)
			rolled := 0
			b := s.snapshot("ROLL", map[string]any{"chunk_size": 16 << 10, "window_size": 64 << 10}, func() {
				if rolled < messages/2 {
					fill(s, 200)
					rolled += 200
				}
			})
			var g gaps
			sum, err := archive.Read(bytes.NewReader(b), "ROLL", &g)
			check(t, err)
			t.Logf("%d messages up to %d after %d more, %d inside missing, blocks missing %v, later %v, twice %v",
				sum.Records, sum.LastSequence, rolled, g.missing.Len(), sum.MissingBlocks, sum.LaterBlocks, sum.Duplicates)
			if rolled == 0 {
				t.Error("nothing was rolled out meanwhile")
			}
			if sum.Records+g.missing.Len() < messages {
				t.Errorf("messages are missing at the end")
			}
			// What went away ahead of the server's cursor may be missing; what lives to
			// the end may only if the server says so by its index, which 2.15 has not.
			lost := g.missing.Clip(s.info("ROLL").State.FirstSeq, sum.LastSequence)
			if n := lost.Len(); n > 0 && (len(sum.MissingBlocks) == 0 || sum.Format != archive.FormatV1) {
				t.Errorf("%d messages that live are missing, and no block is named", n)
			}
		})
	}
}

// gaps holds the sequences between the records that have none.
type gaps struct {
	nothing
	last    uint64
	missing seqset.Set
}

func (g *gaps) Record(r *record.Record) error {
	if g.last > 0 && r.Sequence > g.last+1 {
		g.missing.AddRange(g.last+1, r.Sequence-1)
	}
	g.last = r.Sequence
	return nil
}

// fill publishes n messages, which do not compress so that the server is held at
// the first of them, and waits until they are stored.
func fill(s *testServer, n int) {
	s.t.Helper()
	random := rand.NewChaCha8([32]byte{})
	natstest.Publish(s.t, s.nc, n, func(int) *nats.Msg {
		data := make([]byte, 2000)
		_, _ = random.Read(data)
		return &nats.Msg{Subject: "roll", Data: data}
	})
}
