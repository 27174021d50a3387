// Package stores makes drivers of what a configuration says of a repository.
//
// A driver of a distant store stands behind the portable layer: what may pass
// is tried again, what stalls is ended. Nothing here speaks to a store before
// Open or Create is called, and no error shows a secret.
package stores

import (
	"context"
	"errors"
	"fmt"

	"jetkeep/service/config"
	"jetkeep/store/object"
	"jetkeep/store/object/local"
)

// ErrKind means that this program has no driver for a kind of repository.
var ErrKind = errors.New("no driver for this kind of repository")

// Distant says whether a repository is reached over a network: it is opened
// once, for what is there cannot be mistaken for an empty directory.
func Distant(r *config.Repository) bool { return r.Kind != config.KindLocal && r.Kind != "" }

// Check says what is wrong with a repository's fields, without asking anybody.
// Errors begin with the field as it is called in the configuration.
func Check(r *config.Repository) error {
	switch r.Kind {
	case config.KindLocal, "":
		return nil
	}
	return fmt.Errorf("kind: %q: %w", r.Kind, ErrKind)
}

// Open opens the place where a repository lives or is to live. It fails with
// object.ErrNotExist if there is no such directory, bucket or container. It
// needs no permission to write. The caller closes what it returns by
// object.NewBucket(d).Close.
func Open(_ context.Context, r *config.Repository) (object.Driver, error) {
	if err := Check(r); err != nil {
		return nil, err
	}
	return local.Open(r.Path)
}

// Create makes the place for a repository, unless it is there, and opens it.
func Create(ctx context.Context, r *config.Repository) (object.Driver, error) {
	d, err := Open(ctx, r)
	if !errors.Is(err, object.ErrNotExist) {
		return d, err
	}
	return local.Create(r.Path)
}
