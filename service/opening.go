package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/state"
	"jetkeep/service/stores"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/observe"
	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

// repositories opens those of the configuration.
type repositories struct {
	list  []config.Repository
	state *state.Store
	// uploads, if set, is where uploads into encrypted repositories are noted.
	uploads store.Journal
	// memory is what they share of the process's, so that it is bounded however
	// many tasks there are.
	memory *store.Memory
	log    *slog.Logger
	// slots are the repositories by name, each in a channel of its own: who has
	// taken it out opens it. A store that does not answer holds up only those
	// who want that one, and they can give up.
	slots   map[string]chan opened
	refused refusals
	// How drivers are made; tests put others in their place.
	openStore, createStore func(context.Context, *config.Repository) (object.Driver, error)
}

// opened is a repository, as far as it is opened.
type opened struct {
	driver object.Driver
	dir    os.FileInfo // of a directory, as it was seen
	repo   *store.Repository
	writer bool // it has its writer key
	// unlock is set while the identity of the configuration has not been tried
	// with success, unless it does not fit.
	unlock bool
}

func newRepositories(list []config.Repository, s *state.Store, log *slog.Logger, tell func(string, observe.Operation), retried func(string)) *repositories {
	by := stores.Opener{Log: log, Observe: tell, Retried: retried}
	r := &repositories{list: list, state: s, memory: store.NewMemory(), log: log, slots: map[string]chan opened{}, openStore: by.Open, createStore: by.Create}
	for _, c := range list {
		r.slots[c.Name] = make(chan opened, 1)
		r.slots[c.Name] <- opened{}
	}
	return r
}

func (r *repositories) List() []api.RepositoryView {
	out := make([]api.RepositoryView, len(r.list))
	for i, c := range r.list {
		out[i] = api.RepositoryView{Repository: c.Name, Kind: c.Kind, Location: c.Location(), Default: i == 0}
	}
	return out
}

func (r *repositories) config(name string) (config.Repository, error) {
	for _, c := range r.list {
		if c.Name == name || name == "" {
			return c, nil
		}
	}
	return config.Repository{}, api.Errorf(api.CodeRepoNotFound, "there is no repository %s", name)
}

// Open opens a repository, or returns it as it was opened before if its
// directory is still the same: a volume that was unmounted since must not go
// unnoticed.
func (r *repositories) Open(ctx context.Context, name string) (*store.Repository, error) {
	return r.get(ctx, name, r.withWriterKey)
}

// OpenToWrite makes the writer key if there is none.
func (r *repositories) OpenToWrite(ctx context.Context, name string) (*store.Repository, error) {
	return r.get(ctx, name, func(ctx context.Context, o *opened) error {
		if o.repo.Marker().Format < store.Format {
			return store.ErrOldFormat // known now and not when something was captured
		}
		err := r.withWriterKey(ctx, o)
		if err == nil && !o.writer && o.repo.Encrypted() {
			err = r.makeWriterKey(ctx, o)
		}
		return err
	})
}

func (r *repositories) get(ctx context.Context, name string, key func(context.Context, *opened) error) (_ *store.Repository, err error) {
	c, err := r.config(name)
	if err != nil {
		return nil, err
	}
	slot := r.slots[c.Name]
	var o opened
	select { // two at once must not both create it
	case o = <-slot:
	case <-ctx.Done():
		return nil, fmt.Errorf("repository %s: others wait for it to be opened: %w", c.Name, ctx.Err())
	}
	defer func() { slot <- o }()
	defer func() { r.refused.note(c.Name, err) }()
	if err = r.openOne(ctx, c, &o); err == nil {
		r.unlock(ctx, &o, c)
		if !o.writer {
			err = key(ctx, &o)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", c.Name, err)
	}
	return o.repo, nil
}

// openOne opens a repository unless it is open and in place. A distant one is
// opened once. A directory is looked at each time: a volume may have been
// unmounted, or another one mounted.
func (r *repositories) openOne(ctx context.Context, c config.Repository, o *opened) error {
	if o.repo != nil && !r.stillMeant(ctx, c, o.repo) {
		// Another one was accepted under the name since. The old one may be in use
		// still; it is closed with its last user.
		*o = opened{}
	}
	known := o.repo != nil
	if known && (o.dir == nil || sameDir(c.Path, o.dir)) {
		return nil
	}
	// What was there once is not made anew: it went away. That may have been
	// before this instance began, or another instance may have it elsewhere.
	_, err := r.state.RepositoryID(ctx, c.Name)
	if err != nil && !errors.Is(err, state.ErrNone) {
		return err
	}
	create := c.Create && !known && err != nil
	keys, err := openOptions(c)
	if err != nil {
		return err
	}
	keys.Lock, keys.Journal, keys.Memory = r.state.Lock, r.uploads, r.memory
	driver, err := r.driver(ctx, c, o, create)
	if err != nil {
		return err
	}
	next := opened{driver: driver, unlock: c.Identity != "" || c.IdentityFile != ""}
	if next.repo, err = r.openIn(ctx, driver, c, keys, create); err == nil && !stores.Distant(&c) {
		next.dir, err = os.Stat(c.Path)
	}
	if err != nil {
		if !stores.Distant(&c) {
			_ = object.NewBucket(driver).Close() // nothing was written through it that Close could lose
		}
		return err
	}
	// A driver that was replaced may be in use; it is closed with its last user.
	*o = next
	return nil
}

// stillMeant says whether a name still means the repository that was opened. If
// nobody knows now it does.
func (r *repositories) stillMeant(ctx context.Context, c config.Repository, repo *store.Repository) bool {
	id, err := r.state.RepositoryID(ctx, c.Name)
	if err == nil && id != repo.Marker().ID {
		return false
	}
	key, err := r.state.Recipient(ctx, repo.Marker().ID)
	return err != nil || key == repo.Marker().Recipient
}

// driver opens where the repository lives. The driver of a distant store stays,
// also if there is no repository in it yet.
func (r *repositories) driver(ctx context.Context, c config.Repository, o *opened, create bool) (object.Driver, error) {
	if stores.Distant(&c) && o.driver != nil {
		return o.driver, nil
	}
	driver, err := r.openStore(ctx, &c)
	if errors.Is(err, object.ErrNotExist) && create {
		driver, err = r.createStore(ctx, &c)
	}
	if errors.Is(err, object.ErrNotExist) {
		what := "bucket or container"
		if !stores.Distant(&c) {
			what = "directory"
		}
		return nil, api.Errorf(api.CodeNotARepository, "repository %s: there is no %s %s", c.Name, what, c.Location())
	}
	if err == nil && stores.Distant(&c) {
		o.driver = driver
	}
	return driver, err
}

func sameDir(path string, seen os.FileInfo) bool {
	now, err := os.Stat(path)
	return err == nil && os.SameFile(now, seen)
}

// openIn opens the repository in a store, and makes it if that is asked for.
func (r *repositories) openIn(ctx context.Context, driver object.Driver, c config.Repository, keys store.OpenOptions, create bool) (*store.Repository, error) {
	bucket := object.NewBucket(driver)
	repo, err := store.Open(ctx, bucket, keys)
	if errors.Is(err, store.ErrNotARepository) && create {
		return r.makeIn(ctx, bucket, c, keys)
	}
	if err != nil {
		return nil, err
	}
	return repo, r.bind(ctx, c, repo)
}

// makeIn makes a repository that no other instance has made meanwhile. A store
// may not be able to tell which of two was first, so that they take turns.
func (r *repositories) makeIn(ctx context.Context, bucket *object.Bucket, c config.Repository, keys store.OpenOptions) (*store.Repository, error) {
	locked, unlock, err := r.state.Lock(ctx, "create "+c.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	repo, err := store.Open(locked, bucket, keys)
	if errors.Is(err, store.ErrNotARepository) {
		if _, known := r.state.RepositoryID(locked, c.Name); !errors.Is(known, state.ErrNone) {
			return nil, errors.Join(err, known)
		}
		if err := r.create(locked, bucket, c); err != nil {
			return nil, err
		}
		repo, err = store.Open(locked, bucket, keys)
	}
	if err != nil {
		return nil, err
	}
	return repo, r.bind(locked, c, repo)
}

// bind remembers which repository the name means, or finds that it is another.
func (r *repositories) bind(ctx context.Context, c config.Repository, repo *store.Repository) error {
	m := repo.Marker()
	return r.state.Bind(ctx, c.Name, m.ID, m.Recipient)
}

func (r *repositories) create(ctx context.Context, bucket *object.Bucket, c config.Repository) error {
	_, err := store.Init(ctx, bucket, store.InitOptions{Recipients: c.OperatorRecipients, Classic: c.Classic()})
	if errors.Is(err, store.ErrIsRepository) {
		return nil // another process was quicker
	}
	if err != nil {
		return err
	}
	if n := len(c.OperatorRecipients); n > 0 {
		r.log.Info("made an encrypted repository", "repository", c.Name, "location", c.Location(), "operators", n)
	} else {
		r.log.Warn("made a repository that is not encrypted: whoever reads the store reads the messages",
			"repository", c.Name, "location", c.Location())
	}
	return nil
}

// unlock uses the identity of the configuration. One that does not fit or
// cannot be read is no reason to make no backups.
func (r *repositories) unlock(ctx context.Context, o *opened, c config.Repository) {
	if !o.unlock || !o.repo.Encrypted() {
		return
	}
	ids, err := configuredIdentities(c)
	if err == nil {
		var readable *store.Repository
		if readable, err = o.repo.Unlock(ctx, ids); err == nil {
			o.repo, o.unlock = readable, false
			return
		}
	}
	o.unlock = !errors.Is(err, store.ErrWrongIdentity) && !errors.Is(err, seal.ErrKey)
	r.log.Error("identity is of no use, restores will need one in the request", "repository", c.Name, "error", err)
}

// isThere says whether a repository was in use before, or is a directory that
// is there.
func (r *repositories) isThere(ctx context.Context, c config.Repository) bool {
	if stores.Distant(&c) {
		_, err := r.state.RepositoryID(ctx, c.Name)
		return err == nil
	}
	_, err := os.Stat(c.Path)
	return !errors.Is(err, os.ErrNotExist)
}

// openOptions are the keys that a repository is opened with.
func openOptions(c config.Repository) (store.OpenOptions, error) {
	o := store.OpenOptions{Recipient: c.Recipient}
	trusted := c.TrustedKeys
	if c.SignSeedFile != "" {
		seed, err := os.ReadFile(c.SignSeedFile)
		if err != nil {
			return o, api.Errorf(api.CodeKeyUnavailable, "read signing seed: %v", err)
		}
		if o.Signer, err = sign.ParseSeed(firstKeyLine(string(seed))); err != nil {
			return o, api.Errorf(api.CodeKeyUnavailable, "read signing seed %s: %v", c.SignSeedFile, err)
		}
		if len(trusted) > 0 {
			trusted = append(trusted[:len(trusted):len(trusted)], o.Signer.Public())
		}
	}
	if len(trusted) > 0 {
		var err error
		if o.Trust, err = sign.NewTrust(trusted); err != nil {
			return o, api.Errorf(api.CodeKeyUnavailable, "trusted keys: %v", err)
		}
	}
	return o, nil
}

func configuredIdentities(c config.Repository) ([]string, error) {
	text := c.Identity.Reveal()
	if c.IdentityFile != "" {
		b, err := os.ReadFile(c.IdentityFile)
		if err != nil {
			return nil, fmt.Errorf("read identity: %w", err)
		}
		text = string(b)
	}
	return identities(text)
}

// identities reads an identity file's text.
func identities(text string) ([]string, error) {
	ids, err := seal.ParseIdentities(text)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.Secret()
	}
	return out, nil
}

// withWriterKey gives the repository the writer key that instances share, if
// there is one.
func (r *repositories) withWriterKey(ctx context.Context, o *opened) error {
	if !o.repo.Encrypted() {
		return nil
	}
	id := o.repo.Marker().ID
	key, err := r.state.WriterKey(ctx, id)
	if errors.Is(err, state.ErrNone) {
		if !o.repo.Readable() {
			return nil
		}
		if key, err = r.adoptWriterKey(ctx, o.repo); key == "" || err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return o.use(key)
}

// adoptWriterKey takes over the writer key of an instance whose memory is lost,
// so that increments go on. It takes the one that the newest restore points
// were made with; empty if there is none.
func (r *repositories) adoptWriterKey(ctx context.Context, repo *store.Repository) (string, error) {
	keys, err := repo.WriterKeys(ctx)
	if err != nil {
		r.log.Warn("not all writer keys can be adopted", "error", err)
	}
	if len(keys) == 0 {
		return "", nil
	}
	key, err := newestWriter(ctx, repo, keys)
	if err != nil {
		return "", err
	}
	return r.state.EnsureWriterKey(ctx, repo.Marker().ID, func() (string, error) { return key, nil })
}

func (r *repositories) makeWriterKey(ctx context.Context, o *opened) error {
	key, err := r.state.EnsureWriterKey(ctx, o.repo.Marker().ID, func() (string, error) { return o.repo.NewWriterKey(ctx) })
	if err != nil {
		return err
	}
	return o.use(key)
}

func (o *opened) use(key string) error {
	repo, err := o.repo.WithWriterKey(key)
	if err != nil {
		return err
	}
	o.repo, o.writer = repo, true
	return nil
}

func (r *repositories) close() {
	for _, slot := range r.slots {
		select {
		case o := <-slot:
			if o.driver != nil {
				_ = object.NewBucket(o.driver).Close() // every write was synced when it was made
			}
			slot <- opened{}
		default: // it is being opened for a request that outlives the service
		}
	}
}

// newestWriter returns the key that names the log of the newest restore point
// as it is named, the first key if there is no restore point.
func newestWriter(ctx context.Context, repo *store.Repository, keys []string) (string, error) {
	if len(keys) == 1 {
		return keys[0], nil
	}
	listed, err := repo.Points(ctx)
	if err != nil {
		return "", err
	}
	listed = slices.DeleteFunc(listed, func(l store.Listed) bool { return l.Err != nil })
	if len(listed) == 0 {
		return keys[0], nil
	}
	newest := slices.MaxFunc(listed, func(a, b store.Listed) int { return a.Point.Time.Compare(b.Point.Time) }).Point
	for _, key := range keys {
		writer, err := repo.WithWriterKey(key)
		if err != nil {
			return "", err
		}
		chain, err := writer.Chain(newest.Target, newest.Stream)
		if err != nil {
			return "", err
		}
		if chain == newest.Chain {
			return key, nil
		}
	}
	return keys[0], nil
}

// firstKeyLine returns the line of a seed's file that is not a comment.
func firstKeyLine(file string) string {
	for line := range strings.Lines(file) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}
