package main

import (
	"context"

	"jetkeep/service/client"
	"jetkeep/service/natsconn"
)

// withRemote connects for the time of one command.
func withRemote(ctx context.Context, c *connection, do func(*client.Client) error) error {
	o, err := c.resolve()
	if err != nil {
		return err
	}
	o.Name = "jetkeep command"
	o.Reconnect = true
	conn, err := natsconn.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer conn.Close()
	r, err := client.New(conn.NC, client.Options{Prefix: c.prefix, JSDomain: o.Domain, JSAPIPrefix: o.APIPrefix})
	if err != nil {
		return err
	}
	return do(r)
}
