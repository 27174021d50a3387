package main

import (
	"context"
	"fmt"

	"github.com/choria-io/fisk"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/client"
)

// pointsCommand is a command about restore points that is done when it is
// answered.
type pointsCommand struct {
	clause *fisk.CmdClause
	verb   func() string
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
			for _, n := range nameAll(ids) {
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
