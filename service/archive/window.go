package archive

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/s2"
)

// The S2 framing is read here and not by s2.Reader for two reasons. That one
// skips chunks of types it does not know, so that a single flipped bit in a
// chunk's type silently drops up to a MiB, which V2, having no checksums of its
// own, may not notice. And here chunks are decoded right behind what is not
// consumed yet, so that records are handed out without a copy.

const (
	chunkCompressed   = 0x00
	chunkUncompressed = 0x01
	chunkIdentifier   = 0xff

	s2Identifier = "\xff\x06\x00\x00S2sTwO"
	// maxChunk is the most that one chunk may hold, by the format.
	maxChunk = 4 << 20
	// maxWindow bounds the memory. It leaves room for the largest V2 entry: a
	// consumer whose state has millions of pending messages, or a message of
	// 64 MiB, the servers' limit.
	maxWindow = 1<<27 + 1<<17
)

// A window is the undecoded rest of an S2 stream, a part of which is in memory.
type window struct {
	r     *bufio.Reader
	crc   *crc32.Table
	enc   []byte // one compressed chunk
	buf   []byte // buf[lo:hi] is decoded and not consumed
	lo    int
	hi    int
	begun bool
}

func newWindow(r io.Reader) *window {
	return &window{r: bufio.NewReaderSize(r, 64<<10), crc: crc32.MakeTable(crc32.Castagnoli)}
}

// have returns what is in memory.
func (w *window) have() []byte { return w.buf[w.lo:w.hi] }

// skip consumes n bytes of what is in memory.
func (w *window) skip(n int) { w.lo += n }

// need returns what is in memory, at least n bytes. The slice is valid until the next
// call of need or more.
func (w *window) need(n int) ([]byte, error) {
	for w.hi-w.lo < n {
		if err := w.more(); err != nil {
			if err == io.EOF {
				return nil, fmt.Errorf("%w: it ends where %d more bytes belong", ErrTruncated, n-(w.hi-w.lo))
			}
			return nil, err
		}
	}
	return w.buf[w.lo:w.hi], nil
}

// finish demands that the archive ends here, in both layers.
func (w *window) finish() error {
	if w.hi > w.lo {
		return corrupt("data after the end")
	}
	switch err := w.more(); {
	case err == io.EOF:
		return nil
	case err != nil:
		return err
	case w.hi > w.lo:
		return corrupt("data after the end")
	}
	return corrupt("empty chunk after the end")
}

// more decodes one more chunk. It returns io.EOF if the stream ended between
// two chunks.
func (w *window) more() error {
	if !w.begun {
		if err := w.identify(); err != nil {
			return err
		}
	}
	var head [8]byte
	if n, err := io.ReadFull(w.r, head[:]); err != nil {
		if err == io.EOF && n == 0 {
			return io.EOF
		}
		return readError(err)
	}
	kind := head[0]
	n := int(head[1]) | int(head[2])<<8 | int(head[3])<<16
	if kind != chunkCompressed && kind != chunkUncompressed {
		return corrupt("S2 chunk of type 0x%02x", kind)
	}
	if n -= 4; n < 0 {
		return corrupt("S2 chunk of %d bytes", n+4)
	}
	var part []byte
	var err error
	if kind == chunkUncompressed {
		part, err = w.plain(n)
	} else {
		part, err = w.compressed(n)
	}
	if err != nil {
		return err
	}
	if c := crc32.Checksum(part, w.crc); (c>>15|c<<17)+0xa282ead8 != binary.LittleEndian.Uint32(head[4:]) {
		return corrupt("S2 chunk does not match its checksum")
	}
	w.hi += len(part)
	return nil
}

func (w *window) identify() error {
	var id [len(s2Identifier)]byte
	n, err := io.ReadFull(w.r, id[:])
	if string(id[:n]) != s2Identifier[:n] {
		return fmt.Errorf("%w: no S2 stream", ErrFormat)
	}
	if err == io.EOF {
		return fmt.Errorf("%w: it is empty", ErrTruncated)
	}
	if err != nil {
		return readError(err)
	}
	w.begun = true
	return nil
}

func (w *window) plain(n int) ([]byte, error) {
	if n > maxChunk {
		return nil, corrupt("S2 chunk of %d bytes", n)
	}
	if err := w.room(n); err != nil {
		return nil, err
	}
	part := w.buf[w.hi : w.hi+n]
	if _, err := io.ReadFull(w.r, part); err != nil {
		return nil, readError(err)
	}
	return part, nil
}

func (w *window) compressed(n int) ([]byte, error) {
	if n > s2.MaxEncodedLen(maxChunk) {
		return nil, corrupt("S2 chunk of %d bytes", n)
	}
	if cap(w.enc) < n {
		w.enc = make([]byte, n)
	}
	enc := w.enc[:n]
	if _, err := io.ReadFull(w.r, enc); err != nil {
		return nil, readError(err)
	}
	size, err := s2.DecodedLen(enc)
	if err != nil || size > maxChunk {
		return nil, corrupt("S2 chunk of %d bytes, decoded", size)
	}
	if err := w.room(size); err != nil {
		return nil, err
	}
	part, err := s2.Decode(w.buf[w.hi:w.hi+size], enc)
	if err != nil {
		return nil, corrupt("S2 chunk: %v", err)
	}
	return part, nil
}

// room makes space for n bytes behind the unconsumed ones. The space grows by
// what was really read, never to a length that the archive only claims.
func (w *window) room(n int) error {
	if len(w.buf)-w.hi >= n {
		return nil
	}
	rest := w.hi - w.lo
	if rest+n > maxWindow+maxChunk {
		return fmt.Errorf("%w: a part of more than %d bytes", ErrTooLarge, maxWindow)
	}
	if rest+n <= len(w.buf) {
		copy(w.buf, w.buf[w.lo:w.hi])
	} else {
		buf := make([]byte, min(max(2*(rest+n), 2*len(w.buf)), maxWindow+maxChunk))
		copy(buf, w.buf[w.lo:w.hi])
		w.buf = buf
	}
	w.lo, w.hi = 0, rest
	return nil
}

// readError tells a cut input from a failed one.
func readError(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends inside an S2 chunk", ErrTruncated)
	}
	return err
}
