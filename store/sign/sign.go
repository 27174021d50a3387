// Package sign signs commit records with nkeys (Ed25519) and says whose
// signatures are trusted.
//
// What it guarantees: Check accepts a signature only if one of the trusted keys
// made it over exactly these bytes, and only in the one spelling that Sign
// writes. What the bytes mean, and that they stand in the right place, is for
// the caller to check: a signature that is copied along with its bytes stays
// good.
//
// It fails with ErrUntrusted; ErrUnsigned and ErrBadSignature are that, too,
// and say more. Without a Trust nothing needs to be signed, and only
// ErrBadSignature is left. A text that is no key is ErrKey.
package sign

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
)

var (
	// ErrUntrusted means that no trusted key stands for the bytes.
	ErrUntrusted = errors.New("not signed by a trusted key")
	// ErrUnsigned means that there is no signature at all.
	ErrUnsigned = fmt.Errorf("%w: it has no signature", ErrUntrusted)
	// ErrBadSignature means that the bytes or the signature were altered.
	ErrBadSignature = fmt.Errorf("%w: the signature does not fit", ErrUntrusted)
	// ErrKey means that a text is no nkey that can sign. The text is never part
	// of the error, for it may be a secret in the wrong place.
	ErrKey = errors.New("not an nkey that signs")
)

// None is what stands in the place of a signature where there is none.
const None = "-"

const (
	scheme       = "nkey "
	publicSize   = 56
	signatureLen = 86
)

// A Signer signs with one key. It prints as its public key.
type Signer struct {
	key    nkeys.KeyPair
	public string
}

// Generate makes a new key and returns its seed, which is secret.
func Generate() (seed string, err error) {
	key, err := nkeys.CreateAccount() // no server is ever asked to accept it
	if err != nil {
		return "", fmt.Errorf("make signing key: %w", err)
	}
	b, err := key.Seed()
	if err != nil {
		return "", fmt.Errorf("make signing key: %w", err)
	}
	return string(b), nil
}

// ParseSeed reads the seed of a key that signs.
func ParseSeed(seed string) (*Signer, error) {
	key, err := nkeys.FromSeed([]byte(strings.TrimSpace(seed)))
	if err != nil {
		return nil, fmt.Errorf("%w: malformed seed", ErrKey)
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("%w: malformed seed", ErrKey)
	}
	if _, err := parsePublic(public); err != nil {
		return nil, err
	}
	return &Signer{key: key, public: public}, nil
}

// Public is the public key, as it is put into a Trust.
func (s *Signer) Public() string { return s.public }

func (s *Signer) String() string { return s.public }

// GoString keeps the seed out of %#v, too.
func (s *Signer) GoString() string { return s.public }

// Sign signs head. A nil Signer does not: it returns None.
func (s *Signer) Sign(head []byte) (string, error) {
	if s == nil {
		return None, nil
	}
	sig, err := s.key.Sign(head)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return scheme + s.public + base64.RawURLEncoding.EncodeToString(sig), nil
}

// A Trust is a set of public keys whose signatures are accepted.
type Trust struct {
	keys []string
}

// NewTrust returns a trust in keys, of which there must be one at least.
func NewTrust(keys []string) (*Trust, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: no trusted key is given", ErrKey)
	}
	for _, k := range keys {
		if _, err := parsePublic(k); err != nil {
			return nil, fmt.Errorf("trusted key: %w", err)
		}
	}
	return &Trust{keys: slices.Clone(keys)}, nil
}

// Check says whether a trusted key signed head. A nil Trust accepts what is
// not signed and whoever signed; only a signature that does not fit is refused.
func (t *Trust) Check(head []byte, signature string) error {
	if signature == None {
		if t == nil {
			return nil
		}
		return ErrUnsigned
	}
	public, err := verify(head, signature)
	if err != nil {
		return err
	}
	if t != nil && !slices.Contains(t.keys, public) {
		return fmt.Errorf("%w: %s signed it", ErrUntrusted, public)
	}
	return nil
}

// SignedBy returns the public key that a signature names, empty if there is
// none. It verifies nothing.
func SignedBy(signature string) string {
	public, _, _ := split(signature)
	return public
}

func verify(head []byte, signature string) (string, error) {
	public, sig, ok := split(signature)
	if !ok {
		return "", fmt.Errorf("%w: malformed", ErrBadSignature)
	}
	key, err := parsePublic(public)
	if err != nil {
		return "", fmt.Errorf("%w: malformed key", ErrBadSignature)
	}
	if !ed25519.Verify(key, head, sig) {
		return "", ErrBadSignature
	}
	return public, nil
}

func split(signature string) (public string, sig []byte, ok bool) {
	value, ok := strings.CutPrefix(signature, scheme)
	if !ok || len(value) != publicSize+signatureLen {
		return "", nil, false
	}
	sig, err := base64.RawURLEncoding.Strict().DecodeString(value[publicSize:])
	if err != nil || strings.ContainsAny(value, "\r\n") { // the decoder leaves them out
		return "", nil, false
	}
	return value[:publicSize], sig, true
}

// parsePublic reads a public key in its one spelling.
func parsePublic(public string) (ed25519.PublicKey, error) {
	prefix := nkeys.Prefix(public)
	raw, err := nkeys.Decode(prefix, []byte(public))
	if err != nil || len(raw) != ed25519.PublicKeySize || len(public) != publicSize {
		return nil, fmt.Errorf("%w: malformed public key", ErrKey)
	}
	switch prefix {
	case nkeys.PrefixByteAccount, nkeys.PrefixByteUser, nkeys.PrefixByteOperator, nkeys.PrefixByteServer, nkeys.PrefixByteCluster:
	default:
		return nil, fmt.Errorf("%w: it is a key of another sort", ErrKey)
	}
	if again, err := nkeys.Encode(prefix, raw); err != nil || string(again) != public {
		return nil, fmt.Errorf("%w: malformed public key", ErrKey)
	}
	return raw, nil
}
