package archive_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

var update = flag.Bool("update", false, "make the golden archives again, by real servers")

// An expectation is what a server said of a stream by its API right before and
// after it made the golden archive.
type expectation struct {
	Stream    string
	File      string
	Format    archive.Format
	Config    json.RawMessage
	Created   time.Time
	Messages  uint64
	FirstSeq  uint64
	LastSeq   uint64
	Deleted   []uint64
	Digest    string
	Samples   []record.Record
	Consumers []consumerInfo
	Blocks    int
}

func goldenDir(version string) string { return filepath.Join("testdata", "golden", version) }

// TestMakeGolden makes the golden archives with -update, those of the versions
// whose servers are installed; without, it checks that there is one of every
// version.
func TestMakeGolden(t *testing.T) {
	for _, version := range goldenVersions {
		dir := goldenDir(version)
		if *update && version != newestGolden {
			makeGolden(t, version, dir)
		}
		if len(golden(t, version)) < 3 {
			t.Errorf("too few golden archives of %s", version)
		}
	}
}

func golden(t testing.TB, version string) []expectation {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenDir(version), "expected.json"))
	check(t, err)
	var out []expectation
	check(t, json.Unmarshal(b, &out))
	return out
}

func makeGolden(t *testing.T, version, dir string) {
	s := startServer(t, version)
	check(t, os.RemoveAll(dir))
	check(t, os.MkdirAll(dir, 0o755))
	fillGold(s)
	streams := []string{"GOLD", "KV_gold", "EMPTY"}
	fillKV(s)
	fillEmpty(s)
	if from(version, 11) {
		fillTTL(s)
		streams = append(streams, "TTL")
	}
	var out []expectation
	for _, stream := range streams {
		e := expect(s, stream)
		b := s.snapshot(stream, quickly, nothingMeanwhile)
		if i := s.info(stream); i.State.LastSeq != e.LastSeq || i.State.Messages != e.Messages {
			t.Fatalf("%s changed while its golden archive was made", stream)
		}
		e.File = stream + ".s2"
		check(t, os.WriteFile(filepath.Join(dir, e.File), b, 0o644))
		out = append(out, e)
	}
	b, err := json.MarshalIndent(out, "", " ")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "expected.json"), append(b, '\n'), 0o644))
}

func expect(s *testServer, stream string) expectation {
	i := s.info(stream)
	digest, deleted := s.digest(stream)
	e := expectation{
		Stream: stream, Format: archive.FormatV1, Config: i.Config, Created: i.Created,
		Messages: i.State.Messages, FirstSeq: i.State.FirstSeq, LastSeq: i.State.LastSeq,
		Deleted: deleted, Digest: digest.String(), Consumers: s.consumers(stream),
	}
	if from(s.version, 15) {
		e.Format = archive.FormatV2
	}
	for _, seq := range []uint64{i.State.FirstSeq, (i.State.FirstSeq + i.State.LastSeq) / 2, i.State.LastSeq} {
		if r := s.message(stream, seq); r != nil && i.State.Messages > 0 {
			e.Samples = append(e.Samples, *r)
		}
	}
	return e
}

// fillGold makes a stream with all that a block can hold: several blocks,
// headers, messages deleted with and without erasing them, and an old head
// that was purged.
func fillGold(s *testServer) {
	s.api("STREAM.CREATE.GOLD", map[string]any{
		"name": "GOLD", "subjects": []string{"gold.>"}, "retention": "limits", "storage": "file",
		"max_consumers": -1, "max_msgs": -1, "max_bytes": 120000, "max_age": 0, "max_msg_size": -1,
		"discard": "old", "num_replicas": 1, "duplicate_window": 120000000000,
	}, nil)
	line := "the quick brown fox jumps over the lazy dog; "
	for i := range 400 {
		var h nats.Header
		if i%5 == 0 {
			h = nats.Header{"Nats-Msg-Id": {fmt.Sprintf("id-%d", i)}, "X-Kind": {"golden", "<&>"}}
		}
		s.publish(fmt.Sprintf("gold.%d", i%7), h, []byte(strings.Repeat(line, i%9)+fmt.Sprint(i)))
	}
	s.api("STREAM.PURGE.GOLD", `{"seq":10}`, nil)
	for _, seq := range []uint64{20, 21, 22, 150, 151, 390} {
		s.api("STREAM.MSG.DELETE.GOLD", map[string]any{"seq": seq, "no_erase": true}, nil)
	}
	for _, seq := range []uint64{30, 31, 160, 380} {
		s.api("STREAM.MSG.DELETE.GOLD", map[string]any{"seq": seq}, nil)
	}
	for i := range 20 {
		s.publish("gold.tail", nil, fmt.Appendf(nil, "tail %d", i))
	}
	s.publish("gold.once", nil, []byte("once"))
	s.api("STREAM.MSG.DELETE.GOLD", `{"seq":415,"no_erase":true}`, nil)
	addConsumers(s)
}

func addConsumers(s *testServer) {
	durable := func(name string, more map[string]any) {
		c := map[string]any{"durable_name": name, "deliver_policy": "all", "replay_policy": "instant"}
		for k, v := range more {
			c[k] = v
		}
		s.api("CONSUMER.DURABLE.CREATE.GOLD."+name, map[string]any{"stream_name": "GOLD", "config": c}, nil)
	}
	durable("untouched", map[string]any{"ack_policy": "explicit"})
	durable("explicit", map[string]any{"ack_policy": "explicit", "ack_wait": 3600 * time.Second})
	durable("filtered", map[string]any{"ack_policy": "explicit", "filter_subject": "gold.3", "ack_wait": 3600 * time.Second, "description": "<every seventh>"})
	for _, name := range []string{"explicit", "filtered"} {
		for i, m := range s.next("GOLD", name, 20) {
			switch {
			case i < 4 || i == 9:
				s.ack(m, "+ACK")
			case i%6 == 0:
				s.ack(m, "-NAK")
			}
		}
		s.next("GOLD", name, 3) // what was refused comes again
	}
	s.pushed("ackall", map[string]any{"durable_name": "ackall", "ack_policy": "all", "ack_wait": 3600 * time.Second, "max_ack_pending": 12})
	s.pushed("acknone", map[string]any{"durable_name": "acknone", "ack_policy": "none"})
	s.pushed("", map[string]any{"ack_policy": "explicit", "ack_wait": 3600 * time.Second, "max_ack_pending": 5})
	awaitStored(s, "GOLD")
}

// awaitStored waits until a snapshot has the consumers as the server lists them:
// they write their state after a moment.
func awaitStored(s *testServer, stream string) {
	s.t.Helper()
	testenv.Until(s.t, "the consumers of "+stream+" to be stored", func() error {
		e := expectation{Consumers: s.consumers(stream)}
		c, _ := read(s.t, s.snapshot(stream, quickly, nothingMeanwhile), stream)
		return compareStates(s.version, e, c.consumers)
	})
}

// pushed makes a push consumer and takes its first messages.
func (s *testServer) pushed(name string, c map[string]any) {
	inbox := nats.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	check(s.t, err)
	c["deliver_subject"], c["deliver_policy"], c["replay_policy"] = inbox, "all", "instant"
	subject := "CONSUMER.CREATE.GOLD"
	if name != "" {
		subject = "CONSUMER.DURABLE.CREATE.GOLD." + name
	}
	s.api(subject, map[string]any{"stream_name": "GOLD", "config": c}, nil)
	for i := range 5 {
		m, err := sub.NextMsg(testenv.Hang)
		check(s.t, err)
		if i < 2 && c["ack_policy"] != "none" { // which answers nobody
			s.ack(m, "+ACK")
		}
	}
}

func fillKV(s *testServer) {
	c := map[string]any{
		"name": "KV_gold", "subjects": []string{"$KV.gold.>"}, "retention": "limits", "storage": "file",
		"max_msgs_per_subject": 3, "max_bytes": -1, "max_age": 0, "max_msgs": -1, "max_consumers": -1, "max_msg_size": -1,
		"discard": "old", "num_replicas": 1, "duplicate_window": 120000000000, "allow_rollup_hdrs": true, "deny_delete": true,
	}
	if from(s.version, 8) {
		c["discard"] = "new"
		c["allow_direct"] = true
	}
	s.api("STREAM.CREATE.KV_gold", c, nil)
	for i := range 60 {
		key := fmt.Sprintf("$KV.gold.key.%d", i%9)
		switch {
		case i%11 == 10:
			s.publish(key, nats.Header{"KV-Operation": {"DEL"}}, nil)
		case i == 50:
			s.publish(key, nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}, nil)
		default:
			s.publish(key, nil, fmt.Appendf(nil, "value %d", i))
		}
	}
}

// fillEmpty makes a stream of which nothing but the last sequence is left.
func fillEmpty(s *testServer) {
	s.api("STREAM.CREATE.EMPTY", `{"name":"EMPTY","subjects":["empty"],"retention":"limits","storage":"file","num_replicas":1,"max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"discard":"old"}`, nil)
	for range 7 {
		s.publish("empty", nil, []byte("gone"))
	}
	s.api("STREAM.PURGE.EMPTY", nil, nil)
}

func fillTTL(s *testServer) {
	c := `{"name":"TTL","subjects":["ttl.>"],"retention":"limits","storage":"file","num_replicas":1,"max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"discard":"old","allow_msg_ttl":true,"compression":"s2","metadata":{"owner":"me & you"}}`
	s.api("STREAM.CREATE.TTL", c, nil)
	for i := range 30 {
		s.publish(fmt.Sprintf("ttl.%d", i%3), nats.Header{"Nats-TTL": {"876000h"}}, fmt.Appendf(nil, "long lived %d", i))
	}
	s.api("STREAM.MSG.DELETE.TTL", `{"seq":7}`, nil)
	s.api("STREAM.MSG.DELETE.TTL", `{"seq":30}`, nil)
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, version := range goldenVersions {
		for _, e := range golden(t, version) {
			t.Run(version+"/"+e.Stream, func(t *testing.T) {
				t.Parallel()
				b, err := os.ReadFile(filepath.Join(goldenDir(version), e.File))
				check(t, err)
				checkGolden(t, version, e, b, time.Second)
			})
		}
	}
}

// checkGolden compares an archive with what the server said. All of the stream's
// consumers were made within the span.
func checkGolden(t *testing.T, version string, e expectation, b []byte, span time.Duration) {
	c, sum := read(t, b, e.Stream)
	if sum.Format != e.Format {
		t.Errorf("format is %s", sum.Format)
	}
	live := live(e, c)
	if live.Count() != e.Messages || live.String() != e.Digest {
		t.Errorf("%d messages with digest %s, want %d with %s", live.Count(), live, e.Messages, e.Digest)
	}
	if sum.LastSequence != e.LastSeq && (e.Messages > 0 || from(version, 10)) {
		t.Errorf("last sequence %d, want %d", sum.LastSequence, e.LastSeq)
	}
	for _, want := range e.Samples {
		i := slices.IndexFunc(c.records, func(r record.Record) bool { return r.Sequence == want.Sequence })
		if i < 0 || !bytes.Equal(record.Append(nil, &c.records[i]), record.Append(nil, &want)) {
			t.Errorf("message %d is not as the server gave it", want.Sequence)
		}
	}
	if e.Format == archive.FormatV1 {
		sameJSON(t, "configuration", sum.Config, e.Config)
		if !sum.Created.Equal(e.Created) {
			t.Errorf("created %s, want %s", sum.Created, e.Created)
		}
	}
	checkConsumers(t, version, e, c.consumers, span)
}

// live sums the records that the server said were not deleted.
func live(e expectation, c content) record.Sum {
	var sum record.Sum
	for i := range c.records {
		r := &c.records[i]
		if r.Sequence >= e.FirstSeq && !slices.Contains(e.Deleted, r.Sequence) {
			sum.Add(record.Append(nil, r))
		}
	}
	return sum
}

func checkConsumers(t *testing.T, version string, e expectation, got []archive.Consumer, span time.Duration) {
	if err := compareStates(version, e, got); err != nil {
		t.Error(err)
		return
	}
	for i, want := range e.Consumers {
		c := got[i]
		// Up to 2.11 a consumer and its store each look at the clock.
		if d := c.Created.Sub(want.Created).Abs(); e.Format == archive.FormatV1 && d > span {
			t.Errorf("consumer %s created %s, want %s", c.Name, c.Created, want.Created)
		}
		sameJSON(t, "configuration of "+c.Name, c.Config, want.Config)
	}
}

// compareStates compares the consumers of an archive, which it sorts, with those
// that the server listed.
func compareStates(version string, e expectation, got []archive.Consumer) error {
	if len(got) != len(e.Consumers) {
		return fmt.Errorf("%d consumers, want %d", len(got), len(e.Consumers))
	}
	slices.SortFunc(got, func(a, b archive.Consumer) int { return strings.Compare(a.Name, b.Name) })
	for i, want := range e.Consumers {
		c := got[i]
		if c.Name != want.Name {
			return fmt.Errorf("consumer %s, want %s", c.Name, want.Name)
		}
		st := c.State
		if st.Delivered.Consumer == 0 && version == "2.6.1" {
			// It names the position before the first message, and stores none.
			want.Delivered, want.AckFloor = infoPair{}, infoPair{}
		}
		if infoPair(st.Delivered) != want.Delivered || infoPair(st.AckFloor) != want.AckFloor ||
			len(st.Pending) != want.AckPending || len(st.Redelivered) != want.Redelivered {
			return fmt.Errorf("state of consumer %s is %+v, want delivered %v, floor %v, %d pending, %d redelivered",
				c.Name, st, want.Delivered, want.AckFloor, want.AckPending, want.Redelivered)
		}
	}
	return nil
}

// sameJSON compares two configurations, less what servers add to them only when
// they answer.
func sameJSON(t *testing.T, what string, got, want json.RawMessage) {
	t.Helper()
	a, b := plain(t, got), plain(t, want)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("%s is %v, want %v", what, a, b)
	}
}

func plain(t *testing.T, b json.RawMessage) map[string]any {
	t.Helper()
	m := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	check(t, dec.Decode(&m))
	delete(m, "inactive_threshold")
	meta, _ := m["metadata"].(map[string]any)
	if m["durable_name"] == nil && m["deliver_subject"] != nil {
		delete(m, "name") // of an ephemeral consumer
	}
	delete(meta, "_nats.ver")
	delete(meta, "_nats.level")
	if len(meta) == 0 {
		delete(m, "metadata")
	}
	return m
}
