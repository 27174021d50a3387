package main

import (
	"context"
	"fmt"

	"jetkeep/service/client"
	"jetkeep/service/natsconn"
)

// withRemote connects for the time of one command. Like the nats command it takes the
// context that is selected there if neither a server nor a context is named. The service
// does not: selecting another one must not make it serve another account.
func withRemote(ctx context.Context, c *connection, do func(*client.Client) error) error {
	o, err := c.resolve()
	if err != nil {
		return err
	}
	o.Name = "jetkeep command"
	o.Reconnect = true
	selected := ""
	if o.URL == "" && o.Context == "" {
		selected = natsconn.SelectedContext()
		o.Context = selected
	}
	conn, err := natsconn.Dial(ctx, o)
	if err != nil && selected != "" {
		return fmt.Errorf("with the context %s, which is selected in the nats command; name another one with --context, or a server with --server: %w", selected, err)
	}
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
