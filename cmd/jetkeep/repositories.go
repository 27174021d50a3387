package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/choria-io/fisk"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/store"
)

// addRepositoryRemote adds what asks the service; the other commands on
// repositories work on a directory themselves.
func addRepositoryRemote(c *cli, group *fisk.CmdClause) {
	addRepositoryList(c, group)
	addRepositoryInfo(c, group)
	addRepositoryAccept(c, group)
	v := &verify{}
	v.flags(c.command(group.Command("verify", "Verify a whole repository"), v.run))
}

func addRepositoryList(c *cli, group *fisk.CmdClause) {
	var (
		conn   connection
		asJSON bool
	)
	cmd := c.command(group.Command("ls", "List the repositories of the service"), func(ctx context.Context, std stdio) error {
		return withRemote(ctx, &conn, func(r *client.Client) error {
			list, err := r.RepositoryList(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return std.json(list)
			}
			table := term.NewTable("repository", "kind", "location", "")
			for _, v := range list.Repositories {
				mark := ""
				if v.Default {
					mark = "default"
				}
				table.Row(v.Repository, v.Kind, v.Location, mark)
			}
			return table.Write(std.out)
		})
	})
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&asJSON)
	conn.flags(cmd)
}

func addRepositoryInfo(c *cli, group *fisk.CmdClause) {
	var (
		conn   connection
		req    api.RepositoryInfoRequest
		asJSON bool
		mute   bool
		path   string
	)
	cmd := c.command(group.Command("info", "Open a repository, describe it, and try whether its store works"), func(ctx context.Context, std stdio) error {
		if mute {
			req.Probe = new(bool)
		}
		show := func(info *api.RepositoryInfoResponse) error {
			if asJSON {
				return std.json(info)
			}
			return printRepository(std, info)
		}
		if path != "" {
			if req.Repository != "" {
				return usagef("--path: %s is named as well", req.Repository)
			}
			return describeHere(ctx, path, req.Probe, show)
		}
		return withRemote(ctx, &conn, func(r *client.Client) error {
			info, err := r.RepositoryInfo(ctx, req)
			if err != nil {
				return err
			}
			return show(info)
		})
	})
	cmd.Arg("repository", "Name of the repository; the default one if not given").StringVar(&req.Repository)
	cmd.Flag("path", "Describe what is here, without a service: a directory, "+locationHelp).PlaceHolder("PLACE").StringVar(&path)
	cmd.Flag("no-probe", "Do not write, read, list and delete a small object").UnNegatableBoolVar(&mute)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&asJSON)
	conn.flags(cmd)
}

// describeHere describes a repository without a service.
func describeHere(ctx context.Context, path string, probe *bool, show func(*api.RepositoryInfoResponse) error) error {
	loc, err := parseLocation(path)
	if err != nil {
		return err
	}
	at := repositoryAt{path: path}
	return at.with(ctx, nil, func(repo *store.Repository) error {
		info, err := service.Describe(ctx, repo, probe)
		if err != nil {
			return err
		}
		info.Kind, info.Location = loc.repository.Kind, loc.String()
		return show(info)
	})
}

func printRepository(std stdio, r *api.RepositoryInfoResponse) error {
	rows := [][2]string{
		{"location", r.Location}, {"id", r.ID}, {"format", fmt.Sprint(r.Format)},
		{"backups", fmt.Sprint(r.Backups)}, {"restore points", pointCounts(r)}, {"streams", fmt.Sprint(r.Streams)},
		{"stored", term.Bytes(r.NewBytes)},
	}
	if r.Repository != "" {
		rows = slices.Insert(rows, 0, [2]string{"repository", r.Repository})
	}
	if r.Newest != nil {
		rows = append(rows, [2]string{"newest", moment(*r.Newest)})
	}
	rows = append(rows, [2]string{"encryption", encryptionOf(r)})
	for _, o := range r.Operators {
		rows = append(rows, [2]string{"operator", o})
	}
	if r.SigningKey != "" {
		rows = append(rows, [2]string{"signs with", r.SigningKey})
	}
	for _, k := range r.TrustedKeys {
		rows = append(rows, [2]string{"trusts", k})
	}
	if r.Unsigned {
		rows = append(rows, [2]string{"signatures", "not asked for: whoever writes to the store can forge restore points"})
	}
	if r.RetainFor != "" {
		rows = append(rows, [2]string{"retains", retains(r)})
	}
	rows = append(rows, probeRows(r.Probe)...)
	for _, row := range rows {
		if _, err := fmt.Fprintf(std.out, "%-15s %s\n", row[0], term.Printable(row[1])); err != nil {
			return err
		}
	}
	return nil
}

// retains says what the store promised to keep.
func retains(r *api.RepositoryInfoResponse) string {
	s := fmt.Sprintf("each restore point for %s, %d of them still", r.RetainFor, r.Retained)
	if r.RetainedUntil != nil {
		s += ", the last until " + moment(*r.RetainedUntil)
	}
	return s
}

// probeRows says what the store lets be done, and what it does not.
func probeRows(p *api.StoreProbe) (rows [][2]string) {
	if p == nil {
		return nil
	}
	var worked []string
	for _, s := range p.Steps {
		if s.Outcome == "ok" {
			worked = append(worked, fmt.Sprintf("%s %.1fms", s.Step, s.Milliseconds))
		}
	}
	verdict := "usable"
	if !p.Usable {
		verdict = "NOT USABLE"
	}
	rows = append(rows, [2]string{"store", strings.Join(append([]string{verdict}, worked...), ", ")})
	for _, s := range p.Steps {
		switch text := s.Step + " is " + s.Outcome; {
		case s.Outcome == "ok" || s.Outcome == "skipped":
		case s.Permission != "":
			rows = append(rows, [2]string{"", text + ": " + s.Permission})
		default:
			rows = append(rows, [2]string{"", text + ": " + s.Error})
		}
	}
	return rows
}

func pointCounts(r *api.RepositoryInfoResponse) string {
	s := fmt.Sprint(r.RestorePoints)
	for _, x := range []struct {
		n    int
		what string
	}{{r.Locked, "locked"}, {r.Pinned, "pinned"}} {
		if x.n > 0 {
			s += fmt.Sprintf(", %d of them %s", x.n, x.what)
		}
	}
	if r.Damaged > 0 {
		s += fmt.Sprintf(", and %d that cannot be read", r.Damaged)
	}
	return s
}

func encryptionOf(r *api.RepositoryInfoResponse) string {
	switch {
	case !r.Encrypted:
		return "none: whoever reads the store reads the messages"
	case r.Readable:
		return "age, and the service has an identity that reads messages"
	}
	return "age; restores need an identity"
}
