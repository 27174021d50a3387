package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"jetkeep/service/archive"
	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/store/record"
)

// snapshots reads as much of the stream as the server's snapshots give. It
// returns an error only for what makes the capture hopeless; that a snapshot
// is not to be had is none, for complete reads whatever is lacking.
func (c *capture) snapshots(ctx context.Context) error {
	if c.before.State.Messages == 0 && c.before.State.Consumers == 0 {
		return nil
	}
	busySince := time.Time{}
	for try := 1; ; {
		err := c.snapshot(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jsapi.ErrNoSnapshot):
			c.log.Debug("server makes no snapshot of this stream", "reason", err)
			return nil
		case errors.Is(err, jsapi.ErrInProgress):
			if busySince.IsZero() {
				busySince = time.Now()
			}
			if time.Since(busySince) > busyPatience {
				return fmt.Errorf("snapshot stream %s: another one was in progress for %s: %w", c.stream, busyPatience, err)
			}
			if err := pause(ctx, busyPause); err != nil {
				return err
			}
		case !isServerFault(err):
			return fmt.Errorf("snapshot stream %s: %w", c.stream, err)
		case try == maxSnapshots:
			c.note("%d snapshots in a row failed, the rest was read by sequence; the last error: %v", try, err)
			return nil
		default:
			c.log.Warn("snapshot failed, trying again", "try", try, "error", err)
			try++
		}
	}
}

// isServerFault tells the failures that the server reports of itself, which
// leave what was read valid, from all others.
func isServerFault(err error) bool {
	var fault *archive.ServerFault
	var status *jetsnap.StatusError
	return errors.As(err, &fault) || errors.As(err, &status)
}

func (c *capture) snapshot(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	snap, err := c.t.Snapshot(ctx, c.stream, c.o.Snapshot)
	if err != nil {
		return err
	}
	defer snap.Close()
	sum, err := archive.Read(snap, c.stream, (*visitor)(c))
	if err != nil {
		return err
	}
	c.engine = EngineSnapshotV2
	if sum.Format == archive.FormatV1 {
		c.engine = EngineSnapshotV1
	}
	c.bound = max(c.bound, sum.LastSequence)
	if len(sum.Duplicates) > 0 || len(sum.MissingBlocks) > 0 {
		c.note("the server's snapshot lacked blocks %v and gave %v twice", sum.MissingBlocks, sum.Duplicates)
	}
	return nil
}

// visitor takes what an archive holds into a capture.
type visitor capture

// Record takes a message unless it was dead before the snapshot began: V1
// archives still hold many that were deleted long ago.
func (v *visitor) Record(r *record.Record) error {
	st := &v.before.State
	if r.Sequence < st.FirstSeq || (st.Deleted != nil && st.Deleted.Contains(r.Sequence)) {
		return nil
	}
	return (*capture)(v).add(r)
}

// Tombstone needs no action: what is dead in the end is in the last answer to
// STREAM.INFO.
func (v *visitor) Tombstone(uint64) error { return nil }

func (v *visitor) Consumer(c archive.Consumer) error {
	v.consumers[c.Name] = c
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
