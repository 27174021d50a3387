package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"jetkeep/service/config"
	"jetkeep/service/stores"
	"jetkeep/store/object"
)

// A location says where a repository lives: in a directory, or in a store that
// a URL names.
type location struct {
	repository config.Repository
}

// locationHelp is what a flag that takes a location says.
const locationHelp = "s3://bucket/prefix?endpoint=URL&region=NAME, swift://container/prefix; their credentials come from AWS_…, OS_… or ST_… variables"

// parseLocation reads a path or a URL. What cannot be meant is refused, before
// a directory named "s3:" is made.
func parseLocation(text string) (location, error) {
	if text == "" {
		return location{}, usagef("where the repository is to be found is missing")
	}
	r, err := config.ParseLocation(text, os.Getenv)
	if err == nil {
		err = stores.Check(&r)
	}
	if err != nil {
		return location{}, &usageError{err: err}
	}
	return location{repository: r}, nil
}

// distant says whether it is no directory.
func (l location) distant() bool { return stores.Distant(&l.repository) }

// open opens what is there. The caller closes the bucket.
func (l location) open(ctx context.Context) (*object.Bucket, error) {
	d, err := stores.Open(ctx, &l.repository)
	if errors.Is(err, object.ErrNotExist) {
		what := "directory"
		if l.distant() {
			what = "bucket or container"
		}
		return nil, fmt.Errorf("%s: there is no such %s", l, what)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	return object.NewBucket(d), nil
}

// create makes what a repository can be made in, unless it is there.
func (l location) create(ctx context.Context) (*object.Bucket, error) {
	d, err := stores.Create(ctx, &l.repository)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	return object.NewBucket(d), nil
}

func (l location) String() string {
	text := l.repository.Location()
	if l.distant() {
		return text
	}
	if abs, err := filepath.Abs(text); err == nil {
		return abs
	}
	return text
}
