package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"iter"
	"testing"

	"jetkeep/store/object/mem"
)

// What a large stream looks like: records of 1,000 bytes that compress to a
// fifth, in segments and packs as borders make them.
const (
	simRecord      = 1000
	simSegment     = 1800 // records
	simPackOf      = 40   // segments
	simTable       = (2 << 30) / (simSegment * simRecord)
	simStored      = 390_000
	simProofStored = simPackOf * simSegment * fingerprintSize
)

// simSegments yields the segments of a stream of so many raw bytes. No two have
// anything in common that a compressor could use.
func simSegments(raw uint64) (iter.Seq[*located], int) {
	count := int(raw / (simSegment * simRecord))
	return func(yield func(*located) bool) {
		var pack *packRef
		for n := range uint64(count) {
			h := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
			if n%simPackOf == 0 {
				proof := sha256.Sum256(h[:])
				pack = &packRef{hash: sha256.Sum256(proof[:]), size: 15<<20 + mix64(n)%(1<<20)}
				pack.proof.Ref = &Ref{Hash: hex.EncodeToString(proof[:]), Size: simProofStored + int64(mix64(n)%5000), Raw: simProofStored + 5000}
			}
			s := segment{
				offset: n % simPackOf * simStored, stored: simStored + mix64(n)%20_000 - 10_000, raw: simSegment*simRecord + mix64(n)%9999,
				first: n*simSegment + 1, last: (n + 1) * simSegment, count: simSegment, border: borderSegment, hash: h,
			}
			if n%simTable == simTable-1 {
				s.border = borderTable
			}
			if !yield(&located{segment: s, pack: pack}) {
				return
			}
		}
	}, count
}

// metaOf stores all metadata of such a restore point, built on another or not.
func metaOf(t *testing.T, r *Repository, b *base, raw uint64) (c Content, commit int) {
	t.Helper()
	w := &Writer{repo: r, place: place{chain: hexDigits[:32]}, base: b}
	c = Content{Digest: hexDigits, chain: hexDigits[:32]}
	segments, n := simSegments(raw)
	s := &shelf{w: w, content: &c, seen: map[string]bool{}}
	if err := s.tables(t.Context(), segments, n); err != nil {
		t.Fatal(err)
	}
	c.Segments = n
	p := makePoint("b.0001", c)
	_, body, err := r.encodePoint(&p)
	if err != nil {
		t.Fatal(err)
	}
	return c, len(body)
}

// The metadata that a restore point of 1 TiB reads, through the real encoders.
//
// By construction: a segment takes at most 80 bytes of a table, of which 32 are
// its hash, a pack at most 90 of a table and, with its proof, some 430 of the
// list of what the table uses, which compress to the 64 of two hashes and some
// more; a table takes some 250 bytes of the list of tables and 200 of the commit
// record's list of lists, which is all that grows there. Segments average 1.8 MB
// and packs hold 16 MiB, so a TiB needs some 611,000 and, at a fifth, 15,000.
// Proofs, of which only writers read those that they compare with, take four
// bytes for each record.
func TestMetadataOfATebibyteIsBounded(t *testing.T) {
	t.Parallel()
	const tib = 1 << 40
	size, limit := uint64(tib), 32<<20
	if raceDetector {
		size, limit = size/16, limit/16
	}
	r, d := newRepo(t)
	c, commit := metaOf(t, r, nil, size)
	stored, objects := metaStored(t, d)
	t.Logf("%d GiB: %d segments in %d packs and %d tables: %d objects of metadata with %d bytes, a commit record of %d",
		size>>30, c.Segments, c.Packs, c.Tables.Count, objects, stored, commit)
	t.Logf("proofs: %d bytes in all, %d of one pack", simProofStored*c.Packs, simProofStored)
	if stored > limit || commit > 64<<10 || uint64(stored) != c.NewBytes {
		t.Errorf("%d bytes of metadata (said %d), at most %d; commit record of %d", stored, c.NewBytes, limit, commit)
	}
	b := &base{repo: r, point: makePoint("b.0001", c), tables: map[hash256]baseTable{}}
	if err := b.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	next, commit := metaOf(t, r, b, size+1<<30)
	t.Logf("1 GiB more: %d bytes of new metadata, a commit record of %d", next.NewBytes, commit)
	if next.NewBytes > 1<<20 || next.Tables.Count > c.Tables.Count+1 {
		t.Errorf("an increment stores %d bytes of metadata in %d tables", next.NewBytes, next.Tables.Count)
	}
}

// metaStored counts the metadata objects.
func metaStored(t *testing.T, d *mem.Driver) (size, count int) {
	t.Helper()
	for _, name := range objects(t, d, metaPrefix) {
		info, err := d.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		size += int(info.Size)
		count++
	}
	return size, count
}
