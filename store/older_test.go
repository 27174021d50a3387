package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"jetkeep/store/object"
)

// A small table that was inline where it was alone can be read in a list of many.
func TestInlineTableInALongList(t *testing.T) {
	r, _ := newRepo(t)
	segments := make([]located, maxInlineTables+1)
	for i := range segments {
		n := uint64(i)
		hash := sha256.Sum256([]byte{byte(i)})
		pack := &packRef{hash: sha256.Sum256(hash[:]), size: 2_000, proof: Blob{Data: bytes.Repeat([]byte{byte(i)}, maxInlineProof-200)}}
		segments[i] = located{pack: pack, segment: segment{
			stored: 1000, raw: 3000, first: 10*n + 1, last: 10*n + 10, count: 10, border: borderTable, hash: hash,
		}}
	}
	shelve := func(b *base, segments []located) Point {
		c := Content{Digest: hexDigits, chain: hexDigits[:32], Segments: len(segments)}
		w := &Writer{repo: r, place: place{chain: c.chain}, base: b}
		s := &shelf{w: w, content: &c, seen: map[string]bool{}}
		all := func(yield func(*located) bool) {
			for i := range segments {
				if !yield(&segments[i]) {
					return
				}
			}
		}
		if err := s.tables(t.Context(), all, len(segments)); err != nil {
			t.Fatal(err)
		}
		return makePoint("b.0001", c)
	}
	b := &base{repo: r, point: shelve(nil, segments[:1]), tables: map[hash256]baseTable{}}
	if err := b.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := shelve(b, segments)
	refs, err := r.tables(t.Context(), p)
	if err != nil || len(refs) != len(segments) || p.Content.Tables.Ref == nil || refs[0].Ref != nil {
		t.Fatalf("%v, %d tables", err, len(refs))
	}
	got, err := r.table(t.Context(), p, refs[0])
	if err != nil || len(got) != 1 || got[0].hash != segments[0].hash {
		t.Errorf("%v, %+v", err, got)
	}
	most := TableRef{Blob: Blob{Data: make([]byte, maxInlineTable)}, Segments: maxTableSegments, First: 1 << 62, Last: 1 << 63, Count: 1 << 62}
	line, err := marshal(most)
	if err != nil || len(line) > maxTableRef || most.check(1, 1) != nil {
		t.Errorf("a reference of %d bytes, %v", len(line), err)
	}
	for _, bad := range []TableRef{{}, {Blob: Blob{Data: make([]byte, maxInlineTable+1)}}} {
		if err := bad.check(1, 1); !errors.Is(err, errMalformed) {
			t.Errorf("%d bytes: %v", len(bad.Data), err)
		}
	}
}

// A set larger than those that are written now is read if it is stored in as many
// bytes as it needs.
func TestLargeSetsOfOlderRepositories(t *testing.T) {
	r, d := newRepo(t)
	chain := hexDigits[:32]
	for k, most := range map[kind]int{kindDeleted: maxDeadPayload, kindExtra: maxExtraPayload} {
		noise := make([]byte, 8<<20)
		rand.NewChaCha8([32]byte{}).Read(noise[:1<<20])
		payload := bytes.Repeat(noise, most>>23+1)
		if _, _, err := r.putBlob(t.Context(), place{chain: chain}, k, payload, 0); !errors.Is(err, ErrBounds) {
			t.Errorf("%s: a payload of %d bytes is written: %v", k, len(payload), err)
		}
		enc, err := newEncoder(LevelDefault)
		if err != nil {
			t.Fatal(err)
		}
		raw := slices.Concat([]byte(k), []byte{0}, payload)
		stored := enc.EncodeAll(raw, nil)
		h := sha256.Sum256(stored)
		ref := &Ref{Hash: hex.EncodeToString(h[:]), Size: int64(len(stored)), Raw: int64(len(raw))}
		if err := object.NewBucket(d).PutBytes(t.Context(), r.metaName(chain, h), stored); err != nil {
			t.Fatal(err)
		}
		p, err := r.openBlob(t.Context(), chain, k, Blob{Ref: ref})
		if err != nil {
			t.Errorf("%s: %v", k, err)
			continue
		}
		if n, err := io.Copy(io.Discard, p); err != nil || n != int64(len(payload)) {
			t.Errorf("%s: %d bytes, %v", k, n, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
