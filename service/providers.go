package service

import (
	"context"
	"strings"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/store"
)

// Targets gives access to the accounts that are configured.
type Targets interface {
	List() []api.TargetView
	// Dial connects to a target, to the default one if name is empty. The
	// caller closes the connection.
	Dial(ctx context.Context, name string) (*natsconn.Conn, error)
}

// Repositories gives access to the repositories that are configured.
type Repositories interface {
	List() []api.RepositoryView
	// Open opens a repository, the default one if name is empty. What is sealed
	// in it may not be readable.
	Open(ctx context.Context, name string) (*store.Repository, error)
	// OpenToWrite is Open for those who write into it, which an encrypted
	// repository takes a writer key for.
	OpenToWrite(ctx context.Context, name string) (*store.Repository, error)
}

// dialTimeout bounds connecting to a target for a request, so that its answer
// comes before a caller with the usual 5 s gives up.
const dialTimeout = 4 * time.Second

type targets struct{ list []config.Target }

func (t targets) List() []api.TargetView {
	out := make([]api.TargetView, len(t.list))
	for i, c := range t.list {
		out[i] = api.TargetView{Target: c.Name, Servers: servers(c.Options), Default: i == 0}
	}
	return out
}

// servers says where a target is, without secrets.
func servers(o natsconn.Options) string {
	switch {
	case o.InProcess != nil:
		return "embedded"
	case o.URL != "":
		parts := strings.Split(o.URL, ",")
		for i, p := range parts {
			if at := strings.LastIndexByte(p, '@'); at >= 0 {
				scheme, _, ok := strings.Cut(p, "://")
				parts[i] = p[at+1:]
				if ok {
					parts[i] = scheme + "://" + parts[i]
				}
			}
		}
		return strings.Join(parts, ",")
	case o.Context != "":
		return "context " + o.Context
	}
	return "default server"
}

func (t targets) Dial(ctx context.Context, name string) (*natsconn.Conn, error) {
	for _, c := range t.list {
		if c.Name == name || name == "" {
			o := c.Options
			if o.Name == "" {
				o.Name = "jetkeep target " + c.Name
			}
			conn, err := natsconn.Dial(ctx, o)
			if err != nil {
				return nil, connecting(c.Name, err)
			}
			return conn, nil
		}
	}
	return nil, api.Errorf(api.CodeTargetNotFound, "there is no target %s", name)
}

// targetName returns the name that a request means.
func (s *Service) targetName(ctx context.Context, name string) (string, error) {
	for _, t := range s.targets.List() {
		if t.Target == name || name == "" {
			return t.Target, nil
		}
	}
	return "", s.elsewhere(ctx, api.Errorf(api.CodeTargetNotFound, "there is no target %s", name), name, "")
}

func (s *Service) repositoryName(ctx context.Context, name string) (string, error) {
	for _, r := range s.repositories.List() {
		if r.Repository == name || name == "" {
			return r.Repository, nil
		}
	}
	return "", s.elsewhere(ctx, api.Errorf(api.CodeRepoNotFound, "there is no repository %s", name), "", name)
}

// dial connects to a target for a request.
func (s *Service) dial(ctx context.Context, name string) (*natsconn.Conn, error) {
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return s.targets.Dial(dctx, name)
}
