// Package config says how an instance of jetkeep is set up. It holds plain
// values: it opens nothing and connects to nothing. Validate accepts a
// configuration only if every name is unique and usable and every bound makes
// sense, and names the field otherwise; whether a server or a directory is
// there shows when it is used.
package config

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/metrics"
	"jetkeep/service/natsconn"
	"jetkeep/store/retain"
	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

// Config is all of it. The tags are the fields' names in a file.
type Config struct {
	// Instance names this instance among others; default: the host's name.
	Instance string `conf:"instance"`
	// Prefix starts every subject.
	Prefix string `conf:"prefix"`
	// Control is the account that jetkeep serves in and keeps its state in.
	Control natsconn.Options `conf:"control"`
	// Targets and Repositories: the first of each is the default.
	Targets      []Target     `conf:"targets"`
	Repositories []Repository `conf:"repositories"`
	Staging      Staging      `conf:"staging"`
	Drill        Drill        `conf:"drill"`
	// Concurrency is how many tasks of one kind run at once; of backups so many
	// of large streams, and more of small ones.
	Concurrency int `conf:"concurrency"`
	// Replicas of jetkeep's own streams and buckets when it makes them, by default
	// three if the servers and the account allow it and else one.
	Replicas int `conf:"replicas"`
	// Storage bounds jetkeep's own streams and buckets when it makes them.
	Storage Storage `conf:"storage"`
	// Lease is how long an instance may be silent before its tasks go to
	// another.
	Lease time.Duration `conf:"lease"`
	// MaxAttempts is how many instances may die over one task.
	MaxAttempts int `conf:"max_attempts"`
	// Sweep is how often sessions are looked after without a cause.
	Sweep time.Duration `conf:"sweep"`
	// SessionAge is how long a session is remembered after its end.
	SessionAge time.Duration `conf:"session_age"`
	// Metrics are for Prometheus.
	Metrics Metrics `conf:"metrics"`
	// Hooks are called before and after sessions and tasks, in this order.
	Hooks []Hook `conf:"hooks"`
	// Notifications tell of events.
	Notifications []Notification `conf:"notifications"`
}

// Metrics say where an instance shows how it is. What is empty is not done.
type Metrics struct {
	// Listen is where /metrics, /healthz and /readyz are answered over HTTP. A
	// port alone is one of the loopback interface.
	Listen string `conf:"listen"`
	// PushURL is of a Pushgateway that is sent the metrics when a session ends.
	PushURL string `conf:"push_url"`
	// Streams is how many streams have labels of their own.
	Streams int `conf:"streams"`
}

// validate returns errors that begin with the field.
func (m *Metrics) validate() error {
	if m.Listen != "" {
		if _, err := metrics.Address(m.Listen); err != nil {
			return fmt.Errorf("metrics.listen: %w", err)
		}
	}
	if m.PushURL != "" {
		u, err := url.Parse(m.PushURL)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			return fmt.Errorf("metrics.push_url: is no URL, give one like http://HOST:9091")
		case u.User != nil:
			return fmt.Errorf("metrics.push_url: must hold no user or password, it is shown")
		}
	}
	if m.Streams < 1 || m.Streams > 100_000 {
		return fmt.Errorf("metrics.streams: must be between 1 and 100000")
	}
	return nil
}

// A Target is an account to back up and to restore into.
type Target struct {
	Name string
	natsconn.Options
	// Concurrency bounds the tasks of this target that the instance does at
	// once, of all kinds together but restores by themselves; 0 for no bound of its own.
	Concurrency int `conf:"concurrency"`
}

// A Repository is a place for backups. Of Path, S3 and Swift it has the one
// that its kind means.
type Repository struct {
	Name  string
	Kind  string `conf:"kind"`
	Path  string `conf:"path"` // of KindLocal
	Mode  string `conf:"mode"` // of KindLocal: the permissions of its files, in octal; empty for 0600
	S3    S3
	Swift Swift
	// Create makes the repository at its first use if the directory is missing
	// or empty. Without it an unmounted volume is an error and never becomes
	// an empty repository.
	Create bool `conf:"create"`
	// OperatorRecipients are the age recipients whose owners can read a
	// repository that is made; none makes it readable for everybody. They say
	// nothing about one that exists. They are of one kind, hybrid or classic,
	// and so is the repository.
	OperatorRecipients []string `conf:"operator_recipients"`
	// Recipient, if set, is the public key that the repository must have, or
	// the key's fingerprint.
	Recipient string `conf:"recipient"`
	// Identity or IdentityFile hold secret keys that let the service read
	// messages: for restores without an identity in the request, and to verify
	// records. Backups need none.
	Identity     Secret `conf:"identity"`
	IdentityFile string `conf:"identity_file"`
	// SignSeedFile holds the nkey seed that what is written is signed with.
	SignSeedFile string `conf:"sign_seed_file"`
	// TrustedKeys are the public nkeys whose signatures are accepted. With
	// none, nothing need be signed. The service's own is always among them.
	TrustedKeys []string `conf:"trusted_keys"`
	// Keep is the policy by which the repository is pruned: by itself, and when
	// somebody asks for a prune and names none.
	Keep *api.Keep `conf:"keep"`
	// Prune says when the repository is pruned by itself; by default each day, if
	// there is a policy.
	Prune *Prune `conf:"prune"`
	// Concurrency bounds the tasks of this repository that the instance does at
	// once, of all kinds together but restores by themselves; 0 for no bound of its own.
	Concurrency int `conf:"concurrency"`
}

// Staging is the directory between server and store.
type Staging struct {
	Dir   string `conf:"dir"`
	Limit int64  `conf:"limit"` // bytes
}

// Storage is how many bytes jetkeep's own streams and buckets may have in the
// control account, each replica. 0 leaves it to jetkeep: no bound, or one that the
// account demands or has room for.
type Storage struct {
	Sessions  int64 `conf:"sessions"`
	Schedules int64 `conf:"schedules"`
	State     int64 `conf:"state"`
	Tasks     int64 `conf:"tasks"`
	Events    int64 `conf:"events"`
	Uploads   int64 `conf:"uploads"`
}

// minStorage is the least that each of them can do with.
const minStorage = 256 << 10

func (s *Storage) validate() error {
	for _, of := range []struct {
		field string
		bytes int64
	}{
		{"sessions", s.Sessions}, {"schedules", s.Schedules}, {"state", s.State}, {"tasks", s.Tasks}, {"events", s.Events}, {"uploads", s.Uploads},
	} {
		if of.bytes != 0 && of.bytes < minStorage {
			return fmt.Errorf("storage.%s: %d bytes are too few, at least 256 KiB are needed", of.field, of.bytes)
		}
	}
	return nil
}

// Drill is where backups are restored to be compared.
type Drill struct {
	Dir   string `conf:"dir"`   // default: beside staging
	Limit int64  `conf:"limit"` // bytes
}

// Defaults of what is left out.
const (
	DefaultName         = "default"
	DefaultConcurrency  = 2
	DefaultStagingLimit = 2 << 30
	DefaultDrillLimit   = 10 << 30
	DefaultLease        = 20 * time.Second
	DefaultMaxAttempts  = 3
	DefaultSweep        = 5 * time.Second
	DefaultSessionAge   = 30 * 24 * time.Hour
)

// SetDefaults fills in what is left out and has a default. A configuration
// without targets gets one, the account of Control.
func (c *Config) SetDefaults() {
	if c.Instance == "" {
		c.Instance = instanceName()
	}
	if c.Prefix == "" {
		c.Prefix = api.DefaultPrefix
	}
	if len(c.Targets) == 0 {
		c.Targets = []Target{{Name: DefaultName, Options: c.Control}}
	}
	for i := range c.Repositories {
		if c.Repositories[i].Kind == "" {
			c.Repositories[i].Kind = KindLocal
		}
		c.Repositories[i].setPrune()
	}
	setDefault(&c.Staging.Limit, DefaultStagingLimit)
	setDefault(&c.Drill.Limit, DefaultDrillLimit)
	if c.Staging.Dir != "" {
		setDefault(&c.Drill.Dir, filepath.Clean(c.Staging.Dir)+".drill")
	}
	setDefault(&c.Concurrency, DefaultConcurrency)
	setDefault(&c.Lease, DefaultLease)
	setDefault(&c.MaxAttempts, DefaultMaxAttempts)
	setDefault(&c.Sweep, DefaultSweep)
	setDefault(&c.SessionAge, DefaultSessionAge)
	setDefault(&c.Metrics.Streams, metrics.DefaultStreams)
	for i := range c.Hooks {
		c.Hooks[i].setDefaults()
	}
	for i := range c.Notifications {
		c.Notifications[i].setDefaults()
	}
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// instanceName makes a usable name of the host's.
func instanceName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return api.Service
	}
	host = strings.Map(func(r rune) rune {
		if r == '.' || r > 0x7f || api.CheckName(string(r)) != nil {
			return '-'
		}
		return r
	}, host)
	return host[:min(len(host), 48)]
}

// Validate checks a configuration whose defaults are set.
func (c *Config) Validate() error {
	if err := api.CheckName(c.Instance); err != nil {
		return fmt.Errorf("instance: %q %w", c.Instance, err)
	}
	if err := api.ValidatePrefix(c.Prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	if err := c.Control.Validate(); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if err := c.validateTargets(); err != nil {
		return err
	}
	if err := c.validateRepositories(); err != nil {
		return err
	}
	if err := c.Metrics.validate(); err != nil {
		return err
	}
	if err := c.validateCalls(); err != nil {
		return err
	}
	if err := c.validateBounds(); err != nil {
		return err
	}
	return c.validatePlaces()
}

// validatePlaces refuses directories of our own within a repository: what is not a
// repository's is not to be in it, and one that is made must be empty.
func (c *Config) validatePlaces() error {
	for _, own := range []struct{ field, dir string }{{"staging.dir", c.Staging.Dir}, {"drill.dir", c.Drill.Dir}} {
		for _, r := range c.Repositories {
			if r.Kind != KindLocal {
				continue
			}
			path, err := filepath.Abs(r.Path)
			if err != nil {
				return fmt.Errorf("%s: %w", own.field, err)
			}
			dir, err := filepath.Abs(own.dir)
			if err != nil {
				return fmt.Errorf("%s: %w", own.field, err)
			}
			if in, err := filepath.Rel(path, dir); err == nil && filepath.IsLocal(in) {
				return fmt.Errorf("%s: %s lies in the repository %s; give it a directory of its own", own.field, own.dir, r.Name)
			}
		}
	}
	return nil
}

// A Connection is one that the configuration has, and the path of its field.
type Connection struct {
	Path    string
	Options *natsconn.Options
}

// Connections returns that to the control account and those to targets that are
// others.
func (c *Config) Connections() []Connection {
	out := []Connection{{"control", &c.Control}}
	for i := range c.Targets {
		if t := &c.Targets[i]; t.Options != c.Control {
			out = append(out, Connection{fmt.Sprintf("targets[%d]", i), &t.Options})
		}
	}
	return out
}

func (c *Config) validateTargets() error {
	if len(c.Targets) == 0 {
		return fmt.Errorf("targets: there is none")
	}
	seen := map[string]bool{}
	for i, t := range c.Targets {
		at := fmt.Sprintf("targets[%d]", i)
		if err := unique(at, t.Name, seen); err != nil {
			return err
		}
		if err := t.Validate(); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if t.Concurrency < 0 || t.Concurrency > 256 {
			return fmt.Errorf("%s.concurrency: must be between 1 and 256, or 0 for no bound of its own", at)
		}
	}
	return nil
}

func (c *Config) validateRepositories() error {
	if len(c.Repositories) == 0 {
		return fmt.Errorf("repositories: there is none")
	}
	seen, paths := map[string]bool{}, map[string]string{}
	for i, r := range c.Repositories {
		at := fmt.Sprintf("repositories[%d]", i)
		if err := unique(at, r.Name, seen); err != nil {
			return err
		}
		place, field, err := r.place()
		if err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
		if other := paths[place]; other != "" {
			return fmt.Errorf("%s.%s: repository %s has the same", at, field, other)
		}
		paths[place] = r.Name
		if err := r.validateKeys(); err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
		if _, err := r.PruneTimes(); err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
		if r.Concurrency < 0 || r.Concurrency > 256 {
			return fmt.Errorf("%s.concurrency: must be between 1 and 256, or 0 for no bound of its own", at)
		}
	}
	return nil
}

// validateKeys refuses what is no key, so that a typing error is known at the
// start and not when a key is needed. It never shows what might be a secret.
func (r *Repository) validateKeys() error {
	classic := r.Classic()
	for i, k := range r.OperatorRecipients {
		key, err := seal.ParseRecipient(k)
		if err == nil && (key.Kind() == seal.Classic) != classic {
			err = fmt.Errorf("is %s, the first one is not: %w", key.Kind(), seal.ErrKind)
		}
		if err != nil {
			return fmt.Errorf("operator_recipients[%d]: %w", i, err)
		}
	}
	if r.Recipient != "" {
		if err := seal.CheckPin(r.Recipient); err != nil {
			return fmt.Errorf("recipient: %w", err)
		}
	}
	if r.Identity != "" && r.IdentityFile != "" {
		return fmt.Errorf("identity_file: is given as well as an identity")
	}
	if r.Identity != "" {
		if _, err := seal.ParseIdentities(r.Identity.Reveal()); err != nil {
			return fmt.Errorf("identity: %w", err)
		}
	}
	if _, err := sign.NewTrust(r.TrustedKeys); err != nil && len(r.TrustedKeys) > 0 {
		return fmt.Errorf("trusted_keys: %w", err)
	}
	if r.Keep != nil {
		if _, err := PolicyOf(*r.Keep); err != nil {
			return fmt.Errorf("keep: %w", err)
		}
	}
	return nil
}

// Classic tells whether a repository that is made has classic keys.
func (r *Repository) Classic() bool {
	if len(r.OperatorRecipients) == 0 {
		return false
	}
	key, err := seal.ParseRecipient(r.OperatorRecipients[0])
	return err == nil && key.Kind() == seal.Classic
}

// PolicyOf makes a policy of what a configuration or request says.
func PolicyOf(k api.Keep) (retain.Policy, error) {
	var p retain.Policy
	b, err := json.Marshal(k)
	if err == nil {
		err = p.UnmarshalJSON(b)
	}
	if err == nil {
		err = p.Validate()
	}
	return p, err
}

func (c *Config) validateBounds() error {
	switch {
	case c.Staging.Dir == "":
		return fmt.Errorf("staging.dir: is required")
	case c.Staging.Limit < 64<<20:
		return fmt.Errorf("staging.limit: %d bytes are too few, at least 64 MiB are needed", c.Staging.Limit)
	case c.Drill.Limit < 128<<20:
		return fmt.Errorf("drill.limit: %d bytes are too few, at least 128 MiB are needed", c.Drill.Limit)
	case c.Concurrency < 1 || c.Concurrency > 256:
		return fmt.Errorf("concurrency: must be between 1 and 256")
	case c.Replicas < 0 || c.Replicas > 5:
		return fmt.Errorf("replicas: must be between 1 and 5")
	case c.Lease < time.Second || c.Lease > 10*time.Minute:
		return fmt.Errorf("lease: must be between 1s and 10m")
	case c.MaxAttempts < 1 || c.MaxAttempts > 100:
		return fmt.Errorf("max_attempts: must be between 1 and 100")
	case c.SessionAge < time.Hour:
		return fmt.Errorf("session_age: %s is too short, at least 1h is needed", c.SessionAge)
	case c.Sweep < 100*time.Millisecond || c.Sweep > 10*time.Minute:
		return fmt.Errorf("sweep: must be between 100ms and 10m")
	}
	if err := c.Storage.validate(); err != nil {
		return err
	}
	return nil
}

func unique(at, name string, seen map[string]bool) error {
	if err := api.CheckName(name); err != nil {
		return fmt.Errorf("%s.name: %q %w", at, name, err)
	}
	if seen[name] {
		return fmt.Errorf("%s.name: %q is there twice", at, name)
	}
	seen[name] = true
	return nil
}
