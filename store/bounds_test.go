package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"runtime"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/local"
)

// An eighth of a TiB of stream by its metadata alone: what FORMAT.md promises
// for a whole one.
func TestMetadataOfALargeStreamIsBounded(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	w := &Writer{repo: r, place: place{chain: hexDigits[:32]}}
	var pack *packRef
	hash := func(n uint64) hash256 { return sha256.Sum256(binary.AppendUvarint(nil, n)) }
	const size, segmentSize = 1 << 37, 1_800_000
	seq := uint64(0)
	for raw := uint64(0); raw < size; raw += segmentSize {
		n := len(w.results.segments)
		s := segment{offset: uint64(n%19) * 400_000, stored: 390_000 + mix64(seq)%20_000, raw: segmentSize, first: seq + 1, count: 1800, hash: hash(seq)}
		seq += 1800
		s.last = seq
		// Borders as they fall for records of 1,000 bytes.
		for q := s.first; q <= s.last; q++ {
			s.border = max(s.border, borderAfter(q, int64(q)*1e6, 1000))
		}
		if n%19 == 0 {
			proof := &Ref{Hash: hex.EncodeToString(mix(hash(^seq))), Size: 130_000, Raw: 140_000}
			pack = &packRef{hash: hash(^seq), size: 16 << 20, proof: Blob{Ref: proof}}
		}
		w.results.segments = append(w.results.segments, located{segment: s, pack: pack})
	}
	var c Content
	shelf := &shelf{w: w, content: &c, seen: map[string]bool{}}
	if err := shelf.tables(t.Context(), w.segments(), len(w.results.segments)); err != nil {
		t.Fatal(err)
	}
	c.Digest = hexDigits
	p := makePoint("b.0001", c)
	_, commit, err := r.encodePoint(&p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d segments, %d tables, %d bytes of metadata, commit of %d bytes", len(w.results.segments), c.Tables.Count, c.NewBytes, len(commit))
	if perTiB := c.NewBytes * 8; perTiB > 60<<20 {
		t.Errorf("%d bytes of metadata for a TiB", perTiB)
	}
	if c.Tables.Count < 64 || len(commit) > 48<<10 {
		t.Errorf("%d tables, commit of %d bytes", c.Tables.Count, len(commit))
	}
}

// mix makes a hash of a hash.
func mix(h hash256) []byte {
	sum := sha256.Sum256(h[:])
	return sum[:]
}

const hexDigits = "00000000000000000000000000000000000000000000000000000000000000ff"

// The live heap of a writer and a reader stays within what the package says.
func TestMemoryIsBounded(t *testing.T) {
	d, err := local.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := Init(t.Context(), object.NewBucket(d), InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	base := liveHeap()
	var peak uint64
	calls := 0
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 64<<20), Task: "b.0001", Target: "default", Stream: "ORDERS", Workers: maxWorkers, OnProgress: func(_, _, _ uint64) {
		if calls++; calls%8 == 0 {
			peak = max(peak, liveHeap())
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	rec := makeRecord(1, 20_000)
	for i := range uint64(6000) { // 120 MB
		rec.Sequence, rec.Data[i%20_000] = i+1, byte(i)
		if err := w.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.Finish(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if used := peak - min(peak, base); calls < 30 || used > 100<<20 {
		t.Errorf("the writer held %d MiB after %d calls", used>>20, calls)
	}
	t.Logf("writer: %d MiB", (peak-min(peak, base))>>20)

	base, peak = liveHeap(), 0
	rd, err := r.NewReader(t.Context(), makePoint("b.0001", c))
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	for n := 0; ; n++ {
		if _, err := rd.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if n%500 == 0 {
			peak = max(peak, liveHeap())
		}
	}
	if used := peak - min(peak, base); used > 120<<20 {
		t.Errorf("the reader held %d MiB", used>>20)
	}
	t.Logf("reader: %d MiB", (peak-min(peak, base))>>20)
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The names of packs depend on this: what a frame becomes does not depend on
// what the encoder did before.
func TestCompressionDependsOnInputAlone(t *testing.T) {
	for _, level := range []Level{LevelFastest, LevelDefault, LevelBetter} {
		used, err := newEncoder(level)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 12 {
			in := makeRecord(uint64(i), 1+i*i*6000).Data
			fresh, err := newEncoder(level)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(used.EncodeAll(in, nil), fresh.EncodeAll(in, nil)) {
				t.Errorf("level %d, input %d: a used encoder writes other bytes", level, i)
			}
		}
	}
}
