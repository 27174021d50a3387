package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/choria-io/fisk"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
)

// check looks whether all that is named is there, and asks a dry run where there is
// one, before anything is done about the first: a request is done wholly or not at
// all, but several are several.
func (p *pointsCommand) check(ctx context.Context, r *client.Client, all []named, repository string) error {
	if len(all) < 2 {
		return nil
	}
	for _, n := range all {
		if p.dryRun != nil {
			if err := p.dryRun(ctx, r, n, repository); err != nil {
				return err
			}
			continue
		}
		if err := checkThere(ctx, r, n, repository); err != nil {
			return err
		}
	}
	return nil
}

// checkThere fails as the service does if a backup or a restore point is not there.
func checkThere(ctx context.Context, r *client.Client, n named, repository string) error {
	if n.backup != "" {
		_, err := r.BackupInfo(ctx, api.BackupInfoRequest{Backup: n.backup, Repository: repository, Limit: 1})
		return err
	}
	there := map[string]bool{}
	for _, id := range n.points {
		backup, _, _ := strings.Cut(id, ".")
		if there[id] {
			continue
		}
		info, err := allPoints(ctx, r, api.BackupInfoRequest{Backup: backup, Repository: repository})
		if err != nil {
			return err
		}
		for _, p := range info.RestorePoints {
			there[p.RestorePoint] = true
		}
		if !there[id] {
			return api.Errorf(api.CodeBackupNotFound, "there is no restore point %s", id)
		}
	}
	return nil
}

// pointsCommand is a command about restore points that is done when it is
// answered.
type pointsCommand struct {
	clause *fisk.CmdClause
	verb   func() string
	// dryRun, if set, fails if a request would.
	dryRun func(context.Context, *client.Client, named, string) error
}

// points adds such a command. send sends one request and returns its answer and
// the restore points it was about.
func (c *cli) points(name, help, verb string, send func(context.Context, *client.Client, named, string) (any, []string, error)) *pointsCommand {
	var (
		conn       connection
		ids        []string
		repository string
		asJSON     bool
	)
	p := &pointsCommand{verb: func() string { return verb }}
	p.clause = c.command(c.app.Command(name, help), func(ctx context.Context, std stdio) error {
		return withRemote(ctx, &conn, func(r *client.Client) error {
			all := nameAll(ids)
			if err := p.check(ctx, r, all, repository); err != nil {
				return err
			}
			for _, n := range all {
				answer, points, err := send(ctx, r, n, repository)
				if err != nil {
					return err
				}
				if asJSON {
					err = std.json(answer)
				} else {
					err = tellPoints(std, p.verb(), points)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	p.clause.Arg("id", "Backups, or restore points").Required().StringsVar(&ids)
	p.clause.Flag("repository", "Repository they are in").PlaceHolder("NAME").StringVar(&repository)
	p.clause.Flag("json", "Write JSON").UnNegatableBoolVar(&asJSON)
	conn.flags(p.clause)
	return p
}

func tellPoints(std stdio, verb string, points []string) error {
	for _, id := range points {
		if _, err := fmt.Fprintf(std.out, "%s %s\n", verb, term.Printable(id)); err != nil {
			return err
		}
	}
	return nil
}
