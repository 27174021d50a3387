package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/config"
	"jetkeep/service/embedded"
	"jetkeep/service/natsconn"
)

// instanceOptions say what runs in this process. The demo and serve differ in
// nothing else.
type instanceOptions struct {
	Data     string // holds everything that must survive
	Embedded bool   // run a NATS server, too
	Host     string // of the embedded server
	Port     int
	Target   natsconn.Options // what to use instead of an embedded server
	// Keys are those of the repository; its name and path are filled in.
	Keys config.Repository
	// Repository, if set, is where backups go instead of the directory Data.
	Repository *config.Repository
	// Config, if set, says everything that the embedded server does not.
	Config *config.Config
	Prefix string
	// Metrics are those of flags.
	Metrics config.Metrics
	Log     *slog.Logger
}

// repositoryName is the one repository's.
const repositoryName = "local"

// An instance is the running service, with its server if that is embedded.
type instance struct {
	config config.Config
	server *embedded.Server
	url    string

	stop context.CancelFunc
	done chan struct{}
	err  error
}

// startInstance starts the server and the service and returns when both answer.
func startInstance(ctx context.Context, o instanceOptions) (*instance, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	data := o.Data
	if data != "" {
		var err error
		if data, err = filepath.Abs(o.Data); err != nil {
			return nil, fmt.Errorf("find directory %s: %w", o.Data, err)
		}
	}
	i := &instance{done: make(chan struct{}), stop: func() {}}
	var err error
	if o.Embedded {
		i.server, err = embedded.Start(ctx, embedded.Options{Dir: filepath.Join(data, "nats"), Host: o.Host, Port: o.Port, Log: o.Log})
		if err != nil {
			return nil, err
		}
		o.Target = natsconn.Options{URL: i.server.URL()}
	}
	i.config = o.configuration(data)
	i.url = serverName(i.config.Control)
	i.config.SetDefaults()
	if err := i.run(ctx, o.Log); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		return nil, errors.Join(err, i.Close(ctx))
	}
	return i, nil
}

// configuration is what the service runs with.
func (o *instanceOptions) configuration(data string) config.Config {
	if o.Config != nil {
		c := *o.Config
		if o.Embedded {
			c.Control = o.Target
			c.Targets = slices.Clone(c.Targets)
			for i := range c.Targets {
				if t := &c.Targets[i]; t.URL == "" && t.Context == "" {
					t.URL = o.Target.URL
				}
			}
		}
		return c
	}
	repository := o.Keys
	repository.Path = filepath.Join(data, "repository")
	if o.Repository != nil {
		repository = *o.Repository
	}
	repository.Name, repository.Create = repositoryName, true
	return config.Config{
		Prefix:       o.Prefix,
		Control:      o.Target,
		Metrics:      o.Metrics,
		Repositories: []config.Repository{repository},
		Staging:      config.Staging{Dir: filepath.Join(data, "staging")},
	}
}

func (i *instance) run(ctx context.Context, log *slog.Logger) error {
	s, err := service.New(ctx, i.config, service.Deps{Log: log, Version: serviceVersion()})
	if err != nil {
		close(i.done)
		return fmt.Errorf("start service: %w", err)
	}
	// The service ends by Close, which stops it before its server.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	i.stop = stop
	go func() {
		defer close(i.done)
		i.err = s.Run(running)
	}()
	select {
	case <-s.Ready():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-i.done:
		return fmt.Errorf("start service: %w", errors.Join(errors.New("it ended at once"), i.err))
	}
}

// serverName says where a connection goes, without secrets.
func serverName(o natsconn.Options) string {
	switch {
	case o.URL != "":
		return withoutUser(o.URL)
	case o.Context != "":
		return "context " + o.Context
	}
	return nats.DefaultURL
}

// withoutUser removes user and password from a list of URLs.
func withoutUser(urls string) string {
	parts := strings.Split(urls, ",")
	for i, part := range parts {
		scheme, rest, ok := strings.Cut(part, "://")
		if !ok {
			scheme, rest = "nats", part
		}
		parts[i] = scheme + "://" + rest[strings.LastIndexByte(rest, '@')+1:]
	}
	return strings.Join(parts, ",")
}

// URL returns where the service is.
func (i *instance) URL() string { return i.url }

// Prefix returns what the service's subjects start with.
func (i *instance) Prefix() string { return i.config.Prefix }

// Repositories says which repositories there are, the default one first.
func (i *instance) Repositories() string {
	var all []string
	for _, r := range i.config.Repositories {
		all = append(all, fmt.Sprintf("%s in %s", r.Name, r.Location()))
	}
	word := "repository "
	if len(all) > 1 {
		word = "repositories "
	}
	return word + strings.Join(all, ", ")
}

// Done is closed when the service has ended, for whatever reason.
func (i *instance) Done() <-chan struct{} { return i.done }

// Err returns why the service ended, once Done is closed.
func (i *instance) Err() error {
	if i.err == nil {
		return errors.New("the service ended")
	}
	return i.err
}

// Close lets the service hand over what it does, and stops the server.
func (i *instance) Close(ctx context.Context) error {
	i.stop()
	var err error
	select {
	case <-i.done:
		err = i.err
	case <-ctx.Done():
		err = fmt.Errorf("stop service: %w", ctx.Err())
	}
	if i.server != nil {
		err = errors.Join(err, i.server.Shutdown(ctx))
	}
	return err
}
