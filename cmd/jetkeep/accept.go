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

// addRepositoryAccept adds the command that takes up a repository which was
// replaced. Without an id it only says what is there.
func addRepositoryAccept(c *cli, group *fisk.CmdClause) {
	var (
		conn   connection
		req    api.RepositoryAcceptRequest
		asJSON bool
	)
	cmd := c.command(group.Command("accept", "Accept a repository that was replaced on purpose"), func(ctx context.Context, std stdio) error {
		return withRemote(ctx, &conn, func(r *client.Client) error {
			req.DryRun = req.ID == ""
			got, err := r.RepositoryAccept(ctx, req)
			if err != nil {
				return err
			}
			if asJSON {
				return std.json(got)
			}
			_, err = fmt.Fprint(std.out, acceptText(got, req.DryRun))
			return err
		})
	})
	cmd.Arg("repository", "Name of the repository").Required().StringVar(&req.Repository)
	cmd.Flag("id", "Id of the repository that is there now; without it, say what is there and change nothing").PlaceHolder("ID").StringVar(&req.ID)
	cmd.Flag("recipient", "Its public key, the fingerprint of that, or none, if the key changed and the id did not").PlaceHolder("KEY").StringVar(&req.Recipient)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&asJSON)
	conn.flags(cmd)
}

func acceptText(r *api.RepositoryAcceptResponse, dry bool) string {
	var b strings.Builder
	key := "not encrypted"
	if r.Encrypted {
		key = "public key " + r.Recipient
	}
	made := ""
	if r.Created != nil {
		made = ", made " + moment(*r.Created)
	}
	fmt.Fprintf(&b, "Repository %s: id %s, %s%s.\n", r.Repository, r.ID, key, made)
	switch {
	case !r.Changed:
		b.WriteString("It is the one that the name means.\n")
	case r.BeforeID != "" && r.BeforeID != r.ID:
		fmt.Fprintf(&b, "Before, the name meant the repository with the id %s.\n", r.BeforeID)
	case r.BeforeRecipient != "":
		fmt.Fprintf(&b, "Its public key was %s before. Whoever writes to the store may have put a key of their own there.\n", r.BeforeRecipient)
	}
	switch {
	case !r.Changed:
	case dry:
		command := "jetkeep repository accept " + r.Repository + " --id " + r.ID
		if r.BeforeRecipient != "" {
			command += " --recipient " + r.Recipient
		}
		fmt.Fprintf(&b, "Nothing was changed. To accept it:\n  %s\n", command)
	default:
		b.WriteString("Accepted. Other instances use it within a minute.\n")
	}
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = term.Printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
