package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
)

// An Owner is a schedule as the policies of others need to know it.
type Owner struct {
	Repository, Target string
	// Keep is its own policy, nil if it has none.
	Keep *api.Keep
	// Unknown says that the schedule is there and cannot be read, so that nothing
	// else is known of it.
	Unknown bool
}

// Owners returns all schedules by their names. Unlike List it leaves none out
// that it cannot read: what such a one made must not be taken for nobody's.
func (s *Store) Owners(ctx context.Context) (map[string]Owner, error) {
	w, err := s.kv.Watch(ctx, specKey+"*", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	defer w.Stop() //nolint:errcheck // it ends with the context, too
	out := map[string]Owner{}
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("list schedules: %w", ctx.Err())
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, errors.New("list schedules: the watch ended")
			case e == nil:
				return out, nil
			}
			out[strings.TrimPrefix(e.Key(), specKey)] = ownerOf(e.Value())
		}
	}
}

func ownerOf(value []byte) Owner {
	var spec api.Schedule
	if json.Unmarshal(value, &spec) != nil {
		return Owner{Unknown: true}
	}
	return Owner{Repository: spec.Repository, Target: spec.Target, Keep: spec.Keep}
}
