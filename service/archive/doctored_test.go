package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	peer "github.com/nats-io/nats-server/v2/server/archive"

	"jetkeep/service/archive"
	"jetkeep/store/record"
)

// part is a member of a tar.
type part struct {
	name string
	data []byte
}

func partsOf(t testing.TB, b []byte) []part {
	t.Helper()
	var out []part
	tr := tar.NewReader(s2.NewReader(bytes.NewReader(b)))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		check(t, err)
		data, err := io.ReadAll(tr)
		check(t, err)
		out = append(out, part{h.Name, data})
	}
}

func pack(t testing.TB, parts ...part) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range parts {
		check(t, w.WriteHeader(&tar.Header{Name: p.name, Size: int64(len(p.data)), Mode: 0o600, Format: tar.FormatPAX, PAXRecords: map[string]string{"X.y": "z"}}))
		_, err := w.Write(p.data)
		check(t, err)
	}
	check(t, w.Close())
	return compress(t, b.Bytes())
}

// doctor is a V1 archive of 60 messages in three blocks, with two consumers, to
// be put together in other ways.
type doctor struct {
	meta, sum            part
	first, second, third part // messages 1..20, 21..40, 41..60
	consumers            []part
}

func newDoctor(t testing.TB) doctor {
	t.Helper()
	var d doctor
	for block := range 3 {
		// Three archives, each with messages in the block of its number only.
		s := stream{config: json.RawMessage(`{"name":"S"}`), last: uint64(20*block + 20)}
		for seq := range uint64(20) {
			s.records = append(s.records, record.Record{
				Sequence: uint64(20*block) + seq + 1, Time: 1, Subject: []byte("s"), Data: []byte(strings.Repeat("m", int(seq))),
			})
		}
		s.consumers = sample("S").consumers[:2]
		parts := partsOf(t, blocksFrom(t, uint32(block+1), s))
		d.meta, d.sum, d.consumers = parts[0], parts[1], parts[3:]
		*[]*part{&d.first, &d.second, &d.third}[block] = parts[2]
	}
	return d
}

// blocksFrom writes an archive whose only block has the given index.
func blocksFrom(t testing.TB, index uint32, s stream) []byte {
	t.Helper()
	var b bytes.Buffer
	w := archive.NewV1Writer(&b, archive.Meta{Stream: "S", Config: s.config})
	archive.SetBlock(w, index)
	for i := range s.records {
		check(t, w.Record(&s.records[i]))
	}
	for _, c := range s.consumers {
		check(t, w.Consumer(c))
	}
	check(t, w.Close(s.last))
	return b.Bytes()
}

func (d doctor) pack(t testing.TB, between ...part) []byte {
	t.Helper()
	return pack(t, slices.Concat([]part{d.meta, d.sum}, between, d.consumers)...)
}

func TestDuplicateMembers(t *testing.T) {
	d := newDoctor(t)
	c, sum := read(t, d.pack(t, d.first, d.third, d.third), "S")
	if len(c.records) != 40 || !slices.Equal(sum.Duplicates, []string{"msgs/3.blk"}) {
		t.Errorf("%d records, twice %v", len(c.records), sum.Duplicates)
	}
	// The second time the block had grown.
	short := part{d.third.name, d.third.data[:recordBytes(d.third.data, 10)]}
	c, sum = read(t, d.pack(t, d.first, short, d.third), "S")
	if len(c.records) != 40 || c.records[39].Sequence != 60 || len(sum.Duplicates) != 1 {
		t.Errorf("%d records, twice %v", len(c.records), sum.Duplicates)
	}
	if sum.Records != 40 || sum.Consumers != 2 || len(c.consumers) != 2 {
		t.Errorf("summary %+v", sum)
	}
}

// recordBytes returns the length of the first n records of a block.
func recordBytes(b []byte, n int) int {
	at := 0
	for range n {
		at += int(binary.LittleEndian.Uint32(b[at:]) &^ (1 << 31))
	}
	return at
}

func TestServerFault(t *testing.T) {
	d := newDoctor(t)
	_, err := archive.Read(bytes.NewReader(d.pack(t, d.first, part{"errors.txt", []byte("could not read")})), "S", nothing{})
	var fault *archive.ServerFault
	if !errors.As(err, &fault) || fault.Text != "could not read" {
		t.Errorf("error is %v", err)
	}
}

func TestDoctoredV1(t *testing.T) {
	d := newDoctor(t)
	read(t, d.pack(t, d.first, d.second, d.third), "S")
	cut := func(p part, n int) part { return part{p.name, p.data[:n]} }
	is := func(p part, name string) part { return part{name, p.data} }
	longer := part{d.first.name, append(bytes.Clone(d.first.data), 0)}
	huge := part{d.first.name, append(binary.LittleEndian.AppendUint32(nil, 1<<30), make([]byte, 100)...)}
	tiny := part{d.first.name, append(binary.LittleEndian.AppendUint32(nil, 29), make([]byte, 100)...)}
	zero := part{d.first.name, make([]byte, 100)}
	c := d.consumers
	for what, b := range map[string][]byte{
		"blocks out of order":         d.pack(t, d.second, d.first),
		"block under another number":  d.pack(t, is(d.second, "msgs/4.blk")),
		"record cut":                  d.pack(t, cut(d.first, len(d.first.data)-1)),
		"record cut in its head":      d.pack(t, cut(d.first, recordBytes(d.first.data, 19)+7)),
		"byte after the last record":  d.pack(t, longer),
		"record of a GiB":             d.pack(t, huge),
		"record of 29 bytes":          d.pack(t, tiny),
		"zeros":                       d.pack(t, zero),
		"unknown member":              d.pack(t, part{"msgs/1.new", nil}),
		"unknown file":                d.pack(t, part{"new.inf", nil}),
		"unusual number":              d.pack(t, is(d.first, "msgs/01.blk")),
		"number too high":             d.pack(t, is(d.first, "msgs/4294967296.blk")),
		"no number":                   d.pack(t, is(d.first, "msgs/.blk")),
		"path":                        d.pack(t, is(d.first, "../msgs/1.blk")),
		"second meta.inf":             d.pack(t, d.meta),
		"second meta.sum":             d.pack(t, d.sum),
		"index.db of nothing":         d.pack(t, part{"msgs/index.db", nil}),
		"no meta.sum":                 pack(t, d.meta, d.first),
		"no meta.inf":                 pack(t, d.sum, d.first),
		"blocks first":                pack(t, d.first, d.meta, d.sum),
		"consumer first":              pack(t, c[0], c[1], c[2], d.meta, d.sum),
		"nothing inside":              pack(t),
		"wrong meta.sum":              pack(t, d.meta, part{d.sum.name, []byte("0123456789abcdef")}),
		"no JSON":                     pack(t, part{"meta.inf", []byte("{")}, d.sum),
		"consumer without its state":  pack(t, d.meta, d.sum, c[0], c[1]),
		"consumer without meta.sum":   pack(t, d.meta, d.sum, c[0], c[2]),
		"consumer without meta.inf":   pack(t, d.meta, d.sum, c[1], c[2]),
		"consumers mixed":             pack(t, d.meta, d.sum, c[0], c[4], c[2]),
		"block inside a consumer":     pack(t, d.meta, d.sum, c[0], d.first, c[1], c[2]),
		"consumer under another name": pack(t, d.meta, d.sum, is(c[0], "obs/x/meta.inf"), is(c[1], "obs/x/meta.sum"), is(c[2], "obs/x/o.dat")),
		"consumer state of nothing":   pack(t, d.meta, d.sum, c[0], c[1], part{c[2].name, nil}),
		"unknown part of a consumer":  pack(t, d.meta, d.sum, c[0], c[1], c[2], part{"obs/y/more", nil}),
	} {
		refused(t, what, b, "S")
	}
	refused(t, "another stream's", d.pack(t, d.first), "T")
}

// TestWrongNames gives archives whose names are wrong and checksums right, as a
// bad attempt at renaming makes them.
func TestWrongNames(t *testing.T) {
	d := newDoctor(t)
	for what, meta := range map[string]string{"of another stream": `{"Created":"2020-01-01T00:00:00Z","name":"T"}`, "of none": `{}`, "with a number": `{"name":1}`, "and more": `{"name":"S"} {}`, "a list": `["name","S"]`} {
		sum := part{"meta.sum", archive.MetaSum([]byte(meta), "S", "")}
		refused(t, "meta.inf "+what, pack(t, part{"meta.inf", []byte(meta)}, sum), "S")
	}
	for what, meta := range map[string]string{"of another consumer": `{"Name":"other"}`, "with a number": `{"Name":1}`, "with a bad time": `{"Name":"busy","Created":"today"}`} {
		dir := "obs/busy/"
		parts := []part{{dir + "meta.inf", []byte(meta)}, {dir + "meta.sum", archive.MetaSum([]byte(meta), "S", "busy")}, d.consumers[2]}
		refused(t, "consumer's meta.inf "+what, pack(t, d.meta, d.sum, parts[0], parts[1], parts[2]), "S")
	}
}

// TestIndex checks the list of blocks against doctored archives whose index.db
// a real server made.
func TestIndex(t *testing.T) {
	for _, version := range []string{"2.10.29", "2.11.12", "2.12.6", "2.14.5"} {
		e := golden(t, version)[0]
		parts := partsOf(t, readFile(t, goldenDir(version)+"/"+e.File))
		full, sum := read(t, pack(t, parts...), e.Stream)
		if !sum.HasIndex || len(sum.MissingBlocks)+len(sum.LaterBlocks)+len(sum.Duplicates) > 0 {
			t.Errorf("%s: whole archive: %+v", version, sum)
		}
		less := func(name string) (content, archive.Summary) {
			return read(t, pack(t, slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return p.name == name })...), e.Stream)
		}
		if c, sum := less("msgs/2.blk"); !slices.Equal(sum.MissingBlocks, []uint32{2}) || len(c.records) >= len(full.records) {
			t.Errorf("%s: without block 2 missing are %v", version, sum.MissingBlocks)
		}
		if _, sum := less("msgs/3.blk"); !slices.Equal(sum.LaterBlocks, []uint32{3}) || len(sum.MissingBlocks) > 0 {
			t.Errorf("%s: without block 3 later ones are %v", version, sum.LaterBlocks)
		}
		if _, sum := less("msgs/index.db"); sum.HasIndex {
			t.Errorf("%s: index.db seen that is not there", version)
		}
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	return b
}

func entry(name string, seq uint64, data string) []byte {
	return record.Append(nil, &record.Record{Subject: []byte(name), Sequence: seq, Time: 1, Data: []byte(data)})
}

func TestDoctoredV2(t *testing.T) {
	magic, end := []byte(record.Magic), record.AppendEnd(nil)
	state := entry("state.json", 0, `{"messages":3,"first_seq":2,"last_seq":9,"consumer_count":1}`)
	con := entry("consumers/c", 0, `{"config":{"name":"c","x":1},"state":{"delivered":{},"ack_floor":{}}}`)
	m2, m5, m9 := entry("a", 2, "x"), entry("a", 5, "y"), entry("a", 9, "z")
	v2 := func(parts ...[]byte) []byte { return compress(t, slices.Concat(parts...)) }

	c, sum := read(t, v2(magic, state, con, m2, m5, m9, end), "S")
	if len(c.records) != 3 || len(c.consumers) != 1 || sum.LastSequence != 9 || string(c.consumers[0].Config) != `{"name":"c","x":1}` {
		t.Errorf("read %+v, %+v", c, sum)
	}
	// Messages deleted ahead of the server's cursor.
	if c, sum := read(t, v2(magic, state, con, m5, end), "S"); len(c.records) != 1 || sum.Records != 1 {
		t.Errorf("read %+v, %+v", c, sum)
	}
	for what, b := range map[string][]byte{
		"magic alone":                v2(magic),
		"no state":                   v2(magic, con, m2, end),
		"no JSON":                    v2(magic, entry("state.json", 0, "{"), end),
		"negative count":             v2(magic, entry("state.json", 0, `{"consumer_count":-1}`), end),
		"fractional count":           v2(magic, entry("state.json", 0, `{"messages":1.5}`), end),
		"state with a sequence":      v2(magic, entry("state.json", 1, `{}`), end),
		"consumer missing":           v2(magic, state, m2, m5, m9, end),
		"consumer missing, no more":  v2(magic, state, end),
		"one consumer more":          v2(magic, state, con, con, m2, end),
		"consumer under no prefix":   v2(magic, state, entry("other/c", 0, `{"config":{},"state":{}}`), end),
		"consumer without a name":    v2(magic, state, entry("consumers/", 0, `{"config":{},"state":{}}`), end),
		"consumer without a config":  v2(magic, state, entry("consumers/c", 0, `{"state":{}}`), end),
		"consumer without a state":   v2(magic, state, entry("consumers/c", 0, `{"config":{}}`), end),
		"null pending":               v2(magic, state, entry("consumers/c", 0, `{"config":{},"state":{"pending":{"1":null}}}`), end),
		"no end":                     v2(magic, state, con, m2, m5, m9),
		"message twice":              v2(magic, state, con, m2, m5, m5, end),
		"sequences fall":             v2(magic, state, con, m5, m2, end),
		"before the first":           v2(magic, state, con, entry("a", 1, ""), end),
		"after the last":             v2(magic, state, con, entry("a", 10, ""), end),
		"more messages":              v2(magic, state, con, m2, entry("a", 3, ""), m5, m9, end),
		"no subject":                 v2(magic, state, con, entry("", 3, ""), end),
		"end with a time":            v2(magic, state, con, m2, []byte{0, 2, 0, 0, 0}),
		"end with a name":            v2(magic, state, con, m2, entry("x", 0, "")),
		"data after the end":         v2(magic, state, con, m2, end, []byte{0}),
		"message after the end":      v2(magic, state, con, m2, end, m5),
		"end twice":                  v2(magic, state, con, m2, end, end),
		"number longer than need be": v2(magic, state, con, []byte{0x81, 0x00, 2, 2, 0, 0, 'a'}, end),
		"subject of a GiB":           v2(magic, binary.AppendUvarint(nil, 1<<30), []byte{2, 0, 0, 0}),
	} {
		refused(t, what, b, "S")
	}
}

// TestLongGap writes for a server that needs a record for each sequence of a
// block: a gap of millions must cost a block, not millions of records.
func TestLongGap(t *testing.T) {
	s := stream{config: json.RawMessage(`{"name":"S"}`), last: 9e6}
	for _, seq := range []uint64{1, 3, 4e6} {
		s.records = append(s.records, record.Record{Sequence: seq, Subject: []byte("s")})
	}
	b := writeV1(t, "S", s, "2.8.2")
	if n := len(unpack(t, b)); n > 64<<10 {
		t.Errorf("archive of three messages takes %d bytes", n)
	}
	if c, _ := read(t, b, "S"); c.sum != sumOf(s.records) {
		t.Errorf("read %d records", len(c.records))
	}
}

// TestClaims gives archives that claim to be huge and are not.
func TestClaims(t *testing.T) {
	d := newDoctor(t)
	header := func(size string) []byte {
		b := bytes.Clone(unpack(t, pack2(t, d.first))[:512])
		copy(b[124:136], size)
		copy(b[148:156], "        ")
		n := 0
		for _, c := range b {
			n += int(c)
		}
		copy(b[148:156], []byte{'0' + byte(n>>15&7), '0' + byte(n>>12&7), '0' + byte(n>>9&7), '0' + byte(n>>6&7), '0' + byte(n>>3&7), '0' + byte(n&7), 0, ' '})
		return b
	}
	front := unpack(t, pack2(t, d.meta, d.sum))
	front = front[:len(front)-1024]
	long := slices.Concat(binary.LittleEndian.AppendUint32(nil, 60<<20), make([]byte, 5000))
	for what, b := range map[string][]byte{
		"block of 8 GiB":      compress(t, slices.Concat(front, header("77777777777\x00"), d.first.data)),
		"record of 60 MiB":    compress(t, slices.Concat(front, header("77777777777\x00"), long)),
		"message of 127 MiB":  compress(t, slices.Concat([]byte(record.Magic), entry("state.json", 0, `{"messages":1,"first_seq":1,"last_seq":1}`), []byte{1, 2, 1, 0}, binary.AppendUvarint(nil, 127<<20), make([]byte, 9000))),
		"consumer of 127 MiB": compress(t, slices.Concat([]byte(record.Magic), entry("state.json", 0, `{"consumer_count":1}`), []byte{11, 2, 0, 0}, binary.AppendUvarint(nil, 127<<20), []byte("consumers/c"), make([]byte, 9000))),
		"pending of 2^60":     pack(t, d.meta, d.sum, d.consumers[0], d.consumers[1], part{d.consumers[2].name, binary.AppendUvarint([]byte{22, 2, 0, 0, 0, 0}, 1<<60)}),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		refused(t, what, b, "S")
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
			t.Errorf("%s: %d bytes allocated", what, n)
		}
	}
}

// pack2 packs without extended headers.
func pack2(t testing.TB, parts ...part) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range parts {
		check(t, w.WriteHeader(&tar.Header{Name: p.name, Size: int64(len(p.data)), Mode: 0o600}))
		_, err := w.Write(p.data)
		check(t, err)
	}
	check(t, w.Close())
	return compress(t, b.Bytes())
}

// TestBomb reads an archive that is small on the wire and endless in content.
func TestBomb(t *testing.T) {
	d := newDoctor(t)
	var b bytes.Buffer
	w := s2.NewWriter(&b)
	tw := tar.NewWriter(w)
	for _, p := range []part{d.meta, d.sum} {
		check(t, tw.WriteHeader(&tar.Header{Name: p.name, Size: int64(len(p.data)), Mode: 0o600}))
		_, err := tw.Write(p.data)
		check(t, err)
	}
	check(t, tw.WriteHeader(&tar.Header{Name: "msgs/1.idx", Size: 1 << 28, Mode: 0o600}))
	zeros := make([]byte, 1<<20)
	for range 1 << 8 {
		_, err := tw.Write(zeros)
		check(t, err)
	}
	check(t, tw.Close())
	check(t, w.Close())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	read(t, b.Bytes(), "S")
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("%d bytes allocated for an archive of %d", n, b.Len())
	}
}

// TestPeer has the server's own package read and write V2.
func TestPeer(t *testing.T) {
	s := sample("S")
	s.last = s.records[len(s.records)-1].Sequence
	r := peer.NewReader(s2.NewReader(bytes.NewReader(writeV2(t, s))))
	var out bytes.Buffer
	comp := s2.NewWriter(&out)
	w := peer.NewWriter(comp)
	names := []string{"state.json", "consumers/busy", "consumers/fresh", "consumers/quick"}
	for i := 0; ; i++ {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		check(t, err)
		data, err := io.ReadAll(r)
		check(t, err)
		if i < len(names) && h.Name != names[i] {
			t.Errorf("entry %d is %q", i, h.Name)
		}
		check(t, w.WriteHeader(h))
		_, err = w.Write(data)
		check(t, err)
	}
	check(t, comp.Close())
	c, _ := read(t, out.Bytes(), "S")
	if c.sum != sumOf(s.records) || len(c.consumers) != len(s.consumers) {
		t.Errorf("%d records, %d consumers", len(c.records), len(c.consumers))
	}
}
