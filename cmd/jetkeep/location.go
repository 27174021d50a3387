package main

import (
	"errors"
	"net/url"
	"path/filepath"
	"regexp"

	"jetkeep/store/object"
	"jetkeep/store/object/local"
)

// A location says where a repository lives. There is one kind so far, a
// directory; others will have a scheme of their own.
type location struct {
	dir string
}

var urlPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

// parseLocation reads a path or a file:// URL. What looks like another URL is
// refused, before a directory named "s3:" is made.
func parseLocation(text string) (location, error) {
	if text == "" {
		return location{}, usagef("where the repository is to be found is missing")
	}
	if !urlPattern.MatchString(text) {
		return location{dir: text}, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return location{}, usagef("location: malformed URL") // it may hold a password
	}
	if u.Scheme != "file" || u.Host != "" || u.Path == "" {
		return location{}, usagef("location %q: only a directory can be used", u.Redacted())
	}
	return location{dir: filepath.FromSlash(u.Path)}, nil
}

// open opens what is there. The caller closes the bucket.
func (l location) open() (*object.Bucket, error) {
	d, err := local.Open(l.dir)
	if err != nil {
		return nil, err
	}
	return object.NewBucket(d), nil
}

// create makes what a repository can be made in, unless it is there.
func (l location) create() (*object.Bucket, error) {
	d, err := local.Open(l.dir)
	if errors.Is(err, object.ErrNotExist) {
		d, err = local.Create(l.dir)
	}
	if err != nil {
		return nil, err
	}
	return object.NewBucket(d), nil
}

func (l location) String() string {
	if abs, err := filepath.Abs(l.dir); err == nil {
		return abs
	}
	return l.dir
}
