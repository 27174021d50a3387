package main

import (
	"context"
	"strings"

	"jetkeep/service/api"
	"jetkeep/service/client"
)

// sealed seals the secret keys to the service, if there are any and the
// repository is encrypted.
func (s *identitySource) sealed(ctx context.Context, r *client.Client, repository string) (string, error) {
	keys, err := s.read()
	if err != nil || len(keys) == 0 {
		return "", err
	}
	info, err := r.RepositoryInfo(ctx, api.RepositoryInfoRequest{Repository: repository, Probe: new(bool)})
	if err != nil || !info.Encrypted {
		return "", err
	}
	return client.SealIdentity(info.XKey, strings.Join(keys, "\n"))
}
