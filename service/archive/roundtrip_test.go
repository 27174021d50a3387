package archive_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"jetkeep/service/archive"
	"jetkeep/store/record"
)

// content is what a Visitor was given, with copies of the slices.
type content struct {
	records    []record.Record
	tombstones []uint64
	consumers  []archive.Consumer
	sum        record.Sum
}

func (c *content) Record(r *record.Record) error {
	c.sum.Add(record.Append(nil, r))
	c.records = append(c.records, record.Record{
		Sequence: r.Sequence, Time: r.Time,
		Subject: bytes.Clone(r.Subject), Header: bytes.Clone(r.Header), Data: bytes.Clone(r.Data),
	})
	return nil
}

func (c *content) Tombstone(seq uint64) error {
	c.tombstones = append(c.tombstones, seq)
	return nil
}

func (c *content) Consumer(con archive.Consumer) error {
	c.consumers = append(c.consumers, con)
	return nil
}

// stream is a stream as it is given to a writer.
type stream struct {
	config    json.RawMessage
	created   time.Time
	records   []record.Record
	consumers []archive.Consumer
	last      uint64
}

func writeV1(t testing.TB, name string, s stream, server string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := archive.NewV1Writer(&b, archive.Meta{Stream: name, Config: s.config, Created: s.created, Server: server})
	for i := range s.records {
		check(t, w.Record(&s.records[i]))
	}
	for _, c := range s.consumers {
		check(t, w.Consumer(c))
	}
	check(t, w.Close(s.last))
	return b.Bytes()
}

func writeV2(t testing.TB, s stream) []byte {
	t.Helper()
	st := archive.State{Messages: uint64(len(s.records)), LastSeq: s.last}
	if len(s.records) > 0 {
		st.FirstSeq = s.records[0].Sequence
	}
	for i := range s.records {
		st.Bytes += uint64(s.records[i].Size())
	}
	var b bytes.Buffer
	w := archive.NewV2Writer(&b, st, s.consumers)
	for i := range s.records {
		check(t, w.Record(&s.records[i]))
	}
	check(t, w.Close())
	return b.Bytes()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, b []byte, name string) (content, archive.Summary) {
	t.Helper()
	var c content
	sum, err := archive.Read(bytes.NewReader(b), name, &c)
	check(t, err)
	return c, sum
}

func genRecords(t *rapid.T) []record.Record {
	n := rapid.IntRange(0, 40).Draw(t, "records")
	out := make([]record.Record, n)
	seq := rapid.Uint64Range(0, 1<<60).Draw(t, "before")
	for i := range out {
		seq += rapid.Uint64Range(1, 5).Draw(t, "step")
		out[i] = record.Record{
			Sequence: seq,
			Time:     rapid.Int64().Draw(t, "time"),
			Subject:  rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "subject"),
			Header:   rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "header"),
			Data:     rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "data"),
		}
	}
	return out
}

func genState(t *rapid.T) archive.ConsumerState {
	pair := func(name string) archive.SequencePair {
		return archive.SequencePair{
			Consumer: rapid.Uint64Range(0, 1<<62).Draw(t, name),
			Stream:   rapid.Uint64Range(0, 1<<62).Draw(t, name),
		}
	}
	s := archive.ConsumerState{AckFloor: pair("floor"), Delivered: pair("delivered")}
	seq := s.AckFloor.Stream
	for range rapid.IntRange(0, 20).Draw(t, "pending") {
		seq += rapid.Uint64Range(1, 9).Draw(t, "step")
		s.Pending = append(s.Pending, archive.Pending{
			Stream: seq, Consumer: rapid.Uint64().Draw(t, "consumer"),
			Time: rapid.Int64Range(0, 1<<32).Draw(t, "seconds") * 1e9,
		})
		if rapid.Bool().Draw(t, "again") {
			s.Redelivered = append(s.Redelivered, archive.Redelivered{Stream: seq, Count: rapid.Uint64Min(1).Draw(t, "count")})
		}
	}
	return s
}

func genStream(t *rapid.T) stream {
	s := stream{
		config:  json.RawMessage(`{"name":"S","big":12345678901234567890123,"subjects":["<&>"],"x":{"b":1.0,"a":2}}`),
		created: time.Unix(0, rapid.Int64Min(1).Draw(t, "created")).UTC(),
		records: genRecords(t),
	}
	if n := len(s.records); n > 0 {
		s.last = s.records[n-1].Sequence
	}
	s.last += rapid.Uint64Range(0, 3).Draw(t, "tail")
	for i := range rapid.IntRange(0, 3).Draw(t, "consumers") {
		name := string(rune('a' + i))
		s.consumers = append(s.consumers, archive.Consumer{
			Name: name, Created: s.created,
			Config: json.RawMessage(`{"name":"` + name + `","new_in_2030":9007199254740993}`),
			State:  genState(t),
		})
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genStream(t)
		var v1, v2 bytes.Buffer
		w1 := archive.NewV1Writer(&v1, archive.Meta{Stream: "S", Config: s.config, Created: s.created})
		st := archive.State{Messages: uint64(len(s.records)), LastSeq: s.last}
		if len(s.records) > 0 {
			st.FirstSeq = s.records[0].Sequence
		}
		w2 := archive.NewV2Writer(&v2, st, s.consumers)
		for i := range s.records {
			must(t, w1.Record(&s.records[i]))
			must(t, w2.Record(&s.records[i]))
		}
		for _, c := range s.consumers {
			must(t, w1.Consumer(c))
		}
		must(t, w1.Close(s.last))
		must(t, w2.Close())
		for _, b := range [][]byte{v1.Bytes(), v2.Bytes()} {
			var c content
			sum, err := archive.Read(bytes.NewReader(b), "S", &c)
			must(t, err)
			compare(t, s, c, sum)
		}
	})
}

func must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func compare(t *rapid.T, s stream, c content, sum archive.Summary) {
	if len(c.records) != len(s.records) || sum.Records != uint64(len(s.records)) || sum.LastSequence != s.last {
		t.Fatalf("%d records, last sequence %d; summary %+v", len(c.records), s.last, sum)
	}
	for i := range s.records {
		if !bytes.Equal(record.Append(nil, &s.records[i]), record.Append(nil, &c.records[i])) {
			t.Fatalf("record %+v became %+v", s.records[i], c.records[i])
		}
	}
	if sum.Format == archive.FormatV1 && (string(sum.Config) != string(s.config) || !sum.Created.Equal(s.created)) {
		t.Fatalf("created %s, configuration %s", sum.Created, sum.Config)
	}
	if len(c.consumers) != len(s.consumers) {
		t.Fatalf("%d consumers of %d", len(c.consumers), len(s.consumers))
	}
	for i, want := range s.consumers {
		got := c.consumers[i]
		if sum.Format == archive.FormatV2 {
			got.Created = want.Created
		}
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(got)
		if !bytes.Equal(a, b) {
			t.Fatalf("consumer %s became %s", a, b)
		}
	}
}

// A name that would not come back as it is is refused, and not written.
func TestNamesThatAreNone(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", `a\b`, "a\x00b", "q\xffick"} {
		c := archive.Consumer{Name: name, Config: []byte(`{}`)}
		if err := archive.NewV1Writer(&bytes.Buffer{}, archive.Meta{Stream: name, Config: []byte(`{}`)}).Close(0); err == nil {
			t.Errorf("V1 takes stream %q", name)
		}
		if err := archive.NewV1Writer(&bytes.Buffer{}, archive.Meta{Stream: "S", Config: []byte(`{}`)}).Consumer(c); err == nil {
			t.Errorf("V1 takes consumer %q", name)
		}
		if err := archive.NewV2Writer(&bytes.Buffer{}, archive.State{}, []archive.Consumer{c}).Close(); err == nil {
			t.Errorf("V2 takes consumer %q", name)
		}
	}
	c := archive.Consumer{Name: "naïve", Config: []byte(`{}`)}
	if err := archive.NewV1Writer(&bytes.Buffer{}, archive.Meta{Stream: "S", Config: []byte(`{}`)}).Consumer(c); err != nil {
		t.Error(err)
	}
}
