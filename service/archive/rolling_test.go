package archive_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/store/record"
)

// TestRolling takes slow snapshots of a stream whose oldest block goes away
// meanwhile. Servers of 2.10 to 2.14 then often leave out a block, give another
// one twice, and report success; the summary must tell of each block that is
// missing, and the messages given must be right.
func TestRolling(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			s := startServer(t, version)
			s.api("STREAM.CREATE.ROLL", `{"name":"ROLL","subjects":["roll"],"retention":"limits","storage":"file","num_replicas":1,"max_consumers":-1,"max_msgs":40000,"max_bytes":-1,"discard":"old"}`, nil)
			for range 16 {
				fill(s, 2500) // more at once, and servers drop some
			}
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for range 8 {
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
						fill(s, 2500)
					}
				}
			})
			b := slowSnapshot(s, "ROLL", 4*time.Millisecond)
			close(stop)
			wg.Wait()
			var g gaps
			sum, err := archive.Read(bytes.NewReader(b), "ROLL", &g)
			check(t, err)
			t.Logf("%d messages up to %d, %d inside missing, blocks missing %v, later %v, twice %v",
				sum.Records, sum.LastSequence, g.missing, sum.MissingBlocks, sum.LaterBlocks, sum.Duplicates)
			if sum.Records+g.missing < 40000 {
				t.Errorf("messages are missing at the end")
			}
			// 2.15 sends no blocks; what went away ahead of its cursor is not there.
			if g.missing > 0 && len(sum.MissingBlocks) == 0 && sum.Format == archive.FormatV1 {
				t.Errorf("%d messages are missing, and no block is named", g.missing)
			}
		})
	}
}

// gaps counts the sequences between the records that have none.
type gaps struct {
	nothing
	last, missing uint64
}

func (g *gaps) Record(r *record.Record) error {
	if g.last > 0 {
		g.missing += r.Sequence - g.last - 1
	}
	g.last = r.Sequence
	return nil
}

func fill(s *testServer, n int) {
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", s.port))
	if err != nil {
		s.t.Error(err)
		return
	}
	defer nc.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 62)
	for range n - 1 {
		nc.Publish("roll", data)
	}
	if _, err := nc.Request("roll", data, time.Minute); err != nil {
		s.t.Error(err)
	}
}

// slowSnapshot acknowledges each chunk only after a pause.
func slowSnapshot(s *testServer, stream string, pause time.Duration) []byte {
	s.t.Helper()
	inbox := nats.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	check(s.t, err)
	defer sub.Unsubscribe()
	s.api("STREAM.SNAPSHOT."+stream, map[string]any{"deliver_subject": inbox, "chunk_size": 16 << 10, "window_size": 64 << 10}, nil)
	var b []byte
	for {
		m, err := sub.NextMsg(time.Minute)
		check(s.t, err)
		if len(m.Data) == 0 {
			return b
		}
		b = append(b, m.Data...)
		time.Sleep(pause)
		if m.Reply != "" { // later versions ask for an answer to some chunks only
			check(s.t, m.Respond(nil))
		}
	}
}
