package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"jetkeep/store/object"
)

const (
	pinPrefix = "pins/"
	maxPin    = 64 << 10
	maxReason = 4 << 10
)

// A Pin keeps a restore point, or all those of a backup, from being forgotten.
type Pin struct {
	ID     string    `json:"id"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
	// Check is the SHA-256 over the rest, each with a line break: accidents in a
	// reason would be read as another reason.
	Check string `json:"check"`
	// Err says why the rest cannot be read. It is a pin all the same.
	Err error `json:"-"`
}

func (p *Pin) check() string {
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n", p.ID, p.Reason, p.Time.Format(time.RFC3339))))
}

// Pin pins a restore point or a backup. If it is pinned already, the reason
// stays as it was.
func (r *Repository) Pin(ctx context.Context, id, reason string) error {
	if err := r.pin(ctx, id, reason); err != nil {
		return fmt.Errorf("pin %s: %w", id, err)
	}
	return nil
}

func (r *Repository) pin(ctx context.Context, id, reason string) error {
	if err := r.writable(); err != nil {
		return err
	}
	if len(reason) > maxReason {
		return fmt.Errorf("reason: %w", ErrBounds)
	}
	if err := r.known(ctx, id); err != nil {
		return err
	}
	p := Pin{ID: id, Reason: strings.ToValidUTF8(reason, "\uFFFD"), Time: time.Now().UTC().Truncate(time.Second)}
	p.Check = p.check()
	data, err := marshal(p)
	if err == nil && r.sealer != nil {
		data, err = r.sealer.SealMeta(data) // a reason may name anything
	}
	if err != nil {
		return err
	}
	err = r.bucket.PutBytes(ctx, pinPrefix+id, data)
	if errors.Is(err, object.ErrExist) {
		return nil
	}
	return err
}

// known says whether there is a restore point or a backup of that id.
func (r *Repository) known(ctx context.Context, id string) error {
	if !idPattern.MatchString(id) {
		return ErrNoPoint
	}
	_, err := r.bucket.Stat(ctx, commitName(id))
	if !errors.Is(err, object.ErrNotExist) {
		return err
	}
	for _, err := range r.bucket.List(ctx, commitPrefix+id+".") {
		return err
	}
	return ErrNoPoint
}

// Unpin takes a pin away; that there is none is no error.
func (r *Repository) Unpin(ctx context.Context, id string) error {
	err := r.current()
	if err == nil && !idPattern.MatchString(id) {
		err = ErrNoPoint
	}
	if err == nil {
		err = r.bucket.Delete(ctx, pinPrefix+id)
	}
	if err != nil {
		return fmt.Errorf("unpin %s: %w", id, err)
	}
	return nil
}

// Pins returns the pins by what they pin, as far as a listing shows them.
// Forget asks for each by its name instead.
func (r *Repository) Pins(ctx context.Context) (map[string]Pin, error) {
	pins := map[string]Pin{}
	for info, err := range r.bucket.List(ctx, pinPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list pins: %w", err)
		}
		id := strings.TrimPrefix(info.Name, pinPrefix)
		p, err := r.readPin(ctx, id)
		if errors.Is(err, object.ErrNotExist) {
			continue // taken away meanwhile
		}
		p.ID, p.Err = id, err
		pins[id] = p
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	return pins, nil
}

func (r *Repository) readPin(ctx context.Context, id string) (Pin, error) {
	name := pinPrefix + id
	data, err := readSmall(ctx, r.bucket, name, maxPin)
	if err == nil && r.sealer != nil {
		data, err = r.sealer.OpenMeta(data)
		if err != nil && !errors.Is(err, ErrLocked) && !errors.Is(err, ErrWrongIdentity) {
			return Pin{}, damaged(name, err, "sealed pin")
		}
	}
	if err != nil {
		return Pin{}, fmt.Errorf("read %s: %w", name, err)
	}
	var p Pin
	if err := json.Unmarshal(data, &p); err != nil || p.ID != id {
		return Pin{}, damaged(name, err, "is no pin of %s", id)
	}
	if again, err := marshal(p); err != nil || p.Check != p.check() || !bytes.Equal(again, data) {
		return Pin{}, damaged(name, err, "differs from its check")
	}
	return p, nil
}

// checkPins says whether a restore point or its backup is pinned.
func (r *Repository) checkPins(ctx context.Context, id string, e *entry) error {
	s, err := decodeSummary(commitName(id), e)
	if err != nil {
		return err
	}
	for _, pinned := range []string{id, s.Backup} {
		if !idPattern.MatchString(pinned) {
			continue
		}
		_, err := r.bucket.Stat(ctx, pinPrefix+pinned)
		if err == nil {
			return fmt.Errorf("%w: %s", ErrPinned, pinned)
		}
		if !errors.Is(err, object.ErrNotExist) {
			return err
		}
	}
	return nil
}
