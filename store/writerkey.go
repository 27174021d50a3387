package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"jetkeep/store/seal"
)

// The head of a writer key's file says whose it is and that it is signed; the
// lines are comments to age. Without the signature anybody could put a key of
// their own there, for the public key suffices to seal it, and read the
// metadata of whoever takes it up.
const (
	writerHead      = "# jetkeep-writer-key 2\n# repository: "
	writerSignature = "# signature: "
)

// NewWriterKey makes a writer key and returns it, for whoever stores into the
// repository to keep. A copy is stored, sealed for the operators.
func (r *Repository) NewWriterKey(ctx context.Context) (string, error) {
	if r.sealer == nil {
		return "", fmt.Errorf("make writer key: %w", ErrNotEncrypted)
	}
	key, err := seal.Generate(r.sealer.Recipient().Kind())
	if err != nil {
		return "", fmt.Errorf("make writer key: %w", err)
	}
	head := writerHead + r.marker.ID + "\n" + key.Secret() + "\n"
	signature, err := r.signer.Sign([]byte(head))
	if err != nil {
		return "", fmt.Errorf("make writer key: %w", err)
	}
	sealed, err := seal.To([]byte(head+writerSignature+signature+"\n"), r.sealer.Recipient())
	if err != nil {
		return "", fmt.Errorf("make writer key: %w", err)
	}
	if err := r.bucket.PutBytes(ctx, writerPrefix+writerID(key.Recipient())+sealedSuffix, sealed); err != nil {
		return "", fmt.Errorf("make writer key: %w", err)
	}
	return key.Secret(), nil
}

// WithWriterKey returns the repository with the ability to store, and to read
// the metadata that holders of the same key stored.
func (r *Repository) WithWriterKey(key string) (*Repository, error) {
	if r.sealer == nil {
		return nil, fmt.Errorf("take writer key: %w", ErrNotEncrypted)
	}
	out := *r
	var err error
	if out.sealer, err = r.sealer.WithWriter(key); err != nil {
		return nil, fmt.Errorf("take writer key: %w", err)
	}
	return &out, nil
}

// WriterKeys returns the writer keys of which a copy is stored, which takes a
// repository that is unlocked. With a Trust only those that are signed are
// returned. Those that are not, or are damaged, are named by the error, which
// leaves the others good.
func (r *Repository) WriterKeys(ctx context.Context) ([]string, error) {
	id, err := r.secret()
	if err != nil {
		return nil, fmt.Errorf("list writer keys: %w", err)
	}
	var (
		out  []string
		errs []error
	)
	for info, err := range r.bucket.List(ctx, writerPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list writer keys: %w", err)
		}
		if !keyPattern.MatchString(info.Name) {
			continue
		}
		stored, err := readSmall(ctx, r.bucket, info.Name, maxKey)
		if damage := (*DamageError)(nil); errors.As(err, &damage) {
			errs = append(errs, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list writer keys: %w", err)
		}
		key, err := r.openWriterKey(info.Name, stored, id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, key)
	}
	return out, errors.Join(errs...)
}

func (r *Repository) openWriterKey(name string, stored []byte, id seal.Identity) (string, error) {
	plain, err := seal.Open(stored, id)
	if err != nil {
		return "", damaged(name, err, "is not sealed for the repository key")
	}
	return parseWriterKey(r, name, string(plain))
}

// parseWriterKey accepts exactly what NewWriterKey writes, from trusted signers.
func parseWriterKey(r *Repository, name, plain string) (string, error) {
	text, ok := strings.CutPrefix(plain, writerHead+r.marker.ID+"\n")
	secret, signature, ok2 := strings.Cut(text, "\n"+writerSignature)
	signature, ok3 := strings.CutSuffix(signature, "\n")
	if !ok || !ok2 || !ok3 {
		return "", damaged(name, nil, "is no writer key of this repository")
	}
	key, err := seal.ParseIdentity(secret)
	if err != nil {
		return "", damaged(name, err, "is no writer key")
	}
	if name != writerPrefix+writerID(key.Recipient())+sealedSuffix || key.Secret() != secret {
		return "", damaged(name, nil, "holds another writer key")
	}
	if err := r.trust.Check([]byte(writerHead+r.marker.ID+"\n"+secret+"\n"), signature); err != nil {
		return "", fmt.Errorf("writer key %s: %w", name, err)
	}
	return key.Secret(), nil
}
