// Command jetkeep backs up and restores NATS JetStream: it is the service, the
// client of the service, and a demonstration of both.
//
// It exits with 0 when what was asked is done, 1 when it failed, 2 when it was
// asked wrongly, 3 when a session ended and some of its streams failed or what
// was imported lacks some, and 130 when it was interrupted. An interrupted wait
// leaves the session running.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(mainCode()) }

func mainCode() int {
	return mainOn(func(context.Context) stdio { return stdio{out: os.Stdout, err: os.Stderr} })
}

// mainOn is mainCode on the streams that are made for its context.
func mainOn(streams func(context.Context) stdio) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end, a second one does not wait.
	context.AfterFunc(ctx, stop)
	// net/http tells there of connections that a store spoiled and it gave up.
	log.SetOutput(io.Discard)
	std := streams(ctx)
	return exitCode(run(ctx, os.Args[1:], std), std)
}
