package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"jetkeep/store/object"
)

// ErrPinned means that a restore point, or its backup, is pinned.
var ErrPinned = errors.New("restore point is pinned")

// maxForget is how many restore points one entry forgets.
const maxForget = 4096

// forgetBody is what a forget entry says: every restore point of these ids that
// comes before it in the log is no more.
type forgetBody struct {
	Points []string `json:"points"`
}

func decodeForget(e *entry) ([]string, error) {
	var b forgetBody
	if err := json.Unmarshal(e.body, &b); err != nil {
		return nil, damaged(entryName(e.chain, e.number), err, "body")
	}
	return b.Points, nil
}

// current says why a repository's logs cannot be added to. Entries that seal
// nothing need no key.
func (r *Repository) current() error {
	if r.marker.Format < Format {
		return ErrOldFormat
	}
	return nil
}

// Forget makes restore points cease to exist. It frees nothing yet; Prune does.
// If one of them is pinned it fails with ErrPinned and forgets none; if the store
// has promised to keep one for longer, with object.ErrRetained. Those that
// do not exist, or whose record is damaged, are named by the error and do not
// keep it from forgetting the others. A pin set in the same moment may come too
// late.
func (r *Repository) Forget(ctx context.Context, ids []string) error {
	if err := r.forget(ctx, ids); err != nil {
		return fmt.Errorf("forget restore points: %w", err)
	}
	return nil
}

func (r *Repository) forget(ctx context.Context, ids []string) error {
	if err := r.current(); err != nil {
		return err
	}
	chains, errs, err := r.forgettable(ctx, ids)
	if err != nil {
		return err
	}
	// Who may not delete must not log that it was done: what is forgotten and
	// there is damage. What is not there is deleted, so that nothing is.
	if len(chains) > 0 {
		if err := r.bucket.Delete(ctx, probePrefix+"delete"); err != nil {
			return err
		}
	}
	for _, chain := range slices.Sorted(maps.Keys(chains)) {
		for part := range slices.Chunk(chains[chain], maxForget) {
			if err := r.forgetOf(ctx, chain, part); err != nil {
				return err
			}
		}
	}
	return errors.Join(errs...)
}

// CheckForget fails if Forget would, as far as that can be known before.
func (r *Repository) CheckForget(ctx context.Context, ids []string) error {
	err := r.current()
	var errs []error
	if err == nil {
		_, errs, err = r.forgettable(ctx, ids)
	}
	if err = errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("forget restore points: %w", err)
	}
	return nil
}

// forgettable returns the restore points that can be forgotten, by the logs that they
// are in, and what is wrong with the others. It fails if one is to be kept.
func (r *Repository) forgettable(ctx context.Context, ids []string) (chains map[string][]string, errs []error, err error) {
	chains = map[string][]string{}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		e, err := r.copyOf(ctx, id)
		var damage *DamageError
		switch {
		case errors.Is(err, ErrNoPoint), errors.As(err, &damage):
			errs = append(errs, err)
			continue
		case err != nil:
			return nil, nil, err
		}
		if err := r.checkPins(ctx, id, e); err != nil {
			return nil, nil, err
		}
		if err := r.checkRetained(ctx, id, e); err != nil {
			return nil, nil, err
		}
		chains[e.chain] = append(chains[e.chain], id)
	}
	return chains, errs, nil
}

// forgetOf forgets restore points of one chain: first in its log, from where
// it can be carried on if the rest does not happen.
func (r *Repository) forgetOf(ctx context.Context, chain string, ids []string) error {
	tail, _, err := r.tailOf(ctx, chain)
	if err != nil {
		return err
	}
	body, err := marshal(forgetBody{Points: ids})
	if err != nil {
		return err
	}
	_, err = r.appendEntry(ctx, &tail, func(*entry) error { return nil }, func() (*entry, error) {
		return &entry{kind: entryForget, task: actionID(entryForget), time: time.Now().UTC(), codec: bodyJSON, body: body}, nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		// One that is retained since it was looked at is left to a prune.
		if err := r.bucket.Delete(ctx, commitName(id)); err != nil && !errors.Is(err, object.ErrRetained) {
			return err
		}
	}
	return nil
}

// checkRetained says whether the store promised to keep a restore point for
// longer. Its record could not be deleted, and what it needs neither.
func (r *Repository) checkRetained(ctx context.Context, id string, e *entry) error {
	s, err := decodeSummary(commitName(id), e)
	if err != nil {
		return err
	}
	until, err := r.RetainedUntil(ctx, Point{ID: id, Retained: s.Retained})
	if err == nil && until.After(time.Now()) {
		err = fmt.Errorf("%w: restore point %s until %s", object.ErrRetained, id, until.UTC().Format(time.RFC3339))
	}
	return err
}

// RetainedUntil returns until when a restore point cannot be forgotten: as long
// as the store promised, and as long as it keeps the record by which it is
// found, which is somewhat longer. It would be listed and not be one. It is zero
// in a store that promises nothing, and asks the store if the promise is over.
func (r *Repository) RetainedUntil(ctx context.Context, p Point) (time.Time, error) {
	keeper, ok := r.bucket.Retainer()
	if !ok {
		return time.Time{}, nil
	}
	if p.Retained.After(time.Now()) {
		return p.Retained, nil
	}
	until, err := keeper.Retention(ctx, commitName(p.ID))
	if errors.Is(err, object.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("retention of restore point %s: %w", p.ID, err)
	}
	return until, nil
}

// copyOf reads the public part of the record that is found by a restore
// point's id.
func (r *Repository) copyOf(ctx context.Context, id string) (*entry, error) {
	if !idPattern.MatchString(id) {
		return nil, fmt.Errorf("%w: %q", ErrNoPoint, id)
	}
	name := commitName(id)
	data, err := r.bucket.ReadAll(ctx, name, maxCommit)
	switch {
	case errors.Is(err, object.ErrNotExist):
		return nil, fmt.Errorf("%w: %s", ErrNoPoint, id)
	case errors.Is(err, object.ErrTooLarge):
		return nil, damaged(name, err, "too large")
	case err != nil:
		return nil, err
	}
	e, err := r.decodeEntry(name, data)
	if err == nil && (e.task != id || e.kind != entryPoint) {
		return nil, damaged(name, nil, "is the %s %s", e.kind, e.task)
	}
	return e, err
}

// actionID names an entry that belongs to no task.
func actionID(kind string) string { return kind + "-" + strings.ToLower(rand.Text()) }
