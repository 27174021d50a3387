package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/choria-io/fisk"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/store"
	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

func addRepository(c *cli) {
	repository := c.app.Command("repository", "Make repositories, look at them, say who can read them")
	addRepositoryRemote(c, repository)
	addRepositoryInit(c, repository)
	addRepositoryKey(c, repository.Command("key", "Look at the operators of an encrypted repository, change them"))
}

func pathFlag(clause *fisk.CmdClause, path *string) {
	clause.Flag("path", "Where the repository is: a directory, "+locationHelp).Required().PlaceHolder("PLACE").StringVar(path)
}

// repositoryInit is what `repository init` is given.
type repositoryInit struct {
	path       string
	mode       string
	recipients recipientSource
	classic    bool
	signFile   string
}

func addRepositoryInit(c *cli, parent *fisk.CmdClause) {
	o := &repositoryInit{}
	cmd := c.command(parent.Command("init", "Make a repository, encrypted if it is said for whom"), o.run)
	pathFlag(cmd, &o.path)
	cmd.Flag("mode", "Who may use the files of a repository in a directory, in octal: 0640 lets the group read, 0660 write, too. The service's configuration must have it as well").PlaceHolder("MODE").StringVar(&o.mode)
	o.recipients.flags(cmd)
	cmd.Flag("classic", "Use X25519 keys, which hold against today's computers only, for operators whose keys are such").UnNegatableBoolVar(&o.classic)
	cmd.Flag("sign", "File for the seed of the key that the service signs with, which is made unless it exists").PlaceHolder("FILE").StringVar(&o.signFile)
}

func (o *repositoryInit) run(ctx context.Context, std stdio) error {
	loc, err := parseLocation(o.path)
	if err != nil {
		return err
	}
	if o.mode != "" {
		loc.repository.Mode = o.mode
		if _, err := loc.repository.FileMode(); err != nil {
			return usagef("--%v", err)
		}
	}
	for _, file := range []string{o.recipients.generate, o.signFile} {
		if err := outside(loc, file); err != nil {
			return err
		}
	}
	kind := seal.Hybrid
	if o.classic {
		kind = seal.Classic
	}
	recipients, err := o.recipients.read(kind)
	if err != nil {
		return err
	}
	if o.classic && len(recipients) == 0 {
		return usagef("--classic: for whom the repository is encrypted is missing")
	}
	var signer *sign.Signer
	if o.signFile != "" {
		if signer, err = signerFile(o.signFile); err != nil {
			return err
		}
	}
	bucket, err := loc.create(ctx)
	if err != nil {
		return err
	}
	defer bucket.Close()
	repo, err := store.Init(ctx, bucket, store.InitOptions{Recipients: recipients, Classic: o.classic})
	if err != nil {
		return initHint(fmt.Errorf("%s: %w", loc, err))
	}
	return o.tell(ctx, std.out, loc, repo, signer)
}

// outside refuses a file for a secret inside of the repository: who has the
// one would have the other.
func outside(loc location, file string) error {
	if file == "" || loc.distant() {
		return nil
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(loc.String(), abs)
	if err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return usagef("%s: a secret key must not lie in the repository", file)
	}
	return nil
}

// tell says what was made, what must be kept, and what the service needs.
func (o *repositoryInit) tell(ctx context.Context, out io.Writer, loc location, repo *store.Repository, signer *sign.Signer) error {
	var b strings.Builder
	m := repo.Marker()
	key, err := recipientOf(m)
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "Repository %s made in %s, %s.\n", m.ID, loc, encryption(m, key))
	if repo.Encrypted() {
		ops, err := repo.Operators(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "\nWho can read it (%s):\n", term.Plural(len(ops), "operator"))
		for _, op := range ops {
			r, err := seal.ParseRecipient(op)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "  %s  %s\n", r.Fingerprint(), short(op))
		}
		b.WriteString(`
Keep apart from the repository and from the machines of the service, twice and
somewhere safe:
`)
		if o.recipients.generate != "" {
			fmt.Fprintf(&b, "  %s\n    The operator's secret key.\n", o.recipients.generate)
		} else {
			b.WriteString("  the secret keys that belong to these recipients\n")
		}
		b.WriteString(`    Without one of them nobody can read the backups or restore them, ever.
    The service does not need it to make backups.
`)
	}
	if signer != nil {
		fmt.Fprintf(&b, `
Give to the service, and to nobody else:
  %s
    The seed of its signing key. Who has it can forge restore points. If it is
    lost, make another, and trust both public keys.
`, o.signFile)
	}
	if flags := serviceFlags(m, key, o.signFile, signer); flags != "" {
		b.WriteString("\nFlags of jetkeep serve for this repository, which are no secrets:\n" + flags)
	}
	if !repo.Encrypted() {
		place := "directory"
		if loc.distant() {
			place = "store"
		}
		b.WriteString("\nWho can read the " + place + " can read every message. To encrypt, make the\nrepository with --recipient, --recipients-file or --generate-operator.\n")
	}
	_, err = io.WriteString(out, b.String())
	return err
}

// serviceFlags is what pins the repository's key and the signer's.
func serviceFlags(m store.Marker, key seal.Recipient, signFile string, signer *sign.Signer) string {
	var b strings.Builder
	if m.Encrypted() {
		fmt.Fprintf(&b, "  --recipient %s\n", key.Fingerprint())
	}
	if signer != nil {
		if abs, err := filepath.Abs(signFile); err == nil {
			signFile = abs
		}
		fmt.Fprintf(&b, "  --sign-seed-file %q\n  --trusted-key %s\n", signFile, signer.Public())
	}
	return b.String()
}

func encryption(m store.Marker, key seal.Recipient) string {
	switch {
	case !m.Encrypted():
		return "not encrypted"
	case key.Kind() == seal.Classic:
		return "encrypted with X25519"
	}
	return "encrypted with ML-KEM-768 and X25519"
}

func recipientOf(m store.Marker) (seal.Recipient, error) {
	if !m.Encrypted() {
		return seal.Recipient{}, nil
	}
	return seal.ParseRecipient(m.Recipient)
}

// initHint adds what can be done about a repository that was not made.
func initHint(err error) error {
	switch {
	case errors.Is(err, store.ErrForeign):
		return fmt.Errorf("%w; choose an empty or a new directory or prefix", err)
	case errors.Is(err, seal.ErrKind):
		return fmt.Errorf("%w; with keys of X25519 alone use --classic", err)
	}
	return err
}

// repositoryKey is what the commands on operators are given.
type repositoryKey struct {
	path       string
	recipients recipientSource
	identity   identitySource
	keys       []string
	json       bool
}

func addRepositoryKey(c *cli, parent *fisk.CmdClause) {
	add := func(name, help string, run func(*repositoryKey, context.Context, *store.Repository, stdio) error) (*repositoryKey, *fisk.CmdClause) {
		k := &repositoryKey{}
		cmd := c.command(parent.Command(name, help), func(ctx context.Context, std stdio) error { return k.with(ctx, std, run) })
		pathFlag(cmd, &k.path)
		return k, cmd
	}
	k, cmd := add("ls", "List who can read a repository", (*repositoryKey).list)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&k.json)
	k, cmd = add("add", "Let somebody else read a repository", (*repositoryKey).add)
	k.recipients.flags(cmd)
	k.identity.flags(cmd)
	k, cmd = add("remove", "Take the key away from somebody", (*repositoryKey).remove)
	cmd.Arg("key", "Public keys or their fingerprints").Required().StringsVar(&k.keys)
}

// with opens the repository for a command.
func (k *repositoryKey) with(ctx context.Context, std stdio, run func(*repositoryKey, context.Context, *store.Repository, stdio) error) error {
	loc, err := parseLocation(k.path)
	if err != nil {
		return err
	}
	bucket, err := loc.open(ctx)
	if err != nil {
		return err
	}
	defer bucket.Close()
	repo, err := store.Open(ctx, bucket, store.OpenOptions{})
	if err == nil {
		err = run(k, ctx, repo, std)
	}
	if usage := new(usageError); err == nil || errors.As(err, &usage) {
		return err
	}
	return fmt.Errorf("%s: %w", loc, err)
}

func (k *repositoryKey) list(ctx context.Context, repo *store.Repository, std stdio) error {
	all, err := repo.Operators(ctx)
	if err != nil {
		return err
	}
	type operator struct {
		Fingerprint string    `json:"fingerprint"`
		Kind        seal.Kind `json:"kind"`
		Recipient   string    `json:"recipient"`
	}
	out := make([]operator, len(all))
	table := term.NewTable("fingerprint", "kind", "recipient")
	for i, text := range all {
		r, err := seal.ParseRecipient(text)
		if err != nil {
			return err
		}
		out[i] = operator{Fingerprint: r.Fingerprint(), Kind: r.Kind(), Recipient: text}
		table.Row(r.Fingerprint(), string(r.Kind()), short(text))
	}
	if k.json {
		return std.json(map[string]any{"repository": repo.Marker().ID, "recipient": repo.Marker().Recipient, "operators": out})
	}
	return table.Write(std.out)
}

func (k *repositoryKey) add(ctx context.Context, repo *store.Repository, std stdio) error {
	loc, err := parseLocation(k.path)
	if err == nil {
		err = outside(loc, k.recipients.generate)
	}
	if err != nil {
		return err
	}
	if !repo.Encrypted() {
		return store.ErrNotEncrypted
	}
	identities, err := k.identity.read()
	if err != nil {
		return err
	}
	if len(identities) == 0 {
		return fmt.Errorf("%w; name the secret key of an operator with --identity or $%s", store.ErrLocked, envIdentity)
	}
	if repo, err = repo.Unlock(ctx, identities); err != nil {
		return err
	}
	own, err := recipientOf(repo.Marker())
	if err != nil {
		return err
	}
	recipients, err := k.recipients.read(own.Kind())
	if err != nil {
		return err
	}
	if len(recipients) == 0 {
		return usagef("who is to be added is missing: --recipient, --recipients-file or --generate-operator")
	}
	for _, text := range recipients { // all of them before one is added
		r, err := seal.ParseRecipient(text)
		if err != nil {
			return fmt.Errorf("add %s: %w", short(text), err)
		}
		if r.Kind() != own.Kind() {
			return fmt.Errorf("add %s: %w", short(text), seal.ErrKind)
		}
	}
	for _, text := range recipients {
		if err := repo.AddOperator(ctx, text); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(std.out, "added %s\n", short(text))
	}
	return nil
}

func (k *repositoryKey) remove(ctx context.Context, repo *store.Repository, std stdio) error {
	all, err := repo.Operators(ctx)
	if err != nil {
		return err
	}
	gone, err := namedOperators(all, k.keys)
	if err != nil {
		return err
	}
	for _, text := range gone {
		if err := repo.RemoveOperator(ctx, text); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(std.out, "removed %s\n", short(text))
	}
	_, err = fmt.Fprintln(std.err, "Who could read the repository may have kept its key. If they must not read it any more, make a new repository.")
	return err
}

// namedOperators returns those of all operators that keys name, each once. All are
// looked up before one is removed.
func namedOperators(all, keys []string) ([]string, error) {
	var out []string
	for _, pin := range keys {
		if err := seal.CheckPin(pin); err != nil {
			return nil, &usageError{err: err}
		}
		i := slices.IndexFunc(all, func(text string) bool {
			r, err := seal.ParseRecipient(text)
			return err == nil && r.Matches(pin)
		})
		if i < 0 {
			return nil, fmt.Errorf("%s %w", short(pin), store.ErrNoOperator)
		}
		if !slices.Contains(out, all[i]) {
			out = append(out, all[i])
		}
	}
	if len(out) == len(all) {
		return nil, fmt.Errorf("%s %w", short(out[len(out)-1]), store.ErrLastOperator)
	}
	return out, nil
}
