package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seal"
	"jetkeep/store/seqset"
	"jetkeep/store/sign"
	"jetkeep/store/staging"
)

// borderRecords are records that each end a pack, so that a small stream has
// more packs than a commit record names.
var borderRecords = sync.OnceValue(func() []*record.Record {
	var out []*record.Record
	for seq := uint64(10_000); len(out) < maxInlineUses+2; seq++ {
		r := &record.Record{Sequence: seq, Time: int64(seq), Subject: []byte("kv.key"), Data: bytes.Repeat([]byte{byte(seq)}, 4000)}
		if borderAfter(seq, r.Time, r.Size()) >= borderPack {
			out = append(out, r)
		}
	}
	return out
})

// A specimenPoint is a restore point to be made.
type specimenPoint struct {
	task, stream string
	records      []*record.Record
	late         []*record.Record // repaired
	deleted      *seqset.Set      // before the moment
	consumers    int              // bytes
	base         bool             // built on the newest before
}

func makeSpecimenPoint(t *testing.T, r *Repository, a *staging.Area, s specimenPoint) {
	t.Helper()
	ctx := t.Context()
	w, err := r.NewWriter(ctx, WriterOptions{Staging: a, Task: s.task, Target: "default", Stream: s.stream})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if s.base {
		alive := &seqset.Set{}
		for _, rec := range s.records {
			alive.Add(rec.Sequence)
		}
		base, err := r.Latest(ctx, "default", s.stream)
		if err == nil {
			err = w.Continue(ctx, base, alive)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, rec := range s.records {
		if err := w.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	for _, rec := range s.late {
		if err := w.AppendRepair(rec); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.Finish(ctx, s.deleted)
	if err != nil {
		t.Fatal(err)
	}
	p := makePoint(s.task, c)
	p.Stream = s.stream
	consumer, err := json.Marshal(map[string]string{"name": "worker", "filler": fmt.Sprintf("%x", noise()[:s.consumers/2])})
	if err != nil {
		t.Fatal(err)
	}
	if p.Consumers, err = r.PutConsumers(ctx, c, []json.RawMessage{consumer}); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(ctx, p); err != nil {
		t.Fatal(err)
	}
}

// specimenPoints uses every part of the format: increments, records that came
// late, deleted and extra sets, small and large; packs and proofs large and
// small; lists of uses; consumers small and large; a restore point forgotten,
// and one pinned.
func specimenPoints(sealed bool) []specimenPoint {
	// Far apart, so that a set of few sequences takes much room.
	var long []*record.Record
	for i := range uint64(1300) {
		rec := makeRecord(i+1, 24)
		rec.Sequence = (i + 1) << 40
		long = append(long, rec)
	}
	dead := &seqset.Set{}
	for _, rec := range long[100:1280] {
		if rec.Sequence>>40%2 == 1 {
			dead.Add(rec.Sequence)
		}
	}
	packs := borderRecords()
	if sealed {
		packs = packs[:9] // to open one costs more than to read it
	}
	return []specimenPoint{
		{task: "a.0001", stream: "ORDERS", records: long[:300], deleted: seqset.Of(3<<40, 9<<40), consumers: 20},
		{task: "a.0002", stream: "ORDERS", records: long[:1280], deleted: seqset.Of(4 << 40), base: true},
		{task: "a.0003", stream: "ORDERS", records: without(long[:1280], dead.Contains), deleted: dead, consumers: 40_000, base: true},
		{task: "a.0004", stream: "ORDERS", records: without(long, func(q uint64) bool { return dead.Contains(q) || q == 1290<<40 }), late: long[1289:1290], base: true},
		{task: "b.0001", stream: "KV_settings", records: packs, deleted: seqset.Of(packs[7].Sequence)},
		{task: "b.0002", stream: "KV_settings", records: packs[1:], base: true},
		{task: "c.0001", stream: "EMPTY"},
	}
}

// makeSpecimen makes a complete small repository.
func makeSpecimen(t *testing.T, sealed, signed bool) *specimen {
	t.Helper()
	ctx, d := t.Context(), mem.New()
	b := object.NewBucket(d)
	var opt OpenOptions
	var init InitOptions
	if sealed {
		first, second := identity(t, seal.Classic), identity(t, seal.Classic)
		init = InitOptions{Recipients: []string{first.Recipient().String(), second.Recipient().String()}, Classic: true}
		opt.Identities = []string{first.Secret(), second.Secret()}
	}
	r, err := Init(ctx, b, init)
	if err != nil {
		t.Fatal(err)
	}
	if signed {
		opt.Signer = newSigner(t)
		if opt.Trust, err = sign.NewTrust([]string{opt.Signer.Public()}); err != nil {
			t.Fatal(err)
		}
		if r, err = Open(ctx, b, opt); err != nil {
			t.Fatal(err)
		}
	}
	if sealed {
		if opt.WriterKey, err = r.NewWriterKey(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = Open(ctx, b, opt); err != nil {
		t.Fatal(err)
	}
	a := newStaging(t, 64<<20)
	for _, p := range specimenPoints(sealed) {
		makeSpecimenPoint(t, r, a, p)
	}
	if err := r.Pin(ctx, "a.0001", "the auditors want it"); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(ctx, []string{"a.0002", "b.0001"}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	prune := PruneOptions{Grace: time.Hour, OrphanAge: time.Hour, Now: func() time.Time { return now }}
	for range 2 { // condemned first, deleted an hour later
		plan, err := r.PlanPrune(ctx, prune)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Prune(ctx, plan); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Hour)
	}
	name := map[bool]string{true: "encrypted", false: "plain"}[sealed] + ", " + map[bool]string{true: "signed", false: "not signed"}[signed]
	return specimenOf(t, name, d, opt)
}

// specimenOf takes the objects of a repository and reads its restore points.
func specimenOf(t *testing.T, name string, d *mem.Driver, opt OpenOptions) *specimen {
	t.Helper()
	s := &specimen{
		name: name, objects: map[string][]byte{}, records: map[string][][]byte{}, needs: map[string]map[string]bool{},
		// The operator whose key is damaged calls another.
		open: func(ctx context.Context, b *object.Bucket) (r *Repository, err error) {
			for i := range max(1, len(opt.Identities)) {
				one := opt
				one.Identities = opt.Identities[min(i, len(opt.Identities)):min(i+1, len(opt.Identities))]
				if r, err = Open(ctx, b, one); err == nil {
					return r, nil
				}
			}
			return nil, err
		},
	}
	for _, name := range objects(t, d, "") {
		data, err := object.NewBucket(d).ReadAll(t.Context(), name, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		s.objects[name] = data
	}
	r, err := s.open(t.Context(), object.NewBucket(d))
	if err != nil {
		t.Fatal(err)
	}
	points, err := r.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range points {
		if l.Err != nil {
			t.Fatal(l.Err)
		}
		if s.records[l.ID], err = readAll(t.Context(), r, l.ID); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := r.Verify(t.Context(), VerifyOptions{})
	if err != nil || !rep.OK() {
		t.Fatalf("%v, %v", err, rep.Problems)
	}
	s.heads, s.notes = rep.Heads, rep.Notes
	s.findNeeds(t)
	return s
}

// findNeeds finds out the hard way what a restore point needs: without it, it
// cannot be read.
func (s *specimen) findNeeds(t *testing.T) {
	t.Helper()
	for name := range s.objects {
		s.needs[name] = map[string]bool{}
		if name == markerName {
			continue
		}
		d := s.driver(t)
		_ = d.Delete(t.Context(), name)
		r, err := s.open(t.Context(), object.NewBucket(d))
		if err != nil {
			continue // the key of the operator who reads
		}
		for id := range s.records {
			if _, err := readAll(t.Context(), r, id); err != nil {
				s.needs[name][id] = true
			}
		}
	}
}

// readAll reads everything of a restore point.
func readAll(ctx context.Context, r *Repository, id string) ([][]byte, error) {
	p, err := r.Point(ctx, id)
	if err != nil {
		return nil, err
	}
	if _, err := consumersIn(ctx, r, p); err != nil {
		return nil, err
	}
	return load(ctx, r, p)
}

// kinds counts the objects by the first part of their names.
func (s *specimen) kinds() map[string]int {
	out := map[string]int{}
	for name := range s.objects {
		kind, _, _ := strings.Cut(name, "/")
		out[kind]++
	}
	return out
}
