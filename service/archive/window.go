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
// skips any chunk of a type that may be skipped, so that a single flipped bit in
// a chunk's type silently drops up to 4 MiB, which V2, having no checksums of its
// own, may not notice: here a chunk is only skipped if it does not hold data with
// a right checksum. And here chunks are decoded right behind what is not consumed
// yet, so that records are handed out without a copy.
//
// All else that the format allows is taken as it comes: further stream
// identifiers, as in streams that were put together, padding, an index, and
// chunks without content.

const (
	chunkCompressed   = 0x00
	chunkUncompressed = 0x01
	chunkSkippable    = 0x80 // and all above it but chunkIdentifier
	chunkIdentifier   = 0xff

	s2Identifier = "\xff\x06\x00\x00S2sTwO"
	// checksumSize is what a chunk of data begins with, besides its head.
	checksumSize = 4
	// maxChunk is the most that one chunk may hold, by the format.
	maxChunk = 4 << 20
	// maxRatio is how much more than what it is made of metadata may be, where
	// there is much of it.
	maxRatio = 64
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
	whole int // length of the entry that is being put together, 0 if it is not known
	begun bool
	read  *counter
}

func newWindow(r io.Reader) *window {
	read := &counter{r: r}
	return &window{r: bufio.NewReaderSize(read, 64<<10), read: read, crc: crc32.MakeTable(crc32.Castagnoli)}
}

// A counter counts the bytes that come from a reader.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err //nolint:wrapcheck // the reader's own
}

// plausible returns how many bytes a part that is no message may have: so many,
// or maxRatio of them for each byte of the archive that was read, and never more
// than most. A few bytes of an archive can be decoded to any number.
func (w *window) plausible(many, most int64) int64 { return min(most, max(many, maxRatio*w.read.n)) }

// have returns what is in memory.
func (w *window) have() []byte { return w.buf[w.lo:w.hi] }

// skip consumes n bytes of what is in memory.
func (w *window) skip(n int) { w.lo += n }

// need returns what is in memory, at least n bytes. The slice is valid until the next
// call of need or more.
func (w *window) need(n int) ([]byte, error) {
	w.whole = n
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
	for w.hi == w.lo {
		if err := w.more(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
	return corrupt("data after the end")
}

// more decodes one more chunk, which may hold nothing. It returns io.EOF if the
// stream ended between two chunks.
func (w *window) more() error {
	if !w.begun {
		if err := w.identify(); err != nil {
			return err
		}
	}
	var head [4]byte
	if n, err := io.ReadFull(w.r, head[:]); err != nil {
		if err == io.EOF && n == 0 {
			return io.EOF
		}
		return readError(err)
	}
	n := int(head[1]) | int(head[2])<<8 | int(head[3])<<16
	switch kind := head[0]; {
	case kind == chunkCompressed, kind == chunkUncompressed:
		return w.data(kind, n)
	case kind == chunkIdentifier:
		return w.again(head)
	case kind >= chunkSkippable:
		return w.pass(kind, n)
	default:
		return corrupt("S2 chunk of type 0x%02x", kind)
	}
}

// data decodes a chunk of n bytes.
func (w *window) data(kind byte, n int) error {
	if n < checksumSize {
		return corrupt("S2 chunk of %d bytes", n)
	}
	var sum [checksumSize]byte
	if _, err := io.ReadFull(w.r, sum[:]); err != nil {
		return readError(err)
	}
	var part []byte
	var err error
	if kind == chunkUncompressed {
		part, err = w.plain(n - checksumSize)
	} else {
		part, err = w.compressed(n - checksumSize)
	}
	if err != nil {
		return err
	}
	if w.checksum(part) != binary.LittleEndian.Uint32(sum[:]) {
		return corrupt("S2 chunk does not match its checksum")
	}
	w.hi += len(part)
	return nil
}

// checksum is the one by which S2 knows the content of a chunk.
func (w *window) checksum(part []byte) uint32 {
	c := crc32.Checksum(part, w.crc)
	return (c>>15 | c<<17) + 0xa282ead8
}

// again reads the rest of a stream identifier that is not the first one: what
// follows is as if it were in the stream before it.
func (w *window) again(head [4]byte) error {
	if string(head[:]) != s2Identifier[:len(head)] {
		return corrupt("S2 stream identifier of another length")
	}
	var id [len(s2Identifier) - len(head)]byte
	if _, err := io.ReadFull(w.r, id[:]); err != nil {
		return readError(err)
	}
	if string(id[:]) != s2Identifier[len(head):] {
		return corrupt("identifier of a stream that is not S2")
	}
	return nil
}

// pass skips a chunk that may be skipped, unless it holds what only a chunk of
// data does: then its type was damaged.
func (w *window) pass(kind byte, n int) error {
	if n > checksumSize+s2.MaxEncodedLen(maxChunk) {
		// Longer than any chunk of data.
		if _, err := w.r.Discard(n); err != nil {
			return readError(err)
		}
		return nil
	}
	if cap(w.enc) < n {
		w.enc = make([]byte, n)
	}
	b := w.enc[:n]
	if _, err := io.ReadFull(w.r, b); err != nil {
		return readError(err)
	}
	if n < checksumSize {
		return nil
	}
	sum, b := binary.LittleEndian.Uint32(b), b[checksumSize:]
	found := w.checksum(b) == sum
	if size, err := s2.DecodedLen(b); !found && err == nil && size <= maxChunk {
		if err := w.room(size); err != nil {
			return err
		}
		part, err := s2.Decode(w.buf[w.hi:w.hi+size], b)
		found = err == nil && w.checksum(part) == sum
	}
	if found {
		return corrupt("S2 chunk of data that has type 0x%02x", kind)
	}
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
		buf := make([]byte, w.grown(rest+n))
		copy(buf, w.buf[w.lo:w.hi])
		w.buf = buf
	}
	w.lo, w.hi = 0, rest
	return nil
}

// grown returns how large a buffer to make for n bytes. The entries of an archive
// are mostly much smaller than it, and sometimes large: of such a one, as soon as
// an eighth of it was read, the rest gets the room that it says it needs, so that
// it is neither held twice nor has as much room again behind it.
func (w *window) grown(n int) int {
	size := min(max(2*n, 2*len(w.buf)), maxWindow+maxChunk)
	if whole := w.whole + maxChunk; w.whole > 2*maxChunk && n <= whole && whole <= 8*n {
		size = whole
	}
	return size
}

// readError tells a cut input from a failed one.
func readError(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends inside an S2 chunk", ErrTruncated)
	}
	return err
}
