package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"jetkeep/service/jsapi"
	"jetkeep/store"
	"jetkeep/store/seqset"
)

// A descent decides which restore point an attempt goes on from, if any, and
// which lineage its own belongs to.
//
// A lineage is the unbroken life of one stream. It goes on only where a message
// for message comparison shows that it does: the writer compares each record
// that the server sends with the one that the earlier point has under the same
// sequence. The created time alone proves nothing, since a restore keeps it, as
// does a server that lost its end in a crash and gave the sequences away again.
// So whenever there is an earlier point and the new one does not go on from it,
// whatever the reason, a new lineage begins, named after the task: the same
// name if the task is done again after a crash, and a name that no earlier
// lineage has even if the stream returned to an earlier life.
type descent struct {
	job     *Job
	w       *store.Writer
	full    string // why nothing is gone on from
	base    store.Point
	lineage string
	notes   []string
}

// An unusableError ends an attempt that cannot go on from the restore point it
// began with; the stream must be stored in full.
type unusableError struct {
	note string
	err  error
}

func (e *unusableError) Error() string { return e.note + ": " + e.err.Error() }
func (e *unusableError) Unwrap() error { return e.err }

// begin looks for the newest restore point and makes the writer go on from it
// if it is of the same stream. It runs after the server was asked what the
// stream holds and before the first record.
func (d *descent) begin(ctx context.Context, info *jsapi.StreamInfo, alive *seqset.Set) error {
	p := &d.job.Point
	if d.full != "" {
		d.fresh(info.Created, d.full)
		return nil
	}
	base, err := d.job.Repository.Latest(ctx, p.Target, p.Stream)
	var damage *store.DamageError
	switch {
	case errors.Is(err, store.ErrNoPoint):
		return d.first(info.Created)
	case errors.Is(err, store.ErrLocked):
		d.fresh(info.Created, "this instance lacks the key that reads the stream's newest restore point")
		return nil
	case errors.Is(err, store.ErrUntrusted):
		d.fresh(info.Created, fmt.Sprintf("the stream's newest restore point is not trusted (%v)", err))
		return nil
	case errors.As(err, &damage):
		d.fresh(info.Created, fmt.Sprintf("the stream's newest restore point cannot be read (%v)", err))
		return nil
	case err != nil:
		return fmt.Errorf("find newest restore point of stream %s: %w", p.Stream, err)
	}
	if d.job.Suspect != nil {
		if bad := d.job.Suspect(base); bad != "" {
			d.fresh(info.Created, fmt.Sprintf("a verification found restore point %s damaged", bad))
			return nil
		}
	}
	if why := broken(info, &base); why != "" {
		d.fresh(info.Created, why)
		return nil
	}
	err = d.w.Continue(ctx, base, alive)
	if errors.Is(err, store.ErrBase) {
		d.fresh(info.Created, fmt.Sprintf("restore point %s cannot be gone on from (%v)", base.ID, cause(err)))
		return nil
	}
	if err != nil {
		return fmt.Errorf("go on from restore point %s: %w", base.ID, err)
	}
	d.base, d.lineage = base, base.Lineage
	return nil
}

// first names the lineage of a stream's first restore point. A service with a
// writer key of its own does not see the points of others, which may be of
// another life: then the key, by way of the chain that it makes, is in the name.
func (d *descent) first(created time.Time) error {
	p, repo := &d.job.Point, d.job.Repository
	d.lineage = lineage(p.Stream, created)
	if !repo.Encrypted() {
		return nil
	}
	chain, err := repo.Chain(p.Target, p.Stream)
	if err != nil {
		return fmt.Errorf("name lineage of stream %s: %w", p.Stream, err)
	}
	d.lineage = lineage(p.Stream, created, chain)
	return nil
}

// broken says why a stream cannot be the one that a restore point shows, as
// far as its state tells.
func broken(info *jsapi.StreamInfo, base *store.Point) string {
	switch {
	case !info.Created.Equal(base.Created):
		return fmt.Sprintf("the stream was created on %s, that of restore point %s on %s: it was deleted and created again",
			info.Created.UTC().Format(time.RFC3339Nano), base.ID, base.Created.UTC().Format(time.RFC3339Nano))
	case info.State.LastSeq < base.State.LastSeq:
		return fmt.Sprintf("the stream ends at sequence %d, that of restore point %s at %d: it was restored, or lost its end",
			info.State.LastSeq, base.ID, base.State.LastSeq)
	}
	return ""
}

// fresh begins a lineage, for a reason that people are told.
func (d *descent) fresh(created time.Time, why string) {
	d.lineage = lineage(d.job.Point.Stream, created, d.job.Point.Task)
	d.notes = append(d.notes, why+"; stored in full, a new lineage begins")
	if d.full == "" { // else it was told when it was found out
		d.job.Log.Warn("a new lineage begins", "stream", d.job.Point.Stream, "reason", why)
	}
}

// explain marks the errors that mean that the attempt must be made again
// without its base.
func (d *descent) explain(err error) error {
	var diverged *store.DivergedError
	switch {
	case d.base.ID == "":
		return err
	case errors.As(err, &diverged):
		return &unusableError{err: err, note: fmt.Sprintf(
			"message %d is not the one that restore point %s has: the stream was restored, or lost its end and gave its sequences to other messages",
			diverged.Sequence, d.base.ID)}
	case errors.Is(err, store.ErrBase):
		return &unusableError{err: err, note: fmt.Sprintf("restore point %s cannot be gone on from (%v)", d.base.ID, cause(err))}
	}
	return err
}

// cause returns the damage in an error, or else the error.
func cause(err error) error {
	var damage *store.DamageError
	if errors.As(err, &damage) {
		return damage
	}
	return err
}

// lineage names the unbroken life of a stream: its name, when it was made, and
// what else tells it from others, such as the task that found it to be another
// one than before.
func lineage(stream string, created time.Time, more ...string) string {
	text := stream + "\x00" + created.UTC().Format(time.RFC3339Nano)
	for _, m := range more {
		text += "\x00" + m
	}
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:16])
}
