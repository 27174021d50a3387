package store

import (
	"context"
	_ "embed" // the text of the readme
	"errors"
	"fmt"
	"strings"

	"jetkeep/store/object"
)

const (
	readmeName = "README.md"
	maxReadme  = 1 << 20
)

// readme tells a person who has nothing but the store, and common tools, how
// to get the messages out.
//
//go:embed byhand.md
var readme string

// putReadme stores it. One that is there already, of an Init that broke off,
// stays.
func putReadme(ctx context.Context, bucket *object.Bucket) error {
	err := bucket.PutBytes(ctx, readmeName, []byte(readme))
	if err != nil && !errors.Is(err, object.ErrExist) {
		return fmt.Errorf("write readme: %w", err)
	}
	return nil
}

// isReadme says whether the readme that is there is one of ours, of whatever
// version: they share their first line.
func isReadme(ctx context.Context, bucket *object.Bucket) (bool, error) {
	there, err := bucket.ReadAll(ctx, readmeName, maxReadme)
	if errors.Is(err, object.ErrTooLarge) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look into store: %w", err)
	}
	title, _, _ := strings.Cut(readme, "\n")
	return strings.HasPrefix(string(there), title+"\n"), nil
}
