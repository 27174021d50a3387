package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/choria-io/fisk"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/store"
)

func addVerify(c *cli) {
	v := &verify{}
	cmd := c.command(c.app.Command("verify", "Look whether backups are whole, without restoring them"), v.run)
	cmd.Arg("backup", "Backup to verify, or ids of restore points; the whole repository if none is given").StringsVar(&v.ids)
	v.flags(cmd)
}

// verify is what both commands that verify are given.
type verify struct {
	conn       connection
	identity   identitySource
	w          waiting
	ids        []string
	repository string
	path       string
	level      string
	part       string
	percent    int
	trusted    []string
}

func (v *verify) flags(cmd *fisk.CmdClause) {
	cmd.Flag("repository", "Repository to look into").PlaceHolder("NAME").StringVar(&v.repository)
	cmd.Flag("path", "Verify what is here, without a service: a directory, "+locationHelp).PlaceHolder("PLACE").StringVar(&v.path)
	cmd.Flag("level", "structure: everything is there; data: and unaltered; records: and decodes to what was backed up").Default(string(api.LevelData)).EnumVar(&v.level, levels()...)
	cmd.Flag("part", "Read one of several parts only, such as 3/7").PlaceHolder("N/T").StringVar(&v.part)
	whole(cmd.Flag("percent", "Read so much only, chosen at random").PlaceHolder("N"), &v.percent)
	v.identity.flags(cmd)
	trustedFlag(cmd, &v.trusted)
	cmd.Flag("detach", "Do not wait for the end").UnNegatableBoolVar(&v.w.detach)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&v.w.json)
	v.conn.flags(cmd)
}

func levels() []string {
	var out []string
	for _, l := range api.Levels() {
		out = append(out, string(l))
	}
	return out
}

func (v *verify) run(ctx context.Context, std stdio) error {
	part, parts, err := parsePart(v.part)
	if err != nil {
		return err
	}
	named, err := nameOnce(v.ids)
	if err != nil {
		return err
	}
	if v.path != "" {
		return v.here(ctx, std, part, parts)
	}
	if len(v.trusted) > 0 {
		return usagef(trustedOnly)
	}
	level := api.Level(v.level)
	return withRemote(ctx, &v.conn, func(r *client.Client) error {
		sealed := ""
		if level == api.LevelRecords {
			if sealed, err = v.identity.sealed(ctx, r, v.repository); err != nil {
				return err
			}
		}
		var accepted *api.Accepted
		if len(v.ids) == 0 {
			accepted, err = r.RepositoryVerify(ctx, api.RepositoryVerifyRequest{
				Repository: v.repository, Level: level, Part: part, Parts: parts, Percent: v.percent, Identity: sealed,
			})
		} else {
			accepted, err = r.BackupVerify(ctx, api.BackupVerifyRequest{
				Backup: named.backup, Points: named.points, Repository: v.repository,
				Level: level, Part: part, Parts: parts, Percent: v.percent, Identity: sealed,
			})
		}
		if err != nil {
			return err
		}
		return v.w.session(ctx, r, accepted, std)
	})
}

// here verifies a repository without a service. What instances remember of it,
// such as how far its logs have come, is not compared.
func (v *verify) here(ctx context.Context, std stdio, part, parts int) error {
	switch {
	case v.repository != "":
		return usagef("--repository: --path says already which repository")
	case v.w.detach:
		return usagef("--detach: with --path nobody else does it")
	}
	level, err := store.ParseVerifyLevel(v.level)
	if err != nil {
		return &usageError{err: err}
	}
	at := repositoryAt{path: v.path, identity: v.identity, trusted: v.trusted}
	return at.with(ctx, nil, func(repo *store.Repository) error {
		opt := store.VerifyOptions{Level: level, Part: part, Parts: parts, Percent: float64(v.percent), Seed: rand.Text()}
		for _, id := range v.ids {
			points, err := repo.PointsOf(ctx, id)
			if err != nil {
				return err
			}
			if len(points) == 0 {
				opt.Points = append(opt.Points, id)
			}
			for _, p := range points {
				opt.Points = append(opt.Points, p.ID)
			}
		}
		report, err := repo.Verify(ctx, opt)
		if err != nil {
			return err
		}
		found := service.VerificationOf(report)
		if v.w.json {
			err = std.json(found)
		} else {
			printVerification(std, found)
		}
		if err == nil && !report.OK() {
			err = errReported
		}
		return err
	})
}

func parsePart(s string) (part, parts int, err error) {
	if s == "" {
		return 0, 0, nil
	}
	if n, err := fmt.Sscanf(s, "%d/%d", &part, &parts); n != 2 || err != nil || fmt.Sprintf("%d/%d", part, parts) != s {
		return 0, 0, usagef("--part: %q is none, such as 3/7", s)
	}
	return part, parts, nil
}

// printVerification tells what a verification found.
func printVerification(std stdio, v *api.Verification) {
	_, _ = fmt.Fprintf(std.out, "  %s verified at level %s: %s, %d of them read (%s)\n", term.Plural(v.Points, "restore point"), v.Level,
		term.Plural(v.Objects, "object"), v.Read, term.Bytes(v.Bytes))
	if v.Orphans > 0 {
		_, _ = fmt.Fprintf(std.out, "  %s (%s) that no restore point needs\n", term.Plural(v.Orphans, "object"), term.Bytes(v.OrphanBytes))
	}
	if v.Census != nil {
		printCensus(std, v.Census)
	}
	for _, p := range v.Problems {
		_, _ = fmt.Fprintf(std.out, "  problem: %s: %s\n", term.Printable(p.Object), term.Printable(p.Problem))
		for _, id := range p.Points {
			_, _ = fmt.Fprintf(std.out, "    reaches %s\n", term.Printable(id))
		}
	}
	if more := v.ProblemCount - len(v.Problems); more > 0 {
		_, _ = fmt.Fprintf(std.out, "  and %s\n", term.Plural(more, "more problem"))
	}
	if v.ProblemCount > 0 {
		_, _ = fmt.Fprintf(std.out, "  %s damaged: %s\n", term.Plural(v.Damaged, "restore point"), term.Printable(strings.Join(v.DamagedList, " ")))
	}
}

// printCensus tells whether the store keeps what it promised to.
func printCensus(std stdio, c *api.Census) {
	until := ""
	if c.Until != nil {
		until = " until at least " + moment(*c.Until)
	}
	_, _ = fmt.Fprintf(std.out, "  %s promised for longer: of %s %d retained as long as promised%s\n", term.Plural(c.Points, "restore point"),
		term.Plural(c.Objects, "object"), c.Retained, until)
	if c.Short > 0 {
		_, _ = fmt.Fprintf(std.out, "  %s can be deleted before the promised time: %s\n", term.Plural(c.Short, "restore point"),
			term.Printable(strings.Join(c.ShortList, " ")))
	}
}
