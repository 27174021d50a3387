package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/local"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

func TestInitAndOpen(t *testing.T) {
	ctx := t.Context()
	d := mem.New()
	b := object.NewBucket(d)
	if _, err := Open(ctx, b, OpenOptions{}); !errors.Is(err, ErrNotARepository) {
		t.Errorf("open of nothing: %v", err)
	}
	r, err := Init(ctx, b, InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(ctx, b, InitOptions{}); !errors.Is(err, ErrIsRepository) {
		t.Errorf("second init: %v", err)
	}
	again, err := Open(ctx, b, OpenOptions{})
	if err != nil || again.Marker().ID != r.Marker().ID || len(r.Marker().ID) != 26 {
		t.Errorf("open: %+v, %v", again, err)
	}
	foreign := object.NewBucket(mem.New())
	if err := foreign.PutBytes(ctx, "holiday.jpg", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(ctx, foreign, InitOptions{}); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "holiday.jpg") {
		t.Errorf("init over something else: %v", err)
	}
}

func TestInitTyped(t *testing.T) {
	for _, want := range []error{object.ErrNotWritable, object.ErrNoSpace} {
		f := faulty.New(t, mem.New(), faulty.Fault{Op: faulty.Put, Err: want})
		if _, err := Init(t.Context(), object.NewBucket(f), InitOptions{}); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	// A store whose listing lags still says that the marker is there.
	f := faulty.New(t, mem.New(), faulty.Fault{Op: faulty.List, Kind: faulty.Hide, Times: -1})
	b := object.NewBucket(f)
	if _, err := Init(t.Context(), b, InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), b, InitOptions{}); !errors.Is(err, ErrIsRepository) {
		t.Errorf("second init: %v", err)
	}
}

func TestNewerIsRefused(t *testing.T) {
	r, d := newRepo(t)
	mustSave(t, r, "b.0001", steps(rising(10, 10)), nil)
	b := object.NewBucket(d)
	swap := func(name, from, to string) func() {
		d.Corrupt(name, func(b []byte) []byte {
			if !bytes.Contains(b, []byte(from)) {
				t.Fatalf("%s does not hold %q", name, from)
			}
			return bytes.Replace(b, []byte(from), []byte(to), 1)
		})
		return func() {
			d.Corrupt(name, func(b []byte) []byte { return bytes.Replace(b, []byte(to), []byte(from), 1) })
		}
	}
	undo := swap(markerName, `"format": 2`, `"format": 3`)
	if _, err := Open(t.Context(), b, OpenOptions{}); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("format 3: %v", err)
	}
	undo()
	m := newMarker("")
	m.Features = []string{"future"}
	m.Check = m.check()
	if _, err := decodeMarker(m.encode()); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("feature: %v", err)
	}
	m = newMarker("")
	m.Codec = "brotli"
	m.Check = m.check()
	if _, err := decodeMarker(m.encode()); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("codec: %v", err)
	}
	swap(commitName("b.0001"), "jetkeep-commit 2", "jetkeep-commit 3")
	if _, err := r.Point(t.Context(), "b.0001"); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("commit version 3: %v", err)
	}
	for name, change := range map[string]func(*entry){
		"critical": func(e *entry) { e.critical = "sealed" },
		"codec":    func(e *entry) { e.codec = "rot13" },
		"kind":     func(e *entry) { e.kind = "poem" },
	} {
		e := someEntry()
		change(&e)
		if _, err := parseEntry(e.encode()); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCommitTwice(t *testing.T) {
	r, d := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(10, 10)), nil)
	if err := r.Commit(t.Context(), p); err != nil {
		t.Errorf("the same again: %v", err)
	}
	other := p
	other.Notes = []string{"another"}
	if err := r.Commit(t.Context(), other); !errors.Is(err, ErrPointExists) {
		t.Errorf("another: %v", err)
	}
	// The reply of the first write was lost: the second is the same write.
	f := faulty.New(t, d, faulty.Fault{Op: faulty.Put, Prefix: commitPrefix, Kind: faulty.LoseReply})
	lossy := &Repository{bucket: object.NewBucket(f), marker: r.marker}
	p.ID, p.Task = "b.0002", "b.0002"
	if err := lossy.Commit(t.Context(), p); !errors.Is(err, faulty.ErrInjected) {
		t.Errorf("lost reply: %v", err)
	}
	if err := lossy.Commit(t.Context(), p); err != nil {
		t.Errorf("after a lost reply: %v", err)
	}
}

func TestCommitRefuses(t *testing.T) {
	r, _ := newRepo(t)
	good := makePoint("b.0001", Content{Digest: (record.Sum{}).String()})
	for name, change := range map[string]func(*Point){
		"no task":  func(p *Point) { p.Task, p.ID = "", "" },
		"slash":    func(p *Point) { p.Task, p.ID = "a/b", "a/b" },
		"another":  func(p *Point) { p.ID = "b.0002" },
		"digest":   func(p *Point) { p.Content.Digest = "" },
		"too much": func(p *Point) { p.Notes = []string{strings.Repeat("x", maxCommit)} },
		"no JSON":  func(p *Point) { p.Config = json.RawMessage("{") },
	} {
		p := good
		change(&p)
		if err := r.Commit(t.Context(), p); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if err := r.Commit(t.Context(), good); err != nil {
		t.Error(err)
	}
}

func TestPoints(t *testing.T) {
	r, d := newRepo(t)
	for _, id := range []string{"b.0002", "a.0001", "b.0001", "b1.0001"} {
		mustSave(t, r, id, steps(rising(5, 5)), nil)
	}
	d.Corrupt(commitName("b.0001"), func(b []byte) []byte { return b[:len(b)-1] })
	all, err := r.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, l := range all {
		ids = append(ids, l.ID)
		var damage *DamageError
		if bad := l.ID == "b.0001"; bad != errors.As(l.Err, &damage) || !bad && l.Point.ID != l.ID {
			t.Errorf("%s: %v", l.ID, l.Err)
		}
	}
	if !slices.Equal(ids, []string{"a.0001", "b.0001", "b.0002", "b1.0001"}) {
		t.Errorf("listed %v", ids)
	}
	of, err := r.PointsOf(t.Context(), "b")
	if err != nil || len(of) != 2 {
		t.Errorf("of b: %d, %v", len(of), err)
	}
	for _, id := range []string{"c.0001", "../jetkeep.json", ""} {
		if _, err := r.Point(t.Context(), id); !errors.Is(err, ErrNoPoint) {
			t.Errorf("%q: %v", id, err)
		}
	}
	f := faulty.New(t, d, faulty.Fault{Op: faulty.List})
	if _, err := (&Repository{bucket: object.NewBucket(f), marker: r.marker}).Points(t.Context()); !errors.Is(err, faulty.ErrInjected) {
		t.Errorf("a failed listing gives %v", err)
	}
}

func TestConfigurationStaysVerbatim(t *testing.T) {
	r, _ := newRepo(t)
	p := makePoint("b.0001", Content{Digest: (record.Sum{}).String()})
	p.Config = json.RawMessage(`{"subjects":["a.>","<&>"],"big":12345678901234567890,"float":1.0}`)
	if err := r.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	got, err := r.Point(t.Context(), "b.0001")
	if err != nil || !bytes.Equal(got.Config, p.Config) {
		t.Errorf("config %s, %v", got.Config, err)
	}
}

// What grows goes into objects, and the commit stays small.
func TestLargeMetadataIsStoredAside(t *testing.T) {
	r, d := newRepo(t)
	var consumers []json.RawMessage
	for i := range 2000 {
		consumers = append(consumers, fmt.Appendf(nil, `{"name":"consumer-%d","config":{"filter_subject":"a.>"}}`, i))
	}
	recs := rising(30_000, 20)
	dead := &seqset.Set{}
	for q := uint64(1); q < 30_000; q += 3 {
		dead.Add(q)
	}
	p := mustSave(t, r, "b.0001", steps(recs), dead)
	stored, err := r.PutConsumers(t.Context(), p.Content, consumers)
	if err != nil {
		t.Fatal(err)
	}
	p.ID, p.Task, p.Consumers = "b.0002", "b.0002", stored
	var refs []TableRef
	for range 500 {
		refs = append(refs, p.Content.Tables.List...)
	}
	many, _, err := r.putTables(t.Context(), p.Content.place(), refs)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	info, err := d.Stat(t.Context(), commitName("b.0002"))
	if err != nil || info.Size > 8<<10 {
		t.Errorf("commit of %d bytes, %v", info.Size, err)
	}
	back, err := r.Point(t.Context(), "b.0002")
	if err != nil {
		t.Fatal(err)
	}
	got, err := consumersIn(t.Context(), r, back)
	if err != nil || len(got) != 2000 || !bytes.Equal(got[1999], consumers[1999]) {
		t.Errorf("%d consumers, %v", len(got), err)
	}
	wantRecords(t, r, back, without(recs, dead.Contains))
	back.Content.Tables = many
	if tables, err := r.tables(t.Context(), back); err != nil || len(tables) != len(refs) {
		t.Errorf("%d tables, %v", len(tables), err)
	}
}

// A break in the transfer is no damage, a missing or changed object is.
func TestReadFaults(t *testing.T) {
	r, d := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(5000, 1000)), seqset.Of(1))
	for kind, damage := range map[faulty.Kind]bool{faulty.Refuse: false, faulty.Cut: false, faulty.CutClean: false, faulty.Flip: true} {
		f := faulty.New(t, d, faulty.Fault{Op: faulty.Get, Prefix: "packs/", Kind: kind})
		_, err := load(t.Context(), &Repository{bucket: object.NewBucket(f), marker: r.marker}, p)
		var de *DamageError
		if err == nil || errors.As(err, &de) != damage {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
}

func TestReaderEnds(t *testing.T) {
	r, _ := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(20_000, 1000)), nil)
	rd, err := r.NewReader(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rd.Next(); err != nil {
		t.Fatal(err)
	}
	rd.Close()
	rd.Close()
	if _, err := rd.Next(); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// A store that hangs: the context, or Close, ends the reader all the same.
func TestReaderOfAHangingStore(t *testing.T) {
	r, d := newRepo(t)
	p := mustSave(t, r, "b.0001", steps(rising(100, 10)), nil)
	f := faulty.New(t, d, faulty.Fault{Op: faulty.Get, Prefix: "packs/", Kind: faulty.Hang, Times: -1})
	stuck := &Repository{bucket: object.NewBucket(f), marker: r.marker}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := load(ctx, stuck, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	rd, err := stuck.NewReader(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { rd.cancel(ErrClosed) })
	if _, err := rd.Next(); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	rd.Close()
}

// Restoring by hand: sha256sum and zstd are all it takes.
func TestByHandWithStockCommands(t *testing.T) {
	dir := t.TempDir()
	d, err := local.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := Init(t.Context(), object.NewBucket(d), InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	recs := rising(100, 100)
	mustSave(t, r, "b.0001", steps(recs), nil)
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*", "*"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs %v, %v", packs, err)
	}
	sum, err := exec.CommandContext(t.Context(), "sha256sum", packs[0]).Output()
	if err != nil || !strings.HasPrefix(string(sum), filepath.Base(packs[0])) {
		t.Errorf("sha256sum: %s, %v", sum, err)
	}
	pack, err := os.Open(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer pack.Close()
	cmd := exec.CommandContext(t.Context(), "zstd", "-d", "-q", "-c")
	cmd.Stdin = pack
	plain, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for _, rec := range recs {
		want = record.Append(want, rec)
	}
	if !bytes.Equal(plain, want) {
		t.Errorf("zstd -d gives %d bytes, want %d", len(plain), len(want))
	}
	raw, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(raw, []byte{0x5A, 0x2A, 0x4D, 0x18})
	segments, _, err := decodePackIndex(raw[i:])
	if err != nil || len(segments) == 0 || segments[len(segments)-1].last != 100 {
		t.Errorf("index %+v, %v", segments, err)
	}
}
