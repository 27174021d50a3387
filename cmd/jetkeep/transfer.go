package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/choria-io/fisk"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/transfer"
	"jetkeep/store"
	"jetkeep/store/sign"
)

// repositoryAt is a repository that a command opens itself, without a service.
type repositoryAt struct {
	path     string
	identity identitySource
	trusted  []string
	sole     bool // nobody else writes meanwhile
}

func (a *repositoryAt) flags(clause *fisk.CmdClause) {
	pathFlag(clause, &a.path)
	a.identity.flags(clause)
	trustedFlag(clause, &a.trusted)
}

// trustedOnly refuses trusted keys where a service is asked.
const trustedOnly = "--trusted-key: only with --path; a service has trusted_keys in its configuration"

func trustedFlag(clause *fisk.CmdClause, keys *[]string) {
	clause.Flag("trusted-key", "Public key whose signatures are accepted, and no others, in what --path names; can be given several times").PlaceHolder("KEY").StringsVar(keys)
}

// with opens the repository for a command.
func (a *repositoryAt) with(ctx context.Context, signer *sign.Signer, run func(*store.Repository) error) error {
	limitMemory()
	loc, err := parseLocation(a.path)
	if err != nil {
		return err
	}
	opt := store.OpenOptions{Signer: signer, SoleWriter: a.sole}
	if opt.Identities, err = a.identity.read(); err != nil {
		return err
	}
	if len(a.trusted) > 0 {
		if opt.Trust, err = sign.NewTrust(a.trusted); err != nil {
			return usagef("--trusted-key: %v", err)
		}
	}
	bucket, err := loc.open(ctx)
	if err != nil {
		return err
	}
	defer bucket.Close()
	repo, err := store.Open(ctx, bucket, opt)
	if err == nil {
		err = run(repo)
	}
	if usage := new(usageError); err == nil || errors.As(err, &usage) {
		return err
	}
	if errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("%s: %w; name an operator's secret key with --identity", loc, err)
	}
	if errors.Is(err, store.ErrNeedsLock) {
		return fmt.Errorf("%s: %w; give --sole-writer if nobody else, and no service, writes into the repository meanwhile", loc, err)
	}
	return fmt.Errorf("%s: %w", loc, err)
}

// export is what the command is given.
type export struct {
	at      repositoryAt
	format  string
	point   string
	backup  string
	target  string
	streams transfer.Selection
	out     string
	json    bool
}

func addExport(c *cli) {
	o := &export{}
	cmd := c.command(c.app.Command("export", "Write restore points as directories that nats backup restore takes; needs no server"), o.run)
	cmd.Arg("dir", "Directory to make").Required().StringVar(&o.out)
	o.at.flags(cmd)
	cmd.Flag("format", "v1 for all servers, v2 for 2.15 and later, v2-tar for v2 with nats commands up to 0.3").Default("v1").EnumVar(&o.format, transfer.Formats()...)
	cmd.Flag("restore-point", "Write this one, straight into the directory").PlaceHolder("ID").StringVar(&o.point)
	cmd.Flag("backup", "Write the streams of this backup; the newest restore point of each stream if it is missing").PlaceHolder("ID").StringVar(&o.backup)
	cmd.Flag("target", "Only streams of this target").PlaceHolder("NAME").StringVar(&o.target)
	cmd.Flag("stream", streamHelp).PlaceHolder("STREAM").StringsVar((*[]string)(&o.streams))
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&o.json)
}

func (o *export) run(ctx context.Context, std stdio) error {
	return o.at.with(ctx, nil, func(repo *store.Repository) error {
		points, err := o.points(ctx, std, repo)
		if err != nil {
			return err
		}
		done, err := transfer.Export(ctx, repo, points, o.out, transfer.Format(o.format), o.point == "")
		if err != nil {
			return err
		}
		if o.json {
			return std.json(done)
		}
		table := term.NewTable("stream", "restore point", ">messages", ">consumers", ">bytes", "directory")
		for _, e := range done {
			table.Row(e.Stream, e.RestorePoint, term.Count(e.Messages), fmt.Sprint(e.Consumers), term.Bytes(uint64(e.Bytes)), e.Dir)
		}
		return table.Write(std.out)
	})
}

// points chooses what to export.
func (o *export) points(ctx context.Context, std stdio, repo *store.Repository) ([]store.Point, error) {
	if o.point != "" {
		p, err := repo.Point(ctx, o.point)
		return []store.Point{p}, err
	}
	list := repo.Points
	if o.backup != "" {
		list = func(ctx context.Context) ([]store.Listed, error) { return repo.PointsOf(ctx, o.backup) }
	}
	listed, err := list(ctx)
	if err != nil {
		return nil, err
	}
	newest, own := map[string]int{}, map[string]bool{}
	var out []store.Point
	for _, l := range listed {
		p := l.Point
		// One that is not trusted says which stream it is of; any other that
		// cannot be read might be the one that is meant.
		if errors.Is(l.Err, store.ErrUntrusted) && p.Stream != "" && (o.target != "" && p.Target != o.target || !o.streams.Means(p.Stream)) {
			continue
		}
		if l.Err != nil {
			return nil, fmt.Errorf("restore point %s: %w", l.ID, l.Err)
		}
		if o.target != "" && p.Target != o.target {
			continue
		}
		if !o.streams.Means(p.Stream) {
			if o.streams.PassesOver(p.Stream) {
				own[p.Stream] = true
			}
			continue
		}
		i, seen := newest[p.Stream]
		switch {
		case !seen:
			newest[p.Stream] = len(out)
			out = append(out, p)
		case out[i].Target != p.Target:
			return nil, usagef("there are streams %s of the targets %s and %s: say which with --target", p.Stream, out[i].Target, p.Target)
		case p.Time.After(out[i].Time):
			out[i] = p
		}
	}
	tellOwn(std, slices.Sorted(maps.Keys(own)))
	if missing := o.streams.Missing(slices.Collect(maps.Keys(newest))); len(missing) > 0 {
		return nil, fmt.Errorf("%w of stream %s", store.ErrNoPoint, strings.Join(missing, ", "))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no restore point is of those streams", store.ErrNoPoint)
	}
	return out, nil
}

const streamHelp = "Only these streams, names or patterns; jetkeep's own, which hold its secrets, only by their names; can be given several times"

// tellOwn says which of jetkeep's own streams were not meant.
func tellOwn(std stdio, streams []string) {
	if len(streams) > 0 {
		_, _ = fmt.Fprintf(std.err, "left out, as they are jetkeep's own and hold its secrets: %s; to take one, name it with --stream\n", strings.Join(streams, ", "))
	}
}

// importing is what the command is given.
type importing struct {
	at       repositoryAt
	target   string
	streams  transfer.Selection
	signFile string
	in       string
	json     bool
}

func addImport(c *cli) {
	o := &importing{}
	cmd := c.command(c.app.Command("import", "Take in what nats backup stream or nats backup account made; needs no server"), o.run)
	cmd.Arg("dir", "Directory that the command made").Required().ExistingDirVar(&o.in)
	o.at.flags(cmd)
	cmd.Flag("target", "Name of the account that it was made of").Default("imported").PlaceHolder("NAME").StringVar(&o.target)
	cmd.Flag("stream", streamHelp).PlaceHolder("STREAM").StringsVar((*[]string)(&o.streams))
	cmd.Flag("sole-writer", "Nobody else writes into the repository meanwhile: in stores that cannot tell which of two was first, such as Swift, there is no other way without a service").UnNegatableBoolVar(&o.at.sole)
	cmd.Flag("sign", "File with the seed of the key to sign with").PlaceHolder("FILE").StringVar(&o.signFile)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&o.json)
}

func (o *importing) run(ctx context.Context, std stdio) error {
	var signer *sign.Signer
	if o.signFile != "" {
		seed, err := os.ReadFile(o.signFile)
		if err != nil {
			return fmt.Errorf("read signing key: %w", err)
		}
		if signer, err = sign.ParseSeed(strings.TrimSpace(string(seed))); err != nil {
			return fmt.Errorf("signing key in %s: %w", o.signFile, err)
		}
	}
	return o.at.with(ctx, signer, func(repo *store.Repository) error {
		repo, err := writable(ctx, repo)
		if err != nil {
			return err
		}
		area, remove, err := importArea()
		if err != nil {
			return err
		}
		defer remove()
		var own, absent []string
		points, err := transfer.Import(ctx, repo, o.in, transfer.ImportOptions{
			Target: o.target, Staging: area, Now: time.Now, Streams: o.streams, LeftOut: func(l transfer.LeftOut) {
				if errors.Is(l.Err, transfer.ErrOwn) {
					own = append(own, l.Stream)
				} else {
					absent = append(absent, l.Stream)
				}
			},
		})
		tellOwn(std, own)
		if errors.Is(err, transfer.ErrOwn) {
			err = fmt.Errorf("%w: give it with --stream", err)
		}
		if err = errors.Join(o.tell(std, points), err, area.Close()); err != nil {
			return err
		}
		return tellAbsent(std, absent)
	})
}

// tellAbsent says which streams the nats command could not back up.
func tellAbsent(std stdio, streams []string) error {
	if len(streams) == 0 {
		return nil
	}
	_, _ = fmt.Fprintf(std.err, "not in the backup: %s; the nats command left an empty directory, as it does for streams in memory on servers before 2.15\n", strings.Join(streams, ", "))
	return errPartial
}

// writable gives an encrypted repository a writer key: one that is there if
// there is an identity to open it with, else a new one.
func writable(ctx context.Context, repo *store.Repository) (*store.Repository, error) {
	if !repo.Encrypted() {
		return repo, nil
	}
	if repo.Readable() {
		keys, err := repo.WriterKeys(ctx)
		if err != nil {
			return nil, err
		}
		if len(keys) > 0 {
			return repo.WithWriterKey(keys[0])
		}
	}
	key, err := repo.NewWriterKey(ctx)
	if err != nil {
		return nil, err
	}
	return repo.WithWriterKey(key)
}

func (o *importing) tell(std stdio, points []store.Point) error {
	if o.json {
		return std.json(points)
	}
	table := term.NewTable("stream", "restore point", ">messages", ">consumers", ">stored", "notes")
	for _, p := range points {
		table.Row(p.Stream, p.ID, term.Count(p.Content.Messages), fmt.Sprint(p.Consumers.Count), term.Bytes(p.Content.StoredBytes), strings.Join(p.Notes, "; "))
	}
	return table.Write(std.out)
}
