package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/store"
)

func addList(c *cli) {
	var (
		conn   connection
		req    api.BackupListRequest
		backup string
		at     repositoryAt
		asJSON bool
	)
	cmd := c.command(c.app.Command("ls", "List backups, or the restore points of one"), func(ctx context.Context, std stdio) error {
		if req.Limit < 1 || req.Limit > api.MaxLimit {
			return usagef("--limit: must be between 1 and %d", api.MaxLimit)
		}
		if at.path != "" {
			if req.Repository != "" {
				return usagef("--repository: --path says already which repository")
			}
			return at.with(ctx, nil, func(repo *store.Repository) error {
				here := lister(opened{repo})
				if backup != "" {
					return listPoints(ctx, here, api.BackupInfoRequest{Backup: backup}, std, asJSON)
				}
				return listBackups(ctx, here, req, std, asJSON)
			})
		}
		if len(at.trusted) > 0 {
			return usagef(trustedOnly)
		}
		return withRemote(ctx, &conn, func(r *client.Client) error {
			if backup != "" {
				return listPoints(ctx, r, api.BackupInfoRequest{Backup: backup, Repository: req.Repository}, std, asJSON)
			}
			return listBackups(ctx, r, req, std, asJSON)
		})
	})
	cmd.Arg("backup", "Backup whose restore points to list").StringVar(&backup)
	cmd.Flag("stream", "Only backups that hold this stream, name or pattern").PlaceHolder("STREAM").StringVar(&req.Stream)
	cmd.Flag("target", "Only backups of this target").PlaceHolder("NAME").StringVar(&req.Target)
	cmd.Flag("repository", "Repository to look into").PlaceHolder("NAME").StringVar(&req.Repository)
	cmd.Flag("path", "List what is here, without a service: a directory, "+locationHelp).PlaceHolder("PLACE").StringVar(&at.path)
	at.identity.flags(cmd)
	trustedFlag(cmd, &at.trusted)
	whole(cmd.Flag("limit", "At most that many, the newest").PlaceHolder("N").Default("100"), &req.Limit)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&asJSON)
	conn.flags(cmd)
}

// A lister knows backups: the service, or a repository that was opened here.
type lister interface {
	BackupList(ctx context.Context, q api.BackupListRequest) (*api.BackupListResponse, error)
	BackupInfo(ctx context.Context, q api.BackupInfoRequest) (*api.BackupInfoResponse, error)
}

type opened struct{ repo *store.Repository }

func (o opened) BackupList(ctx context.Context, q api.BackupListRequest) (*api.BackupListResponse, error) {
	return service.ListBackups(ctx, o.repo, &q)
}

func (o opened) BackupInfo(ctx context.Context, q api.BackupInfoRequest) (*api.BackupInfoResponse, error) {
	r, err := service.DescribeBackup(ctx, o.repo, &q)
	if err == nil && r == nil {
		err = fmt.Errorf("there is no backup %s", q.Backup)
	}
	return r, err
}

func listBackups(ctx context.Context, r lister, req api.BackupListRequest, std stdio, asJSON bool) error {
	list, err := r.BackupList(ctx, req)
	if err != nil {
		return err
	}
	if asJSON {
		return std.json(list)
	}
	table := term.NewTable("backup", "target", "moment", ">streams", ">messages", ">bytes", ">stored", ">new", "tags")
	for _, b := range list.Backups {
		if b.Locked > 0 && b.Target == "" {
			b.Target = "(locked)"
		}
		table.Row(b.Backup, b.Target, moment(b.Time), fmt.Sprint(b.Streams), term.Count(b.Messages), term.Bytes(b.Bytes),
			term.Bytes(b.StoredBytes), term.Bytes(b.NewBytes), joined(b.Tags))
	}
	if err := table.Write(std.out); err != nil {
		return err
	}
	if list.Next != "" {
		_, _ = fmt.Fprintf(std.err, "%d of %s; the others with --limit\n", len(list.Backups), term.Plural(list.Total, "backup"))
	}
	return nil
}

func listPoints(ctx context.Context, r lister, req api.BackupInfoRequest, std stdio, asJSON bool) error {
	info, err := allPoints(ctx, r, req)
	if err != nil {
		return err
	}
	if asJSON {
		return std.json(info)
	}
	table := term.NewTable("restore point", "stream", "moment", ">messages", ">bytes", ">first", ">last", ">consumers", ">stored", "engine")
	for _, p := range info.RestorePoints {
		if p.Locked {
			p.Stream = "(locked)"
		}
		table.Row(p.RestorePoint, p.Stream, moment(p.Time), term.Count(p.Messages), term.Bytes(p.Bytes),
			fmt.Sprint(p.FirstSeq), fmt.Sprint(p.LastSeq), fmt.Sprint(p.Consumers), term.Bytes(p.StoredBytes), p.Engine)
	}
	return table.Write(std.out)
}

// allPoints describes a backup with all its restore points.
func allPoints(ctx context.Context, r lister, req api.BackupInfoRequest) (*api.BackupInfoResponse, error) {
	req.Limit = api.MaxLimit
	info, err := r.BackupInfo(ctx, req)
	for err == nil && info.Next != "" {
		req.Cursor = info.Next
		var page *api.BackupInfoResponse
		if page, err = r.BackupInfo(ctx, req); err == nil {
			info.RestorePoints, info.Next = append(info.RestorePoints, page.RestorePoints...), page.Next
		}
	}
	return info, err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
