package main

import (
	"context"
	"fmt"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/client"
)

func addStatus(c *cli) {
	var (
		conn   connection
		asJSON bool
	)
	clause := c.app.Command("status", "List the instances of the service, and what is wrong with them")
	c.command(clause, func(ctx context.Context, std stdio) error {
		return withRemote(ctx, &conn, func(r *client.Client) error { return status(ctx, r, std, asJSON) })
	})
	clause.Flag("json", "Write JSON").UnNegatableBoolVar(&asJSON)
	conn.flags(clause)
}

func status(ctx context.Context, r *client.Client, std stdio, asJSON bool) error {
	list, err := r.InstanceList(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return std.json(list)
	}
	table := term.NewTable("instance", "version", "state", "since", "last seen", ">tasks", ">staging")
	for _, i := range list.Instances {
		state := "alive"
		if !i.Alive {
			state = "silent"
		}
		table.Row(i.Instance, i.Version, state, moment(i.Started), moment(i.Seen), fmt.Sprint(i.Running),
			term.Bytes(uint64(i.StagingUsed))+" of "+term.Bytes(uint64(i.StagingLimit)))
	}
	if err := table.Write(std.out); err != nil {
		return err
	}
	for _, i := range list.Instances {
		for _, p := range i.Problems {
			if _, err := fmt.Fprintf(std.out, "problem of %s: %s\n", i.Instance, term.Printable(p.Problem)); err != nil {
				return err
			}
			if p.Hint != "" {
				if _, err := fmt.Fprintf(std.out, "  hint: %s\n", term.Printable(p.Hint)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
