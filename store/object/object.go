// Package object is jetkeep's view of where a repository lives: a flat set of
// named, immutable byte strings.
//
// A Driver speaks to one kind of store. Bucket is the portable type over it
// that everything else uses; what can be checked once for all drivers (names,
// sizes, lengths, the order of listings) is checked there.
//
// What a Bucket guarantees, whatever the driver:
//
//   - Put never replaces an object, and a Put that fails or is cancelled leaves
//     nothing visible under the name, or, when only the store's answer was lost,
//     the whole object; never a part of it. Afterwards Stat and Get see the
//     object.
//   - A read ends with io.EOF only after exactly the bytes that were asked for.
//   - List yields each object at most once, in rising order of names.
//
// What it does not guarantee: that a listing is complete or current (Swift's
// lag by design), so nothing may be deleted because a listing lacks its user;
// and that of two concurrent Puts of one name exactly one wins, unless Atomic
// says so. Objects are therefore named by their content or written by one
// writer only.
package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

var (
	// ErrNotExist means that there is no object of that name.
	ErrNotExist = errors.New("object does not exist")
	// ErrExist means that Put found an object of that name.
	ErrExist = errors.New("object exists already")
	// ErrNoSpace means that the store is full or a quota is used up.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrNotWritable means that the store refuses writes: read-only, or the
	// credentials do not allow them.
	ErrNotWritable = errors.New("store is not writable")
	// ErrPermission means that the store refuses to be read.
	ErrPermission = errors.New("store refuses access")
	// ErrInvalidName means that a name or prefix is outside the rules of CheckName.
	ErrInvalidName = errors.New("object name is invalid")
	// ErrTooLarge means that an object is larger than the store can take.
	ErrTooLarge = errors.New("object is too large")
	// ErrUnavailable means that the store cannot be reached, broke off or says
	// that it cannot answer for now. The same may succeed later; a Put may have
	// succeeded.
	ErrUnavailable = errors.New("store is not available")
	// ErrThrottled means that the store asks for fewer requests. The same may
	// succeed later.
	ErrThrottled = errors.New("store asks to slow down")
	// ErrRetained means that the store keeps an object for a promised time and
	// does not delete it before.
	ErrRetained = errors.New("object is retained")
	// ErrUnexpected means that the store, or the way to it, failed in a way that
	// none of the other errors describes: it lacks something, is none of the kind
	// that it is taken for, or has a defect. Trying again is of no use.
	ErrUnexpected = errors.New("store fails unexpectedly")
	// ErrChecksum means that what arrived is not what was sent.
	ErrChecksum = errors.New("checksum does not match")
)

// A WaitError is an error after which the store asks to wait, as in the header
// Retry-After of HTTP.
type WaitError struct {
	After time.Duration
	Err   error
}

func (e *WaitError) Error() string { return fmt.Sprintf("%v (asks to wait %s)", e.Err, e.After) }

// Unwrap returns what happened.
func (e *WaitError) Unwrap() error { return e.Err }

// A PermissionError names what the credentials do not allow.
type PermissionError struct {
	Action string // in the store's own words, such as s3:PutObject
	Kind   error  // ErrPermission or ErrNotWritable
	Err    error  // what the store said
}

func (e *PermissionError) Error() string { return fmt.Sprintf("%v: %s: %v", e.Kind, e.Action, e.Err) }

// Unwrap returns the sentinel and what the store said.
func (e *PermissionError) Unwrap() []error { return []error{e.Kind, e.Err} }

const (
	// MaxName bounds a name in bytes, MaxPart each of its parts between slashes.
	MaxName = 512
	MaxPart = 200
	// MaxSize bounds an object: what one request to S3 or Swift can carry.
	MaxSize = 5 << 30
	// PageSize is the largest page that a driver is asked for.
	PageSize = 1000
)

// Info describes an object.
type Info struct {
	Name     string
	Size     int64
	Modified time.Time
}

// A Driver stores objects. Bucket calls it with valid names and sane numbers
// only, from several goroutines at once. Errors wrap the sentinels of this
// package where one fits, and the context's error when it was cancelled.
type Driver interface {
	// Put creates an object from the first size bytes of body, or fails with
	// ErrExist. The object becomes visible whole and durable, or not at all.
	// A driver whose store has no conditional write looks first and is not
	// AtomicCreator. body may be read in any order and more than once.
	Put(ctx context.Context, name string, body io.ReaderAt, size int64) error
	// Get reads length bytes from offset, or to the object's end if length is
	// negative. What lies beyond the end is left out without an error.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Stat describes an object.
	Stat(ctx context.Context, name string) (Info, error)
	// List returns objects whose names begin with prefix and follow after, in
	// rising byte order, at most limit of them, and whether more may follow.
	List(ctx context.Context, prefix, after string, limit int) (page []Info, more bool, err error)
	// Delete removes an object; that it is gone already is no error.
	Delete(ctx context.Context, name string) error
}

// An AtomicCreator is a driver that can say whether of concurrent Puts of one
// name exactly one succeeds.
type AtomicCreator interface {
	// AtomicCreate may have to try it in the store, once.
	AtomicCreate(ctx context.Context) (bool, error)
}

// A Retainer is a driver whose store can promise to keep an object, whoever
// asks to delete it.
type Retainer interface {
	// Retain has the store keep an object until at least then. It never
	// shortens a promise: of two the longer one holds.
	Retain(ctx context.Context, name string, until time.Time) error
	// Retention returns until when an object is kept, the zero time if nothing
	// was promised.
	Retention(ctx context.Context, name string) (time.Time, error)
	// RetainFor is how long a promise is, 0 if none is made. What is put is kept
	// for that and for RetainLead from then on.
	RetainFor() time.Duration
}

// RetainLead is how much longer than promised an object is kept, so that what is
// stored during a long backup, or built on by the next ones, need not be
// extended each time.
func RetainLead(d time.Duration) time.Duration { return d / 8 }

// BulkDeletes is how many objects a BulkDeleter is asked to delete at once.
const BulkDeletes = 1000

// A BulkDeleter is a driver that deletes many objects by few requests.
type BulkDeleter interface {
	// DeleteMany deletes objects and returns for each of them what Delete would.
	// If it cannot be told for each it returns an error; errors.ErrUnsupported
	// means that Delete has to be used.
	DeleteMany(ctx context.Context, names []string) ([]error, error)
}

// A Wrapper is a driver that decorates another. Optional abilities are looked
// for along the chain.
type Wrapper interface {
	Unwrap() Driver
}

// As returns the outermost driver of a chain that is a T.
func As[T any](d Driver) (T, bool) {
	for {
		if t, ok := d.(T); ok {
			return t, true
		}
		w, ok := d.(Wrapper)
		if !ok {
			var none T
			return none, false
		}
		d = w.Unwrap()
	}
}

// CheckName says what is wrong with the name of an object. A name is one or
// more parts joined by slashes, each of ASCII letters, digits and "._=+@-",
// not beginning with a dot: what every store and file system can hold, and
// room for drivers' own hidden files. No object's name may be a directory of
// another's; in a file system the two cannot both exist.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%w: %d bytes long", ErrInvalidName, len(name))
	}
	part := 0
	for i := range len(name) + 1 {
		if i == len(name) || name[i] == '/' {
			if i-part == 0 || i-part > MaxPart || name[part] == '.' {
				return fmt.Errorf("%w: part %q of %q", ErrInvalidName, name[part:i], name)
			}
			part = i + 1
			continue
		}
		if !nameByte(name[i]) {
			return fmt.Errorf("%w: byte %q in %q", ErrInvalidName, name[i], name)
		}
	}
	return nil
}

func nameByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '.', '_', '=', '+', '@', '-':
		return true
	}
	return false
}

// checkPrefix accepts what a valid name can begin with.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	if prefix[len(prefix)-1] == '/' {
		return CheckName(prefix[:len(prefix)-1])
	}
	return CheckName(prefix)
}
