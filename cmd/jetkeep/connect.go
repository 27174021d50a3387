package main

import (
	"fmt"

	"github.com/choria-io/fisk"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
)

// connection is the flags that say where and as whom to connect.
type connection struct {
	options  natsconn.Options
	password string
	token    string
	prefix   string
}

// flags adds the connection's flags. Secrets come from files or the
// environment as well: a command line is there for all to see.
func (c *connection) flags(clause *fisk.CmdClause) {
	o := &c.options
	clause.Flag("server", "NATS server URLs, separated by commas").Short('s').Envar("NATS_URL").PlaceHolder("URL").StringVar(&o.URL)
	clause.Flag("context", "Context of the nats command line; commands that ask the service take the selected one if neither this nor --server is given").Envar("NATS_CONTEXT").PlaceHolder("NAME").StringVar(&o.Context)
	clause.Flag("creds", "Credentials file").Envar("NATS_CREDS").PlaceHolder("FILE").StringVar(&o.Creds)
	clause.Flag("nkey", "File with an NKey seed").Envar("NATS_NKEY").PlaceHolder("FILE").StringVar(&o.NKeySeedFile)
	clause.Flag("user", "User").Envar("NATS_USER").PlaceHolder("USER").StringVar(&o.User)
	clause.Flag("password", "Password; a command line is for all to see").Envar("NATS_PASSWORD").PlaceHolder("PASSWORD").StringVar(&c.password)
	clause.Flag("token", "Token; a command line is for all to see").Envar("NATS_TOKEN").PlaceHolder("TOKEN").StringVar(&c.token)
	clause.Flag("tlsca", "File with the authority of the server's certificate").Envar("NATS_CA").PlaceHolder("FILE").StringVar(&o.TLS.CA)
	clause.Flag("tlscert", "File with the client's certificate").Envar("NATS_CERT").PlaceHolder("FILE").StringVar(&o.TLS.Cert)
	clause.Flag("tlskey", "File with the client's key").Envar("NATS_KEY").PlaceHolder("FILE").StringVar(&o.TLS.Key)
	clause.Flag("js-domain", "JetStream domain").PlaceHolder("DOMAIN").StringVar(&o.Domain)
	clause.Flag("js-api-prefix", "Prefix of the JetStream API").PlaceHolder("PREFIX").StringVar(&o.APIPrefix)
	clause.Flag("inbox-prefix", "Prefix of inboxes").PlaceHolder("PREFIX").StringVar(&o.InboxPrefix)
	clause.Flag("prefix", "What the service's subjects start with").Default(api.DefaultPrefix).PlaceHolder("PREFIX").StringVar(&c.prefix)
}

// resolve returns the options, or what contradicts itself in them.
func (c *connection) resolve() (natsconn.Options, error) {
	o := c.options
	o.Password, o.Token = natsconn.Secret(c.password), natsconn.Secret(c.token)
	if err := o.Validate(); err != nil {
		return o, &usageError{err: err}
	}
	if err := api.ValidatePrefix(c.prefix); err != nil {
		return o, &usageError{err: fmt.Errorf("--prefix: %w", err)}
	}
	return o, nil
}
