package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
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
	cmd := c.command(c.app.Command("prune", "Forget by a policy, that of the repository if none is given, and delete what no restore point needs"), func(ctx context.Context, std stdio) error {
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
	cmd.Flag("schedule", "Forget only of what this schedule made, by its policy or the one given").PlaceHolder("NAME").StringVar(&req.Schedule)
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
	given []givenFlag
}

// A givenFlag is one of them, and whether it is on the command line.
type givenFlag struct {
	field string
	set   *bool
	empty func() bool
}

func (k *keepFlags) flags(cmd *fisk.CmdClause) {
	given := func(name string, flag *fisk.FlagClause, empty func() bool) {
		set := new(bool)
		flag.IsSetByUser(set)
		k.given = append(k.given, givenFlag{"keep." + strings.ReplaceAll(name, "-", "_"), set, empty})
	}
	count := func(name, what string, to *int) {
		flag := cmd.Flag("keep-"+name, "Keep "+what+"; -1 for all").PlaceHolder("N")
		whole(flag, to)
		given(name, flag, func() bool { return *to == 0 })
	}
	count("last", "so many of the newest of each stream", &k.Last)
	count("hourly", "the newest of so many hours", &k.Hourly)
	count("daily", "the newest of so many days", &k.Daily)
	count("weekly", "the newest of so many weeks", &k.Weekly)
	count("monthly", "the newest of so many months", &k.Monthly)
	count("yearly", "the newest of so many years", &k.Yearly)
	within := func(name, what string, to *string) {
		flag := cmd.Flag("keep-"+name, "Keep "+what+" within a time before the newest, such as 36h, 30d or 2w").PlaceHolder("DURATION")
		flag.StringVar(to)
		given(name, flag, func() bool { return *to == "" })
	}
	within("within", "all", &k.Within)
	within("within-hourly", "the newest of each hour", &k.WithinHourly)
	within("within-daily", "the newest of each day", &k.WithinDaily)
	within("within-weekly", "the newest of each week", &k.WithinWeekly)
	within("within-monthly", "the newest of each month", &k.WithinMonthly)
	within("within-yearly", "the newest of each year", &k.WithinYearly)
	cmd.Flag("keep-tag", "Keep what has this tag; can be repeated").PlaceHolder("KEY[=VALUE]").StringsVar(&k.Tags)
	zone := cmd.Flag("keep-zone", "Time zone that hours to years begin in; UTC if not given").PlaceHolder("ZONE")
	zone.StringVar(&k.Zone)
	given("zone", zone, func() bool { return k.Zone == "" })
	floor := cmd.Flag("keep-floor", "Keep so many of the newest good ones in any case; 1 if not given").PlaceHolder("N")
	whole(floor, &k.floor)
	given("floor", floor, func() bool { return false })
}

// emptied returns the fields of a policy that are given as nothing.
func (k *keepFlags) emptied() (fields []string) {
	for _, g := range k.given {
		if *g.set && g.empty() {
			fields = append(fields, g.field)
		}
	}
	return fields
}

// isSet says whether a field of the policy is on the command line.
func (k *keepFlags) isSet(field string) bool {
	return slices.ContainsFunc(k.given, func(g givenFlag) bool { return g.field == field && *g.set })
}

// policy returns what is given, nil if nothing is.
func (k *keepFlags) policy() *api.Keep {
	p := k.Keep
	if k.isSet("keep.floor") {
		p.Floor = &k.floor
	}
	if reflect.ValueOf(p).IsZero() {
		return nil
	}
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
	if others := p.Points - p.Unread - p.Covered; others > 0 && p.Covered > 0 {
		_, last = fmt.Fprintf(std.out, "The policy decides about %d of them. The other %d fall under none or under another one.\n", p.Covered, others)
	}
	return errors.Join(err, last)
}
