package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
)

func addStatus(c *cli) {
	var (
		conn   connection
		asJSON bool
	)
	clause := c.app.Command("status", "List the instances of the service, how its repositories are pruned, and what is wrong")
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
	repositories, err := r.RepositoryList(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return std.json(struct {
			*api.InstanceListResponse
			*api.RepositoryListResponse
		}{list, repositories})
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
	_, _ = fmt.Fprintln(std.out)
	if err := pruneTable(repositories.Repositories).Write(std.out); err != nil {
		return err
	}
	return printProblems(std, list.Instances)
}

// pruneTable says how repositories are pruned by themselves.
func pruneTable(repositories []api.RepositoryView) *term.Table {
	table := term.NewTable("repository", "policy", "pruned", "zone", "next", "last prune", "its session")
	for _, v := range repositories {
		policy, times, zone, next, last, session := "none", "never by itself", "", "", "", ""
		if v.Keep != nil {
			policy = policyText(v.Keep)
		}
		if p := v.Prune; p != nil && p.Off {
			times = "off"
		} else if p != nil {
			times, zone = p.Cron, p.Zone
			if p.NextRun != nil {
				next = moment(*p.NextRun)
			}
			if r := p.LastRun; r != nil {
				last, session = moment(r.Slot)+" "+string(r.State), r.Session
			}
		}
		table.Row(v.Repository, policy, times, zone, next, last, session)
	}
	return table
}

// policyText writes a policy as the configuration has it.
func policyText(k *api.Keep) string {
	b, err := json.Marshal(k)
	if err != nil {
		return ""
	}
	return strings.NewReplacer(`"`, "", "{", "", "}", "", ",", ", ", ":", ": ").Replace(string(b))
}

// printProblems says what instances cannot do until somebody mends it.
func printProblems(std stdio, instances []api.InstanceView) error {
	for _, i := range instances {
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
