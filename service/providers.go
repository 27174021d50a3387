package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/local"
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
	// Open opens a repository, the default one if name is empty.
	Open(ctx context.Context, name string) (*store.Repository, error)
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
			o.Name = "jetkeep target " + c.Name
			conn, err := natsconn.Dial(ctx, o)
			if err != nil {
				return nil, connecting(c.Name, err)
			}
			return conn, nil
		}
	}
	return nil, api.Errorf(api.CodeTargetNotFound, "there is no target %s", name)
}

type repositories struct {
	list []config.Repository

	mu   sync.Mutex
	open map[string]opened
}

// opened is a repository in a directory that was seen as it is.
type opened struct {
	repo   *store.Repository
	driver *local.Driver
	dir    os.FileInfo
}

func newRepositories(list []config.Repository) *repositories {
	return &repositories{list: list, open: map[string]opened{}}
}

func (r *repositories) List() []api.RepositoryView {
	out := make([]api.RepositoryView, len(r.list))
	for i, c := range r.list {
		out[i] = api.RepositoryView{Repository: c.Name, Kind: c.Kind, Location: c.Path, Default: i == 0}
	}
	return out
}

// Open opens a repository, or returns it as it was opened before if its
// directory is still the same: a volume that was unmounted since must not go
// unnoticed.
func (r *repositories) Open(ctx context.Context, name string) (*store.Repository, error) {
	for _, c := range r.list {
		if c.Name == name || name == "" {
			repo, err := r.openOne(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("repository %s: %w", c.Name, err)
			}
			return repo, nil
		}
	}
	return nil, api.Errorf(api.CodeRepoNotFound, "there is no repository %s", name)
}

func (r *repositories) openOne(ctx context.Context, c config.Repository) (*store.Repository, error) {
	r.mu.Lock() // two at once must not both create it
	defer r.mu.Unlock()
	known, ok := r.open[c.Name]
	if dir, err := os.Stat(c.Path); ok && err == nil && os.SameFile(dir, known.dir) {
		return known.repo, nil
	}
	// What was there once is not made anew: it went away.
	create := c.Create && !ok
	driver, err := local.Open(c.Path)
	if errors.Is(err, object.ErrNotExist) && create {
		driver, err = local.Create(c.Path)
	}
	if errors.Is(err, object.ErrNotExist) {
		return nil, api.Errorf(api.CodeNotARepository, "repository %s: there is no directory %s", c.Name, c.Path)
	}
	if err != nil {
		return nil, err
	}
	repo, err := openRepository(ctx, driver, create)
	if err == nil {
		known = opened{repo: repo, driver: driver}
		known.dir, err = os.Stat(c.Path)
	}
	if err != nil {
		_ = driver.Close() // nothing was written through it that Close could lose
		return nil, err
	}
	// A driver that was replaced may be in use; it is closed with its last user.
	r.open[c.Name] = known
	return repo, nil
}

func openRepository(ctx context.Context, driver *local.Driver, create bool) (*store.Repository, error) {
	bucket := object.NewBucket(driver)
	repo, err := store.Open(ctx, bucket, store.OpenOptions{})
	if errors.Is(err, store.ErrNotARepository) && create {
		repo, err = store.Init(ctx, bucket, store.InitOptions{})
		if errors.Is(err, store.ErrIsRepository) {
			repo, err = store.Open(ctx, bucket, store.OpenOptions{}) // another process was quicker
		}
	}
	return repo, err
}

func (r *repositories) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.open {
		_ = o.driver.Close() // every write was synced when it was made
	}
}

// targetName returns the name that a request means.
func (s *Service) targetName(name string) (string, error) {
	for _, t := range s.targets.List() {
		if t.Target == name || name == "" {
			return t.Target, nil
		}
	}
	return "", api.Errorf(api.CodeTargetNotFound, "there is no target %s", name)
}

func (s *Service) repositoryName(name string) (string, error) {
	for _, r := range s.repositories.List() {
		if r.Repository == name || name == "" {
			return r.Repository, nil
		}
	}
	return "", api.Errorf(api.CodeRepoNotFound, "there is no repository %s", name)
}

// dial connects to a target for a request.
func (s *Service) dial(ctx context.Context, name string) (*natsconn.Conn, error) {
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return s.targets.Dial(dctx, name)
}
