// Package seal encrypts what a repository stores, with age.
//
// Two keys take part. The repository key reads everything; only its public
// half is needed to write. The writer key reads what a writer must know again,
// the metadata, and never a message; it also makes names that say nothing to
// whoever lacks it.
//
// What it guarantees:
//
//   - What PackWriter and SealMeta write is a plain age file that the age
//     command opens: packs with the repository key alone, metadata with either
//     key. Sealing the same bytes twice gives different files.
//   - OpenPack and OpenMeta give back all that was sealed, or an error, however
//     the sealed bytes were cut or changed. Who sealed them they cannot say,
//     for public keys suffice to seal; that is what signatures are for.
//   - Both keys are of one kind, so that the weaker never undoes the stronger.
//
// It fails with ErrLocked where a secret is needed that is not there, with
// ErrWrongIdentity if what is there does not fit, with ErrNoWriterKey if
// metadata is to be sealed without a writer key, and with ErrDamaged.
package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

var (
	// ErrLocked means that no secret key is at hand.
	ErrLocked = errors.New("sealed, and no key to it is here")
	// ErrWrongIdentity means that none of the secret keys at hand is the one.
	ErrWrongIdentity = errors.New("identity does not open this repository")
	// ErrNoWriterKey means that sealing metadata needs the writer key.
	ErrNoWriterKey = errors.New("writer key is missing")
	// ErrKind means that hybrid and classic keys would be mixed.
	ErrKind = errors.New("hybrid and classic keys cannot be mixed")
	// ErrDamaged means that sealed bytes are not what was written.
	ErrDamaged = errors.New("sealed bytes are damaged")
)

// A Sealer seals with a repository's keys, and opens as far as it has their
// secrets. It is not changed by its methods, so goroutines can share it.
type Sealer struct {
	recipient Recipient
	identity  *Identity
	writer    *Identity
}

// New returns a sealer that has only the public repository key.
func New(recipient string) (*Sealer, error) {
	r, err := ParseRecipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("repository key: %w", err)
	}
	return &Sealer{recipient: r}, nil
}

// WithIdentity returns a sealer that has the secret repository key, too.
func (s *Sealer) WithIdentity(secret string) (*Sealer, error) {
	id, err := ParseIdentity(secret)
	if err != nil {
		return nil, fmt.Errorf("repository key: %w", err)
	}
	if id.recipient.text != s.recipient.text {
		return nil, ErrWrongIdentity
	}
	return &Sealer{recipient: s.recipient, identity: &id, writer: s.writer}, nil
}

// WithWriter returns a sealer that has a writer key, too.
func (s *Sealer) WithWriter(secret string) (*Sealer, error) {
	id, err := ParseIdentity(secret)
	if err != nil {
		return nil, fmt.Errorf("writer key: %w", err)
	}
	if id.recipient.kind != s.recipient.kind {
		return nil, fmt.Errorf("writer key is %s, repository key is %s: %w", id.recipient.kind, s.recipient.kind, ErrKind)
	}
	return &Sealer{recipient: s.recipient, identity: s.identity, writer: &id}, nil
}

// Recipient is the public repository key.
func (s *Sealer) Recipient() Recipient { return s.recipient }

// Unlocked says whether packs can be opened.
func (s *Sealer) Unlocked() bool { return s.identity != nil }

// CanOpenMeta says whether metadata can be opened: all of it with the
// repository key, else that which this writer key's holders wrote.
func (s *Sealer) CanOpenMeta() bool { return s.identity != nil || s.writer != nil }

// HasWriter says whether metadata can be sealed.
func (s *Sealer) HasWriter() bool { return s.writer != nil }

// Secret returns the secret repository key, to be sealed for another operator.
func (s *Sealer) Secret() (Identity, error) {
	if s.identity == nil {
		return Identity{}, ErrLocked
	}
	return *s.identity, nil
}

// PackWriter seals what is written to it for the repository key and writes it
// to dst. What is sealed is whole only after Close.
func (s *Sealer) PackWriter(dst io.Writer) (io.WriteCloser, error) {
	w, err := age.Encrypt(dst, s.recipient.key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return w, nil
}

// OpenPack opens a sealed pack. It does so in place: the result lies in the
// memory of stored, whose bytes are lost.
func (s *Sealer) OpenPack(stored []byte) ([]byte, error) {
	if s.identity == nil {
		return nil, ErrLocked
	}
	return open(stored, s.identity.secret.key)
}

// SealMeta seals metadata for the repository key and the writer key.
func (s *Sealer) SealMeta(plain []byte) ([]byte, error) {
	if s.writer == nil {
		return nil, ErrNoWriterKey
	}
	return sealTo(plain, s.recipient.key, s.writer.recipient.key)
}

// OpenMeta opens sealed metadata with whichever key is at hand. It does so in
// place, like OpenPack.
func (s *Sealer) OpenMeta(stored []byte) ([]byte, error) {
	var keys []age.Identity
	for _, id := range []*Identity{s.identity, s.writer} {
		if id != nil {
			keys = append(keys, id.secret.key)
		}
	}
	if len(keys) == 0 {
		return nil, ErrLocked
	}
	return open(stored, keys...)
}

// MAC is a keyed hash of the parts under the writer key: the same for all who
// have it, and chance to everybody else. It is nil without a writer key.
func (s *Sealer) MAC(parts ...string) []byte {
	if s.writer == nil {
		return nil
	}
	mac := hmac.New(sha256.New, []byte(s.writer.secret.text))
	for _, p := range parts {
		mac.Write(binary.AppendUvarint(nil, uint64(len(p)))) // no two lists of parts look the same
		io.WriteString(mac, p)                               //nolint:errcheck // a hash cannot fail
	}
	return mac.Sum(nil)
}

// To seals bytes for one recipient.
func To(plain []byte, r Recipient) ([]byte, error) { return sealTo(plain, r.key) }

// Open opens what was sealed for an identity. It does so in place, like
// OpenPack.
func Open(stored []byte, id Identity) ([]byte, error) { return open(stored, id.secret.key) }

func sealTo(plain []byte, keys ...age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(len(plain) + len(plain)>>12 + 4096)
	w, err := age.Encrypt(&b, keys...)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return b.Bytes(), nil
}

// open decrypts into the memory of stored. The plaintext is shorter than what
// it comes from and age reads a chunk before it gives it out, so what is
// written never catches up with what is yet to be read.
func open(stored []byte, keys ...age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(stored), keys...)
	if noMatch := new(age.NoIdentityMatchError); errors.As(err, &noMatch) {
		return nil, ErrWrongIdentity
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	n := 0
	for {
		m, err := r.Read(stored[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return stored[:n:n], nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
}
