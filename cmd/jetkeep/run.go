package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/choria-io/fisk"

	"jetkeep/service/api"
	"jetkeep/service/client"
)

// The codes with which the program exits.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartial     = 3
	exitInterrupted = 130
)

var (
	// errPartial means that a session ended and some of its streams failed.
	errPartial = errors.New("some streams failed")
	// errInterrupted means that the user ended the waiting. Why is said already.
	errInterrupted = errors.New("interrupted")
	// errReported means that the output says already what went wrong.
	errReported = errors.New("reported")
)

// usageError is a command line that cannot be meant.
type usageError struct {
	err     error
	command string // whose help says how, empty for that of the whole
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// stdio is where a command writes: its results to out, everything else to err.
type stdio struct{ out, err io.Writer }

func (s stdio) json(value any) error {
	e := json.NewEncoder(s.out)
	e.SetIndent("", "  ")
	return e.Encode(value)
}

// exitCode says what went wrong, unless that is said, and what it comes to.
func exitCode(err error, std stdio) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errPartial):
		return exitPartial
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.Is(err, errReported):
		return exitFailed
	}
	_, _ = fmt.Fprintf(std.err, "jetkeep: %v\n", err)
	if usage := new(usageError); errors.As(err, &usage) {
		_, _ = fmt.Fprintf(std.err, "jetkeep: see %s --help\n", strings.TrimSpace("jetkeep "+usage.command))
		return exitUsage
	}
	if wire := new(api.Error); errors.As(err, &wire) && wire.Hint != "" {
		_, _ = fmt.Fprintf(std.err, "jetkeep: %s\n", wire.Hint)
	}
	if errors.Is(err, client.ErrNoService) {
		_, _ = fmt.Fprintln(std.err, "jetkeep: start it with jetkeep serve, or look for it with --server and --prefix")
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	return exitFailed
}

// command is what a parsed command line runs.
type command func(ctx context.Context, std stdio) error

// cli is the command line as it is being built.
type cli struct {
	app      *fisk.Application
	commands map[string]command
}

// command adds a command; build adds its flags to the clause.
func (c *cli) command(clause *fisk.CmdClause, run command) *fisk.CmdClause {
	c.commands[clause.FullCommand()] = run
	return clause
}

// run runs the command line.
func run(ctx context.Context, args []string, std stdio) error {
	c := newCLI(std)
	name, done, err := c.parse(args)
	if done {
		return nil
	}
	if err != nil {
		return &usageError{err: err, command: c.meant(args)}
	}
	err = c.commands[name](ctx, std)
	if usage := new(usageError); errors.As(err, &usage) {
		usage.command = name
	}
	return err
}

// terminated is what ends a command line that is done when it is parsed.
type terminated struct{}

// parse returns the command that is to be run, or that help or the version was
// written and nothing is left to do.
func (c *cli) parse(args []string) (name string, done bool, err error) {
	defer func() {
		switch x := recover().(type) {
		case nil:
		case terminated:
			done = true
		default:
			panic(x)
		}
	}()
	name, err = c.app.Parse(args)
	return name, false, err
}

// meant returns the command that a command line names, as far as it does.
func (c *cli) meant(args []string) string {
	context, _ := c.app.ParseContext(args) // what is wrong with it is known
	if context == nil || context.SelectedCommand == nil {
		return ""
	}
	return context.SelectedCommand.FullCommand()
}

func newCLI(std stdio) *cli {
	fisk.EnableFileExpansion = false // @daily is no file with arguments
	app := fisk.New("jetkeep", "Backup and restore for NATS JetStream")
	// Help and version would otherwise end the process in the middle.
	app.Terminate(func(int) { panic(terminated{}) })
	app.UsageWriter(std.out).ErrorWriter(std.err)
	app.Version(version())
	app.HelpFlag.Short('h')
	c := &cli{app: app, commands: map[string]command{}}
	for _, add := range []func(*cli){
		addDemo, addServe, addBackup, addRestore, addList, addVerify, addDrill, addForget, addPin, addPrune, addExport, addImport, addRepository, addSession, addSchedule, addStatus,
	} {
		add(c)
	}
	return c
}

// version is what the build knows of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "development"
	}
	return info.Main.Version
}

// serviceVersion is the version in the form that micro services need.
func serviceVersion() string {
	if v, ok := strings.CutPrefix(version(), "v"); ok {
		return v
	}
	return "" // the service has a default
}
