package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/seal"
)

// A kind is the mark that the payload of a metadata object begins with, so
// that one can never be taken for another.
type kind string

const (
	kindTable     kind = "JKTABL02"
	kindTable1    kind = "JKTABL01" // of format 1
	kindTables    kind = "JKLIST01"
	kindDeleted   kind = "JKDELS01"
	kindExtra     kind = "JKEXTR01"
	kindConsumers kind = "JKCONS01"
	kindProof     kind = "JKPROF01"
)

// public says whether objects of this kind are not sealed.
func (k kind) public() bool { return k == kindUses }

// maxBlob bounds the payload of a metadata object.
const maxBlob = 256 << 20

// A Ref names a metadata object.
type Ref struct {
	Hash string `json:"hash"` // SHA-256 of the stored bytes
	Size int64  `json:"size"` // of the stored bytes
	Raw  int64  `json:"raw"`  // decompressed, with the mark of the kind
}

// A Blob is a piece of metadata: itself if it is small, else its Ref. The zero
// Blob stands for nothing at all.
type Blob struct {
	Data []byte `json:"data,omitempty"`
	Ref  *Ref   `json:"ref,omitempty"`
}

// hash returns what the object is named by.
func (r *Ref) hash() (hash256, error) {
	var h hash256
	b, err := hex.DecodeString(r.Hash)
	if err != nil || len(b) != len(h) || strings.ToLower(r.Hash) != r.Hash || r.Size <= 0 || r.Size > maxBlob || r.Raw <= 0 || r.Raw > maxBlob {
		return h, fmt.Errorf("%w: reference %+v", errMalformed, *r)
	}
	copy(h[:], b)
	return h, nil
}

// putBlob stores a payload, inside the Blob up to inline bytes and else as an
// object. It returns how many bytes were uploaded: none if the object was
// there already.
func (r *Repository) putBlob(ctx context.Context, at place, k kind, payload []byte, inline int) (Blob, int64, error) {
	if len(payload) <= inline {
		return Blob{Data: payload}, 0, nil
	}
	raw := append(binary.AppendUvarint([]byte(k), at.epoch), payload...)
	if n := int64(len(raw)); !k.writable(n, n) {
		return Blob{}, 0, fmt.Errorf("store metadata %s of %d bytes: %w", k, len(payload), ErrBounds)
	}
	enc, err := newEncoder(LevelDefault)
	if err != nil {
		return Blob{}, 0, err
	}
	stored := enc.EncodeAll(raw, nil)
	if !k.writable(int64(len(raw)), int64(len(stored))) {
		return Blob{}, 0, fmt.Errorf("store metadata %s of %d bytes: %w", k, len(payload), ErrBounds)
	}
	if r.sealer != nil && !k.public() {
		if stored, err = r.sealer.SealMeta(stored); err != nil {
			return Blob{}, 0, err
		}
	}
	h := sha256.Sum256(stored)
	ref := &Ref{Hash: hex.EncodeToString(h[:]), Size: int64(len(stored)), Raw: int64(len(raw))}
	uploaded, err := r.putOnce(ctx, r.metaName(at.chain, h), bytes.NewReader(stored), ref.Size)
	return Blob{Ref: ref}, uploaded, err
}

// getBlob reads a payload and verifies it. Its memory follows what the object
// holds, and never what its reference or its frame claim.
func (r *Repository) getBlob(ctx context.Context, chain string, k kind, b Blob) ([]byte, error) {
	if b.Ref == nil {
		return b.Data, nil
	}
	if b.Ref.Raw > firstPayload+usualRatio*b.Ref.Size {
		// It may be what it is said to be, or a lie: before memory is set aside
		// for it, it is unpacked once without keeping any of it.
		if err := r.tryBlob(ctx, chain, k, b); err != nil {
			return nil, err
		}
	}
	p, err := r.openBlob(ctx, chain, k, b)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	payload := make([]byte, 0, b.Ref.Raw+1)
	for {
		n, err := p.Read(payload[len(payload):cap(payload)])
		payload = payload[:len(payload)+n]
		if errors.Is(err, io.EOF) {
			return payload, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// tryBlob unpacks a payload and keeps none of it.
func (r *Repository) tryBlob(ctx context.Context, chain string, k kind, b Blob) error {
	p, err := r.openBlob(ctx, chain, k, b)
	if err != nil {
		return err
	}
	defer p.Close()
	_, err = io.Copy(io.Discard, p)
	return err //nolint:wrapcheck // our own
}

// openMeta opens sealed metadata. That the key at hand is another one says
// nothing about the object.
func (r *Repository) openMeta(name string, stored []byte) ([]byte, error) {
	plain, err := r.sealer.OpenMeta(stored)
	switch {
	case errors.Is(err, seal.ErrLocked), errors.Is(err, seal.ErrWrongIdentity):
		return nil, fmt.Errorf("read %s: %w", name, ErrLocked)
	case err != nil:
		return nil, damaged(name, err, "sealed metadata")
	}
	return plain, nil
}

// putOnce stores an object named by its content, unless it is there, and
// returns the number of bytes uploaded.
func (r *Repository) putOnce(ctx context.Context, name string, body interface {
	ReadAt([]byte, int64) (int, error)
}, size int64) (int64, error) {
	// Somebody may store the same meanwhile, and a prune delete it again.
	for try := 0; ; try++ {
		if err := waitTaken(ctx, name, try); err != nil {
			return 0, err
		}
		there, err := r.isThere(ctx, name, size)
		if there || err != nil {
			return 0, err
		}
		begun := time.Now()
		err = r.bucket.Put(ctx, name, body, size)
		if err == nil {
			r.noteStored(name, begun)
			return size, nil
		}
		if !errors.Is(err, object.ErrExist) {
			return 0, err
		}
	}
}

// isThere says whether a content-named object exists, and reads it to be sure:
// what rotted since it was stored must not count as stored again, or one bad
// object would make every later restore point bad, too. Damage cannot be
// replaced, for objects are only ever created.
func (r *Repository) isThere(ctx context.Context, name string, size int64) (bool, error) {
	info, err := r.bucket.Stat(ctx, name)
	if errors.Is(err, object.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Size != size {
		return false, damaged(name, nil, "has %d bytes instead of %d; remove it and run again", info.Size, size)
	}
	body, err := r.bucket.Open(ctx, name, 0, size)
	if errors.Is(err, object.ErrNotExist) {
		return false, nil // pruned just now; Commit will say so
	}
	if err != nil {
		return false, err
	}
	h := sha256.New()
	n, err := io.Copy(h, body)
	if err = errors.Join(err, body.Close()); err != nil {
		return false, fmt.Errorf("read object %s: %w", name, err)
	}
	if n != size || hex.EncodeToString(h.Sum(nil)) != path.Base(name) {
		return false, damaged(name, nil, "does not have the content that its name says; remove it and run again")
	}
	return true, nil
}

// readSmall reads a whole object of at most limit bytes. That it has more is
// damage.
func readSmall(ctx context.Context, bucket *object.Bucket, name string, limit int64) ([]byte, error) {
	data, err := bucket.ReadAll(ctx, name, limit)
	if errors.Is(err, object.ErrTooLarge) {
		return nil, damaged(name, nil, "too large: more than %d bytes", limit)
	}
	return data, err //nolint:wrapcheck // says which object
}

// trustedSize is up to how many bytes memory is set aside for an object before
// the store was asked how many it has.
const trustedSize = 1 << 20

// readStored reads the whole of an object that is said to have so many bytes,
// into buf if it is large enough. Who says so may be lying, and memory is set
// aside only for what is there.
func (r *Repository) readStored(ctx context.Context, name string, size int64, buf []byte) ([]byte, error) {
	if int64(cap(buf)) < size {
		if size > trustedSize {
			if err := r.checkSize(ctx, name, size); err != nil {
				return nil, err
			}
		}
		buf = make([]byte, size)
	}
	buf = buf[:size]
	return buf, r.readWhole(ctx, name, buf)
}

// readWhole fills buf from the whole of an object. That the object is missing
// or of another size is damage; a transfer that broke off is not.
func (r *Repository) readWhole(ctx context.Context, name string, buf []byte) error {
	err := r.bucket.ReadInto(ctx, name, buf)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	info, serr := r.bucket.Stat(ctx, name)
	switch {
	case errors.Is(err, object.ErrNotExist), errors.Is(serr, object.ErrNotExist):
		return damaged(name, err, "missing")
	case serr == nil && info.Size != int64(len(buf)):
		return damaged(name, nil, "has %d bytes instead of %d", info.Size, len(buf))
	}
	return err
}

// marshal is json.Marshal without rewriting "<", ">" and "&", which are common
// in subjects: what was handed in verbatim shall be stored so.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
