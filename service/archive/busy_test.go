package archive_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// TestBusy takes snapshots of a stream that grows, on every server. The last
// block of V1 grows while it is read; no server has been seen to cut a record,
// for it holds the block's lock while it reads and while it writes. A cut
// record is therefore always an error.
func TestBusy(t *testing.T) {
	t.Parallel()
	const rounds = 5
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, version)
			s.api("STREAM.CREATE.BUSY", `{"name":"BUSY","subjects":["busy.>"],"retention":"limits","storage":"file","num_replicas":1,"max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"discard":"old"}`, nil)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { flood(t, s, stop) })
			defer wg.Wait()
			defer close(stop)
			last := uint64(0)
			for range rounds {
				var before uint64
				testenv.True(t, "the stream to grow", func() bool {
					before = s.info("BUSY").State.LastSeq
					return before > last
				})
				b := s.snapshot("BUSY", quickly, nothingMeanwhile)
				sum, err := archive.Read(bytes.NewReader(b), "BUSY", nothing{})
				if err != nil {
					t.Fatal(err)
				}
				if sum.LastSequence < before || sum.Records != sum.LastSequence || len(sum.MissingBlocks)+len(sum.Duplicates) > 0 {
					t.Errorf("server at %d gave %d messages up to %d; blocks missing %v, twice %v",
						before, sum.Records, sum.LastSequence, sum.MissingBlocks, sum.Duplicates)
				}
				last = sum.LastSequence
			}
		})
	}
}

// TestEncrypted reads snapshots of servers that encrypt what they store. They
// send it in plain, and make the checksums anew.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.9.25", "2.10.29", "2.11.12", "2.12.6", "2.14.5") {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			dir, began := t.TempDir(), time.Now()
			s := startServer(t, version, natstest.Dir(dir), natstest.Config(fmt.Sprintf(`jetstream { store_dir: %q, key: "secret of the test" }`, dir)))
			fillGold(s)
			e := expect(s, "GOLD")
			stored, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "GOLD", "msgs", "*.key"))
			check(t, err)
			if len(stored) == 0 {
				t.Error("server does not encrypt")
			}
			for range 2 {
				checkGolden(t, version, e, s.snapshot("GOLD", quickly, nothingMeanwhile), time.Since(began))
			}
		})
	}
}

// flood publishes without waiting until told to stop.
func flood(t *testing.T, s *testServer, stop chan struct{}) {
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Error(err)
		return
	}
	defer nc.Close()
	data := bytes.Repeat([]byte("some text of a message "), 40)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if err := nc.Publish(fmt.Sprintf("busy.%d", i%13), data[:i%300]); err != nil {
			t.Error(err)
			return
		}
		if i%50 == 0 {
			nc.Flush()
			time.Sleep(time.Millisecond) // leaves the server something of the processor
		}
	}
}

// nothing is a Visitor that only looks away.
type nothing struct{}

func (nothing) Record(*record.Record) error     { return nil }
func (nothing) Tombstone(uint64) error          { return nil }
func (nothing) Consumer(archive.Consumer) error { return nil }
