package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// A needle is something that must not be found in an encrypted repository.
type needle struct {
	what  string
	bytes []byte
}

// A haystack finds needles of 8 bytes or more in whatever is stored.
type haystack map[uint64][]needle

func newHaystack(needles []needle) haystack {
	h := haystack{}
	for _, n := range needles {
		key := binary.LittleEndian.Uint64(n.bytes)
		h[key] = append(h[key], n)
	}
	return h
}

func (h haystack) scan(data []byte, found map[string]string, where string) {
	for i := 0; i+8 <= len(data); i++ {
		for _, n := range h[binary.LittleEndian.Uint64(data[i:])] {
			if bytes.HasPrefix(data[i:], n.bytes) {
				found[n.what] = where
			}
		}
	}
}

// search looks into every object's name and bytes, and into what anybody can
// make of them: zstd frames decompressed wherever one begins, base64 and
// hexadecimal digits decoded wherever there are some.
func (h haystack) search(t *testing.T, d *mem.Driver) map[string]string {
	t.Helper()
	found := map[string]string{}
	dec, err := newDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	for _, name := range objects(t, d, "") {
		data := storedBytes(t, d, name)
		for _, view := range append([][]byte{[]byte(name), data}, decoded([]byte(name))...) {
			h.scan(view, found, name)
		}
		views := decoded(data)
		for at := 0; ; at++ {
			next := bytes.Index(data[at:], []byte{0x28, 0xb5, 0x2f, 0xfd})
			if next < 0 {
				break
			}
			at += next
			if raw, err := dec.DecodeAll(data[at:], make([]byte, 0, 8<<20)); err == nil {
				views = append(append(views, raw), decoded(raw)...)
			}
		}
		for _, view := range views {
			h.scan(view, found, name)
		}
	}
	return found
}

// decoded returns what runs of base64 and of hexadecimal digits stand for.
func decoded(data []byte) [][]byte {
	var out [][]byte
	is64 := func(c rune) bool {
		return c > 127 || !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_", c)
	}
	for _, run := range bytes.FieldsFunc(data, is64) {
		if len(run) < 12 {
			continue
		}
		if b, err := hex.DecodeString(string(run)); err == nil {
			out = append(out, b)
		}
		text := strings.NewReplacer("-", "+", "_", "/").Replace(string(run))
		if len(text)%4 == 1 {
			text = text[:len(text)-1]
		}
		if b, err := base64.RawStdEncoding.DecodeString(text); err == nil {
			out = append(out, b)
		}
	}
	return out
}

// secrets is data that is full of words which occur nowhere else.
type secrets struct {
	words   map[string]string
	records []*record.Record
}

func makeSecrets() *secrets {
	s := &secrets{words: map[string]string{}}
	random := rand.New(rand.NewPCG(7, 7))
	word := func(what string) string {
		b := make([]byte, 16)
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyz"[random.IntN(26)]
		}
		s.words[what] = string(b)
		return string(b)
	}
	for _, what := range []string{"stream", "target", "lineage", "config value", "config subject", "consumer", "consumer config", "tag key", "tag value", "note", "server", "pin"} {
		word(what)
	}
	subjects := []string{word("subject 1"), word("subject 2")}
	for i := range 6000 {
		r := &record.Record{Sequence: uint64(i + 1), Time: 1_700_000_000_000_000_000 + int64(i), Subject: []byte(subjects[i%2] + ".x"), Data: noise()[i*512 : i*512+512]}
		if i%1500 == 700 {
			r.Header = []byte("NATS/1.0\r\n" + word(fmt.Sprint("header name ", i)) + ": " + word(fmt.Sprint("header value ", i)) + "\r\n\r\n")
			r.Data = []byte(strings.Repeat(word(fmt.Sprint("data ", i)), 3))
		}
		s.records = append(s.records, r)
	}
	return s
}

// point stores the records up to n, on top of what is there, and commits.
func (s *secrets) point(t *testing.T, r *Repository, task string, n int) Point {
	t.Helper()
	ctx, w := t.Context(), s.words
	writer, err := r.NewWriter(ctx, WriterOptions{Staging: newStaging(t, 2<<20), Task: task, Target: w["target"], Stream: w["stream"]})
	if err != nil {
		t.Fatal(err)
	}
	dead, alive := seqset.Of(3, 900, 901), &seqset.Set{}
	alive.AddRange(1, uint64(n))
	if base, err := r.Latest(ctx, w["target"], w["stream"]); err == nil {
		if err := writer.Continue(ctx, base, alive); err != nil {
			t.Fatal(err)
		}
	}
	for _, rec := range s.records[:n] {
		if err := writer.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	p := makePoint(task, Content{})
	if p.Content, err = writer.Finish(ctx, dead); err != nil {
		t.Fatal(err)
	}
	p.Target, p.Stream, p.Lineage, p.Server = w["target"], w["stream"], w["lineage"], w["server"]
	p.Config = json.RawMessage(fmt.Sprintf(`{"name":%q,"subjects":["%s.>"],"description":%q}`, w["stream"], w["config subject"], w["config value"]))
	p.Tags, p.Notes = map[string]string{w["tag key"]: w["tag value"]}, []string{w["note"]}
	p.Consumers, err = r.PutConsumers(ctx, p.Content, []json.RawMessage{
		fmt.Appendf(nil, `{"name":%q,"config":%q,"padding":%q}`, w["consumer"], w["consumer config"], noise()[:20<<10]),
	})
	if err != nil || p.Consumers.Ref == nil {
		t.Fatalf("consumers are not an object of their own: %v", err)
	}
	if err := r.Commit(ctx, p); err != nil {
		t.Fatal(err)
	}
	if p, err = r.Point(ctx, task); err != nil {
		t.Fatal(err)
	}
	return p
}

// needles returns everything that must stay secret: words, pieces of data, and
// hashes by which who knows or guesses the plaintext could recognise it. reader
// can read messages.
func (s *secrets) needles(t *testing.T, reader *Repository, points []Point) (out []needle) {
	t.Helper()
	add := func(what string, b []byte) { out = append(out, needle{what, bytes.Clone(b)}) }
	hash := func(what string, h []byte) {
		add(what, h)
		reversed := bytes.Clone(h)
		slices.Reverse(reversed)
		add(what+" reversed", reversed)
		add(what+" as text", []byte(hex.EncodeToString(h)))
		add(what+" as capitals", []byte(strings.ToUpper(hex.EncodeToString(h))))
	}
	sha := func(what string, plain []byte) { h := sha256.Sum256(plain); hash("SHA-256 of "+what, h[:]) }
	for _, what := range slices.Sorted(maps.Keys(s.words)) {
		add(what, []byte(s.words[what]))
		sha(what, []byte(s.words[what]))
	}
	for _, rec := range s.records {
		if q := rec.Sequence; q%50 != 1 && rec.Header == nil {
			continue
		}
		name := fmt.Sprint("record ", rec.Sequence)
		add("data of "+name, rec.Data[:16])
		add("end of "+name, rec.Data[len(rec.Data)-16:])
		sha("data of "+name, rec.Data)
		sha(name, encode(rec))
		var sum record.Sum
		sum.Add(encode(rec))
		h, err := hex.DecodeString(sum.String())
		if err != nil {
			t.Fatal(err)
		}
		hash("digest of "+name, h)
	}
	// What somebody would find who did everything without the key.
	open := &Repository{bucket: reader.bucket, marker: reader.marker}
	chain, err := open.Chain(s.words["target"], s.words["stream"])
	if err != nil {
		t.Fatal(err)
	}
	add("chain without the key", []byte(chain))
	for _, p := range points {
		digest, err := hex.DecodeString(p.Content.Digest)
		if err != nil {
			t.Fatal(err)
		}
		hash("digest of "+p.ID, digest)
		sha("configuration", p.Config)
		s.stored(t, reader, p, hash, sha)
	}
	return out
}

// stored adds what is hashed of the segments, tables and packs as they are
// before they are sealed.
func (s *secrets) stored(t *testing.T, reader *Repository, p Point, hash, sha func(string, []byte)) {
	t.Helper()
	refs, err := reader.tables(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	packs := map[string]bool{}
	for _, ref := range refs {
		segments, err := reader.table(t.Context(), p, ref)
		if err != nil {
			t.Fatal(err)
		}
		sha("table of "+p.ID, encodeTable(segments))
		for _, seg := range segments {
			hash(fmt.Sprint("hash of segment ", seg.first), seg.hash[:])
			packs[reader.packName(p.Chain, seg.pack.hash)] = true
		}
	}
	for name := range packs {
		data, err := reader.bucket.ReadAll(t.Context(), name, maxBlob)
		if err != nil {
			t.Fatal(err)
		}
		if reader.sealer != nil {
			if data, err = reader.sealer.OpenPack(data); err != nil {
				t.Fatal(err)
			}
			sha("pack in plaintext", data)
		}
	}
}

// TestNothingReadable searches every byte and name of an encrypted repository,
// and of a plaintext one with the same content to know that it can find.
func TestNothingReadable(t *testing.T) {
	t.Parallel()
	s := makeSecrets()
	service, unlocked, sealed, _ := newSealedRepo(t)
	plain, open := newRepo(t)
	fill := func(r *Repository) []Point {
		points := []Point{s.point(t, r, "b.0001", 4000), s.point(t, r, "c.0001", 6000)}
		s.point(t, r, "d.0001", 6000)
		if err := errors.Join(
			r.Forget(t.Context(), []string{"d.0001"}),
			r.Pin(t.Context(), "b.0001", s.words["pin"]),
		); err != nil {
			t.Fatal(err)
		}
		plan, err := r.PlanPrune(t.Context(), PruneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Prune(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		return points
	}
	points := fill(service)
	needles := s.needles(t, unlocked, points)
	hay := newHaystack(append(needles, s.needles(t, plain, fill(plain))...))
	if found := hay.search(t, sealed); len(found) > 0 {
		t.Errorf("an encrypted repository shows %d of %d: %v", len(found), len(needles), found)
	}

	// In plaintext everything is there that is not only derived.
	found := hay.search(t, open)
	missing := 0
	for _, n := range needles {
		derived := strings.Contains(n.what, "SHA-256 of") || strings.HasPrefix(n.what, "digest of record") ||
			strings.HasSuffix(n.what, "reversed") || strings.HasSuffix(n.what, "capitals")
		if _, ok := found[n.what]; !ok && !derived && !strings.HasPrefix(n.what, "hash of segment") {
			t.Errorf("the search does not find %s in plaintext", n.what)
			missing++
		}
	}
	segments := 0
	for what := range found {
		if strings.HasPrefix(what, "hash of segment") {
			segments++
		}
	}
	if missing > 0 || segments < 2 || len(needles) < 1000 {
		t.Errorf("%d needles, %d found in plaintext, %d segments, %d missing", len(needles), len(found), segments, missing)
	}
	t.Logf("%d needles, %d of them found in plaintext", len(needles), len(found))

	// And each is found wherever it is hidden.
	for i, n := range needles {
		if i%37 != 0 {
			continue
		}
		at := objects(t, sealed, "packs/")[0]
		good := storedBytes(t, sealed, at)
		for _, hidden := range [][]byte{n.bytes, []byte(hex.EncodeToString(n.bytes)), []byte(base64.StdEncoding.EncodeToString(n.bytes))} {
			planted := slices.Concat(good[:1000], []byte("\n"), hidden, []byte("\n"), good[1000:])
			found := map[string]string{}
			for _, view := range append(decoded(planted), planted) {
				hay.scan(view, found, at)
			}
			if _, ok := found[n.what]; !ok {
				t.Errorf("the search does not find %s where it was planted", n.what)
			}
		}
	}
}
