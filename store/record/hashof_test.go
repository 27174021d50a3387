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
