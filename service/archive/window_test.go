package archive

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/s2"

	"jetkeep/store/record"
)

// A visitor that looks at the window behind it with each record.
type watcher struct {
	w     *window
	most  int
	sizes []int
}

func (v *watcher) Record(r *record.Record) error {
	v.sizes = append(v.sizes, len(r.Data))
	v.most = max(v.most, len(v.w.buf))
	return nil
}
func (v *watcher) Tombstone(uint64) error  { return nil }
func (v *watcher) Consumer(Consumer) error { return nil }

// A large message is held once, with room for one more chunk, not in a buffer of
// twice its size; with small ones before and behind it.
func TestWindowFitsLargeMessages(t *testing.T) {
	t.Parallel()
	rnd := rand.NewChaCha8([32]byte{})
	sizes := []int{10, 24 << 20, 100, 300_000, 33 << 19, 5, 24<<20 - 7, 30}
	var out bytes.Buffer
	a := NewV2Writer(&out, State{Messages: uint64(len(sizes)), FirstSeq: 1, LastSeq: uint64(len(sizes))}, nil)
	var want [][]byte
	for i, size := range sizes {
		data := make([]byte, size)
		_, _ = rnd.Read(data)
		want = append(want, data)
		r := record.Record{Sequence: uint64(i + 1), Subject: []byte("a.b"), Header: []byte("NATS/1.0\r\nA: b\r\n\r\n"), Data: data}
		if err := a.Record(&r); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	w := newWindow(&out)
	if _, err := w.need(len(record.Magic)); err != nil {
		t.Fatal(err)
	}
	v := &watcher{w: w}
	if _, err := readV2(w, v); err != nil {
		t.Fatal(err)
	}
	if len(v.sizes) != len(want) {
		t.Fatalf("%d messages, want %d", len(v.sizes), len(want))
	}
	for i := range want {
		if v.sizes[i] != len(want[i]) {
			t.Errorf("message %d has %d bytes, not %d", i+1, v.sizes[i], len(want[i]))
		}
	}
	if most := 24<<20 + maxChunk + 1<<10; v.most > most {
		t.Errorf("the window had %d bytes, more than %d", v.most, most)
	}
}

// An entry that only says that it is large gets no room for that.
func TestWindowBelievesNoLength(t *testing.T) {
	t.Parallel()
	r := record.Record{Sequence: 1, Subject: []byte("a"), Data: make([]byte, 64<<20)}
	claim := record.AppendFields(append([]byte(record.Magic), record.Append(nil, &record.Record{Subject: []byte(stateEntry), Data: []byte(`{"messages":1,"first_seq":1,"last_seq":1}`)})...), &r)
	var out bytes.Buffer
	enc := s2.NewWriter(&out)
	const sent = 1 << 20
	_, err := io.Copy(enc, io.MultiReader(bytes.NewReader(claim), io.LimitReader(rand.NewChaCha8([32]byte{}), sent)))
	if err = errors.Join(err, enc.Close()); err != nil {
		t.Fatal(err)
	}
	w := newWindow(&out)
	if _, err := w.need(len(record.Magic)); err != nil {
		t.Fatal(err)
	}
	if _, err := readV2(w, &watcher{w: w}); !errors.Is(err, ErrTruncated) {
		t.Fatal(err)
	}
	if len(w.buf) > 8*sent {
		t.Errorf("%d bytes of room for %d that came", len(w.buf), sent)
	}
}
