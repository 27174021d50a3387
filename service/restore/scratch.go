package restore

import (
	"context"
	"encoding/json"
	"fmt"

	"jetkeep/service/archive"
	"jetkeep/store"
)

// Alone changes a restore point so that it can be restored on a single server that
// knows no other stream: with one replica, on disk, without a placement, and
// without what would bring messages from elsewhere or send some on. Messages,
// consumers and all other settings stay. What was left out is named.
func Alone(p store.Point) (store.Point, []string, error) {
	config, left, err := without(p.Config, "placement", "mirror", "mirror_direct", "sources", "republish")
	if err != nil {
		return p, nil, fmt.Errorf("configuration of stream %s: %w", p.Stream, err)
	}
	config["num_replicas"], config["storage"] = json.RawMessage("1"), json.RawMessage(`"file"`)
	p.Config, err = json.Marshal(config)
	return p, left, err
}

// AloneSource is a source whose consumers have as many replicas as their stream.
func AloneSource(s Source) Source { return aloneSource{s} }

type aloneSource struct{ Source }

// Consumers implements Source.
func (s aloneSource) Consumers(ctx context.Context, p store.Point) ([]archive.Consumer, error) {
	list, err := s.Source.Consumers(ctx, p)
	if err != nil {
		return nil, err
	}
	for i := range list {
		config, _, err := without(list[i].Config, "num_replicas", "mem_storage")
		if err != nil {
			return nil, fmt.Errorf("configuration of consumer %s: %w", list[i].Name, err)
		}
		if list[i].Config, err = json.Marshal(config); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// without removes fields from an object, and names those that said something.
func without(raw json.RawMessage, fields ...string) (map[string]json.RawMessage, []string, error) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, nil, err
	}
	var left []string
	for _, f := range fields {
		if v, ok := c[f]; ok && !isZero(v) {
			left = append(left, f)
		}
		delete(c, f)
	}
	return c, left, nil
}
