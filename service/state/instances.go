package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	keyInstances = "instance."
	// BeatEvery is how often an instance says that it lives, and SilentAfter how
	// long it may say nothing.
	BeatEvery   = 10 * time.Second
	SilentAfter = 3 * BeatEvery
	// forgetAfter is how long an instance that fell silent is remembered.
	forgetAfter = 24 * time.Hour
	// maxInstances bounds how many are listed.
	maxInstances = 1000
)

// A Beat is what an instance says of itself.
type Beat struct {
	Instance     string    `json:"instance"`
	Process      string    `json:"process"` // tells apart what has one name
	Version      string    `json:"version"`
	Started      time.Time `json:"started"`
	Running      int       `json:"running_tasks"`
	StagingUsed  int64     `json:"staging_used"`
	StagingLimit int64     `json:"staging_limit"`
	// Targets and Repositories are the names of those that it is configured
	// with, in order, the first maxNames of each; All tells apart different sets
	// also beyond them. Instances of older versions do not say them.
	Targets      []string  `json:"targets,omitempty"`
	Repositories []string  `json:"repositories,omitempty"`
	All          string    `json:"all,omitempty"`
	Problems     []Problem `json:"problems,omitempty"`
}

// maxNames bounds a heartbeat, which must fit into a message.
const maxNames = 256

// A Problem is something that an instance cannot do until somebody mends it.
type Problem struct {
	Repository string `json:"repository,omitempty"`
	Problem    string `json:"problem"`
	Hint       string `json:"hint,omitempty"`
}

// Configure sets what the instance is configured with.
func (b *Beat) Configure(targets, repositories []string) {
	targets, repositories = slices.Sorted(slices.Values(targets)), slices.Sorted(slices.Values(repositories))
	h := sha256.New()
	for _, list := range [][]string{targets, repositories} {
		for _, name := range list {
			fmt.Fprintln(h, name)
		}
		fmt.Fprintln(h)
	}
	b.All = hex.EncodeToString(h.Sum(nil)[:12])
	b.Targets, b.Repositories = targets[:min(len(targets), maxNames)], repositories[:min(len(repositories), maxNames)]
}

// Has says whether the instance is known to have a target and a repository, if
// they are named, and not to refuse the repository.
func (b *Beat) Has(target, repository string) bool {
	return (target == "" || slices.Contains(b.Targets, target)) &&
		(repository == "" || slices.Contains(b.Repositories, repository)) &&
		!slices.ContainsFunc(b.Problems, func(p Problem) bool { return p.Repository == repository && repository != "" })
}

// Alive says whether the instance was heard of lately.
func (s *Seen) Alive() bool { return s.Silent < SilentAfter }

func (b *Beat) key() string {
	h := sha256.Sum256([]byte(b.Instance + "\x00" + b.Process))
	return keyInstances + hex.EncodeToString(h[:12])
}

// A Seen is the last beat of an instance, and how long it has been silent by the
// clock of the server: since the newest beat of any.
type Seen struct {
	Beat
	At     time.Time // by the server's clock
	Silent time.Duration
}

// Beat notes that an instance lives.
func (s *Store) Beat(ctx context.Context, b Beat) error {
	data, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode heartbeat: %w", err)
	}
	if _, err := s.kv.Put(ctx, b.key(), data); err != nil {
		return fmt.Errorf("put heartbeat: %w", err)
	}
	return nil
}

// Leave forgets an instance that ended in good order.
func (s *Store) Leave(ctx context.Context, b Beat) error {
	if err := s.kv.Purge(ctx, b.key()); err != nil {
		return fmt.Errorf("take heartbeat away: %w", err)
	}
	return nil
}

// Instances returns those that said that they live within the last day, in
// order of their names, and forgets the others.
func (s *Store) Instances(ctx context.Context) ([]Seen, error) {
	lister, err := s.kv.ListKeysFiltered(ctx, keyInstances+"*")
	if err != nil {
		return nil, fmt.Errorf("list heartbeats: %w", err)
	}
	defer lister.Stop() //nolint:errcheck // it ends with the list, too
	var all []Seen
	keys := map[string]string{}
	var newest time.Time
	for key := range lister.Keys() {
		if len(all) == maxInstances {
			break
		}
		e, err := s.kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("get heartbeat: %w", err)
		}
		seen := Seen{At: e.Created()}
		if json.Unmarshal(e.Value(), &seen.Beat) != nil {
			continue // of another version
		}
		if seen.At.After(newest) {
			newest = seen.At
		}
		keys[seen.key()] = key
		all = append(all, seen)
	}
	var out []Seen
	for _, seen := range all {
		if seen.Silent = newest.Sub(seen.At); seen.Silent < forgetAfter {
			out = append(out, seen)
		} else if err := s.kv.Purge(ctx, keys[seen.key()]); err != nil {
			return nil, fmt.Errorf("forget heartbeat: %w", err)
		}
	}
	slices.SortFunc(out, func(a, b Seen) int {
		return strings.Compare(a.Instance+"\x00"+a.Process, b.Instance+"\x00"+b.Process)
	})
	return out, nil
}
