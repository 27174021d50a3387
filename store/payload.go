package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Bounds of payloads, which a few bytes can unpack to.
const (
	maxTablePayload = 10 << 20
	maxListPayload  = 16 << 20
	maxProofPayload = 32 << 20
	// Sets and consumers may be so large whatever they unpack from. Beyond, up to
	// maxBlob, maxRatio bytes are believed of each stored one; sets of that size
	// are not written any more, but there may be some.
	maxDeadPayload  = 64 << 20
	maxExtraPayload = 32 << 20
	maxDense        = 64 << 20
	maxRatio        = 64

	// firstPayload and usualRatio say how much memory is set aside for a payload
	// before any of it is unpacked.
	firstPayload = 64 << 10
	usualRatio   = 16
	// maxWindow is what a frame of metadata may make its reader keep.
	maxWindow = 32 << 20
)

// limit returns how many bytes a payload of a kind, with what comes before it,
// may have that is stored in so many.
func (k kind) limit(stored int64) int64 {
	switch k {
	case kindTable, kindTable1:
		return maxTablePayload
	case kindTables, kindUses:
		return maxListPayload
	case kindProof:
		return maxProofPayload
	}
	return min(maxBlob, max(k.dense(), maxRatio*stored))
}

// dense returns how many bytes a payload may have whatever it unpacks from.
func (k kind) dense() int64 {
	switch k {
	case kindDeleted:
		return maxDeadPayload
	case kindExtra:
		return maxExtraPayload
	}
	return maxDense
}

// writable says whether a payload of a kind may be written that is stored in so
// many bytes.
func (k kind) writable(raw, stored int64) bool {
	if k == kindDeleted || k == kindExtra {
		return raw <= k.dense()
	}
	return raw <= k.limit(stored)
}

// A payloadReader unpacks a payload bit by bit. It gives io.EOF only behind all
// of it, and else a *DamageError.
type payloadReader struct {
	name string
	kind kind
	raw  int64
	left int64 // of the raw bytes
	dec  *zstd.Decoder
}

// openBlob begins to read a payload. Its stored bytes are verified before.
func (r *Repository) openBlob(ctx context.Context, chain string, k kind, b Blob) (io.ReadCloser, error) {
	if b.Ref == nil {
		return io.NopCloser(bytes.NewReader(b.Data)), nil
	}
	hash, err := b.Ref.hash()
	if err != nil {
		return nil, err
	}
	name := r.metaName(chain, hash)
	if b.Ref.Raw > k.limit(b.Ref.Size) || b.Ref.Size > largestStored(b.Ref.Raw) {
		return nil, damaged(name, nil, "is said to be a %s of %d bytes, %d of them stored, which the format does not allow", k, b.Ref.Raw, b.Ref.Size)
	}
	stored, err := r.readStored(ctx, name, b.Ref.Size, nil)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(stored) != hash {
		return nil, damaged(name, nil, "content does not match its name")
	}
	if r.sealer != nil && !k.public() {
		if stored, err = r.openMeta(name, stored); err != nil {
			return nil, err
		}
	}
	dec, err := zstd.NewReader(bytes.NewReader(stored), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, damaged(name, err, "decompress")
	}
	p := &payloadReader{name: name, kind: k, raw: b.Ref.Raw, left: b.Ref.Raw, dec: dec}
	if err := p.begin(r.marker.Format > 1); err != nil {
		p.Close() //nolint:errcheck // never fails
		return nil, err
	}
	return p, nil
}

// largestStored returns the most bytes that so many are stored in.
func largestStored(raw int64) int64 { return raw + raw>>6 + 16<<10 }

// begin reads what comes before the payload: the mark of its kind, and the
// epoch, which only makes the name another.
func (p *payloadReader) begin(epoch bool) error {
	mark := make([]byte, len(p.kind))
	if _, err := io.ReadFull(p, mark); err != nil || kind(mark) != p.kind {
		return p.wrong(err)
	}
	if !epoch {
		return nil
	}
	var number []byte
	for len(number) == 0 || number[len(number)-1]&0x80 != 0 {
		var b [1]byte
		if _, err := io.ReadFull(p, b[:]); err != nil {
			return p.wrong(err)
		}
		if number = append(number, b[0]); len(number) > 10 {
			break
		}
	}
	f := fields{b: number}
	f.uvarint()
	if err := f.end(); err != nil {
		return damaged(p.name, err, "epoch")
	}
	return nil
}

func (p *payloadReader) wrong(err error) error {
	if damage := (*DamageError)(nil); errors.As(err, &damage) {
		return err
	}
	return damaged(p.name, nil, "is not a %s of %d bytes", p.kind, p.raw)
}

func (p *payloadReader) Read(b []byte) (int, error) {
	if p.left == 0 {
		var more [1]byte // the frame's checksum comes with its end
		switch n, err := io.ReadFull(p.dec, more[:]); {
		case n > 0:
			return 0, p.wrong(nil)
		case !errors.Is(err, io.EOF):
			return 0, damaged(p.name, err, "decompress")
		}
		return 0, io.EOF
	}
	if int64(len(b)) > p.left {
		b = b[:p.left]
	}
	n, err := p.dec.Read(b)
	p.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && p.left > 0:
		return n, p.wrong(nil)
	case err != nil && !errors.Is(err, io.EOF):
		return n, damaged(p.name, err, "decompress")
	}
	return n, nil
}

func (p *payloadReader) Close() error {
	p.dec.Close()
	return nil
}

// decodeList decodes a JSON array one element after the other, and hands each
// on. No element may have more than most bytes.
func decodeList[T any](r io.Reader, most int64, take func(T) error) error {
	return readList(r, most, func(d *json.Decoder, _ *metered) error {
		var v T
		if err := d.Decode(&v); err != nil {
			return err //nolint:wrapcheck // the caller says of what
		}
		return take(v)
	})
}

// readList reads a JSON array; each reads one element of it.
func readList(r io.Reader, most int64, each func(*json.Decoder, *metered) error) error {
	m := &metered{r: r, most: most, left: most}
	d := json.NewDecoder(m)
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return listError(err)
	}
	for d.More() {
		m.left = most
		if err := each(d, m); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return listError(err)
	}
	m.left = most
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return listError(err)
	}
	return nil
}

// maxDepth bounds how deep values lie within others, of which the decoder remembers
// each: as deep as encoding/json itself goes.
const maxDepth = 10_000

// skipValue reads a value of which only its names, strings and numbers have a
// bound, and how deep they lie.
func skipValue(d *json.Decoder, m *metered) error {
	for depth := 0; ; {
		m.left = m.most
		t, err := d.Token()
		if err != nil {
			return listError(err)
		}
		switch t {
		case json.Delim('['), json.Delim('{'):
			if depth++; depth > maxDepth {
				return fmt.Errorf("%w: more than %d values lie in each other", errMalformed, maxDepth)
			}
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

func listError(err error) error {
	if err == nil {
		err = errors.New("is no JSON array")
	}
	return fmt.Errorf("%w: %w", errMalformed, err)
}

// A metered reader ends with an error where one value takes too much.
type metered struct {
	r          io.Reader
	most, left int64
}

func (m *metered) Read(b []byte) (int, error) {
	if m.left <= 0 {
		return 0, fmt.Errorf("%w: a value of more than %d bytes", errMalformed, m.most)
	}
	// No more than a value's worth ahead: what is read with one may be the next.
	n, err := m.r.Read(b[:min(int64(len(b)), m.left)])
	m.left -= int64(n)
	return n, err //nolint:wrapcheck // the reader's own
}
