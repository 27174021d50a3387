package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"

	"jetkeep/service/archive"
)

// small are golden archives small enough to be damaged in every place.
func small(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, path := range []string{"2.6.1/EMPTY", "2.9.25/KV_gold", "2.14.5/EMPTY", "2.14.5/TTL", "2.15.2/EMPTY", "2.15.2/KV_gold", "2.15.2/TTL"} {
		b, err := os.ReadFile(filepath.Join("testdata", "golden", path+".s2"))
		check(t, err)
		out[path] = b
	}
	s := sample("SMALL")
	s.records = s.records[:20]
	out["written v1/SMALL"] = writeV1(t, "SMALL", s, "")
	s.last = s.records[19].Sequence
	out["written v2/SMALL"] = writeV2(t, s)
	return out
}

// refused reads an archive that must not be accepted, and demands an error of a
// known kind.
func refused(t *testing.T, what string, b []byte, stream string) {
	t.Helper()
	_, err := archive.Read(bytes.NewReader(b), stream, nothing{})
	if err == nil {
		t.Errorf("%s: accepted", what)
		return
	}
	for _, kind := range []error{archive.ErrCorrupt, archive.ErrTruncated, archive.ErrFormat, archive.ErrTooLarge} {
		if errors.Is(err, kind) {
			return
		}
	}
	t.Errorf("%s: error of no known kind: %v", what, err)
}

func TestEveryTruncation(t *testing.T) {
	t.Parallel()
	for name, b := range small(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := filepath.Base(name)
			read(t, b, stream)
			for n := range b {
				refused(t, "cut", b[:n], stream)
			}
			plain := unpack(t, b)
			for n := range plain {
				if n%512 < 3 || n < 4096 || n > len(plain)-2048 {
					refused(t, "cut before compression", compress(t, plain[:n]), stream)
				}
			}
		})
	}
}

// TestEveryFlip changes each byte. A change that is not refused must be none:
// S2 can write the same content in different ways, zeros above all, and its
// checksum is that of the content.
func TestEveryFlip(t *testing.T) {
	t.Parallel()
	for name, b := range small(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := filepath.Base(name)
			plain := unpack(t, b)
			bad, same := bytes.Clone(b), 0
			for i := range bad {
				for _, x := range []byte{0xff, 0x80, 0x40, 0x10, 0x04, 0x02, 0x01} {
					bad[i] = b[i] ^ x
					_, err := archive.Read(bytes.NewReader(bad), stream, nothing{})
					if err == nil && bytes.Equal(unpack(t, bad), plain) {
						same++
						continue
					}
					refused(t, "flipped", bad, stream)
				}
				bad[i] = b[i]
			}
			if same > len(b) {
				t.Errorf("%d of %d changes were none", same, 7*len(b))
			}
		})
	}
}

// unchecked are the parts of a V1 tar that no checksum of V1 covers. A change
// there is noticed by S2's checksum, that is, only if it happened afterwards.
var unchecked = map[string]string{
	"extended header": "holds the time that the server made the member",
	"header checksum": "may end in different ways",
	"subject length":  "is not hashed, only the subject and what follows it, together",
	"header length":   "is not hashed, only the headers and the data, together",
	"o.dat":           "has no checksum",
	".idx":            "is not read",
	".fss":            "is not read",
}

// TestEveryFlipBeforeCompression changes each byte of the tar itself, which
// S2's checksum then confirms.
func TestEveryFlipBeforeCompression(t *testing.T) {
	t.Parallel()
	for name, b := range small(t) {
		plain := unpack(t, b)
		if bytes.HasPrefix(plain, []byte("NATSARC1")) {
			continue // has no checksums of its own
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := filepath.Base(name)
			zones := zonesOf(t, plain)
			hit := map[string]bool{}
			for i := range plain {
				plain[i] ^= 0x21
				_, err := archive.Read(bytes.NewReader(compress(t, plain)), stream, nothing{})
				plain[i] ^= 0x21
				if err == nil && unchecked[zones[i]] == "" {
					t.Errorf("byte %d of %s flipped: accepted", i, zones[i])
				}
				hit[zones[i]] = true
			}
			if !hit["block"] && !strings.Contains(name, "EMPTY") {
				t.Errorf("no record was changed: %v", hit)
			}
		})
	}
}

// zonesOf names what each byte of a tar belongs to.
func zonesOf(t *testing.T, b []byte) []string {
	t.Helper()
	zones := make([]string, len(b))
	fill := func(from, to int, zone string) {
		for i := from; i < to; i++ {
			zones[i] = zone
		}
	}
	fill(0, len(b), "trailer")
	for at := 0; at < len(b) && b[at] != 0; {
		h, err := tar.NewReader(bytes.NewReader(b[at : at+512])).Next()
		kind := b[at+156]
		size, name := 0, string(bytes.TrimRight(b[at:at+100], "\x00"))
		if err == nil {
			size = int(h.Size)
		} else {
			for _, c := range bytes.Trim(b[at+124:at+136], " \x00") {
				size = size<<3 + int(c-'0')
			}
		}
		fill(at, at+512, "header")
		fill(at+148, at+156, "header checksum")
		at += 512
		end := at + size
		switch {
		case kind == 'x':
			fill(at, end, "extended header")
		case strings.HasSuffix(name, ".blk"):
			fill(at, end, "block")
			for r := at; r < end; r += int(b[r]) | int(b[r+1])<<8 | int(b[r+2])<<16 {
				fill(r+20, r+22, "subject length")
				if b[r+3]&0x80 != 0 {
					n := r + 22 + int(b[r+20])
					fill(n, n+4, "header length")
				}
			}
		case strings.HasSuffix(name, "/o.dat"):
			fill(at, end, "o.dat")
		default:
			fill(at, end, filepath.Ext(name))
		}
		next := (end + 511) / 512 * 512
		fill(end, next, "padding")
		at = next
	}
	return zones
}

// TestTrailing appends what does not belong there, in both layers.
func TestTrailing(t *testing.T) {
	t.Parallel()
	for name, b := range small(t) {
		stream := filepath.Base(name)
		for what, more := range map[string]string{
			"byte": "x", "zero": "\x00", "chunk": string(dataChunk([]byte{0}, false)),
			"the archive again": string(b), "its chunks again": string(b[10:]),
		} {
			refused(t, name+" and "+what, append(bytes.Clone(b), more...), stream)
		}
		plain := unpack(t, b)
		for what, more := range map[string]string{
			"byte": "x", "zeros": strings.Repeat("\x00", 512), "end": "\x00\x00\x00\x00\x00", "itself": string(plain),
		} {
			refused(t, name+" and before compression "+what, compress(t, append(bytes.Clone(plain), more...)), stream)
		}
	}
}

func TestNoSnapshot(t *testing.T) {
	for what, b := range map[string][]byte{
		"nothing": nil, "text": []byte("<html>not found</html>"), "snappy": []byte("\xff\x06\x00\x00sNaPpY"),
		"identifier alone": []byte("\xff\x06\x00\x00S2sTwO"), "other content": compress(t, []byte(strings.Repeat("no tar ", 200))),
		"zeros": compress(t, make([]byte, 1024)),
	} {
		refused(t, what, b, "S")
	}
}

func unpack(t testing.TB, b []byte) []byte {
	t.Helper()
	out, err := io.ReadAll(s2.NewReader(bytes.NewReader(b)))
	check(t, err)
	return out
}

func compress(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	// Several chunks, so that members and records lie across their borders.
	w := s2.NewWriter(&out, s2.WriterConcurrency(1), s2.WriterBlockSize(4<<10))
	_, err := w.Write(b)
	check(t, err)
	check(t, w.Close())
	return out.Bytes()
}
