package main

import (
	"context"

	"jetkeep/service/api"
	"jetkeep/service/client"
)

func addDrill(c *cli) {
	d := &drill{}
	cmd := c.command(c.app.Command("drill", "Restore a backup into a scratch server, compare, and remove it again"), d.run)
	cmd.Arg("backup", "Backup to restore; default: the newest one").StringVar(&d.q.Backup)
	cmd.Flag("repository", "Repository to look into").PlaceHolder("NAME").StringVar(&d.q.Repository)
	cmd.Flag("stream", "Streams, names or patterns; default: all of the backup").PlaceHolder("NAME").StringsVar(&d.q.Streams)
	cmd.Flag("exclude", "Names or patterns to leave out").PlaceHolder("NAME").StringsVar(&d.q.Exclude)
	d.identity.flags(cmd)
	cmd.Flag("detach", "Do not wait for the end").UnNegatableBoolVar(&d.w.detach)
	cmd.Flag("json", "Write JSON").UnNegatableBoolVar(&d.w.json)
	d.conn.flags(cmd)
}

// drill is what the command is given.
type drill struct {
	conn     connection
	identity identitySource
	w        waiting
	q        api.BackupDrillRequest
}

func (d *drill) run(ctx context.Context, std stdio) error {
	return withRemote(ctx, &d.conn, func(r *client.Client) error {
		sealed, err := d.identity.sealed(ctx, r, d.q.Repository)
		if err != nil {
			return err
		}
		d.q.Identity = sealed
		accepted, err := r.BackupDrill(ctx, d.q)
		if err != nil {
			return err
		}
		return d.w.session(ctx, r, accepted, std)
	})
}
