package record

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func records() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		return Record{
			Sequence: rapid.Uint64Range(1, math.MaxUint64).Draw(t, "sequence"),
			Time:     rapid.Int64().Draw(t, "time"),
			Subject:  rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "subject"),
			Header:   rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "header"),
			Data:     rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "data"),
		}
	})
}

func same(a, b Record) bool {
	return a.Sequence == b.Sequence && a.Time == b.Time && bytes.Equal(a.Subject, b.Subject) &&
		bytes.Equal(a.Header, b.Header) && bytes.Equal(a.Data, b.Data)
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records().Draw(t, "record")
		e := Append([]byte("before"), &r)[len("before"):]
		if len(e) != r.Size() {
			t.Fatalf("Size %d, encoding has %d bytes", r.Size(), len(e))
		}
		got, n, err := Decode(append(bytes.Clone(e), "behind"...))
		if err != nil || n != len(e) || !same(got, r) {
			t.Fatalf("decoded %+v, %d bytes, %v", got, n, err)
		}
		for cut := range e {
			if _, _, err := Decode(e[:cut]); !errors.Is(err, ErrShort) {
				t.Fatalf("cut to %d: %v", cut, err)
			}
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"end entry":      AppendEnd(nil),
		"no subject":     {0, 2, 1, 0, 0},
		"no sequence":    {1, 2, 0, 0, 0, 'a'},
		"long varint":    {1, 2, 0x81, 0x00, 0, 0, 'a'},
		"varint too big": {1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 'a'},
		"huge data":      {1, 2, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x7f, 'a'},
		"huge subject":   {0xff, 0xff, 0xff, 0x7f, 2, 1, 0, 0, 'a'},
	} {
		if _, _, err := Decode(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, n, err := DecodeEntry(AppendEnd(nil)); err != nil || n != 5 {
		t.Errorf("end entry as an entry: %d, %v", n, err)
	}
	if string(AppendHead(nil)) != Magic {
		t.Error("head is not the magic")
	}
}

// Records that differ have encodings that differ, and the other way round.
func FuzzDecode(f *testing.F) {
	seeds := [][]byte{
		Append(nil, &Record{Sequence: 1, Subject: []byte("a")}),
		Append(nil, &Record{Sequence: math.MaxUint64, Time: math.MinInt64, Subject: []byte("orders.new"), Header: []byte("NATS/1.0\r\n\r\n"), Data: []byte("{}")}),
		Append(nil, &Record{Sequence: 300, Time: 1_700_000_000_000_000_000, Subject: bytes.Repeat([]byte("s"), 200), Data: make([]byte, 300)}),
		AppendEnd(nil),
		{1, 2, 0x81, 0x00, 0, 0, 'a'},
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrShort) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if again := Append(nil, &r); !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b[:n], r, again)
		}
	})
}

func TestSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		recs := rapid.SliceOfN(records(), 0, 12).Draw(t, "records")
		cut := rapid.IntRange(0, len(recs)).Draw(t, "cut")
		var whole, left, right, backwards, kept Sum
		for i := range recs {
			e := Append(nil, &recs[i])
			whole.Add(e)
			if i < cut {
				left.Add(e)
			} else {
				right.Add(e)
				kept.Add(e)
			}
			backwards.Add(Append(nil, &recs[len(recs)-1-i]))
		}
		if whole != backwards {
			t.Fatal("order matters")
		}
		merged := left
		merged.Merge(right)
		if merged != whole || whole.Count() != uint64(len(recs)) {
			t.Fatal("merging is not adding")
		}
		for i := range cut {
			whole.Remove(Append(nil, &recs[i]))
		}
		if whole != kept {
			t.Fatal("removing is not leaving out")
		}
		back, err := ParseSum(whole.String(), whole.Count())
		if err != nil || back != whole {
			t.Fatalf("parsed %v, %v", back, err)
		}
	})
	if (Sum{}).String() != "0000000000000000000000000000000000000000000000000000000000000000" {
		t.Error("the empty sum is not zero")
	}
	for _, bad := range []string{"", "zz", "ab"} {
		if _, err := ParseSum(bad, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// One bit in any record changes the sum.
	r := Record{Sequence: 7, Subject: []byte("a"), Data: []byte("x")}
	var a, b Sum
	a.Add(Append(nil, &r))
	r.Data = []byte("y")
	b.Add(Append(nil, &r))
	if a == b {
		t.Error("different records have the same sum")
	}
}

// The digest is part of the format: it must not change.
func TestSumIsFixed(t *testing.T) {
	var s Sum
	s.Add(Append(nil, &Record{Sequence: 1, Time: 2, Subject: []byte("a"), Header: []byte("h"), Data: []byte("d")}))
	s.Add(Append(nil, &Record{Sequence: 2, Time: -2, Subject: []byte("b")}))
	const want = "fba58df39dccad3dadc6705a2ac3fbefc885c1112863691218e259bb8c6a0f56"
	if s.String() != want {
		t.Errorf("got %s", s)
	}
}
