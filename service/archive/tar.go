package archive

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The tar is read here and not by archive/tar because that one takes a missing
// trailer for a regular end, skips what it does not know, and copies.

const (
	tarBlock = 512
	// maxPax bounds the extended header of a member, which holds a path and
	// times.
	maxPax = 64 << 10
)

// A tarReader walks over the members of a tar.
type tarReader struct {
	w    *window
	name string
	left int64 // of the member's content
	pad  int   // zero bytes behind it
}

// next goes to the next member, whose predecessor must have been consumed. At
// the trailer, which must be followed by nothing, it returns io.EOF.
func (t *tarReader) next() error {
	var path string
	size := int64(-1)
	for {
		if err := t.zeros(t.pad); err != nil {
			return err
		}
		t.pad = 0
		b, err := t.w.need(tarBlock)
		if err != nil {
			return err
		}
		h := b[:tarBlock]
		if allZero(h) {
			if path != "" || size >= 0 {
				return corrupt("extended header without a member")
			}
			return t.trailer()
		}
		kind, name, n, err := parseTarHeader(h)
		if err != nil {
			return err
		}
		t.w.skip(tarBlock)
		t.left, t.pad = n, int(-n&(tarBlock-1))
		switch kind {
		case 'x':
			if path, size, err = t.pax(); err != nil {
				return err
			}
			continue
		case '0', 0:
		default:
			return corrupt("tar member %q of type %q", name, kind)
		}
		if path != "" {
			name = path
		}
		if size >= 0 {
			t.left, t.pad = size, int(-size&(tarBlock-1))
		}
		// A server on Windows joins some names by backslashes.
		t.name = strings.ReplaceAll(name, `\`, "/")
		return nil
	}
}

func (t *tarReader) trailer() error {
	if err := t.zeros(2 * tarBlock); err != nil {
		return err
	}
	return io.EOF
}

// zeros consumes n bytes, all of which must be zero.
func (t *tarReader) zeros(n int) error {
	if n == 0 {
		return nil
	}
	b, err := t.w.need(n)
	if err != nil {
		return err
	}
	if !allZero(b[:n]) {
		return corrupt("tar padding is not zero")
	}
	t.w.skip(n)
	return nil
}

// pax reads an extended header and returns the path and size that it sets.
func (t *tarReader) pax() (path string, size int64, err error) {
	size = -1
	b, err := t.content(maxPax)
	if err != nil {
		return "", 0, err
	}
	for len(b) > 0 {
		digits, _, ok := bytes.Cut(b, []byte(" "))
		n, err := strconv.Atoi(string(digits))
		if !ok || err != nil || n < len(digits)+3 || n > len(b) || b[n-1] != '\n' {
			return "", 0, corrupt("extended tar header")
		}
		key, value, ok := strings.Cut(string(b[len(digits)+1:n-1]), "=")
		if !ok {
			return "", 0, corrupt("extended tar header")
		}
		b = b[n:]
		switch key {
		case "path":
			path = value
		case "size":
			size, err = strconv.ParseInt(value, 10, 64)
			if err != nil || size < 0 {
				return "", 0, corrupt("tar member of %q bytes", value)
			}
		}
	}
	return path, size, nil
}

// content returns the whole content of a member that is meant to be small. The
// slice is the caller's.
func (t *tarReader) content(limit int64) ([]byte, error) {
	if t.left > limit {
		return nil, fmt.Errorf("%w: tar member %q of %d bytes", ErrTooLarge, t.name, t.left)
	}
	n := int(t.left)
	b, err := t.w.need(n)
	if err != nil {
		return nil, err
	}
	out := bytes.Clone(b[:n])
	t.w.skip(n)
	t.left = 0
	return out, nil
}

// some returns a part of the member's content that is in memory, at least one
// byte, to be consumed by skip.
func (t *tarReader) some() ([]byte, error) {
	b, err := t.w.need(1)
	if err != nil {
		return nil, err
	}
	return b[:min(int64(len(b)), t.left)], nil
}

func (t *tarReader) skip(n int) {
	t.w.skip(n)
	t.left -= int64(n)
}

// discard consumes what is left of the member.
func (t *tarReader) discard() error {
	for t.left > 0 {
		b, err := t.some()
		if err != nil {
			return err
		}
		t.skip(len(b))
	}
	return nil
}

func parseTarHeader(h []byte) (kind byte, name string, size int64, err error) {
	want, err := octal(h[148:156])
	if err != nil {
		return 0, "", 0, err
	}
	sum := int64(8 * ' ')
	for i, c := range h {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	if sum != want {
		return 0, "", 0, corrupt("tar header does not match its checksum")
	}
	if string(h[257:262]) != "ustar" {
		return 0, "", 0, corrupt("tar header is not of the ustar kind")
	}
	if size, err = octal(h[124:136]); err != nil {
		return 0, "", 0, err
	}
	name = cString(h[:100])
	if prefix := cString(h[345:500]); prefix != "" {
		name = prefix + "/" + name
	}
	return h[156], name, size, nil
}

func octal(b []byte) (int64, error) {
	s := strings.Trim(cString(b), " ")
	n, err := strconv.ParseInt(s, 8, 64)
	if err != nil || n < 0 {
		return 0, corrupt("tar header field %q", b)
	}
	return n, nil
}

func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
