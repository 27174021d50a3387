package main

import (
	"context"
	"fmt"
	"strings"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
)

// named are restore points as requests name them: a backup, or single ones.
type named struct {
	backup string
	points []string
}

// nameAll sorts ids: those with a dot are of restore points, the others of
// backups, each of which takes a request.
func nameAll(ids []string) []named {
	var out []named
	var points []string
	for _, id := range ids {
		if strings.Contains(id, ".") {
			points = append(points, id)
		} else {
			out = append(out, named{backup: id})
		}
	}
	if len(points) > 0 {
		out = append(out, named{points: points})
	}
	return out
}

// nameOnce is nameAll for what takes a single request.
func nameOnce(ids []string) (named, error) {
	all := nameAll(ids)
	switch len(all) {
	case 0:
		return named{}, nil
	case 1:
		return all[0], nil
	}
	return named{}, usagef("name one backup, or restore points")
}

func addForget(c *cli) {
	var dry bool
	cmd := c.points("forget", "Forget backups or restore points; prune then frees their space", "forgot",
		func(ctx context.Context, r *client.Client, n named, repository string) (any, []string, error) {
			a, err := r.BackupDelete(ctx, api.BackupDeleteRequest{Backup: n.backup, Points: n.points, Repository: repository, DryRun: dry})
			if err != nil {
				return nil, nil, err
			}
			return a, a.Points, nil
		})
	cmd.clause.Flag("dry-run", "Say what would be forgotten, and forget nothing").UnNegatableBoolVar(&dry)
	cmd.dryRun = func(ctx context.Context, r *client.Client, n named, repository string) error {
		_, err := r.BackupDelete(ctx, api.BackupDeleteRequest{Backup: n.backup, Points: n.points, Repository: repository, DryRun: true})
		return err
	}
	cmd.verb = func() string {
		if dry {
			return "would forget"
		}
		return "forgot"
	}
}

func addPin(c *cli) {
	var reason string
	cmd := c.points("pin", "Keep backups or restore points, whatever policies say", "pinned",
		func(ctx context.Context, r *client.Client, n named, repository string) (any, []string, error) {
			a, err := r.BackupPin(ctx, api.BackupPinRequest{Backup: n.backup, Points: n.points, Repository: repository, Reason: reason})
			if err != nil {
				return nil, nil, err
			}
			return a, a.Points, nil
		})
	cmd.clause.Flag("reason", "Why, for others to read").PlaceHolder("TEXT").StringVar(&reason)
	c.points("unpin", "Take pins away", "unpinned",
		func(ctx context.Context, r *client.Client, n named, repository string) (any, []string, error) {
			a, err := r.BackupUnpin(ctx, api.BackupUnpinRequest{Backup: n.backup, Points: n.points, Repository: repository})
			if err != nil {
				return nil, nil, err
			}
			return a, a.Points, nil
		})
}

// printPruned tells what a prune did.
func printPruned(std stdio, p *api.Pruned) {
	_, _ = fmt.Fprintf(std.out, "  %s forgotten, %d left; %s deleted (%s), %d to go later\n", term.Plural(p.Forgotten, "restore point"),
		p.Points, term.Plural(p.Deleted, "object"), term.Bytes(p.DeletedBytes), p.Waiting)
	if p.Unread > 0 {
		_, _ = fmt.Fprintf(std.out, "  %s cannot be read and stayed, whatever the policy says\n", term.Plural(p.Unread, "restore point"))
	}
	for _, line := range p.Text {
		_, _ = fmt.Fprintf(std.out, "  %s\n", term.Printable(line))
	}
}
