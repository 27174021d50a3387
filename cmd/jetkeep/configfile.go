package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/choria-io/fisk"

	"jetkeep/service/config"
	"jetkeep/service/embedded"
	"jetkeep/service/stores"
)

// configFile is the configuration file of `serve`.
type configFile struct {
	name  string
	check bool
	given map[string]*bool // whether a flag is on the command line
}

// watch notes which flags of the command the user sets.
func (f *configFile) watch(cmd *fisk.CmdClause) {
	f.given = map[string]*bool{}
	for _, flag := range cmd.Model().Flags {
		f.given[flag.Name] = new(bool)
		cmd.GetFlag(flag.Name).IsSetByUser(f.given[flag.Name])
	}
}

// checkEmbedded refuses flags of the embedded server if there is none.
func (f *configFile) checkEmbedded(embedded bool) error {
	for _, name := range []string{"host", "port"} {
		if !embedded && *f.given[name] {
			return usagef("--%s: is of the embedded server, give --embedded or leave it out", name)
		}
	}
	return nil
}

// serve runs what the file says. A flag that would say something else is
// refused; what the embedded server needs comes from flags.
func (f *configFile) serve(ctx context.Context, o instanceOptions, level string, std stdio) error {
	beside := []string{"config", "check", "embedded", "host", "port", "data", "log-level"}
	for _, name := range slices.Sorted(maps.Keys(f.given)) {
		if *f.given[name] && !slices.Contains(beside, name) {
			return usagef("--%s: with --config the file says it", name)
		}
	}
	switch {
	case o.Embedded && o.Data == "":
		return usagef("--embedded: where the server keeps its data is missing, give --data")
	case !o.Embedded && o.Data != "":
		return usagef("--data: with --config it is the embedded server's directory, give --embedded or leave it out")
	}
	file, err := f.read(o)
	if err != nil {
		return err
	}
	c := &file.Config
	if f.check {
		if err := checkFiles(file, std.err); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(std.out, "# %s is valid. In effect:\n", f.name); err != nil {
			return err
		}
		return c.Write(std.out)
	}
	o.Config = c
	if o.Port == 0 {
		o.Port = embedded.RandomPort
	}
	if o.Log, err = newLog(std.err, level); err != nil {
		return err
	}
	for _, err := range file.Exposed() {
		o.Log.Warn("a secret is exposed", "error", err)
	}
	return serve(ctx, o, std)
}

// read reads the file. What is wrong with it is the user's to mend.
func (f *configFile) read(o instanceOptions) (*config.File, error) {
	file, err := config.ReadFile(f.name)
	if err != nil {
		return nil, &usageError{err: err}
	}
	c := &file.Config
	for i := range c.Repositories {
		r := &c.Repositories[i]
		if err := stores.Check(r); err != nil {
			return nil, &usageError{err: file.Locate(fmt.Errorf("repositories[%d].%w", i, err))}
		}
		if r.Kind == config.KindLocal {
			if r.Path, err = filepath.Abs(r.Path); err != nil {
				return nil, fmt.Errorf("find directory %s: %w", r.Path, err)
			}
		}
	}
	if o.Embedded && c.Control.URL+c.Control.Context != "" {
		return nil, usagef("--embedded: %s names another server in control", f.name)
	}
	return file, nil
}

// checkFiles reads the files that connections name, looks for the programs of
// hooks, and warns of secrets that others can read.
func checkFiles(file *config.File, warnings io.Writer) error {
	for _, exposed := range file.Exposed() {
		if _, err := fmt.Fprintf(warnings, "warning: %v\n", exposed); err != nil {
			return err
		}
	}
	for _, at := range file.Config.Connections() {
		if err := at.Options.CheckFiles(); err != nil {
			return &usageError{err: file.Locate(fmt.Errorf("%s.%w", at.Path, err))}
		}
		for _, err := range at.Options.Exposed() {
			if _, err := fmt.Fprintf(warnings, "warning: %v\n", file.Locate(fmt.Errorf("%s.%w", at.Path, err))); err != nil {
				return err
			}
		}
	}
	for i, h := range file.Config.Hooks {
		if len(h.Command) == 0 {
			continue
		}
		if _, err := exec.LookPath(h.Command[0]); err != nil {
			return &usageError{err: file.Locate(fmt.Errorf("hooks[%d].command: %w", i, err))}
		}
	}
	return nil
}
