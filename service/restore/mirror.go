package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"jetkeep/service/jsapi"
)

// Servers before 2.15 answer the archive of a memory stream with success and
// make it empty. Since 2.12 they let a mirror be promoted by an update that
// takes the mirror out of its configuration. So the messages go into a file
// stream of ours, the memory stream mirrors that one with all sequences and
// times, and is promoted when it has everything.

// mirrorPatience is how long a mirror may stand still.
const mirrorPatience = 30 * time.Second

// unmirrored are the settings that a mirror may not have; the promotion sets
// them.
var unmirrored = []string{"subjects", "duplicate_window", "subject_transform", "subject_delete_marker_ttl", "first_seq",
	"sealed", "allow_rollup_hdrs", "deny_delete", "deny_purge", "republish", "allow_atomic", "allow_batched", "discard_new_per_subject"}

// temporary is the file stream's name, the same in each execution of the same
// restore, so that a repeated one finds what an interrupted one left.
func temporary(point, stream string) string {
	return "JETKEEP_RESTORE_" + serverHash(point+" "+stream)
}

func (x *execution) byMirror(ctx context.Context) (err error) {
	tmp := temporary(x.Point.ID, x.stream)
	if err := x.dropTemporary(ctx, tmp); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{"name": tmp, "storage": "file", "retention": "limits", "num_replicas": 1})
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	if _, err := x.tryUpload(ctx, tmp, config, MethodV1); err != nil {
		return err
	}
	made, err := x.mirror(ctx, tmp)
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	if err != nil && made {
		err = errors.Join(err, x.delete(clean, x.stream))
	}
	return errors.Join(err, x.delete(clean, tmp))
}

func (x *execution) dropTemporary(ctx context.Context, tmp string) error {
	_, err := x.Conn.API.StreamInfo(ctx, tmp, jsapi.InfoOptions{})
	if errors.Is(err, jsapi.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for stream %s: %w", tmp, err)
	}
	if !x.Repeated {
		return fmt.Errorf("%w: %s, left by an interrupted restore or in use by one", ErrExists, tmp)
	}
	return x.delete(ctx, tmp)
}

func (x *execution) delete(ctx context.Context, stream string) error {
	if err := x.Conn.API.DeleteStream(ctx, stream); err != nil && !errors.Is(err, jsapi.ErrStreamNotFound) {
		return fmt.Errorf("stream %s remains: delete: %w", stream, err)
	}
	return nil
}

// mirror makes the memory stream from the file stream. It says whether the
// stream was made, even if something failed afterwards.
func (x *execution) mirror(ctx context.Context, tmp string) (made bool, err error) {
	object, err := decodeObject(x.plan.config)
	if err != nil {
		return false, err
	}
	for _, field := range unmirrored {
		delete(object, field)
	}
	if object["mirror"], err = json.Marshal(map[string]string{"name": tmp}); err != nil {
		return false, fmt.Errorf("encode mirror: %w", err)
	}
	config, err := json.Marshal(object)
	if err != nil {
		return false, fmt.Errorf("encode configuration: %w", err)
	}
	if _, err := x.Conn.API.CreateStream(ctx, config); err != nil {
		return false, fmt.Errorf("create mirror %s: %w", x.stream, err)
	}
	if err := x.mirrored(ctx); err != nil {
		return true, err
	}
	return true, x.promote(ctx)
}

// promote makes the mirror a stream of its own. If the server's answer is lost,
// the stream says whether it is one: then others may publish to it already, and
// it must not be taken away.
func (x *execution) promote(ctx context.Context) error {
	info, err := x.Conn.API.UpdateStream(ctx, x.plan.config)
	var refused *jsapi.APIError
	if err != nil && !errors.As(err, &refused) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
		defer cancel()
		if now, asked := x.Conn.API.StreamInfo(ctx, x.stream, jsapi.InfoOptions{}); asked == nil && now.Mirror == nil {
			info, err = now, nil
		}
	}
	if err != nil {
		return fmt.Errorf("promote mirror %s: %w", x.stream, err)
	}
	x.info = info
	return nil
}

// mirrored waits until the mirror has everything.
func (x *execution) mirrored(ctx context.Context) error {
	last, moved := uint64(0), time.Now()
	for {
		info, err := x.Conn.API.StreamInfo(ctx, x.stream, jsapi.InfoOptions{})
		if err != nil {
			return fmt.Errorf("ask for mirror %s: %w", x.stream, err)
		}
		if info.State.LastSeq >= x.Point.State.LastSeq {
			return nil
		}
		if info.State.LastSeq > last {
			last, moved = info.State.LastSeq, time.Now()
		}
		if time.Since(moved) > mirrorPatience {
			return fmt.Errorf("%w: mirror %s stands still at sequence %d of %d", ErrState, x.stream, last, x.Point.State.LastSeq)
		}
		if err := sleep(ctx, poll); err != nil {
			return err
		}
	}
}
