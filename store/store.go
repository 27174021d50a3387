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
//   - Memory is bounded: the writer below 100 MB plus 55 MB for each TiB of
//     stream, the reader below 120 MB, as long as records are below 4 MiB.
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
)

// Format is the version of the repository format that this package writes, and
// the newest that it reads.
const Format = 1

var (
	// ErrNotARepository means that the store holds no repository marker.
	ErrNotARepository = errors.New("no repository here")
	// ErrIsRepository means that Init found a repository.
	ErrIsRepository = errors.New("a repository is here already")
	// ErrForeign means that Init found objects that are not a repository's.
	ErrForeign = errors.New("store holds objects but no repository")
	// ErrNewerFormat means that the repository, or an object in it, needs a
	// newer jetkeep.
	ErrNewerFormat = errors.New("format is newer than this program knows")
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

// A Repository is a store whose marker has been read and understood.
type Repository struct {
	bucket *object.Bucket
	marker Marker
}

// InitOptions say how to make a repository. There is nothing to choose yet.
type InitOptions struct{}

// Init makes a repository in an empty store. It fails with ErrIsRepository if
// there is one, and with ErrForeign if there is anything else.
func Init(ctx context.Context, bucket *object.Bucket, _ InitOptions) (*Repository, error) {
	for info, err := range bucket.List(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("look into store: %w", err)
		}
		if _, err := bucket.Stat(ctx, markerName); err == nil {
			return nil, ErrIsRepository
		}
		return nil, fmt.Errorf("%w: %s", ErrForeign, info.Name)
	}
	m := newMarker()
	err := bucket.PutBytes(ctx, markerName, m.encode())
	if errors.Is(err, object.ErrExist) {
		return nil, ErrIsRepository
	}
	if err != nil {
		return nil, fmt.Errorf("write repository marker: %w", err)
	}
	// Two who made it at once, in a store that cannot decide: use what is there.
	return Open(ctx, bucket)
}

// Open opens a repository.
func Open(ctx context.Context, bucket *object.Bucket) (*Repository, error) {
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
	return &Repository{bucket: bucket, marker: m}, nil
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
