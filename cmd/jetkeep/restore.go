package main

import (
	"context"
	"fmt"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
)

func addRestore(c *cli) {
	var (
		conn   connection
		w      waiting
		req    api.RestoreRequest
		at     string
		plan   bool
		verify bool
		key    identitySource
	)
	cmd := c.command(c.app.Command("restore", "Restore streams"), func(ctx context.Context, std stdio) error {
		var err error
		if req.At, err = atOf("--at", at); err != nil {
			return err
		}
		if !verify {
			req.Verify = &verify
		}
		return withRemote(ctx, &conn, func(r *client.Client) (err error) {
			if req.Identity, err = key.sealed(ctx, r, req.Repository); err != nil {
				return err
			}
			if plan {
				return showPlan(ctx, r, req, std, w.json)
			}
			accepted, err := r.RestoreCreate(ctx, req)
			if err != nil {
				return err
			}
			return w.session(ctx, r, accepted, std)
		})
	})
	cmd.Arg("stream", "Streams to restore, names or patterns with * and ?; all if none is given").StringsVar(&req.Streams)
	cmd.Flag("backup", "Backup to restore; the newest restore point of each stream if not given").PlaceHolder("ID").StringVar(&req.Backup)
	cmd.Flag("at", "Restore the newest restore points at or before a time (RFC 3339, or as ls prints it)").PlaceHolder("TIME").StringVar(&at)
	cmd.Flag("exclude", "Stream or pattern to leave out; can be repeated").PlaceHolder("STREAM").StringsVar(&req.Exclude)
	cmd.Flag("target", "Target to restore into").PlaceHolder("NAME").StringVar(&req.Target)
	cmd.Flag("from", "Target that was backed up, if it is another").PlaceHolder("NAME").StringVar(&req.From)
	cmd.Flag("repository", "Repository to restore from").PlaceHolder("NAME").StringVar(&req.Repository)
	cmd.Flag("plan", "Say what would be done, and do nothing").UnNegatableBoolVar(&plan)
	cmd.Flag("verify", "Read back what was restored and compare it").Default("true").BoolVar(&verify)
	key.flags(cmd)
	cmd.Flag("detach", "Do not wait for the end").UnNegatableBoolVar(&w.detach)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&w.json)
	conn.flags(cmd)
}

// showPlan prints a plan; a plan that is refused is a failure.
func showPlan(ctx context.Context, r *client.Client, req api.RestoreRequest, std stdio, asJSON bool) error {
	plan, err := r.RestorePlan(ctx, req)
	if err != nil {
		return err
	}
	if asJSON {
		err = std.json(plan)
	} else {
		err = printPlan(plan, std)
	}
	if err == nil && plan.Refused {
		return errReported
	}
	return err
}

func printPlan(plan *api.RestorePlanResponse, std stdio) error {
	table := term.NewTable("stream", "restore point", "moment", ">messages", ">bytes", ">consumers", "action")
	for _, s := range plan.Streams {
		table.Row(s.Stream, s.RestorePoint, moment(s.Time), term.Count(s.Messages), term.Bytes(s.Bytes),
			fmt.Sprint(s.Consumers), s.Action)
	}
	if err := table.Write(std.out); err != nil {
		return err
	}
	for _, s := range plan.Streams {
		findings(std, s.Stream, "problem", s.Problems)
		findings(std, s.Stream, "warning", s.Warnings)
	}
	verdict := "The restore can be done"
	if plan.Refused {
		verdict = "The restore would be refused"
	}
	_, err := fmt.Fprintf(std.out, "%s: %s, %s, %s into %s (nats-server %s).\n", verdict,
		term.Plural(len(plan.Streams), "stream"), term.Plural(int(plan.Messages), "message"),
		term.Bytes(plan.Bytes), plan.Target, plan.Server)
	return err
}

func findings(std stdio, stream, what string, all []api.Finding) {
	for _, f := range all {
		_, _ = fmt.Fprintf(std.out, "%s: %s: %s (%s)\n", term.Printable(stream), what, term.Printable(f.Description), f.ErrCode)
		if f.Hint != "" {
			_, _ = fmt.Fprintf(std.out, "    %s\n", term.Printable(f.Hint))
		}
	}
}
