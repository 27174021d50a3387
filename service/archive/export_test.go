package archive

import (
	"bytes"
	"io"
)

// SetBlock sets the index of the first block that is written.
func SetBlock(v *V1Writer, index uint32) {
	v.index, v.key = index, blockKey(v.stream, index)
}

// MetaSum is the checksum of a meta.inf, of a stream or of one of its consumers.
func MetaSum(meta []byte, stream, consumer string) []byte {
	if consumer == "" {
		return []byte(metaSum(meta, streamKey(stream)))
	}
	return []byte(metaSum(meta, consumerKey(stream, consumer)))
}

// Unframe returns what an S2 stream holds.
func Unframe(b []byte) ([]byte, error) {
	w := newWindow(bytes.NewReader(b))
	for {
		if err := w.more(); err == io.EOF {
			return w.have(), nil
		} else if err != nil {
			return nil, err
		}
	}
}
