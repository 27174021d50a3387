package store

import (
	"context"
	"encoding/json"
	"io"
)

// consumersIn reads the consumers of a restore point as they were stored.
func consumersIn(ctx context.Context, r *Repository, p Point) (out []json.RawMessage, err error) {
	err = r.Consumers(ctx, p, func(r io.Reader) (int, error) {
		err := json.NewDecoder(r).Decode(&out)
		return len(out), err
	})
	return out, err
}
