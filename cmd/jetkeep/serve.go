package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/choria-io/fisk"

	"jetkeep/service/config"
	"jetkeep/service/embedded"
	"jetkeep/service/natsconn"
)

func addServe(c *cli) {
	var (
		conn  connection
		o     instanceOptions
		level string
		file  configFile
	)
	cmd := c.command(c.app.Command("serve", "Run the service"), func(ctx context.Context, std stdio) error {
		if err := file.checkEmbedded(o.Embedded); err != nil {
			return err
		}
		if file.name != "" {
			return file.serve(ctx, o, level, std)
		}
		if file.check {
			return usagef("--check: which file to check is missing, give --config")
		}
		if o.Data == "" {
			return usagef("required flag --data or --config not provided")
		}
		target, err := conn.resolve()
		if err != nil {
			return err
		}
		o.Target, o.Prefix = target, conn.prefix
		if o.Port == 0 {
			o.Port = embedded.RandomPort
		}
		if o.Log, err = newLog(std.err, level); err != nil {
			return err
		}
		if o.Keys.IdentityFile == "" {
			o.Keys.Identity = natsconn.Secret(os.Getenv(envIdentity))
		}
		return serve(ctx, o, std)
	})
	cmd.Flag("config", "Read the configuration from this file, in the language of nats-server.conf").PlaceHolder("FILE").StringVar(&file.name)
	cmd.Flag("check", "Only look whether the configuration is valid, and show it without its secrets").UnNegatableBoolVar(&file.check)
	cmd.Flag("data", "Directory of the repository, of staging and of the embedded server").PlaceHolder("DIR").StringVar(&o.Data)
	cmd.Flag("embedded", "Run a NATS server with JetStream inside, and use that").UnNegatableBoolVar(&o.Embedded)
	cmd.Flag("host", "Where the embedded server listens").Default("127.0.0.1").PlaceHolder("HOST").StringVar(&o.Host)
	whole(cmd.Flag("port", "Port of the embedded server, 0 for any free one").Default(fmt.Sprint(embedded.DefaultPort)).PlaceHolder("PORT"), &o.Port)
	cmd.Flag("metrics", "Answer /metrics, /healthz and /readyz over HTTP here; a port alone is of the loopback interface").PlaceHolder("HOST:PORT").StringVar(&o.Metrics.Listen)
	cmd.Flag("metrics-push", "URL of a Prometheus Pushgateway to send the metrics to when a session ends").PlaceHolder("URL").StringVar(&o.Metrics.PushURL)
	keyFlags(cmd, &o.Keys)
	cmd.Flag("log-level", "debug, info, warn or error").Default("info").PlaceHolder("LEVEL").StringVar(&level)
	conn.flags(cmd)
	file.watch(cmd)
}

// keyFlags adds the flags about the repository's keys.
func keyFlags(cmd *fisk.CmdClause, r *config.Repository) {
	cmd.Flag("operator-recipient", "Public key (age1…) of who may read the repository, which is made encrypted then; can be repeated").PlaceHolder("KEY").StringsVar(&r.OperatorRecipients)
	cmd.Flag("recipient", "Public key that the repository must have, or its fingerprint").PlaceHolder("KEY").StringVar(&r.Recipient)
	cmd.Flag("identity-file", "File with a secret age key, for restores that bring none; backups need none").Envar(envIdentityFile).PlaceHolder("FILE").StringVar(&r.IdentityFile)
	cmd.Flag("sign-seed-file", "File with the nkey seed that restore points are signed with").PlaceHolder("FILE").StringVar(&r.SignSeedFile)
	cmd.Flag("trusted-key", "Public nkey whose signatures are accepted, besides the service's own; can be repeated").PlaceHolder("KEY").StringsVar(&r.TrustedKeys)
}

func newLog(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level: unknown level %q", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

// serve runs until the context ends, which is an orderly end, or until the
// service cannot go on.
func serve(ctx context.Context, o instanceOptions, std stdio) (err error) {
	if !o.Embedded {
		limitMemory()
	}
	i, err := startInstance(ctx, o)
	if err != nil {
		return startHint(err, o)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if err = errors.Join(err, i.Close(ctx)); err == nil {
			_, err = fmt.Fprintln(std.out, "jetkeep stopped")
		}
	}()
	if _, err := fmt.Fprintf(std.out, "jetkeep serves %s at %s, %s\n", i.Prefix(), i.URL(), i.Repositories()); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-i.Done():
		return i.Err()
	}
}

// startHint adds what can be done about a server that did not start.
func startHint(err error, o instanceOptions) error {
	switch {
	case errors.Is(err, embedded.ErrPortTaken):
		return fmt.Errorf("%w; choose another with --port, or use the server that runs there with --server", err)
	case errors.Is(err, embedded.ErrDirInUse):
		return fmt.Errorf("%w; another jetkeep serves %s", err, o.Data)
	}
	return err
}
