// Package state keeps, in the bucket JETKEEP_STATE, what instances remember
// together about repositories and keys.
//
// Every value is made once, by create, or changed by compare-and-set, so that
// instances which begin at the same moment use the same xkey, the same writer
// key, and the same repository under one name. Nothing here is needed for a
// restore: whoever lost the bucket makes new keys and loses what PROTOCOL.md
// lists. It fails with ErrNone for what was never written, with a
// *MismatchError, and with the errors of KV.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
	"jetkeep/store"
)

// ErrNone means that nothing was written under a key.
var ErrNone = errors.New("nothing is remembered")

const (
	keyXKey = "xkey"
	// maxConflicts bounds how often a change is tried again. Writers of one key
	// are few.
	maxConflicts = 32
	// maxDamaged bounds how many damaged restore points are remembered.
	maxDamaged = 10_000
)

// A MismatchError says that another repository was in use under a name, or that
// its key was another.
type MismatchError struct {
	What string // "id" or "public key"
	Want string // what is remembered
	Have string
	Key  string // where it is remembered
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("its %s is %s, but was %s before (key %s of bucket %s)", e.What, brief(e.Have), brief(e.Want), e.Key, api.BucketState)
}

// brief shortens a public key: hybrid ones have 2000 characters.
func brief(s string) string {
	if len(s) > 64 {
		return s[:40] + "…" + s[len(s)-8:]
	}
	return s
}

// Options of the bucket, used when it is made.
type Options struct {
	Replicas int
	MaxBytes int64 // 0 for what is possible
}

// A Store is the bucket.
type Store struct {
	kv       jetstream.KeyValue
	observed observations // of locks
}

// Open binds the bucket and makes it if it is not there. One that is there is
// taken as it is.
func Open(ctx context.Context, js jetstream.JetStream, o Options) (*Store, error) {
	kv, err := natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: api.BucketState, Description: "jetkeep: keys and what is known of repositories",
		History: 1, Storage: jetstream.FileStorage, Replicas: o.Replicas, MaxBytes: o.MaxBytes,
	})
	if err != nil {
		return nil, err
	}
	return &Store{kv: kv}, nil
}

// get reads a value and its revision.
func (s *Store) get(ctx context.Context, key string) ([]byte, uint64, error) {
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrKeyDeleted) {
		return nil, 0, ErrNone
	}
	if err != nil {
		return nil, 0, fmt.Errorf("get %s: %w", key, err)
	}
	return e.Value(), e.Revision(), nil
}

// once returns the value of a key, which is made if there is none. Of two who
// make it at once both get the same.
func (s *Store) once(ctx context.Context, key string, make func() ([]byte, error)) ([]byte, error) {
	for try := range maxConflicts {
		v, _, err := s.get(ctx, key)
		if !errors.Is(err, ErrNone) {
			return v, err
		}
		if v, err = make(); err != nil {
			return nil, err
		}
		_, err = s.kv.Create(ctx, key, v)
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return nil, fmt.Errorf("create %s: %w", key, err)
		}
		// The replica that answers reads may need a moment to have it.
		if err := pause(ctx, try); err != nil {
			return nil, fmt.Errorf("create %s: %w", key, err)
		}
	}
	return nil, fmt.Errorf("create %s: it exists and cannot be read", key)
}

// change replaces a value by what fn makes of it, nil if there is none. If fn
// returns nil nothing is written.
func (s *Store) change(ctx context.Context, key string, fn func([]byte) ([]byte, error)) error {
	for try := range maxConflicts {
		old, revision, err := s.get(ctx, key)
		if err != nil && !errors.Is(err, ErrNone) {
			return err
		}
		v, err := fn(old)
		if err != nil || v == nil {
			return err
		}
		if revision == 0 {
			_, err = s.kv.Create(ctx, key, v)
		} else {
			_, err = s.kv.Update(ctx, key, v, revision)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) && !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return fmt.Errorf("put %s: %w", key, err)
		}
		if err := pause(ctx, try); err != nil {
			return fmt.Errorf("put %s: %w", key, err)
		}
	}
	return fmt.Errorf("put %s: others change it all the time", key)
}

func pause(ctx context.Context, try int) error {
	t := time.NewTimer(min(time.Duration(try)*5*time.Millisecond, 100*time.Millisecond))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// XKey returns the service's key pair that identities are sealed to.
func (s *Store) XKey(ctx context.Context) (nkeys.KeyPair, error) {
	seed, err := s.once(ctx, keyXKey, func() ([]byte, error) {
		pair, err := nkeys.CreateCurveKeys()
		if err != nil {
			return nil, fmt.Errorf("make xkey: %w", err)
		}
		return pair.Seed()
	})
	if err != nil {
		return nil, err
	}
	pair, err := nkeys.FromCurveSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", keyXKey, err)
	}
	return pair, nil
}

func nameKey(name string) string { return "name." + name }

// RepositoryID returns the id of the repository that is in use under a name, or
// ErrNone.
func (s *Store) RepositoryID(ctx context.Context, name string) (string, error) {
	id, _, err := s.get(ctx, nameKey(name))
	return string(id), err
}

// noRecipient is remembered of a repository that has no public key.
const noRecipient = "none"

func recipientKey(repository string) string { return "recipient." + repository }

// Bind remembers that a name means a repository, and the repository's public
// key, empty if it has none. It fails with a *MismatchError if the name means
// another, or if the key is another: whoever can write to the store could put a
// key of their own there, or none.
func (s *Store) Bind(ctx context.Context, name, id, recipient string) error {
	if recipient == "" {
		recipient = noRecipient
	}
	if err := s.bind(ctx, "id", nameKey(name), id); err != nil {
		return err
	}
	return s.bind(ctx, "public key", recipientKey(id), recipient)
}

// Recipient returns the public key that a repository is known by, empty if it
// has none, or ErrNone.
func (s *Store) Recipient(ctx context.Context, id string) (string, error) {
	v, _, err := s.get(ctx, recipientKey(id))
	if string(v) == noRecipient {
		v = nil
	}
	return string(v), err
}

// Rebind makes a name mean another repository, with the public key that it has
// now, whatever was remembered.
func (s *Store) Rebind(ctx context.Context, name, id, recipient string) error {
	if recipient == "" {
		recipient = noRecipient
	}
	// The key first: an instance that sees the new id must not meet the old key.
	if _, err := s.kv.Put(ctx, recipientKey(id), []byte(recipient)); err != nil {
		return fmt.Errorf("put %s: %w", recipientKey(id), err)
	}
	if _, err := s.kv.Put(ctx, nameKey(name), []byte(id)); err != nil {
		return fmt.Errorf("put %s: %w", nameKey(name), err)
	}
	return nil
}

func (s *Store) bind(ctx context.Context, what, key, value string) error {
	known, err := s.once(ctx, key, func() ([]byte, error) { return []byte(value), nil })
	if err == nil && string(known) != value {
		err = &MismatchError{What: what, Want: string(known), Have: value, Key: key}
	}
	return err
}

func writerKey(repository string) string { return "writer." + repository }

// WriterKey returns the writer key of a repository, or ErrNone.
func (s *Store) WriterKey(ctx context.Context, repository string) (string, error) {
	v, _, err := s.get(ctx, writerKey(repository))
	return string(v), err
}

// EnsureWriterKey returns the writer key of a repository, made by make if there
// is none. Of two who make one at once, both use the same.
func (s *Store) EnsureWriterKey(ctx context.Context, repository string, make func() (string, error)) (string, error) {
	v, err := s.once(ctx, writerKey(repository), func() ([]byte, error) {
		k, err := make()
		return []byte(k), err
	})
	return string(v), err
}

func headKey(repository, chain string) string { return "head." + repository + "." + chain }

// AdvanceHead remembers how far a chain has come, unless it was further before.
func (s *Store) AdvanceHead(ctx context.Context, repository, chain string, h store.Head) error {
	return s.change(ctx, headKey(repository, chain), func(old []byte) ([]byte, error) {
		var known store.Head
		if json.Unmarshal(old, &known) == nil && known.Number >= h.Number {
			return nil, nil
		}
		return json.Marshal(h)
	})
}

// Head returns how far a chain is known to have come, or ErrNone.
func (s *Store) Head(ctx context.Context, repository, chain string) (store.Head, error) {
	var h store.Head
	v, _, err := s.get(ctx, headKey(repository, chain))
	if err == nil {
		err = json.Unmarshal(v, &h)
	}
	return h, err
}

// Heads returns how far all chains of a repository are known to have come. One
// that is written in the same moment may be left out.
func (s *Store) Heads(ctx context.Context, repository string) (map[string]store.Head, error) {
	heads := map[string]store.Head{}
	w, err := s.kv.Watch(ctx, headKey(repository, "*"), jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list heads of repository %s: %w", repository, err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("list heads of repository %s: watch ended early", repository)
			}
			if e == nil {
				return heads, nil
			}
			var h store.Head
			if err := json.Unmarshal(e.Value(), &h); err != nil {
				return nil, fmt.Errorf("decode %s: %w", e.Key(), err)
			}
			heads[strings.TrimPrefix(e.Key(), headKey(repository, ""))] = h
		}
	}
}

func damagedKey(repository string) string { return "damaged." + repository }

// Damaged returns the restore points that verifications found damaged.
func (s *Store) Damaged(ctx context.Context, repository string) ([]string, error) {
	v, _, err := s.get(ctx, damagedKey(repository))
	if errors.Is(err, ErrNone) {
		return nil, nil
	}
	var ids []string
	if err == nil {
		err = json.Unmarshal(v, &ids)
	}
	return ids, err
}

// NoteDamaged remembers which restore points were found damaged, and forgets
// those for which good says so.
func (s *Store) NoteDamaged(ctx context.Context, repository string, found []string, good func(id string) bool) error {
	return s.change(ctx, damagedKey(repository), func(old []byte) ([]byte, error) {
		var known []string
		_ = json.Unmarshal(old, &known) // what cannot be read is written anew
		ids := slices.DeleteFunc(slices.Clone(known), good)
		ids = append(ids, found...)
		slices.Sort(ids)
		ids = slices.Compact(ids)
		ids = ids[max(0, len(ids)-maxDamaged):]
		if slices.Equal(ids, known) {
			return nil, nil
		}
		return json.Marshal(ids)
	})
}
