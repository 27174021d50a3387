package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/choria-io/fisk"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
)

func addPrune(c *cli) {
	var (
		conn connection
		w    waiting
		req  api.RepositoryPruneRequest
		keep keepFlags
	)
	cmd := c.command(c.app.Command("prune", "Forget by a policy, and delete what no restore point needs"), func(ctx context.Context, std stdio) error {
		req.Keep = keep.policy()
		return withRemote(ctx, &conn, func(r *client.Client) error {
			if req.DryRun {
				return showPrune(ctx, r, req, std, w.json)
			}
			a, err := r.RepositoryPrune(ctx, req)
			if err != nil {
				return err
			}
			return w.session(ctx, r, &api.Accepted{Session: a.Session, Kind: a.Kind, State: a.State, Repository: a.Repository, Tasks: a.Tasks}, std)
		})
	})
	cmd.Flag("repository", "Repository to prune").PlaceHolder("NAME").StringVar(&req.Repository)
	cmd.Flag("dry-run", "Print the plan with its reasons, and do nothing").UnNegatableBoolVar(&req.DryRun)
	cmd.Flag("grace", "How long what is to go stays for restores that read it").PlaceHolder("DURATION").StringVar(&req.Grace)
	cmd.Flag("orphan-age", "How old what nobody refers to must be before it goes").PlaceHolder("DURATION").StringVar(&req.OrphanAge)
	keep.flags(cmd)
	cmd.Flag("detach", "Do not wait for the end").UnNegatableBoolVar(&w.detach)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&w.json)
	conn.flags(cmd)
}

// keepFlags are a policy on the command line.
type keepFlags struct {
	api.Keep
	floor int
}

func (k *keepFlags) flags(cmd *fisk.CmdClause) {
	count := func(name, what string, to *int) {
		cmd.Flag("keep-"+name, "Keep "+what+"; -1 for all").PlaceHolder("N").IntVar(to)
	}
	count("last", "so many of the newest of each stream", &k.Last)
	count("hourly", "the newest of so many hours", &k.Hourly)
	count("daily", "the newest of so many days", &k.Daily)
	count("weekly", "the newest of so many weeks", &k.Weekly)
	count("monthly", "the newest of so many months", &k.Monthly)
	count("yearly", "the newest of so many years", &k.Yearly)
	within := func(name, what string, to *string) {
		cmd.Flag("keep-"+name, "Keep "+what+" within a time before the newest, such as 36h, 30d or 2w").PlaceHolder("DURATION").StringVar(to)
	}
	within("within", "all", &k.Within)
	within("within-hourly", "the newest of each hour", &k.WithinHourly)
	within("within-daily", "the newest of each day", &k.WithinDaily)
	within("within-weekly", "the newest of each week", &k.WithinWeekly)
	within("within-monthly", "the newest of each month", &k.WithinMonthly)
	within("within-yearly", "the newest of each year", &k.WithinYearly)
	cmd.Flag("keep-tag", "Keep what has this tag; can be repeated").PlaceHolder("KEY[=VALUE]").StringsVar(&k.Tags)
	cmd.Flag("keep-zone", "Time zone that hours to years begin in; UTC if not given").PlaceHolder("ZONE").StringVar(&k.Zone)
	cmd.Flag("keep-floor", "Keep so many of the newest good ones in any case").Default("1").PlaceHolder("N").IntVar(&k.floor)
}

// policy returns what is given, nil if nothing is.
func (k *keepFlags) policy() *api.Keep {
	if reflect.ValueOf(k.Keep).IsZero() {
		return nil
	}
	p := k.Keep
	p.Floor = &k.floor
	return &p
}

// showPrune prints the plan with all its decisions.
func showPrune(ctx context.Context, r *client.Client, req api.RepositoryPruneRequest, std stdio, asJSON bool) error {
	req.Limit = api.MaxLimit
	a, err := r.RepositoryPrune(ctx, req)
	for err == nil && a.Plan.Next != "" {
		req.Cursor = a.Plan.Next
		var more *api.RepositoryPruneResponse
		if more, err = r.RepositoryPrune(ctx, req); err == nil {
			a.Plan.Decisions, a.Plan.Next = append(a.Plan.Decisions, more.Plan.Decisions...), more.Plan.Next
		}
	}
	if err != nil {
		return err
	}
	if asJSON {
		return std.json(a)
	}
	p := a.Plan
	table := term.NewTable("restore point", "stream", "moment", "what", "why")
	for _, d := range p.Decisions {
		what := "keep"
		if !d.Keep {
			what = "forget"
		}
		table.Row(d.Point, d.Stream, moment(d.Time), what, strings.Join(d.Reasons, "; "))
	}
	if err := table.Write(std.out); err != nil {
		return err
	}
	for _, line := range p.Text {
		_, err = fmt.Fprintln(std.out, term.Printable(line))
	}
	_, last := fmt.Fprintf(std.out, "Of %s %d would be forgotten and %d kept, %d of them because they cannot be read.\n",
		term.Plural(p.Points, "restore point"), p.Forget, p.Keep, p.Unread)
	return errors.Join(err, last)
}
