package service

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/state"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/seal"
)

// refusals are the repositories that this instance refuses because they are not
// the ones that their names stand for, as they were seen when they were last
// opened.
type refusals struct {
	mu  sync.Mutex
	why map[string]error
	// tell is told of each change; it may be nil.
	tell func(repository string, why error)
}

// note takes what came of opening a repository.
func (r *refusals) note(repository string, err error) {
	if err != nil && !isMismatch(err) {
		return // it may still be the one that it is taken for
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.why[repository]
	if err == nil {
		delete(r.why, repository)
	} else {
		if r.why == nil {
			r.why = map[string]error{}
		}
		r.why[repository] = err
	}
	if r.tell != nil && (before == nil) != (err == nil) {
		r.tell(repository, err)
	}
}

// all returns why each refused repository is.
func (r *refusals) all() map[string]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.why)
}

// isMismatch says whether a repository is not the one that was in use under its
// name, or has another key than before or than the configuration says.
func isMismatch(err error) bool {
	return errors.As(err, new(*state.MismatchError)) || errors.Is(err, store.ErrKeyMismatch)
}

// problems are those of this instance that others should know: of staging, and
// of repositories in order of their names.
func (s *Service) problems() []state.Problem {
	var out []state.Problem
	if s.staging != nil {
		if err := s.staging.Check(); err != nil {
			e := mapError(err)
			out = append(out, state.Problem{Problem: e.Description, Hint: e.Hint})
		}
	}
	r, ok := s.repositories.(*repositories)
	if !ok {
		return out
	}
	why := r.refused.all()
	for _, name := range slices.Sorted(maps.Keys(why)) {
		e := mapError(why[name])
		out = append(out, state.Problem{Repository: name, Problem: e.Description, Hint: e.Hint})
	}
	return out
}

// refusalChanged is told when a repository is refused, or no longer.
func (s *Service) refusalChanged(repository string, why error) {
	s.measures.RepositoryRefused(repository, why != nil)
	if why == nil {
		s.log.Info("repository is accepted", "repository", repository)
		return
	}
	s.log.Error("repository is refused, and nothing is done in it: it is not the one that was in use under this name",
		"repository", repository, "error", why, "hint", mapError(why).Hint)
}

// repositoryAccept makes the repository that is found under a name the one that
// the name means, if it is the one that the request says.
func (s *Service) repositoryAccept(ctx context.Context, q *api.RepositoryAcceptRequest) (*api.RepositoryAcceptResponse, error) {
	name, err := s.repositoryName(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	r, ok := s.repositories.(*repositories)
	if !ok {
		return nil, api.Errorf(api.CodeRepoNotFound, "repository %s is not one of the configuration", name)
	}
	return r.accept(ctx, name, q)
}

func (r *repositories) accept(ctx context.Context, name string, q *api.RepositoryAcceptRequest) (*api.RepositoryAcceptResponse, error) {
	c, err := r.config(name)
	if err != nil {
		return nil, err
	}
	m, err := r.look(ctx, c)
	if err != nil {
		return nil, err
	}
	before, err := r.state.RepositoryID(ctx, name)
	if err != nil && !errors.Is(err, state.ErrNone) {
		return nil, err
	}
	key, err := r.state.Recipient(ctx, m.ID)
	otherKey := err == nil && key != m.Recipient
	if err != nil && !errors.Is(err, state.ErrNone) {
		return nil, err
	}
	out := &api.RepositoryAcceptResponse{
		Repository: name, ID: m.ID, Recipient: recipientName(m.Recipient), Created: &m.Created, Encrypted: m.Encrypted(),
		BeforeID: before, Changed: before != m.ID || otherKey,
	}
	if otherKey {
		out.BeforeRecipient = recipientName(key)
	}
	if q.DryRun {
		return out, nil
	}
	if q.ID != m.ID {
		return nil, api.Errorf(api.CodeInvalidRequest, "repository %s in %s has the id %s", name, c.Location(), m.ID).
			WithField("id").WithHint("Give the id of the repository that is to be accepted; with \"dry_run\" the answer describes the one that is there.")
	}
	if otherKey && !sameRecipient(q.Recipient, m.Recipient) {
		return nil, api.Errorf(api.CodeInvalidRequest, "the public key of repository %s is %s now, and was %s before", name, out.Recipient, out.BeforeRecipient).
			WithField("recipient").WithHint("Whoever writes to the store may have put a key of their own there. If it was changed on purpose, give the new key's fingerprint, or \"none\".")
	}
	if err := r.state.Rebind(ctx, name, m.ID, m.Recipient); err != nil {
		return nil, err
	}
	r.log.Warn("repository was accepted by request", "repository", name, "id", m.ID, "before", before)
	_, err = r.Open(ctx, name)
	return out, err
}

// look reads the marker of the repository that is there, whichever it is.
func (r *repositories) look(ctx context.Context, c config.Repository) (store.Marker, error) {
	keys, err := openOptions(c)
	if err != nil {
		return store.Marker{}, err
	}
	driver, err := r.openStore(ctx, &c)
	if errors.Is(err, object.ErrNotExist) {
		return store.Marker{}, api.Errorf(api.CodeNotARepository, "repository %s: nothing is in %s", c.Name, c.Location())
	}
	if err != nil {
		return store.Marker{}, err
	}
	bucket := object.NewBucket(driver)
	defer bucket.Close()
	repo, err := store.Open(ctx, bucket, store.OpenOptions{Recipient: keys.Recipient, Trust: keys.Trust})
	if errors.Is(err, store.ErrKeyMismatch) {
		return store.Marker{}, api.Errorf(api.CodeRepoMismatch, "repository %s: %v", c.Name, err).
			WithHint("Its configuration says with \"recipient\" which public key it must have: correct that where the key was changed on purpose.")
	}
	if err != nil {
		return store.Marker{}, err
	}
	return repo.Marker(), nil
}

// noRecipient stands for the public key of a repository that is not encrypted.
const noRecipient = "none"

// recipientName is what people compare a public key by.
func recipientName(key string) string {
	if key == "" {
		return noRecipient
	}
	r, err := seal.ParseRecipient(key)
	if err != nil {
		return key
	}
	return r.Fingerprint()
}

func sameRecipient(said, key string) bool {
	if key == "" {
		return said == noRecipient
	}
	r, err := seal.ParseRecipient(key)
	return err == nil && said != "" && r.Matches(said)
}

// recheckRefused looks again at the repositories that are refused: what was put
// right, or accepted through another instance, is used again.
func (r *repositories) recheckRefused(ctx context.Context) {
	for name := range r.refused.all() {
		rctx, cancel := context.WithTimeout(ctx, openTimeout)
		_, err := r.Open(rctx, name)
		cancel()
		if err != nil {
			r.log.Debug("repository is still refused", "repository", name, "error", err)
		}
	}
}

// checkThere opens the repositories that are there, so that one which is not the
// one that its name stands for is found at the start. It alone is refused; what
// else is wrong is told to those who ask.
func (r *repositories) checkThere(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range r.list {
		if c.Create && !r.isThere(ctx, c) {
			continue // made when it is used first
		}
		wg.Go(func() {
			if _, err := r.Open(ctx, c.Name); err != nil && !isMismatch(err) {
				r.log.Error("repository cannot be opened", "repository", c.Name, "error", err)
			}
		})
	}
	wg.Wait()
}
