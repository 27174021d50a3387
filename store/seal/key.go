package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"filippo.io/age"
)

// A Kind is one of age's two native kinds of keys.
type Kind string

const (
	// Hybrid keys hold against quantum computers, too: ML-KEM-768 with X25519.
	Hybrid Kind = "hybrid"
	// Classic keys are X25519 alone, which age can read since version 1.0.
	Classic Kind = "classic"
)

// ErrKey means that a text is no key of the sort that is asked for. The text is
// never part of the error, for it may be a secret in the wrong place.
var ErrKey = errors.New("not a key")

const (
	hybridRecipient  = "age1pq1"
	classicRecipient = "age1"
	hybridIdentity   = "AGE-SECRET-KEY-PQ-1"
	classicIdentity  = "AGE-SECRET-KEY-1"
)

// A Recipient is a public key.
type Recipient struct {
	text string
	kind Kind
	key  age.Recipient
}

// ParseRecipient reads a recipient in the one spelling that age writes.
func ParseRecipient(text string) (Recipient, error) {
	var (
		key interface {
			age.Recipient
			String() string
		}
		err  error
		kind Kind
	)
	switch {
	case strings.HasPrefix(text, hybridRecipient):
		kind = Hybrid
		key, err = age.ParseHybridRecipient(text)
	case strings.HasPrefix(text, classicRecipient):
		kind = Classic
		key, err = age.ParseX25519Recipient(text)
	case isSecret(text):
		return Recipient{}, fmt.Errorf("%w: it is a secret key where a recipient (age1…) belongs", ErrKey)
	default:
		return Recipient{}, fmt.Errorf("%w: a recipient begins with age1", ErrKey)
	}
	if err != nil || key.String() != text {
		return Recipient{}, fmt.Errorf("%w: malformed recipient", ErrKey)
	}
	return Recipient{text: text, kind: kind, key: key}, nil
}

// ParseRecipients reads a recipients file: one a line, lines that begin with
// "#" and empty ones left out.
func ParseRecipients(file string) ([]Recipient, error) { return parseLines(file, ParseRecipient) }

func (r Recipient) String() string { return r.text }

// Kind says which kind of key it is.
func (r Recipient) Kind() Kind { return r.kind }

// Fingerprint is a short name of the key that can stand for it where the key
// need only be recognised: "sha256:" and 64 hexadecimal digits.
func (r Recipient) Fingerprint() string {
	h := sha256.Sum256([]byte(r.text))
	return "sha256:" + hex.EncodeToString(h[:])
}

// fingerprintPattern is what Fingerprint returns.
var fingerprintPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// CheckPin says what is wrong with a text that pins a key: a recipient or its
// fingerprint.
func CheckPin(text string) error {
	if fingerprintPattern.MatchString(text) {
		return nil
	}
	_, err := ParseRecipient(text)
	return err
}

// Matches says whether a pin means this key.
func (r Recipient) Matches(pin string) bool { return pin == r.text || pin == r.Fingerprint() }

// An Identity is a secret key. It prints as what it is the key to, not as
// itself, also inside of other values: what is behind a pointer is not printed.
type Identity struct {
	secret    *secret
	recipient Recipient
}

type secret struct {
	text string
	key  age.Identity
}

// Generate makes a new key.
func Generate(kind Kind) (Identity, error) {
	if kind == Classic {
		k, err := age.GenerateX25519Identity()
		if err != nil {
			return Identity{}, fmt.Errorf("make key: %w", err)
		}
		return ParseIdentity(k.String())
	}
	k, err := age.GenerateHybridIdentity()
	if err != nil {
		return Identity{}, fmt.Errorf("make key: %w", err)
	}
	return ParseIdentity(k.String())
}

// ParseIdentity reads a secret key.
func ParseIdentity(text string) (Identity, error) {
	var (
		key    age.Identity
		public string
	)
	switch {
	case strings.HasPrefix(text, hybridIdentity):
		k, err := age.ParseHybridIdentity(text)
		if err != nil {
			return Identity{}, fmt.Errorf("%w: malformed secret key", ErrKey)
		}
		key, public, text = k, k.Recipient().String(), k.String()
	case strings.HasPrefix(text, classicIdentity):
		k, err := age.ParseX25519Identity(text)
		if err != nil {
			return Identity{}, fmt.Errorf("%w: malformed secret key", ErrKey)
		}
		key, public, text = k, k.Recipient().String(), k.String()
	default:
		return Identity{}, fmt.Errorf("%w: a secret key begins with AGE-SECRET-KEY-", ErrKey)
	}
	r, err := ParseRecipient(public)
	if err != nil {
		return Identity{}, err
	}
	return Identity{secret: &secret{text, key}, recipient: r}, nil
}

// ParseIdentities reads an identity file as age-keygen writes it: one a line,
// lines that begin with "#" and empty ones left out.
func ParseIdentities(file string) ([]Identity, error) { return parseLines(file, ParseIdentity) }

// Secret is the key itself.
func (i Identity) Secret() string { return i.secret.text }

// Recipient is the public key that belongs to it.
func (i Identity) Recipient() Recipient { return i.recipient }

func (i Identity) String() string { return "secret key of " + i.recipient.Fingerprint() }

// GoString keeps the secret out of %#v, too.
func (i Identity) GoString() string { return i.String() }

// LogValue keeps the secret out of logs.
func (i Identity) LogValue() slog.Value { return slog.StringValue(i.String()) }

func isSecret(text string) bool { return strings.HasPrefix(strings.ToUpper(text), "AGE-SECRET-KEY-") }

func parseLines[T any](file string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	n := 0
	for line := range strings.Lines(file) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: there is none in the file", ErrKey)
	}
	return out, nil
}
