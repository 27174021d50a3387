package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/session"
	"jetkeep/service/state"
)

// peersEvery is how often an instance looks at what the others say of
// themselves.
const peersEvery = 3 * state.BeatEvery

// peers are the other instances that live, as they described themselves last.
type peers struct {
	mu     sync.Mutex
	all    []state.Seen
	left   map[string]left // those that are gone, by name
	differ string          // which of them are configured otherwise, empty if none is
}

// A left instance is one that lived until a while ago: it may be restarting.
type left struct {
	state.Seen
	at time.Time
}

// comesBack is how long an instance that is gone is waited for by what it alone
// can do.
const comesBack = 5 * time.Minute

// set remembers the living instances but the one of that name, and returns how
// they differ from that, and whether that is another difference than before.
func (p *peers) set(name string, own state.Beat, seen []state.Seen) (differ string, changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.all
	p.all = slices.DeleteFunc(slices.Clone(seen), func(x state.Seen) bool { return !x.Alive() || x.Instance == name })
	for _, x := range before {
		if !slices.ContainsFunc(p.all, func(y state.Seen) bool { return y.Instance == x.Instance }) {
			if p.left == nil {
				p.left = map[string]left{}
			}
			p.left[x.Instance] = left{x, time.Now()}
		}
	}
	maps.DeleteFunc(p.left, func(name string, l left) bool {
		return time.Since(l.at) > comesBack || slices.ContainsFunc(p.all, func(y state.Seen) bool { return y.Instance == name })
	})
	differ = strings.Join(differences(own, p.all), "; ")
	changed = differ != p.differ
	p.differ = differ
	return differ, changed
}

// with returns the names of those that have a target and a repository.
func (p *peers) with(target, repository string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, x := range p.all {
		if x.Has(target, repository) {
			out = append(out, x.Instance)
		}
	}
	for name, l := range p.left {
		if l.Has(target, repository) {
			out = append(out, name)
		}
	}
	return out
}

func (p *peers) differing() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.differ
}

// differences says how living instances are configured otherwise than one.
func differences(own state.Beat, others []state.Seen) []string {
	var out []string
	for _, x := range others {
		if x.All == "" || x.All == own.All {
			continue // of an older version, or the same
		}
		var parts []string
		for _, list := range []struct {
			what         string
			here, theirs []string
		}{{"target", own.Targets, x.Targets}, {"repository", own.Repositories, x.Repositories}} {
			if only := without(list.theirs, list.here); len(only) > 0 {
				parts = append(parts, fmt.Sprintf("it has %s %s, which this one has not", list.what, strings.Join(only, ", ")))
			}
			if only := without(list.here, list.theirs); len(only) > 0 {
				parts = append(parts, fmt.Sprintf("it has no %s %s", list.what, strings.Join(only, ", ")))
			}
		}
		if len(parts) == 0 {
			parts = []string{"it has other targets or repositories"} // beyond those that are named
		}
		out = append(out, fmt.Sprintf("instance %s is configured otherwise: %s", x.Instance, strings.Join(parts, "; ")))
	}
	return out
}

// without returns what is in a and not in b, the first few of it.
func without(a, b []string) []string {
	const shown = 5
	out := slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	return out[:min(len(out), shown)]
}

const differHint = "Give all instances the same targets and repositories: each request and each task goes to any of them."

// lookAtPeers reads what other instances say of themselves.
func (s *Service) lookAtPeers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	seen, err := s.state.Instances(ctx)
	if err != nil {
		s.log.Debug("other instances are not known", "error", err)
		return
	}
	switch differ, changed := s.peers.set(s.config.Instance, s.self(), seen); {
	case changed && differ != "":
		s.log.Error("instances are configured otherwise", "difference", differ, "hint", differHint)
	case changed:
		s.log.Info("all instances are configured alike")
	}
}

// admit implements worker.Deps.Limit. A task whose target or repository this
// instance has not, or refuses, is left to another instance that has it; if
// there is none it fails here, and says why.
func (s *Service) admit(limit func(context.Context, *session.Task) (func(), bool)) func(context.Context, *session.Task) (func(), bool) {
	return func(ctx context.Context, t *session.Task) (func(), bool) {
		if own := s.self(); !own.Has(t.Target, t.Repository) && len(s.havers(ctx, t.Target, t.Repository)) > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(limitPause):
			}
			return nil, false
		}
		return limit(ctx, t)
	}
}

// havers returns the other instances that have a target and a repository. One
// that is not known yet may just have begun.
func (s *Service) havers(ctx context.Context, target, repository string) []string {
	with := s.peers.with(target, repository)
	if len(with) == 0 {
		s.lookAtPeers(ctx)
		with = s.peers.with(target, repository)
	}
	return with
}

// self describes this instance.
func (s *Service) self() state.Beat {
	b := state.Beat{Problems: s.problems()}
	var targets, repositories []string
	for _, t := range s.targets.List() {
		targets = append(targets, t.Target)
	}
	for _, r := range s.repositories.List() {
		repositories = append(repositories, r.Repository)
	}
	b.Configure(targets, repositories)
	return b
}

// elsewhere completes the error about a target or repository that this instance
// has not, if another instance has it.
func (s *Service) elsewhere(ctx context.Context, e *api.Error, target, repository string) *api.Error {
	if with := s.havers(ctx, target, repository); len(with) > 0 {
		return e.WithHint("Instance %s has it, and %s, which answered, has not. %s", strings.Join(with, ", "), s.config.Instance, differHint)
	}
	return e
}
