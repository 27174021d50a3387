package service_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"jetkeep/store/seal"
)

// A forge adds a restore point to a copy of a repository, by what FORMAT.md says
// alone, as somebody would who can write into the store.
type forge struct {
	t       *testing.T
	dir     string
	chain   string
	head    map[string]string
	hash    string // of the last entry
	summary map[string]any
	private map[string]any
	key     *seal.Identity // of the repository, if it is encrypted
}

const forgedTask = "20991231T000000Z-aaaaaaaa.0001"

// newForge begins from the newest restore point of a stream.
func newForge(t *testing.T, dir, stream string, key *seal.Identity) *forge {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(dir, "chains", "*", "????????????????"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range entries {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f := &forge{t: t, dir: dir, key: key, chain: filepath.Base(filepath.Dir(name)), hash: sha(data), head: map[string]string{}}
		top, body, _ := bytes.Cut(data, []byte("\n\n"))
		for line := range strings.SplitSeq(string(top), "\n") {
			name, value, _ := strings.Cut(line, ": ")
			f.head[name] = value
		}
		public, private, _ := bytes.Cut(body, []byte("\n"))
		if key != nil {
			if private, err = seal.Open(bytes.Clone(private), *key); err != nil {
				t.Fatal(err)
			}
		}
		f.summary, f.private = jsonObject(t, public), jsonObject(t, private)
		if f.private["stream"] == stream {
			return f
		}
	}
	t.Fatalf("no entry is of stream %s", stream)
	return nil
}

func jsonObject(t *testing.T, b []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (f *forge) path(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

func (f *forge) write(name string, data []byte) {
	f.t.Helper()
	err := os.MkdirAll(filepath.Dir(f.path(name)), 0o700)
	if err == nil {
		err = os.WriteFile(f.path(name), data, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *forge) content() map[string]any { return f.private["content"].(map[string]any) }

// uses names an object among those that the restore point needs.
func (f *forge) uses(name string, size int) {
	uses, _ := f.summary["uses"].(map[string]any)
	if uses == nil {
		uses = map[string]any{}
		f.summary["uses"] = uses
	}
	list, _ := uses["objects"].([]any)
	uses["objects"] = append(list, map[string]any{"name": name, "size": size})
}

// meta stores a metadata object whose payload is a piece, so many times, between
// a beginning and an end. It returns the reference.
func (f *forge) meta(mark, begin, piece string, times int, end string) map[string]any {
	f.t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.t.Fatal(err)
	}
	raw := 0
	put := func(s string) {
		n, err := w.Write([]byte(s))
		if raw += n; err != nil {
			f.t.Fatal(err)
		}
	}
	put(mark + "\x00" + begin)
	many := max(1, (1<<16)/max(len(piece), 1))
	for ; times >= many; times -= many {
		put(strings.Repeat(piece, many))
	}
	put(strings.Repeat(piece, times) + end)
	if err := w.Close(); err != nil {
		f.t.Fatal(err)
	}
	stored := b.Bytes()
	if f.key != nil && mark != "JKUSES01" {
		if stored, err = seal.To(stored, f.key.Recipient()); err != nil {
			f.t.Fatal(err)
		}
	}
	name := "meta/" + f.chain + "/" + sha(stored)
	f.write(name, stored)
	if mark != "JKUSES01" {
		f.uses(name, len(stored))
	}
	return map[string]any{"hash": sha(stored), "size": len(stored), "raw": raw}
}

// A segmentLine is what a table says of a segment; a tableText is a table of one
// pack, with its proof as it is encoded.
type segmentLine struct {
	offset, stored, raw, first, span, count, border uint64
	hash                                            []byte
}

type tableText struct {
	hash     []byte
	size     uint64
	proof    []byte
	segments []segmentLine
}

// table decodes the table of the restore point, which is inline and of one pack.
func (f *forge) table() *tableText {
	f.t.Helper()
	ref := f.content()["tables"].(map[string]any)["list"].([]any)[0].(map[string]any)
	b, err := base64.StdEncoding.DecodeString(ref["data"].(string))
	if err != nil {
		f.t.Fatal(err)
	}
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			f.t.Fatal("no number where one belongs")
		}
		b = b[n:]
		return v
	}
	take := func(n uint64) []byte {
		part := b[:n]
		b = b[n:]
		return part
	}
	if n := number(); n != 1 {
		f.t.Fatalf("%d packs", n)
	}
	x := &tableText{hash: take(32), size: number()}
	before := b
	n := number()
	if n == 0 {
		f.t.Fatal("the proof is an object")
	}
	take(n - 1)
	x.proof = before[:len(before)-len(b)]
	for range number() {
		number() // the pack
		s := segmentLine{offset: number(), stored: number(), raw: number(), first: number(), span: number(), count: number(), border: number()}
		s.hash = take(32)
		x.segments = append(x.segments, s)
	}
	return x
}

func (x *tableText) encode() []byte {
	b := append(binary.AppendUvarint(nil, 1), x.hash...)
	b = append(binary.AppendUvarint(b, x.size), x.proof...)
	b = binary.AppendUvarint(b, uint64(len(x.segments)))
	for _, s := range x.segments {
		for _, v := range []uint64{0, s.offset, s.stored, s.raw, s.first, s.span, s.count, s.border} {
			b = binary.AppendUvarint(b, v)
		}
		b = append(b, s.hash...)
	}
	return b
}

// setTable has the restore point refer to a table.
func (f *forge) setTable(x *tableText) {
	last, count := uint64(0), uint64(0)
	for _, s := range x.segments {
		last, count = max(last, s.first+s.span), count+s.count
	}
	f.content()["tables"] = map[string]any{"count": 1, "list": []any{map[string]any{
		"data":     base64.StdEncoding.EncodeToString(x.encode()),
		"segments": len(x.segments), "first": x.segments[0].first, "last": last, "count": count,
	}}}
}

// commit writes the entry and its copy.
func (f *forge) commit() {
	f.t.Helper()
	when := time.Now().UTC().Format(time.RFC3339)
	for _, m := range []map[string]any{f.summary, f.private} {
		m["id"], m["backup"], m["time"] = forgedTask, "20991231T000000Z-aaaaaaaa", when
	}
	f.private["task"], f.summary["messages"] = forgedTask, f.content()["messages"]
	private := f.encode(f.private)
	codec := "json"
	if f.key != nil {
		var err error
		if private, err = seal.To(private, f.key.Recipient()); err != nil {
			f.t.Fatal(err)
		}
		codec = "age"
	}
	n, err := strconv.ParseUint(f.head["number"], 10, 64)
	if err != nil {
		f.t.Fatal(err)
	}
	body := append(append(f.encode(f.summary), '\n'), private...)
	head := fmt.Sprintf("jetkeep-commit 2\nrepository: %s\nchain: %s\nnumber: %d\nprevious: %s\nepoch: 0\nkind: point\ntask: %s\ntime: %s\ncodec: %s\ncritical: -\nsize: %d\n",
		f.head["repository"], f.chain, n+1, f.hash, forgedTask, when, codec, len(body))
	entry := fmt.Sprintf("%ssha256: %s\nsignature: -\n\n%s", head, sha([]byte(head+string(body))), body)
	f.write(fmt.Sprintf("chains/%s/%016d", f.chain, n+1), []byte(entry))
	f.write("commits/"+forgedTask, []byte(entry))
}

func (f *forge) encode(v any) []byte {
	f.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}
