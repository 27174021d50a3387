package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

func TestMain(m *testing.M) {
	flag.Bool("make-golden", false, "make the golden repository, which must not exist")
	flag.Int("model-runs", 0, "interleavings of the model test; 0 for 1,000, and 10,000 in a campaign")
	flag.Uint64("model-seed", 0, "first seed of the model test; 0 for any")
	goleak.VerifyTestMain(m)
}

// newRepo makes a repository in memory, without the readme, on which nothing
// depends: tests count and damage what is there.
func newRepo(t testing.TB) (*Repository, *mem.Driver) {
	t.Helper()
	d := mem.New()
	r, err := Init(t.Context(), object.NewBucket(d), InitOptions{})
	if err == nil {
		err = r.bucket.Delete(t.Context(), readmeName)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r, d
}

// newStaging makes a staging area and checks at the end that it is empty.
func newStaging(t testing.TB, limit int64) *staging.Area {
	t.Helper()
	a, err := staging.Open(t.TempDir(), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := a.Used(); n != 0 {
			t.Errorf("%d bytes of staging are still reserved", n)
		}
		_ = a.Close()
	})
	return a
}

// noise is what records are cut from: it compresses to half.
var noise = sync.OnceValue(func() []byte {
	r := rand.New(rand.NewPCG(1, 42))
	b := make([]byte, 8<<20)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64()&0x0f0f0f0f0f0f0f0f|0x4040404040404040)
	}
	return b
})

// makeRecord makes a record that depends on its sequence and size alone.
func makeRecord(seq uint64, size int) *record.Record {
	data := make([]byte, 0, size)
	for at := mix64(seq); len(data) < size; at++ {
		from := noise()[at%(4<<20):]
		data = append(data, from[:min(len(from), size-len(data))]...)
	}
	return recordOf(seq, data)
}

func recordOf(seq uint64, data []byte) *record.Record {
	rec := &record.Record{
		Sequence: seq, Time: 1_700_000_000_000_000_000 + int64(seq)*1_000_003,
		Subject: fmt.Appendf(nil, "orders.%d.new", seq%17), Data: data,
	}
	if seq%5 == 0 {
		rec.Header = fmt.Appendf(nil, "NATS/1.0\r\nNats-Msg-Id: %d\r\n\r\n", seq)
	}
	return rec
}

func encode(r *record.Record) []byte { return record.Append(nil, r) }

type step struct {
	rec    *record.Record
	repair bool
}

func steps(recs []*record.Record) []step {
	out := make([]step, len(recs))
	for i, r := range recs {
		out[i].rec = r
	}
	return out
}

// save stores records and commits a restore point.
func save(t testing.TB, r *Repository, a *staging.Area, task string, in []step, deleted *seqset.Set) (Point, error) {
	t.Helper()
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: a, Task: task, Target: "default", Stream: "ORDERS"})
	if err != nil {
		return Point{}, err
	}
	defer w.Abort()
	for _, s := range in {
		if s.repair {
			err = w.AppendRepair(s.rec)
		} else {
			err = w.Append(s.rec)
		}
		if err != nil {
			return Point{}, err
		}
	}
	c, err := w.Finish(t.Context(), deleted)
	if err != nil {
		return Point{}, err
	}
	p := makePoint(task, c)
	if err := r.Commit(t.Context(), p); err != nil {
		return Point{}, err
	}
	return r.Point(t.Context(), task)
}

func makePoint(task string, c Content) Point {
	at := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	return Point{
		ID: task, Task: task, Backup: "backup", Target: "default", Stream: "ORDERS", Lineage: "one", Created: at, Time: at,
		Config: json.RawMessage(`{"name":"ORDERS","subjects":["orders.>"],"unknown_field":1.50}`),
		State:  State{Messages: c.Messages, FirstSeq: c.FirstSeq, LastSeq: c.LastSeq}, Server: "2.15.2", Engine: "snapshot_v2",
		Content: c,
	}
}

func mustSave(t testing.TB, r *Repository, task string, in []step, deleted *seqset.Set) Point {
	t.Helper()
	p, err := save(t, r, newStaging(t, 64<<20), task, in, deleted)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// load reads a restore point's records, encoded. That the digest of what was
// given out is theirs is checked on the way.
func load(ctx context.Context, r *Repository, p Point) ([][]byte, error) {
	rd, err := r.NewReader(ctx, p)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	var out [][]byte
	var sum record.Sum
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			if rd.LiveSum() != sum {
				err = errors.New("sum of the live records is another one")
			}
			return out, noEOF(err)
		}
		if err != nil {
			return out, err
		}
		out = append(out, encode(rec))
		sum.Add(out[len(out)-1])
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// wantRecords compares what is stored with what must be, and the summary too.
func wantRecords(t testing.TB, r *Repository, p Point, want []*record.Record) {
	t.Helper()
	got, err := load(t.Context(), r, p)
	if err != nil {
		t.Fatal(err)
	}
	var sum record.Sum
	bytesWant := uint64(0)
	for i, w := range want {
		e := encode(w)
		sum.Add(e)
		bytesWant += uint64(len(e))
		if i < len(got) && !bytes.Equal(got[i], e) {
			t.Fatalf("record %d: sequence %d differs", i, w.Sequence)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	c := p.Content
	if c.Messages != uint64(len(want)) || c.Extra.Count == 0 && (c.Bytes != bytesWant || c.Digest != sum.String()) {
		t.Fatalf("content %+v, want %d messages of %d bytes", c, len(want), bytesWant)
	}
	if len(want) > 0 && (c.FirstSeq != want[0].Sequence || c.LastSeq != want[len(want)-1].Sequence) {
		t.Fatalf("content from %d to %d", c.FirstSeq, c.LastSeq)
	}
}

func rising(n int, size int) []*record.Record {
	out := make([]*record.Record, n)
	for i := range out {
		out[i] = makeRecord(uint64(i+1), size)
	}
	return out
}

func without(recs []*record.Record, gone func(uint64) bool) []*record.Record {
	return slices.DeleteFunc(slices.Clone(recs), func(r *record.Record) bool { return gone(r.Sequence) })
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	recs := rising(30_000, 1000)
	p := mustSave(t, r, "b.0001", steps(recs), nil)
	if p.Content.Packs < 2 || p.Content.Segments < 5 || p.Content.Tables.Count < 1 {
		t.Errorf("content %+v", p.Content)
	}
	wantRecords(t, r, p, recs)
}

func TestDeletes(t *testing.T) {
	r, _ := newRepo(t)
	recs := rising(20_000, 500)
	dead := &seqset.Set{}
	dead.AddRange(1, 700)
	dead.Add(5000)
	dead.AddRange(19_990, 30_000)
	p := mustSave(t, r, "b.0001", steps(recs), dead)
	if p.Content.Deleted.Count != 700+1+11 {
		t.Errorf("%d deleted", p.Content.Deleted.Count)
	}
	wantRecords(t, r, p, without(recs, dead.Contains))
}

func TestRepairs(t *testing.T) {
	r, _ := newRepo(t)
	recs := rising(20_000, 800)
	late := &seqset.Set{}
	late.AddRange(100, 9000)
	late.Add(15_000)
	var in []step
	for _, rec := range recs {
		if !late.Contains(rec.Sequence) {
			in = append(in, step{rec: rec})
		}
	}
	for q := range late.All() {
		in = append(in, step{rec: recs[q-1], repair: true})
	}
	in = append(in, step{rec: makeRecord(20_001, 10), repair: true}) // no lower one: the tail
	p := mustSave(t, r, "b.0001", in, seqset.Of(150, 12_000))
	wantRecords(t, r, p, append(without(recs, seqset.Of(150, 12_000).Contains), makeRecord(20_001, 10)))
}

func TestEmptyStreamThatHadMessages(t *testing.T) {
	r, _ := newRepo(t)
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 1<<20), Task: "b.0001", Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.Finish(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := makePoint("b.0001", c)
	p.State.LastSeq = 1234
	if err := r.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	got, err := r.Point(t.Context(), "b.0001")
	if err != nil || got.State.LastSeq != 1234 {
		t.Fatalf("point %+v, %v", got, err)
	}
	wantRecords(t, r, got, nil)
}
