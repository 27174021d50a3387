package record

import (
	"testing"

	"pgregory.net/rapid"
)

func TestHashOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records().Draw(t, "record")
		if HashOf(&r) != Hash(Append(nil, &r)) {
			t.Fatal("the hash without the encoding is another one")
		}
	})
}

func TestEntryLen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records().Draw(t, "record")
		e := Append(nil, &r)
		fields := len(AppendFields(nil, &r)) - len(r.Subject)
		for cut := range len(e) + 1 {
			want := len(e)
			if cut < fields {
				want = 0
			}
			if got := EntryLen(e[:cut]); got != want {
				t.Fatalf("%d of %d bytes, %d of them fields: %d", cut, len(e), fields, got)
			}
		}
	})
	if n := EntryLen([]byte{1, 2, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x7f, 'a'}); n != 0 {
		t.Errorf("an entry that is too large has %d bytes", n)
	}
}
