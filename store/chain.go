package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
)

const (
	chainsPrefix = "chains/"
	packsPrefix  = "packs/"
	metaPrefix   = "meta/"
	chainMark    = "jetkeep chain"
	numberDigits = 16
	maxNumber    = 1e16 - 1
)

// Chain returns the chain of a stream: what the names of its log and of all
// its objects begin with. In an encrypted repository it takes the writer key,
// for the name of a stream must not be found out by guessing.
func (r *Repository) Chain(target, stream string) (string, error) {
	parts := []string{chainMark, r.marker.ID, target, stream}
	if r.sealer != nil {
		mac := r.sealer.MAC(parts...)
		if mac == nil {
			return "", fmt.Errorf("find chain of stream %s: %w", stream, ErrNoWriterKey)
		}
		return hex.EncodeToString(mac[:16]), nil
	}
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.AppendUvarint(nil, uint64(len(p)))) // no two lists of parts look the same
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

func entryName(chain string, number uint64) string {
	return fmt.Sprintf("%s%s/%0*d", chainsPrefix, chain, numberDigits, number)
}

// A logTail is how far a chain's log has been read: the last entry's number
// and hash, and the epoch of whatever is written next.
type logTail struct {
	chain string
	Head
	epoch uint64
}

func newTail(chain string) logTail { return logTail{chain: chain, Head: Head{Hash: none}} }

// follow moves the tail on to the next entry, which must name the one before.
func (t *logTail) follow(e *entry) error {
	if e.number != t.Number+1 || e.previous != t.Hash {
		return damaged(entryName(t.chain, e.number), nil, "does not follow entry %d with hash %s", t.Number, t.Hash)
	}
	*t = e.tail()
	return nil
}

func (e *entry) tail() logTail {
	t := logTail{chain: e.chain, Head: Head{Number: e.number, Hash: e.hash}, epoch: e.epoch}
	if e.kind == entryPrune {
		t.epoch = e.number
	}
	return t
}

// readEntry reads one entry of a log. That there is none is object.ErrNotExist.
func (r *Repository) readEntry(ctx context.Context, chain string, number uint64) (*entry, error) {
	name := entryName(chain, number)
	data, err := r.bucket.ReadAll(ctx, name, maxEntry)
	if errors.Is(err, object.ErrTooLarge) {
		return nil, damaged(name, err, "too large")
	}
	if err != nil {
		return nil, err
	}
	e, err := r.decodeEntry(name, data)
	if err == nil && (e.chain != chain || e.number != number) {
		return nil, damaged(name, nil, "is entry %d of chain %s", e.number, e.chain)
	}
	return e, err
}

// headNumber finds the last entry of a log, 0 if there is none. It asks for
// names only, for a listing may lack what is there: first for the powers of
// two, then between the last of them and the next.
func (r *Repository) headNumber(ctx context.Context, chain string) (uint64, error) {
	known := r.cache.head(chain).Number
	there := func(n uint64) (bool, error) {
		if n <= known {
			return true, nil
		}
		_, err := r.bucket.Stat(ctx, entryName(chain, n))
		if errors.Is(err, object.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	if known > 0 {
		if more, err := there(known + 1); err != nil || !more {
			return known, err
		}
	}
	power := uint64(1)
	for ; power < maxNumber; power *= 2 {
		ok, err := there(power)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
	}
	head := power / 2
	for step := power / 4; step > 0; step /= 2 {
		ok, err := there(head + step)
		if err != nil {
			return 0, err
		}
		if ok {
			head += step
		}
	}
	return head, nil
}

// tailOf reads the end of a log.
func (r *Repository) tailOf(ctx context.Context, chain string) (logTail, *entry, error) {
	n, err := r.headNumber(ctx, chain)
	if err != nil {
		return logTail{}, nil, fmt.Errorf("find end of log %s: %w", chain, err)
	}
	return r.tailAt(ctx, chain, n)
}

// tailAt reads entry n of a log as its end, which n = 0 is before all entries.
func (r *Repository) tailAt(ctx context.Context, chain string, n uint64) (logTail, *entry, error) {
	if n == 0 {
		return newTail(chain), nil, nil
	}
	e, err := r.readEntry(ctx, chain, n)
	if errors.Is(err, object.ErrNotExist) {
		return logTail{}, nil, damaged(entryName(chain, n), err, "missing")
	}
	if err != nil {
		return logTail{}, nil, err
	}
	t := e.tail()
	r.cache.setHead(t)
	return t, e, nil
}

// chainHead returns what a writer must know when it begins: the chain of its
// stream, the number of the log's last entry and the epoch. What it stores is
// named with the epoch, and Commit looks at all entries after that number.
func (r *Repository) chainHead(ctx context.Context, target, stream string) (chain string, since, epoch uint64, err error) {
	if chain, err = r.Chain(target, stream); err != nil {
		return "", 0, 0, err
	}
	t, _, err := r.tailOf(ctx, chain)
	return chain, t.Number, t.epoch, err
}

// readOn reads the entries that follow a tail and hands them on, until there
// are no more.
func (r *Repository) readOn(ctx context.Context, t *logTail, seen func(*entry) error) error {
	for {
		e, err := r.readEntry(ctx, t.chain, t.Number+1)
		if errors.Is(err, object.ErrNotExist) {
			r.cache.setHead(*t)
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.follow(e); err != nil {
			return err
		}
		if err := seen(e); err != nil {
			return err
		}
	}
}

// logReads is how many entries of a log are read at once.
const logReads = 8

// readLog reads a whole log.
func (r *Repository) readLog(ctx context.Context, chain string, seen func(*entry) error) (logTail, error) {
	head, err := r.headNumber(ctx, chain)
	if err != nil {
		return logTail{}, fmt.Errorf("find end of log %s: %w", chain, err)
	}
	t := newTail(chain)
	for t.Number < head {
		part := make([]*entry, min(logReads, head-t.Number))
		var g errgroup.Group
		for i := range part {
			g.Go(func() (err error) {
				part[i], err = r.readEntry(ctx, chain, t.Number+1+uint64(i))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return t, err
		}
		for _, e := range part {
			if err := t.follow(e); err != nil {
				return t, err
			}
			if err := seen(e); err != nil {
				return t, err
			}
		}
	}
	return t, r.readOn(ctx, &t, seen)
}

// appendEntry adds an entry to a log. Before, and whenever its number turns
// out to be taken, it reads all entries after the tail and hands them to seen;
// then build makes the entry's kind, task, time, codec and body, or returns
// nothing if there is nothing left to say. So of two who append, one knows what
// the other wrote.
func (r *Repository) appendEntry(ctx context.Context, t *logTail, seen func(*entry) error, build func() (*entry, error)) (*entry, error) {
	atomic, err := r.bucket.Atomic(ctx)
	if err != nil {
		return nil, err
	}
	if atomic || r.sole {
		return r.appendAlone(ctx, t, seen, build, atomic)
	}
	if r.lock == nil {
		return nil, fmt.Errorf("append to log %s: %w", t.chain, ErrNeedsLock)
	}
	locked, unlock, err := r.lock(ctx, chainsPrefix+t.chain)
	if err != nil {
		return nil, fmt.Errorf("append to log %s: wait for its lock: %w", t.chain, err)
	}
	defer unlock()
	e, err := r.appendAlone(locked, t, seen, build, atomic)
	if err != nil && locked.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("append to log %s: its lock was lost: %w", t.chain, context.Cause(locked))
	}
	return e, err
}

// appendAlone is appendEntry by one who has the log's lock, if it takes one.
func (r *Repository) appendAlone(ctx context.Context, t *logTail, seen func(*entry) error, build func() (*entry, error), atomic bool) (*entry, error) {
	var last *entry
	note := func(e *entry) error {
		last = e
		return seen(e)
	}
	for try := 0; ; try++ {
		if err := waitTaken(ctx, entryName(t.chain, t.Number+1), try); err != nil {
			return nil, err
		}
		known := t.Number
		if err := r.readOn(ctx, t, note); err != nil {
			return nil, err
		}
		if t.Number > known {
			try = 0 // what had taken the name was an entry
		}
		e, err := build()
		if errors.Is(err, object.ErrNotExist) {
			// What it looked for may have been condemned by an entry that came
			// meanwhile, and be gone: then that is the reason.
			n := t.Number
			if err := r.readOn(ctx, t, note); err != nil {
				return nil, err
			}
			if t.Number > n {
				try = 0
				continue
			}
		}
		if e == nil || err != nil {
			return nil, err
		}
		if err := r.mendLast(ctx, t, last); err != nil {
			return nil, err
		}
		written, err := r.putEntry(ctx, t, e, atomic)
		if written || err != nil {
			return e, err
		}
	}
}

// putEntry writes an entry behind a log's tail, unless its number is taken.
func (r *Repository) putEntry(ctx context.Context, t *logTail, e *entry, atomic bool) (written bool, err error) {
	e.repository, e.chain, e.number, e.previous, e.epoch, e.critical = r.marker.ID, t.chain, t.Number+1, t.Hash, t.epoch, none
	if e.signature, err = r.signer.Sign(e.head()); err != nil {
		return false, err
	}
	// What we would not accept ourselves must not get in the way of others.
	if err := r.trust.Check(e.head(), e.signature); err != nil {
		return false, fmt.Errorf("append to log %s: %w", t.chain, err)
	}
	data := e.encode()
	if len(data) > maxEntry {
		return false, fmt.Errorf("%w: log entry of %d bytes, at most %d", ErrBounds, len(data), maxEntry)
	}
	name := entryName(t.chain, e.number)
	err = r.bucket.PutBytes(ctx, name, data)
	if errors.Is(err, object.ErrExist) {
		return false, nil // the next round reads it
	}
	if err != nil {
		return false, err
	}
	if !atomic {
		// Whoever had the lock before may have been late.
		there, err := r.bucket.ReadAll(ctx, name, maxEntry)
		if err != nil {
			return false, err
		}
		if !bytes.Equal(there, data) {
			return false, nil
		}
	}
	sum := sha256.Sum256(data)
	e.hash = hex.EncodeToString(sum[:])
	*t = e.tail()
	r.cache.setHead(*t)
	return true, nil
}

// chains returns the chains that a listing shows, be it by their log or by
// objects. It may lack some: nothing may be concluded from that.
func (r *Repository) chains(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	for _, prefix := range []string{chainsPrefix, metaPrefix, packsPrefix} {
		for info, err := range r.bucket.List(ctx, prefix) {
			if err != nil {
				return nil, fmt.Errorf("list chains: %w", err)
			}
			chain, _, _ := strings.Cut(strings.TrimPrefix(info.Name, prefix), "/")
			if !found[chain] && chainPattern.MatchString(chain) {
				found[strings.Clone(chain)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}
