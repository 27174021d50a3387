package archive_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/service/archive"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// sample is a stream with gaps inside and at both ends, headers, and consumers
// of each kind.
func sample(name string) stream {
	s := stream{
		created: time.Date(2021, 3, 4, 5, 6, 7, 891011121, time.UTC),
		config:  json.RawMessage(`{"name":"OTHER","subjects":["s.>"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msg_size":-1,"max_msgs_per_subject":-1,"discard":"old","storage":"file","num_replicas":1,"duplicate_window":120000000000}`),
		last:    5030,
	}
	now := time.Now().UnixNano()
	base := now - int64(time.Hour)
	for seq := uint64(11); seq <= 5020; seq++ {
		// Gaps of one, of some, and of more than is filled for old servers.
		if seq%7 == 0 || seq > 100 && seq < 130 || seq > 220 && seq < 5000 {
			continue
		}
		r := record.Record{
			Sequence: seq, Time: base + int64(seq)*1234567, Subject: fmt.Appendf(nil, "s.%d", seq%3),
			Data: bytes.Repeat([]byte{byte(seq)}, int(seq)%40),
		}
		if seq%5 == 0 {
			r.Header = []byte("NATS/1.0\r\nX-Kind: sample\r\n\r\n")
		}
		s.records = append(s.records, r)
	}
	busy := archive.ConsumerState{
		Delivered: archive.SequencePair{Consumer: 9, Stream: 19},
		AckFloor:  archive.SequencePair{Consumer: 2, Stream: 12},
	}
	for i := range uint64(3) {
		busy.Pending = append(busy.Pending, archive.Pending{Stream: 16 + i, Consumer: 5 + i, Time: now / 1e9 * 1e9})
	}
	busy.Redelivered = []archive.Redelivered{{Stream: 17, Count: 2}}
	for _, c := range []struct {
		name, config string
		state        archive.ConsumerState
	}{
		{"busy", `"durable_name":"busy","ack_policy":"explicit","ack_wait":3600000000000`, busy},
		{"fresh", `"durable_name":"fresh","ack_policy":"explicit","ack_wait":30000000000`, archive.ConsumerState{}},
		{"quick", `"durable_name":"quick","ack_policy":"none","deliver_subject":"out"`, archive.ConsumerState{
			Delivered: archive.SequencePair{Consumer: 3, Stream: 15}, AckFloor: archive.SequencePair{Consumer: 3, Stream: 15}}},
	} {
		s.consumers = append(s.consumers, archive.Consumer{
			Name: c.name, Created: s.created.Add(time.Hour), State: c.state,
			Config: json.RawMessage(`{` + c.config + `,"deliver_policy":"all","replay_policy":"instant","max_deliver":-1}`),
		})
	}
	s.config = json.RawMessage(strings.Replace(string(s.config), "OTHER", name, 1))
	return s
}

func sumOf(records []record.Record) (sum record.Sum) {
	for i := range records {
		sum.Add(record.Append(nil, &records[i]))
	}
	return sum
}

// restored checks that the server holds the stream as it was written.
func restored(s *testServer, name string, want stream, created bool) {
	s.t.Helper()
	i := s.info(name)
	if i.State.Messages != uint64(len(want.records)) || i.State.LastSeq != want.last {
		s.t.Errorf("server %s: %s has %d messages up to %d, want %d up to %d", s.version, name,
			i.State.Messages, i.State.LastSeq, len(want.records), want.last)
	}
	// As many as wanted, and each of the wanted: no others.
	for _, r := range want.records {
		if got := s.message(name, r.Sequence); got == nil || !bytes.Equal(record.Append(nil, got), record.Append(nil, &r)) {
			s.t.Fatalf("server %s: message %d of %s is %v, want %v", s.version, r.Sequence, name, got, r)
		}
	}
	if created && !i.Created.Equal(want.created) {
		s.t.Errorf("server %s: %s created %s, want %s", s.version, name, i.Created, want.created)
	}
	got := s.consumers(name)
	if len(got) != len(want.consumers) {
		s.t.Fatalf("server %s: %s has %d consumers, want %d", s.version, name, len(got), len(want.consumers))
	}
	for i, c := range want.consumers {
		g := got[i]
		if g.Name != c.Name || c.State.Delivered.Consumer > 0 && (g.Delivered != infoPair(c.State.Delivered) || g.AckFloor != infoPair(c.State.AckFloor)) ||
			g.AckPending != len(c.State.Pending) || g.Redelivered != len(c.State.Redelivered) {
			s.t.Errorf("server %s: consumer %s of %s is %+v, want %+v", s.version, c.Name, name, g, c.State)
		}
		if created && !g.Created.Equal(c.Created) {
			s.t.Errorf("server %s: consumer %s of %s created %s, want %s", s.version, c.Name, name, g.Created, c.Created)
		}
	}
}

// TestRestoreV1 gives archives of V1Writer to every server.
func TestRestoreV1(t *testing.T) {
	t.Parallel()
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, version)
			full, empty := sample("FULL"), sample("EMPTY")
			empty.records, empty.consumers = nil, nil
			empty.config = json.RawMessage(strings.Replace(string(empty.config), "s.>", "empty", 1))
			check(t, s.restore("FULL", full.config, writeV1(t, "FULL", full, version)))
			check(t, s.restore("EMPTY", empty.config, writeV1(t, "EMPTY", empty, version)))
			for range 2 {
				restored(s, "FULL", full, true)
				restored(s, "EMPTY", empty, true)
				s.restart()
			}
			if seq := s.publish("s.new", nil, []byte("next")); seq != full.last+1 {
				t.Errorf("next message got sequence %d, want %d", seq, full.last+1)
			}
			if seq := s.publish("empty", nil, []byte("next")); seq != empty.last+1 {
				t.Errorf("next message of the empty stream got sequence %d, want %d", seq, empty.last+1)
			}
			msgs := s.next("FULL", "busy", 1)
			if !strings.Contains(msgs[0].Reply, ".20.") {
				t.Errorf("next message of the consumer is %s, want number 20", msgs[0].Reply)
			}
		})
	}
}

// TestRestoreV2 gives archives of V2Writer to the server that knows V2.
func TestRestoreV2(t *testing.T) {
	t.Parallel()
	for _, storage := range []string{"file", "memory"} {
		t.Run(storage, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, natstest.Latest)
			full, empty := sample("FULL"), sample("EMPTY")
			empty.records, empty.consumers = nil, nil
			empty.config = json.RawMessage(strings.Replace(string(empty.config), "s.>", "empty", 1))
			for name, st := range map[string]*stream{"FULL": &full, "EMPTY": &empty} {
				st.config = json.RawMessage(strings.Replace(string(st.config), `"file"`, `"`+storage+`"`, 1))
				check(t, s.restore(name, st.config, writeV2(t, *st)))
				restored(s, name, *st, false)
				if storage == "file" {
					s.restart()
					restored(s, name, *st, false)
				}
				subject := map[string]string{"FULL": "s.new", "EMPTY": "empty"}[name]
				if seq := s.publish(subject, nil, []byte("next")); seq != st.last+1 {
					t.Errorf("next message of %s got sequence %d, want %d", name, seq, st.last+1)
				}
			}
		})
	}
}

// TestStored restores archives that are framed and not compressed, the first
// chunk of which is as long as chunks get.
func TestStored(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.6.1", "2.10.29", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, version)
			full := sample("FULL")
			for i := range 40 {
				full.last++
				full.records = append(full.records, record.Record{Sequence: full.last, Time: time.Now().UnixNano(), Subject: []byte("s.big"), Data: make([]byte, 100<<10+i)})
			}
			var b bytes.Buffer
			w := archive.NewV1Writer(&b, archive.Meta{Stream: "FULL", Config: full.config, Created: full.created, Server: version, Compression: archive.Stored})
			for i := range full.records {
				check(t, w.Record(&full.records[i]))
			}
			for _, c := range full.consumers {
				check(t, w.Consumer(c))
			}
			check(t, w.Close(full.last))
			if b.Len() < 40*(100<<10) {
				t.Errorf("archive of %d bytes was compressed", b.Len())
			}
			check(t, s.restore("FULL", full.config, b.Bytes()))
			restored(s, "FULL", full, true)
			c, _ := read(t, b.Bytes(), "FULL")
			if c.sum != sumOf(full.records) {
				t.Error("read back differently")
			}
		})
	}
}

// TestConvert restores the golden archives of the oldest and the newest format
// into every server, written anew as V1.
func TestConvert(t *testing.T) {
	t.Parallel()
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, version)
			for _, origin := range []string{"2.6.1", "2.9.25", newestGolden} {
				e := golden(t, origin)[0]
				b, err := os.ReadFile(filepath.Join(goldenDir(origin), e.File))
				check(t, err)
				c, sum := read(t, b, e.Stream)
				st := stream{config: e.Config, created: e.Created, last: e.LastSeq}
				for _, r := range c.records {
					if r.Sequence >= e.FirstSeq && !slices.Contains(e.Deleted, r.Sequence) {
						st.records = append(st.records, r)
					}
				}
				// Push consumers need their subscriber, and come back as they
				// were only with it; the others must come back exactly.
				for _, con := range c.consumers {
					if !bytes.Contains(con.Config, []byte("deliver_subject")) {
						con.Created = e.Created
						st.consumers = append(st.consumers, con)
					}
				}
				slices.SortFunc(st.consumers, func(a, b archive.Consumer) int { return strings.Compare(a.Name, b.Name) })
				name := "FROM_" + strings.ReplaceAll(origin, ".", "_")
				if sum.Format == archive.FormatV1 {
					st.config = sum.Config
				}
				config := json.RawMessage(strings.ReplaceAll(string(st.config), `"GOLD"`, `"`+name+`"`))
				check(t, s.restore(name, config, writeV1(t, name, st, version)))
				restored(s, name, st, true)
				s.restart()
				restored(s, name, st, true)
				s.api("STREAM.DELETE."+name, nil, nil)
			}
		})
	}
}
