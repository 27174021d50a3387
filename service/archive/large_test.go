package archive_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"jetkeep/service/archive"
)

// A state that is whole and takes too much memory is too large, and not corrupt:
// to read it again would not help.
func TestLargeConsumerState(t *testing.T) {
	const many = 4 << 20
	head := []byte{22, 2, 0, 0, 9, 9}
	list := func(b []byte, entry ...byte) []byte {
		return append(binary.AppendUvarint(b, many), bytes.Repeat(entry, many)...)
	}
	for what, b := range map[string][]byte{
		"pending":     append(list(bytes.Clone(head), 1, 1, 1), 1, 0),
		"redelivered": list(append(bytes.Clone(head), 0), 1, 1),
	} {
		if _, err := archive.DecodeConsumerState(b); !errors.Is(err, archive.ErrTooLarge) || errors.Is(err, archive.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
