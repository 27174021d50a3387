// Package store keeps restore points of streams in an object store, in the
// format that FORMAT.md defines.
//
// What it guarantees:
//
//   - A restore point is there whole or not at all: its commit record is
//     written last, after everything that it names has been stored.
//   - A Reader gives back exactly the records of the restore point, in rising
//     order, and ends with io.EOF only if their number and digest are those of
//     the commit. Any object that is missing, cut, swapped or changed by a bit
//     is a *DamageError, never a wrong or missing record.
//   - Storing the same stream again makes the same objects, and an object that
//     is there already is not uploaded again.
//   - Memory is bounded: the writer below 100 MB plus 60 MB for each TiB that is
//     new and 80 MB for each TiB that it builds on, the reader below 120 MB, as
//     long as records are below 4 MiB; and 16 bytes for each gap in the stream
//     while it is written, the encoding of its deleted set while it is read.
//
// It fails with the typed errors below, those of store/object and of
// store/staging. Nothing here knows the NATS API.
package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"jetkeep/store/object"
	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

// Format is the version of the repository format that this package writes, and
// the newest that it reads.
const Format = 2

var (
	// ErrNeedsLock means that the store cannot tell which of two who create an
	// object at once was first, and that there is no Lock.
	ErrNeedsLock = errors.New("the store does not create objects atomically, so that writing takes a lock, which only the service has")
	// ErrNotARepository means that the store holds no repository marker.
	ErrNotARepository = errors.New("no repository here")
	// ErrIsRepository means that Init found a repository.
	ErrIsRepository = errors.New("a repository is here already")
	// ErrForeign means that Init found objects that are not a repository's.
	ErrForeign = errors.New("store holds objects but no repository")
	// ErrNewerFormat means that the repository, or an object in it, needs a
	// newer jetkeep.
	ErrNewerFormat = errors.New("format is newer than this program knows")
	// ErrOldFormat means that the repository can only be read, for it has a
	// format that is no longer written.
	ErrOldFormat = errors.New("format is too old to be written; make a new repository beside it")
	// ErrNoPoint means that there is no restore point of that id.
	ErrNoPoint = errors.New("restore point does not exist")
	// ErrPointExists means that another restore point has that id.
	ErrPointExists = errors.New("another restore point of this id exists")
	// ErrOrder means that records did not arrive in rising order.
	ErrOrder = errors.New("record is out of order")
	// ErrDuplicate means that two records have the same sequence.
	ErrDuplicate = errors.New("sequence was stored twice")
	// ErrTooFragmented means that repaired records came in too random an order
	// to be merged within the reader's memory.
	ErrTooFragmented = errors.New("too many segments overlap")
	// ErrBounds means that something is larger than the format allows.
	ErrBounds = errors.New("larger than the format allows")
	// ErrClosed means that a Writer or Reader is used after its end.
	ErrClosed = errors.New("already finished")
)

// A DamageError says that a stored object is not what it must be.
type DamageError struct {
	Object  string // name in the store
	Problem string
	Err     error // the cause, if there is one
}

func (e *DamageError) Error() string {
	s := fmt.Sprintf("object %s is damaged: %s", e.Object, e.Problem)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *DamageError) Unwrap() error { return e.Err }

func damaged(name string, err error, format string, args ...any) error {
	return &DamageError{Object: name, Problem: fmt.Sprintf(format, args...), Err: err}
}

// damagedBy is damaged, unless the cause says itself which object it is.
func damagedBy(name string, err error, what string) error {
	if damage := (*DamageError)(nil); errors.As(err, &damage) {
		return err
	}
	return damaged(name, err, "%s", what)
}

// A Repository is a store whose marker has been read and understood, and the
// keys that are at hand for it. Goroutines can share it.
type Repository struct {
	bucket   *object.Bucket
	marker   Marker
	sealer   *seal.Sealer // nil: nothing is encrypted
	signer   *sign.Signer // nil: nothing is signed
	trust    *sign.Trust  // nil: nothing needs to be signed
	lock     Lock         // nil: none is at hand
	retained *retained
	journal  Journal // nil: none
	sole     bool    // nobody else writes
	cache    *cache

	encoders *encoders
	memory   *Memory
}

// InitOptions say how to make a repository.
type InitOptions struct {
	// Recipients are the public keys of those who may read: each can unlock
	// the repository alone. Without any the repository is not encrypted.
	Recipients []string
	// Classic makes a repository key without protection against quantum
	// computers, for recipients that have none either.
	Classic bool
}

// OpenOptions are the keys that are at hand.
type OpenOptions struct {
	// Identities are secret keys of operators, or the repository's own; one
	// that fits is enough to read messages. They may be missing.
	Identities []string
	// WriterKey is what NewWriterKey made; it may be missing.
	WriterKey string
	// Recipient pins the repository key: it or its fingerprint. A repository
	// of another key, or of none, is refused then.
	Recipient string
	// Signer signs what is written; it may be nil.
	Signer *sign.Signer
	// Trust says whose signatures are accepted; if it is nil, nothing needs
	// to be signed.
	Trust *sign.Trust
	// Lock is needed to append to logs in stores that cannot tell which of two
	// who create an object at once was first. See FORMAT.md, Chains.
	Lock Lock
	// Journal, if set, lets an attempt use what one before it uploaded also in an
	// encrypted repository.
	Journal Journal
	// SoleWriter promises that nobody else writes, in place of a Lock.
	SoleWriter bool
	// Memory is what the repositories of a process share; nil stands for a
	// NewMemory of this repository's own.
	Memory *Memory
}

// A Lock is had by one at a time of all who write into a repository, on
// whatever machine. It waits until it is free. The returned context ends when
// it cannot be proven any more that it is held; unlock gives it back.
type Lock func(ctx context.Context, name string) (locked context.Context, unlock func(), err error)

// Init makes a repository in an empty store. It fails with ErrIsRepository if
// there is one, and with ErrForeign if there is anything else.
//
// The marker comes last: a repository whose key nobody has cannot come to be,
// and what an Init that broke off left behind is no hindrance.
func Init(ctx context.Context, bucket *object.Bucket, opt InitOptions) (*Repository, error) {
	if err := checkEmpty(ctx, bucket); err != nil {
		return nil, err
	}
	key, operators, err := newRepositoryKey(opt)
	if err != nil {
		return nil, err
	}
	m := newMarker("")
	if key != nil {
		m = newMarker(key.Recipient().String())
		for _, op := range operators {
			if err := putOperator(ctx, bucket, m, *key, op); err != nil {
				return nil, err
			}
		}
	}
	if err := putReadme(ctx, bucket); err != nil {
		return nil, err
	}
	err = bucket.PutBytes(ctx, markerName, m.encode())
	if errors.Is(err, object.ErrExist) {
		return nil, ErrIsRepository
	}
	if err != nil {
		return nil, fmt.Errorf("write repository marker: %w", err)
	}
	var open OpenOptions
	if key != nil {
		open = OpenOptions{Identities: []string{key.Secret()}, Recipient: m.Recipient}
	}
	r, err := Open(ctx, bucket, open)
	// Two who made it at once, in a store that cannot decide.
	if err == nil && r.marker.ID != m.ID || errors.Is(err, ErrKeyMismatch) {
		return nil, ErrIsRepository
	}
	return r, err
}

// checkEmpty accepts an empty store, and one that holds only what an Init that
// broke off, or a probe, can have left.
func checkEmpty(ctx context.Context, bucket *object.Bucket) error {
	for info, err := range bucket.List(ctx, "") {
		if err != nil {
			return fmt.Errorf("look into store: %w", err)
		}
		if _, err := bucket.Stat(ctx, markerName); err == nil {
			return ErrIsRepository
		}
		leftover := keyPattern.MatchString(info.Name) || probePattern.MatchString(info.Name)
		if info.Name == readmeName {
			if leftover, err = isReadme(ctx, bucket); err != nil {
				return err
			}
		}
		if !leftover {
			return fmt.Errorf("%w: %s", ErrForeign, info.Name)
		}
	}
	return nil
}

// Open opens a repository.
func Open(ctx context.Context, bucket *object.Bucket, opt OpenOptions) (*Repository, error) {
	data, err := bucket.ReadAll(ctx, markerName, maxMarker)
	if errors.Is(err, object.ErrNotExist) {
		return nil, ErrNotARepository
	}
	if errors.Is(err, object.ErrTooLarge) {
		return nil, damaged(markerName, err, "too large")
	}
	if err != nil {
		return nil, fmt.Errorf("read repository marker: %w", err)
	}
	m, err := decodeMarker(data)
	if err != nil {
		return nil, err
	}
	if err := checkPin(m, opt); err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	r := &Repository{bucket: bucket, marker: m, signer: opt.Signer, trust: opt.Trust, lock: opt.Lock, journal: opt.Journal, sole: opt.SoleWriter, cache: newCache(), retained: new(retained), encoders: new(encoders), memory: opt.Memory}
	if r.memory == nil {
		r.memory = NewMemory()
	}
	if !m.Encrypted() {
		return r, nil
	}
	if r.sealer, err = seal.New(m.Recipient); err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	if opt.WriterKey != "" {
		if r, err = r.WithWriterKey(opt.WriterKey); err != nil {
			return nil, err
		}
	}
	if len(opt.Identities) > 0 {
		return r.Unlock(ctx, opt.Identities)
	}
	return r, nil
}

// Encrypted says whether the repository is encrypted.
func (r *Repository) Encrypted() bool { return r.sealer != nil }

// Readable says whether messages can be read: always if nothing is encrypted,
// else with the identity of an operator.
func (r *Repository) Readable() bool { return r.sealer == nil || r.sealer.Unlocked() }

// writable says why nothing can be stored.
func (r *Repository) writable() error {
	if r.marker.Format < Format {
		return fmt.Errorf("write: %w", ErrOldFormat)
	}
	if r.sealer != nil && !r.sealer.HasWriter() {
		return fmt.Errorf("write: %w", ErrNoWriterKey)
	}
	return nil
}

// Marker returns what the repository says of itself.
func (r *Repository) Marker() Marker { return r.marker }

// Bucket returns the store that the repository lives in.
func (r *Repository) Bucket() *object.Bucket { return r.bucket }

// maxWorkers keeps memory within its bound on machines with many cores.
const maxWorkers = 4

func workers(n int) int {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	return min(n, maxWorkers)
}
