package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"jetkeep/store/object"
	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

var (
	// ErrLocked means that it takes the identity of an operator.
	ErrLocked = seal.ErrLocked
	// ErrWrongIdentity means that no identity at hand is an operator's.
	ErrWrongIdentity = seal.ErrWrongIdentity
	// ErrNoWriterKey means that storing into an encrypted repository takes a
	// writer key; NewWriterKey makes one.
	ErrNoWriterKey = seal.ErrNoWriterKey
	// ErrUntrusted means that no trusted key signed what was read.
	ErrUntrusted = sign.ErrUntrusted
	// ErrKeyMismatch means that the repository's key is not the one that it is
	// pinned to: this is another repository, or somebody changed its marker.
	ErrKeyMismatch = errors.New("repository key is not the expected one")
	// ErrNotEncrypted means that keys are handled where there are none.
	ErrNotEncrypted = errors.New("repository is not encrypted")
	// ErrOperatorExists means that the recipient can unlock the repository already.
	ErrOperatorExists = errors.New("is an operator already")
	// ErrNoOperator means that no operator has that recipient.
	ErrNoOperator = errors.New("is no operator")
	// ErrLastOperator means that nobody could read the repository any more.
	ErrLastOperator = errors.New("is the last operator; add another first")
)

const (
	keyPrefix    = "keys/"
	writerPrefix = keyPrefix + "writer-"
	sealedSuffix = ".age"
	publicSuffix = ".recipient"
	maxKey       = 64 << 10
)

// keyPattern is what objects that hold keys are named.
var keyPattern = regexp.MustCompile(`^keys/(writer-)?[0-9a-f]{32}\.(age|recipient)$`)

// operatorID names an operator's objects. It depends on the repository key,
// too, so that Inits that fail or race never get in each other's way.
func operatorID(m Marker, op seal.Recipient) string {
	h := sha256.Sum256([]byte(m.Recipient + "\n" + op.String() + "\n"))
	return hex.EncodeToString(h[:16])
}

func writerID(w seal.Recipient) string {
	h := sha256.Sum256([]byte(w.String() + "\n"))
	return hex.EncodeToString(h[:16])
}

// newRepositoryKey makes a repository key for operators, none if there are none.
func newRepositoryKey(opt InitOptions) (*seal.Identity, []seal.Recipient, error) {
	if len(opt.Recipients) == 0 {
		if opt.Classic {
			return nil, nil, errors.New("make repository: a classic key needs recipients")
		}
		return nil, nil, nil
	}
	kind := seal.Hybrid
	if opt.Classic {
		kind = seal.Classic
	}
	var operators []seal.Recipient
	for _, text := range slices.Compact(slices.Sorted(slices.Values(opt.Recipients))) {
		op, err := parseOperator(text, kind)
		if err != nil {
			return nil, nil, fmt.Errorf("make repository: %w", err)
		}
		operators = append(operators, op)
	}
	key, err := seal.Generate(kind)
	if err != nil {
		return nil, nil, fmt.Errorf("make repository: %w", err)
	}
	return &key, operators, nil
}

// parseOperator refuses recipients of the other kind: with a classic one among
// them, the key that opens everything would be as weak as that one.
func parseOperator(text string, kind seal.Kind) (seal.Recipient, error) {
	op, err := seal.ParseRecipient(text)
	if err != nil {
		return op, fmt.Errorf("recipient: %w", err)
	}
	if op.Kind() != kind {
		return op, fmt.Errorf("recipient %s is %s, the repository key is %s: %w", op.Fingerprint(), op.Kind(), kind, seal.ErrKind)
	}
	return op, nil
}

// operatorHash begins the line by which anybody can tell that a sealed key is
// as it was stored, though only its operator can open it. It is a comment to
// age, which takes the object as a file of recipients.
const operatorHash = "# sha256 of the sealed key: "

// putOperator seals the repository key for one operator. The public key comes
// first: an operator is whoever has the sealed key, and is listed by the other.
func putOperator(ctx context.Context, bucket *object.Bucket, m Marker, key seal.Identity, op seal.Recipient) error {
	sealed, err := seal.To([]byte("# key of the jetkeep repository "+m.ID+"\n"+key.Secret()+"\n"), op)
	if err != nil {
		return fmt.Errorf("write operator: %w", err)
	}
	id := operatorID(m, op)
	public := fmt.Appendf(nil, "%s\n%s%x\n", op, operatorHash, sha256.Sum256(sealed))
	err = bucket.PutBytes(ctx, keyPrefix+id+publicSuffix, public)
	if errors.Is(err, object.ErrExist) {
		err = replacePublic(ctx, bucket, id, op, public)
	}
	if err == nil {
		err = bucket.PutBytes(ctx, keyPrefix+id+sealedSuffix, sealed)
	}
	if errors.Is(err, object.ErrExist) {
		return fmt.Errorf("%s %w", op.Fingerprint(), ErrOperatorExists)
	}
	if err != nil {
		return fmt.Errorf("write operator: %w", err)
	}
	return nil
}

// replacePublic replaces the public key that an attempt left which broke off
// before the sealed one, or says that the operator is there.
func replacePublic(ctx context.Context, bucket *object.Bucket, id string, op seal.Recipient, public []byte) error {
	_, err := bucket.Stat(ctx, keyPrefix+id+sealedSuffix)
	if err == nil {
		return fmt.Errorf("%s %w", op.Fingerprint(), ErrOperatorExists)
	}
	if !errors.Is(err, object.ErrNotExist) {
		return err
	}
	if err := bucket.Delete(ctx, keyPrefix+id+publicSuffix); err != nil {
		return err
	}
	return bucket.PutBytes(ctx, keyPrefix+id+publicSuffix, public)
}

// parseOperatorObject reads an operator's public object: the recipient, and the
// hash of the sealed key.
func parseOperatorObject(text []byte) (op seal.Recipient, hash string, err error) {
	recipient, rest, _ := strings.Cut(string(text), "\n")
	hash, ok := strings.CutPrefix(strings.TrimSuffix(rest, "\n"), operatorHash)
	if !ok || !hashPattern.MatchString(hash) || !strings.HasSuffix(rest, "\n") {
		return op, "", fmt.Errorf("%w: no hash of the sealed key", errMalformed)
	}
	op, err = seal.ParseRecipient(recipient)
	return op, hash, err
}

// checkPin compares the marker with what was configured. A marker without
// encryption where keys are expected would make a service store in plaintext.
func checkPin(m Marker, opt OpenOptions) error {
	if !m.Encrypted() {
		if opt.Recipient != "" || opt.WriterKey != "" {
			return fmt.Errorf("%w: it is not encrypted, and keys are configured for it", ErrKeyMismatch)
		}
		return nil
	}
	key, err := seal.ParseRecipient(m.Recipient)
	if err != nil {
		return damaged(markerName, err, "recipient")
	}
	if opt.Recipient != "" && !key.Matches(opt.Recipient) {
		return fmt.Errorf("%w: it is %s", ErrKeyMismatch, key.Fingerprint())
	}
	return nil
}

// Unlock returns the repository with the ability to read messages. Of the
// identities one must be an operator's or the repository's own, else it fails
// with ErrWrongIdentity. Where nothing is encrypted there is nothing to unlock.
func (r *Repository) Unlock(ctx context.Context, identities []string) (*Repository, error) {
	if r.sealer == nil {
		return r, nil
	}
	for _, text := range identities {
		id, err := seal.ParseIdentity(text)
		if err != nil {
			return nil, fmt.Errorf("unlock repository: %w", err)
		}
		key, err := r.repositoryKey(ctx, id)
		if errors.Is(err, object.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("unlock repository: %w", err)
		}
		out := *r
		if out.sealer, err = r.sealer.WithIdentity(key); err != nil {
			return nil, fmt.Errorf("unlock repository: %w", err)
		}
		return &out, nil
	}
	return nil, fmt.Errorf("unlock repository: %w: none of %d is of an operator", ErrWrongIdentity, len(identities))
}

// repositoryKey returns the repository key that an identity is or opens, and
// object.ErrNotExist if there is none for it.
func (r *Repository) repositoryKey(ctx context.Context, id seal.Identity) (string, error) {
	if id.Recipient().String() == r.marker.Recipient {
		return id.Secret(), nil
	}
	name := keyPrefix + operatorID(r.marker, id.Recipient()) + sealedSuffix
	stored, err := readSmall(ctx, r.bucket, name, maxKey)
	if err != nil {
		return "", err
	}
	plain, err := seal.Open(stored, id)
	if err != nil {
		return "", damaged(name, err, "is not sealed for its operator")
	}
	keys, err := seal.ParseIdentities(string(plain))
	if err != nil || len(keys) != 1 || keys[0].Recipient().String() != r.marker.Recipient {
		return "", damaged(name, err, "does not hold the repository key")
	}
	return keys[0].Secret(), nil
}

// AddOperator seals the repository key for one more recipient, which takes a
// repository that is unlocked. No other object changes.
func (r *Repository) AddOperator(ctx context.Context, recipient string) error {
	key, err := r.secret()
	if err != nil {
		return fmt.Errorf("add operator: %w", err)
	}
	op, err := parseOperator(recipient, key.Recipient().Kind())
	if err != nil {
		return fmt.Errorf("add operator: %w", err)
	}
	if err := putOperator(ctx, r.bucket, r.marker, key, op); err != nil {
		return fmt.Errorf("add operator: %w", err)
	}
	return nil
}

// RemoveOperator takes the repository key away from a recipient. Whoever could
// unlock the repository once may have kept the key: against them only a new
// repository helps. It fails with ErrLastOperator if no other is left.
func (r *Repository) RemoveOperator(ctx context.Context, recipient string) error {
	op, err := seal.ParseRecipient(recipient)
	if err != nil {
		return fmt.Errorf("remove operator: %w", err)
	}
	all, err := r.Operators(ctx)
	if err != nil {
		return fmt.Errorf("remove operator: %w", err)
	}
	others := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == op.String() })
	if len(others) == len(all) {
		return fmt.Errorf("remove operator: %s %w", op.Fingerprint(), ErrNoOperator)
	}
	if len(others) == 0 {
		return fmt.Errorf("remove operator: %s %w", op.Fingerprint(), ErrLastOperator)
	}
	id := operatorID(r.marker, op)
	for _, suffix := range []string{sealedSuffix, publicSuffix} {
		if err := r.bucket.Delete(ctx, keyPrefix+id+suffix); err != nil {
			return fmt.Errorf("remove operator: %w", err)
		}
	}
	return nil
}

// Operators returns the recipients that can unlock the repository.
func (r *Repository) Operators(ctx context.Context) ([]string, error) {
	if r.sealer == nil {
		return nil, fmt.Errorf("list operators: %w", ErrNotEncrypted)
	}
	var out []string
	for info, err := range r.bucket.List(ctx, keyPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list operators: %w", err)
		}
		id, ok := strings.CutSuffix(strings.TrimPrefix(info.Name, keyPrefix), publicSuffix)
		if !ok || !keyPattern.MatchString(info.Name) {
			continue
		}
		op, err := r.operator(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("list operators: %w", err)
		}
		if op != "" {
			out = append(out, op)
		}
	}
	slices.Sort(out)
	return out, nil
}

// operator returns the recipient whose objects have an id. It is empty if they
// are not of this repository key, or the sealed key is not there.
func (r *Repository) operator(ctx context.Context, id string) (string, error) {
	text, err := readSmall(ctx, r.bucket, keyPrefix+id+publicSuffix, maxKey)
	if errors.Is(err, object.ErrNotExist) {
		return "", nil // removed meanwhile
	}
	if err != nil {
		return "", err
	}
	op, _, err := parseOperatorObject(text)
	if err != nil {
		return "", damaged(keyPrefix+id+publicSuffix, err, "recipient")
	}
	if operatorID(r.marker, op) != id {
		return "", nil
	}
	_, err = r.bucket.Stat(ctx, keyPrefix+id+sealedSuffix)
	if errors.Is(err, object.ErrNotExist) {
		return "", nil
	}
	return op.String(), err
}

func (r *Repository) secret() (seal.Identity, error) {
	if r.sealer == nil {
		return seal.Identity{}, ErrNotEncrypted
	}
	return r.sealer.Secret()
}
