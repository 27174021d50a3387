package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A Level is how hard to compress.
type Level int

// Levels of compression.
const (
	LevelFastest Level = iota
	LevelDefault
	LevelBetter
)

func (l Level) zstd() zstd.EncoderLevel {
	switch l {
	case LevelDefault:
		return zstd.SpeedDefault
	case LevelBetter:
		return zstd.SpeedBetterCompression
	}
	return zstd.SpeedFastest
}

// newEncoder returns an encoder whose output depends on its input alone: one
// thread a frame.
func newEncoder(l Level) (*zstd.Encoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(l.zstd()), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	return enc, nil
}

// encoders keeps compressors for those who write: making one takes longer than
// compressing what a small stream holds.
type encoders struct{ free [LevelBetter + 1]sync.Pool }

// take returns a compressor, which give takes back.
func (e *encoders) take(l Level) (*zstd.Encoder, error) {
	if e != nil && l >= 0 && int(l) < len(e.free) {
		if enc, ok := e.free[l].Get().(*zstd.Encoder); ok {
			return enc, nil
		}
	}
	return newEncoder(l)
}

func (e *encoders) give(l Level, enc *zstd.Encoder) {
	if e != nil && enc != nil && l >= 0 && int(l) < len(e.free) {
		e.free[l].Put(enc)
	}
}

// newDecoder returns a decoder that never writes beyond the capacity it is
// given, whatever the frame claims.
func newDecoder() (*zstd.Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(1<<29))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	return dec, nil
}

// errMalformed is what all binary decoders of this package fail with.
var errMalformed = errors.New("malformed")

// A fields reads the binary encodings of this package: unsigned varints in
// their shortest form, and byte strings. The first failure sticks.
type fields struct {
	b   []byte
	err error
}

func (f *fields) uvarint() uint64 {
	if f.err != nil {
		return 0
	}
	v, n := binary.Uvarint(f.b)
	if n <= 0 || n > 1 && f.b[n-1] == 0 {
		f.fail("varint")
		return 0
	}
	f.b = f.b[n:]
	return v
}

// upTo reads a number of at most limit.
func (f *fields) upTo(limit uint64) uint64 {
	v := f.uvarint()
	if v > limit {
		f.fail("%d where at most %d can be", v, limit)
		return 0
	}
	return v
}

// plus reads a distance from base.
func (f *fields) plus(base uint64) uint64 { return base + f.upTo(math.MaxUint64-base) }

// add adds two numbers whose sum must be one as well.
func (f *fields) add(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		f.fail("number is too large")
		return 0
	}
	return a + b
}

func (f *fields) bytes(n int) []byte {
	if f.err != nil || len(f.b) < n {
		f.fail("cut short")
		return make([]byte, min(n, 64))
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) end() error {
	if f.err == nil && len(f.b) > 0 {
		f.fail("%d bytes behind the end", len(f.b))
	}
	return f.err
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: "+format, append([]any{errMalformed}, args...)...)
	}
}
