package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"jetkeep/store/object"
	"jetkeep/store/record"
)

// goldenSeeds returns the stored bytes of a golden repository's objects.
func goldenSeeds(f *testing.F, dir, prefix string) [][]byte {
	f.Helper()
	b := object.NewBucket(golden(f, dir))
	var seeds [][]byte
	for info, err := range b.List(f.Context(), prefix) {
		if err != nil {
			f.Fatal(err)
		}
		data, err := b.ReadAll(f.Context(), info.Name, 1<<20)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, data)
	}
	return seeds
}

func addSeeds(f *testing.F, seeds [][]byte) {
	f.Helper()
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
}

// payloads returns the payloads of a golden repository's objects of a kind.
func payloads(f *testing.F, k kind) [][]byte {
	f.Helper()
	dec, err := zstd.NewReader(nil)
	if err != nil {
		f.Fatal(err)
	}
	defer dec.Close()
	var seeds [][]byte
	for _, stored := range goldenSeeds(f, golden2, "meta/") {
		raw, err := dec.DecodeAll(stored, nil)
		if err != nil {
			f.Fatal(err)
		}
		if payload, ok := strings.CutPrefix(string(raw), string(k)+"\x00"); ok {
			seeds = append(seeds, []byte(payload))
		}
	}
	return seeds
}

func FuzzDecodeTable(f *testing.F) {
	addSeeds(f, payloads(f, kindTable))
	f.Fuzz(func(t *testing.T, b []byte) {
		segments, err := decodeTable(b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if again := encodeTable(segments); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, but encodes to %x", b, again)
		}
		describeTable(segments)
	})
}

func FuzzDecodeProof(f *testing.F) {
	addSeeds(f, payloads(f, kindProof))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodeProof(b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if again := p.encode(); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, but encodes to %x", b, again)
		}
		for i := range p {
			for _, r := range p[i].runs {
				if p[i].find(r.first) == nil || p[i].find(r.last) == nil {
					t.Fatalf("run %+v has no fingerprints", r)
				}
			}
		}
	})
}

func FuzzDecodePackIndex(f *testing.F) {
	var seeds [][]byte
	for _, pack := range goldenSeeds(f, golden2, "packs/") {
		if i := bytes.LastIndex(pack, []byte{0x5A, 0x2A, 0x4D, 0x18}); i >= 0 {
			seeds = append(seeds, pack[i:])
		}
	}
	addSeeds(f, seeds)
	f.Fuzz(func(t *testing.T, b []byte) {
		segments, epoch, err := decodePackIndex(b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if bytes.HasSuffix(b, []byte(packMark1)) {
			return // format 1 is only read
		}
		if again := appendPackIndex(nil, segments, epoch); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, but encodes to %x", b, again)
		}
	})
}

func FuzzDecodeCommit1(f *testing.F) {
	addSeeds(f, goldenSeeds(f, golden1, commitPrefix))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEnvelope1(b)
		if err != nil {
			if !errors.Is(err, errMalformed) && !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if !bytes.Equal(e.encode(), b) {
			t.Fatalf("%q decodes, but encodes otherwise", b)
		}
	})
}

func FuzzDecodeEntry(f *testing.F) {
	var seeds [][]byte
	for _, change := range []func(*entry){
		func(*entry) {},
		func(e *entry) { e.number, e.previous = 1, none },
		func(e *entry) { e.kind, e.body = entryForget, []byte(`{"points":["a.0001"]}`) },
		func(e *entry) {
			e.kind, e.body = entryPrune, []byte(`{"objects":[{"name":"packs/x","size":1}]}`)
		},
		func(e *entry) { e.codec, e.body, e.epoch = bodyAge, []byte("{}\n\n\x00"), 1 },
		func(e *entry) { e.signature = "nkey AAAA" },
	} {
		e := someEntry()
		change(&e)
		seeds = append(seeds, e.encode())
	}
	addSeeds(f, seeds)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(b)
		if err != nil {
			if !errors.Is(err, errMalformed) && !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if !bytes.Equal(e.encode(), b) {
			t.Fatalf("%q decodes, but encodes otherwise", b)
		}
	})
}

// someEntry is an entry that is well formed.
func someEntry() entry {
	return entry{
		repository: "r", chain: strings.Repeat("a", 32), number: 2, previous: strings.Repeat("0", 64), kind: entryPoint, task: "t",
		time: time.Unix(1_700_000_000, 5).UTC(), codec: bodyJSON, critical: none, signature: none, body: []byte("{}\n{}"),
	}
}

func FuzzDecodeMarker(f *testing.F) {
	addSeeds(f, goldenSeeds(f, golden2, markerName))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMarker(b)
		var damage *DamageError
		if err != nil {
			if !errors.As(err, &damage) && !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if !bytes.Equal(m.encode(), b) {
			t.Fatalf("%q decodes, but encodes otherwise", b)
		}
	})
}

// A segment's frame and description come from a store that may be damaged:
// whatever they hold, decoding ends in records that match or in an error, and
// never takes more memory than the description allows.
func FuzzDecodeSegment(f *testing.F) {
	for _, pack := range goldenSeeds(f, golden2, "packs/") {
		i := bytes.LastIndex(pack, []byte{0x5A, 0x2A, 0x4D, 0x18})
		segments, _, err := decodePackIndex(pack[i:])
		if err != nil || len(segments) == 0 {
			f.Fatalf("no seeds: %v", err)
		}
		for _, s := range segments {
			f.Add(pack[s.offset:s.offset+s.stored], s.first, s.last, s.count, s.raw, s.hash[:])
		}
	}
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(dec.Close)
	f.Fuzz(func(t *testing.T, frame []byte, first, last, count, raw uint64, hash []byte) {
		if raw > 1<<20 || len(hash) != 32 {
			return
		}
		s := segment{raw: raw, first: first, last: last, count: count, hash: hash256(hash)}
		plain, err := s.decode(dec, frame, nil)
		if err != nil {
			return
		}
		if uint64(len(plain)) > raw {
			t.Fatalf("%d bytes where %d were allowed", len(plain), raw)
		}
		n := uint64(0)
		err = s.check(sha256.New(), plain, func(r *record.Record, _ []byte, _ hash256) {
			if r.Sequence < first {
				t.Fatalf("sequence %d before %d", r.Sequence, first)
			}
			n++
		})
		if err == nil && n != count {
			t.Fatalf("%d records, said %d", n, count)
		}
	})
}
