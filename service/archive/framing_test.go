package archive_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/klauspost/compress/s2"

	"jetkeep/service/archive"
)

const identifier = "\xff\x06\x00\x00S2sTwO"

// chunk makes an S2 chunk of a type that has no checksum.
func chunk(kind byte, body []byte) []byte {
	n := len(body)
	return append([]byte{kind, byte(n), byte(n >> 8), byte(n >> 16)}, body...)
}

// dataChunk makes an S2 chunk of content, which is encoded or not.
func dataChunk(content []byte, encoded bool) []byte {
	kind, body := byte(1), content
	if encoded {
		kind, body = 0, s2.Encode(nil, content)
	}
	c := crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli))
	return chunk(kind, append(binary.LittleEndian.AppendUint32(nil, (c>>15|c<<17)+0xa282ead8), body...))
}

// pieces cuts content as no border of what is in it lies.
func pieces(content []byte, n int) (out [][]byte) {
	for len(content) > n {
		out, content = append(out, content[:n]), content[n:]
	}
	return append(out, content)
}

// joined frames pieces, with something before each and at the end.
func joined(pieces [][]byte, between []byte, frame func(i int, piece []byte) []byte) []byte {
	out := []byte(identifier)
	for i, p := range pieces {
		out = append(append(out, between...), frame(i, p)...)
	}
	return append(out, between...)
}

// written is what the S2 library writes with some options.
func written(t *testing.T, content []byte, options ...s2.WriterOption) []byte {
	t.Helper()
	var out bytes.Buffer
	w := s2.NewWriter(&out, append(options, s2.WriterConcurrency(1))...)
	_, err := w.Write(content)
	check(t, err)
	check(t, w.Close())
	return out.Bytes()
}

// framings are ways in which the S2 format allows to write a content.
func framings(t *testing.T, content []byte) map[string][]byte {
	t.Helper()
	parts := pieces(content, 1009)
	encoded := func(_ int, p []byte) []byte { return dataChunk(p, true) }
	noise := make([]byte, 300)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	middle := len(content) / 3
	out := map[string][]byte{
		"encoded":         joined(parts, nil, encoded),
		"as it is":        joined(parts, nil, func(_ int, p []byte) []byte { return dataChunk(p, false) }),
		"mixed":           joined(parts, nil, func(i int, p []byte) []byte { return dataChunk(p, i%2 == 0) }),
		"identifiers":     joined(parts, []byte(identifier), encoded),
		"padding":         joined(parts, chunk(0xfe, noise), encoded),
		"zeros":           joined(parts, chunk(0xfe, make([]byte, 1000)), encoded),
		"empty padding":   joined(parts, chunk(0xfe, nil), encoded),
		"short padding":   joined(parts, chunk(0xfe, []byte("abc")), encoded),
		"no content":      joined(parts, append(dataChunk(nil, false), dataChunk(nil, true)...), encoded),
		"long padding":    append([]byte(identifier), append(chunk(0xfe, make([]byte, 1<<24-1)), joined(parts, nil, encoded)[len(identifier):]...)...),
		"one after other": append(written(t, content[:middle]), written(t, content[middle:], s2.WriterUncompressed())...),
		"index":           written(t, content, s2.WriterAddIndex(), s2.WriterBlockSize(4<<10)),
		"padded":          written(t, content, s2.WriterPadding(4<<10)),
		"index, padded":   written(t, content, s2.WriterAddIndex(), s2.WriterPadding(777), s2.WriterBlockSize(4<<10)),
		"best":            written(t, content, s2.WriterBestCompression(), s2.WriterBlockSize(4<<20)),
		"snappy's subset": written(t, content, s2.WriterSnappyCompat(), s2.WriterBlockSize(64<<10)),
	}
	out["snappy's subset"] = append([]byte(identifier), out["snappy's subset"][len(identifier):]...)
	for kind := 0x80; kind < 0xff; kind++ {
		out[fmt.Sprintf("skippable 0x%02x", kind)] = joined(parts, chunk(byte(kind), noise), encoded)
	}
	return out
}

// Whatever way an archive is framed, what it holds is the same.
func TestEveryFraming(t *testing.T) {
	for name, b := range small(t) {
		t.Run(name, func(t *testing.T) {
			stream := filepath.Base(name)
			want, wantSum := read(t, b, stream)
			for way, framed := range framings(t, unpack(t, b)) {
				var got content
				sum, err := archive.Read(bytes.NewReader(framed), stream, &got)
				if err != nil {
					t.Errorf("%s: %v", way, err)
				} else if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(sum, wantSum) {
					t.Errorf("%s: another content", way)
				}
			}
		})
	}
}

// A chunk of data whose type is damaged to one that may be skipped is not
// skipped. In V2 messages would be missing, and nothing would tell.
func TestSkippedDataIsFound(t *testing.T) {
	for name, b := range small(t) {
		stream := filepath.Base(name)
		parts := pieces(unpack(t, b), 700)
		for damaged := range parts {
			for _, encoded := range []bool{true, false} {
				for _, kind := range []byte{0x80, 0x81, 0x99, 0xa5, 0xfe} {
					framed := joined(parts, nil, func(i int, p []byte) []byte {
						c := dataChunk(p, encoded)
						if i == damaged {
							c[0] = kind
						}
						return c
					})
					if _, err := archive.Read(bytes.NewReader(framed), stream, nothing{}); !errors.Is(err, archive.ErrCorrupt) {
						t.Errorf("%s: chunk %d of type 0x%02x: %v", name, damaged, kind, err)
					}
				}
			}
		}
	}
}

// What the format does not allow is refused, and so is what is cut.
func TestIllegalFraming(t *testing.T) {
	for name, b := range small(t) {
		stream := filepath.Base(name)
		plain := unpack(t, b)
		parts := pieces(plain, 1009)
		encoded := func(_ int, p []byte) []byte { return dataChunk(p, true) }
		for way, between := range map[string][]byte{
			"unskippable 0x02": chunk(2, nil), "unskippable 0x7f": chunk(0x7f, []byte("abcdefgh")),
			"short identifier": []byte("\xff\x05\x00\x00S2sTw"), "long identifier": []byte("\xff\x07\x00\x00S2sTwO!"),
			"snappy":            []byte("\xff\x06\x00\x00sNaPpY"),
			"data without sum":  chunk(1, []byte("abc")),
			"encoded without":   chunk(0, nil),
			"wrong sum":         chunk(1, []byte("abcd")),
			"claims too much":   chunk(0, append([]byte("abcd"), binary.AppendUvarint(nil, 5<<20)...)),
			"data of one byte":  dataChunk([]byte{0}, false),
			"chunk too large":   dataChunk(make([]byte, 4<<20+1), false),
			"encoded too large": dataChunk(make([]byte, 4<<20+1), true),
		} {
			refused(t, name+", "+way, joined(parts, between, encoded), stream)
		}
		refused(t, name+", padding first", append(chunk(0xfe, []byte("abcdefgh")), b...), stream)
		tail := append(chunk(0x99, []byte("an index of which a part is missing")), identifier...)
		for n := 1; n < len(tail); n++ {
			if n == len(tail)-len(identifier) {
				continue // whole
			}
			if _, err := archive.Read(bytes.NewReader(append(bytes.Clone(b), tail[:n]...)), stream, nothing{}); !errors.Is(err, archive.ErrTruncated) {
				t.Errorf("%s with %d bytes of what may follow: %v", name, n, err)
			}
		}
		long := append(bytes.Clone(b), chunk(0xfe, make([]byte, 12<<20))...)
		if _, err := archive.Read(bytes.NewReader(long[:len(long)-1]), stream, nothing{}); !errors.Is(err, archive.ErrTruncated) {
			t.Errorf("%s with cut padding: %v", name, err)
		}
	}
}

// FuzzFraming compares with the S2 library: what is taken, it takes too, and
// reads the same.
func FuzzFraming(f *testing.F) {
	content := []byte("a content of some length, some length, some length")
	parts := pieces(content, 20)
	for _, between := range [][]byte{nil, []byte(identifier), chunk(0xfe, []byte("padding")), chunk(0x99, []byte("index")), dataChunk(nil, false)} {
		f.Add(joined(parts, between, func(i int, p []byte) []byte { return dataChunk(p, i%2 == 0) }))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := archive.Unframe(b)
		if err != nil {
			return
		}
		want, err := io.ReadAll(s2.NewReader(bytes.NewReader(b)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%x is taken as %x, the library reads %x, %v", b, got, want, err)
		}
	})
}
