package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"jetkeep/store/object"
)

// aside looks at the objects that no restore point needs: the readme and the
// keys. What is wrong with them reaches no restore point, but people who will
// want to read one.
func (v *verifier) aside(ctx context.Context) error {
	there, err := v.repo.bucket.ReadAll(ctx, readmeName, maxReadme)
	switch {
	case errors.Is(err, object.ErrNotExist):
		v.note("%s, which explains how to restore by hand, is missing", readmeName)
	case errors.Is(err, object.ErrTooLarge) || err == nil && string(there) != readme:
		v.note("%s is not what this version of jetkeep writes", readmeName)
	case err != nil:
		return err
	}
	if err := v.pins(ctx); err != nil || v.repo.sealer == nil {
		return err
	}
	return v.keys(ctx)
}

// pins reads the pins. One that is damaged is a pin all the same; one that was
// taken away cannot be told from one that never was, so they are counted.
func (v *verifier) pins(ctx context.Context) error {
	pins, err := v.repo.Pins(ctx)
	if err != nil {
		return err
	}
	locked := 0
	for id, p := range pins {
		switch damage := (*DamageError)(nil); {
		case errors.Is(p.Err, ErrLocked), errors.Is(p.Err, ErrWrongIdentity):
			locked++
		case errors.As(p.Err, &damage):
			v.problem(damage.Object, damage.text())
		case p.Err != nil:
			v.problem(pinPrefix+id, "cannot be read: "+p.Err.Error())
		}
	}
	if len(pins) > 0 {
		v.note("%d pins, of which %d cannot be read without a key", len(pins), locked)
	}
	return nil
}

// keys checks the objects that hold keys. The sealed key of an operator can be
// opened by that operator alone; that it is as it was stored can be told by
// anybody, for its hash stands beside it.
func (v *verifier) keys(ctx context.Context) error {
	names := map[string]bool{}
	for info, err := range v.repo.bucket.List(ctx, keyPrefix) {
		if err != nil {
			return err
		}
		names[info.Name] = true
	}
	operators, writers := 0, 0
	for name := range names {
		id, isKey := strings.CutSuffix(strings.TrimPrefix(name, keyPrefix), sealedSuffix)
		var err error
		switch {
		case !keyPattern.MatchString(name):
			v.problem(name, "is no key object")
		case strings.HasPrefix(name, writerPrefix):
			writers++
			err = v.writerKey(ctx, name)
		case isKey && !names[keyPrefix+id+publicSuffix]:
			v.problem(keyPrefix+id+publicSuffix, "missing, though the sealed key is there")
		case !isKey:
			operators++
			id = strings.TrimSuffix(strings.TrimPrefix(name, keyPrefix), publicSuffix)
			err = v.operatorKey(ctx, id, names[keyPrefix+id+sealedSuffix])
		}
		if damage := (*DamageError)(nil); errors.As(err, &damage) {
			v.problem(damage.Object, damage.text())
		} else if err != nil {
			return err
		}
	}
	v.note("%d operators can unlock the repository, %d writer keys are kept", operators, writers)
	return nil
}

// writerKey opens the copy of a writer key, if there is what it takes.
func (v *verifier) writerKey(ctx context.Context, name string) error {
	stored, err := readSmall(ctx, v.repo.bucket, name, maxKey)
	if err != nil {
		return err
	}
	id, err := v.repo.secret()
	if errors.Is(err, ErrLocked) {
		return nil // the note says so
	}
	if err != nil {
		return err
	}
	_, err = v.repo.openWriterKey(name, stored, id)
	if err != nil && !errors.As(err, new(*DamageError)) {
		v.problem(name, err.Error())
		return nil
	}
	return err
}

// operatorKey checks both objects of an operator.
func (v *verifier) operatorKey(ctx context.Context, id string, sealed bool) error {
	name := keyPrefix + id + publicSuffix
	text, err := readSmall(ctx, v.repo.bucket, name, maxKey)
	if err != nil {
		return err
	}
	op, hash, err := parseOperatorObject(text)
	if err != nil && sealed {
		v.problem(keyPrefix+id+sealedSuffix, "cannot be checked: what its hash should be is damaged")
	}
	if err != nil {
		return damaged(name, err, "public key of an operator")
	}
	if operatorID(v.repo.marker, op) != id {
		return damaged(name, nil, "is of another operator or another repository key")
	}
	name = keyPrefix + id + sealedSuffix
	if !sealed {
		return damaged(name, object.ErrNotExist, "missing")
	}
	stored, err := readSmall(ctx, v.repo.bucket, name, maxKey)
	if err != nil {
		return err
	}
	if fmt.Sprintf("%x", sha256.Sum256(stored)) != hash {
		v.problem(keyPrefix+id+publicSuffix, "says another hash than its sealed key has: one of both is damaged")
		return damaged(name, nil, "has another hash than its operator's public key says: one of both is damaged")
	}
	return nil
}
