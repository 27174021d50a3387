package main

import (
	"context"
	"fmt"
	"strings"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
)

// waiting is the flags of commands that start a session.
type waiting struct {
	detach bool
	json   bool
}

func addBackup(c *cli) {
	var (
		conn connection
		w    waiting
		req  api.BackupCreateRequest
	)
	tags := map[string]string{}
	cmd := c.command(c.app.Command("backup", "Back up streams"), func(ctx context.Context, std stdio) error {
		if len(tags) > 0 {
			req.Tags = tags
		}
		return withRemote(ctx, &conn, func(r *client.Client) error {
			accepted, err := r.BackupCreate(ctx, req)
			if err != nil {
				return err
			}
			return w.session(ctx, r, accepted, std)
		})
	})
	cmd.Arg("stream", "Streams to back up, names or patterns with * and ?; all if none is given").StringsVar(&req.Streams)
	cmd.Flag("exclude", "Stream or pattern to leave out; can be repeated").PlaceHolder("STREAM").StringsVar(&req.Exclude)
	cmd.Flag("target", "Target to back up").PlaceHolder("NAME").StringVar(&req.Target)
	cmd.Flag("repository", "Repository to back up into").PlaceHolder("NAME").StringVar(&req.Repository)
	cmd.Flag("tag", "Tag to keep with the backup; can be repeated").PlaceHolder("KEY=VALUE").StringMapVar(&tags)
	cmd.Flag("detach", "Do not wait for the end").UnNegatableBoolVar(&w.detach)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&w.json)
	conn.flags(cmd)
}

// session waits for the end of a session that was accepted, unless it shall not.
func (w *waiting) session(ctx context.Context, r *client.Client, accepted *api.Accepted, std stdio) error {
	if w.detach && w.json {
		return std.json(accepted)
	}
	say := std.err
	if w.detach {
		say = std.out
	}
	if !w.json {
		_, _ = fmt.Fprintf(say, "%s %s of %s\n", accepted.Kind, accepted.Session, term.Plural(accepted.Tasks, thing(accepted.Kind)))
		for _, warning := range accepted.Warnings {
			_, _ = fmt.Fprintf(std.err, "warning: %s\n", term.Printable(warning))
		}
	}
	if w.detach {
		return nil
	}
	return wait(ctx, r, accepted.Session, std, w.json)
}

// joined lists tags for people.
func joined(tags map[string]string) string {
	var parts []string
	for _, key := range sortedKeys(tags) {
		parts = append(parts, key+"="+tags[key])
	}
	return strings.Join(parts, " ")
}
