package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/config"
	"jetkeep/service/stores"
)

// demoStore is where a demo keeps its repository if not in its own directory:
// below a prefix that nobody else has, so that all of it can be deleted again.
type demoStore struct {
	location location
	given    bool
}

// parse reads where the demo's repository is to be.
func (s *demoStore) parse(text string) error {
	if text == "" {
		return nil
	}
	loc, err := parseLocation(text)
	if err != nil {
		return err
	}
	name := "jetkeep-demo-" + time.Now().UTC().Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:8])
	r := &loc.repository
	switch r.Kind {
	case config.KindS3:
		r.S3.Prefix = path.Join(r.S3.Prefix, name)
	case config.KindSwift:
		r.Swift.Prefix = path.Join(r.Swift.Prefix, name)
	default:
		if r.Path, err = filepath.Abs(filepath.Join(r.Path, name)); err != nil {
			return fmt.Errorf("find directory %s: %w", text, err)
		}
	}
	s.location, s.given = loc, true
	return nil
}

// repository returns what the instance is to use.
func (s *demoStore) repository() *config.Repository {
	if !s.given {
		return nil
	}
	return &s.location.repository
}

// clear deletes what the demo wrote.
func (s *demoStore) clear(d *demo) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n, err := stores.Clear(ctx, &s.location.repository)
	if err != nil {
		return fmt.Errorf("clear up in %s: %w", s.location, err)
	}
	if s.location.distant() {
		d.say("%s deleted in %s", term.Plural(n, "object"), s.location)
	}
	return nil
}
