package service

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"jetkeep/service/api"
	"jetkeep/store"
)

// openSealed opens an identity that was sealed to the service. Its errors say
// nothing of what is inside.
func (s *Service) openSealed(sealed string) ([]string, error) {
	sender, text, _ := strings.Cut(sealed, ".")
	box, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidRequest, "field identity_sealed: what follows the sender's key is no base64").WithField("identity_sealed")
	}
	plain, err := s.xkey.Open(box, sender)
	if err != nil {
		return nil, api.Errorf(api.CodeWrongIdentity, "the identity was not sealed to the xkey of this service, or not by the sender that it names")
	}
	defer clear(plain)
	return identities(string(plain))
}

// openReadable opens a repository whose messages can be read: by the service's
// own identity, or by the one in the request.
func (s *Service) openReadable(ctx context.Context, name, sealed string) (*store.Repository, error) {
	repo, err := s.repositories.Open(ctx, name)
	if err != nil || repo.Readable() {
		return repo, err
	}
	if sealed == "" {
		return nil, api.Errorf(api.CodeLocked, "repository %s is encrypted, and the service has no identity that opens it", name)
	}
	ids, err := s.openSealed(sealed)
	if err != nil {
		return nil, err
	}
	repo, err = repo.Unlock(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", name, err)
	}
	return repo, nil
}

// publicXKey is what identities are sealed to.
func (s *Service) publicXKey() string {
	key, err := s.xkey.PublicKey()
	if err != nil {
		s.log.Error("xkey has no public key", "error", err)
	}
	return key
}
