package archive_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"jetkeep/service/archive"
	"jetkeep/store/record"
)

// goldens returns the golden archives of one format, by stream, and fails the
// test if there are none.
func goldens(t testing.TB, format archive.Format) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, version := range goldenVersions {
		for _, e := range golden(t, version) {
			if e.Format == format {
				b, err := os.ReadFile(filepath.Join(goldenDir(version), e.File))
				check(t, err)
				out[version+"/"+e.Stream] = b
			}
		}
	}
	if len(out) < 3 {
		t.Fatalf("%d seeds of format %s", len(out), format)
	}
	return out
}

// seeds are archives small enough to be worth changing.
func seeds(t testing.TB, format archive.Format) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for name, b := range small(t) {
		if bytes.HasPrefix(unpack(t, b), []byte(record.Magic)) == (format == archive.FormatV2) {
			out[name] = b
		}
	}
	if len(out) < 3 {
		t.Fatalf("%d seeds of format %s", len(out), format)
	}
	return out
}

// fuzzRead reads content that is compressed here, so that the fuzzer need not
// guess S2's checksums. What is accepted must come back from a writer.
func fuzzRead(t *testing.T, plain []byte, stream string, format archive.Format) {
	b := compress(t, plain)
	var c content
	sum, err := archive.Read(bytes.NewReader(b), stream, &c)
	if err != nil {
		return
	}
	if sum.Format != format {
		return
	}
	var out bytes.Buffer
	w := archive.NewV1Writer(&out, archive.Meta{Stream: stream, Config: []byte(`{}`)})
	last := uint64(0)
	for i := range c.records {
		r := &c.records[i]
		if r.Sequence <= last {
			t.Fatalf("sequence %d follows %d", r.Sequence, last)
		}
		if last = r.Sequence; last >= 1<<62 || len(r.Subject) >= 1<<16 {
			return // V2 can name what V1 cannot
		}
		if err := w.Record(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, con := range c.consumers {
		if err := w.Consumer(con); err != nil {
			return // of a name that no server gives
		}
	}
	if err := w.Close(last); err != nil {
		t.Fatal(err)
	}
	var again content
	if _, err := archive.Read(bytes.NewReader(out.Bytes()), stream, &again); err != nil {
		t.Fatal(err)
	}
	if again.sum != c.sum || len(again.consumers) != len(c.consumers) {
		t.Fatal("what was written anew differs")
	}
}

func FuzzReadV1(f *testing.F) {
	for name, b := range seeds(f, archive.FormatV1) {
		f.Add(unpack(f, b), filepath.Base(name))
	}
	f.Fuzz(func(t *testing.T, plain []byte, stream string) { fuzzRead(t, plain, stream, archive.FormatV1) })
}

func FuzzReadV2(f *testing.F) {
	for _, b := range seeds(f, archive.FormatV2) {
		f.Add(unpack(f, b))
	}
	f.Fuzz(func(t *testing.T, plain []byte) { fuzzRead(t, plain, "S", archive.FormatV2) })
}

// FuzzFrames gives the fuzzer the compressed bytes.
func FuzzFrames(f *testing.F) {
	for _, format := range []archive.Format{archive.FormatV1, archive.FormatV2} {
		for name, b := range seeds(f, format) {
			f.Add(b, filepath.Base(name))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, stream string) {
		archive.Read(bytes.NewReader(b), stream, nothing{})
	})
}

func FuzzConsumerState(f *testing.F) {
	seeds := 0
	for _, b := range goldens(f, archive.FormatV1) {
		for _, p := range partsOf(f, b) {
			if filepath.Base(p.name) == "o.dat" {
				f.Add(p.data)
				seeds++
			}
		}
	}
	if seeds < 20 {
		f.Fatalf("%d seeds", seeds)
	}
	f.Add(oldState)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := archive.DecodeConsumerState(b)
		if err != nil {
			return
		}
		again, err := archive.DecodeConsumerState(archive.AppendConsumerState(nil, s))
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		if again.Delivered != s.Delivered || again.AckFloor != s.AckFloor ||
			!slices.Equal(again.Redelivered, s.Redelivered) || !slices.Equal(again.Pending, s.Pending) {
			t.Fatalf("%+v became %+v", s, again)
		}
	})
}

// oldState is a state of version 1, as servers wrote it before 2.2: floor 3 and
// 10, delivered 5 and 14, two pending since 1700000001 and 1700000002.
var oldState = []byte{22, 1, 3, 10, 3, 5, 2, 0x80, 0xc4, 0x9f, 0xd5, 0x0c, 2, 2, 4, 4, 1, 2, 3}

func TestOldConsumerState(t *testing.T) {
	s, err := archive.DecodeConsumerState(oldState)
	check(t, err)
	want := archive.ConsumerState{
		AckFloor:    archive.SequencePair{Consumer: 3, Stream: 10},
		Delivered:   archive.SequencePair{Consumer: 5, Stream: 14},
		Pending:     []archive.Pending{{Stream: 12, Time: 1700000001e9}, {Stream: 14, Time: 1700000002e9}},
		Redelivered: []archive.Redelivered{{Stream: 12, Count: 3}},
	}
	if s.AckFloor != want.AckFloor || s.Delivered != want.Delivered || !slices.Equal(s.Pending, want.Pending) || !slices.Equal(s.Redelivered, want.Redelivered) {
		t.Errorf("state is %+v, want %+v", s, want)
	}
}

func TestBadConsumerState(t *testing.T) {
	for what, b := range map[string][]byte{
		"nothing": nil, "magic": {22}, "wrong magic": {23, 2, 0, 0, 0, 0, 0, 0}, "version 3": {22, 3, 0, 0, 0, 0, 0, 0},
		"cut": {22, 2, 0, 0, 0, 0, 0}, "more": {22, 2, 0, 0, 0, 0, 0, 0, 0},
		"pending twice":     {22, 2, 0, 0, 9, 9, 2, 0, 1, 1, 0, 1, 2, 0, 0},
		"pending nothing":   {22, 2, 0, 0, 9, 9, 1, 0, 0, 1, 0, 0},
		"redelivered twice": {22, 2, 0, 0, 9, 9, 0, 2, 1, 1, 1, 2},
		"beyond 2^63":       {22, 2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0},
	} {
		if s, err := archive.DecodeConsumerState(b); err == nil {
			t.Errorf("%s: decoded %+v", what, s)
		}
	}
}
