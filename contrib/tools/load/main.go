// Command load runs a command several times beside busy processes.
//
//	load [-times N] [-runs N] -- COMMAND [ARGUMENT]...
//
// N busy processes for each processor start before the first run and are ended,
// by pid, after the last; should this process die, the kernel ends them. Each
// run's time, and how it ended, is printed at the end. It fails if a run did, and
// goes on with the next one all the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	times := flag.Int("times", 4, "busy processes for each processor")
	runs := flag.Int("runs", 1, "how often the command is run")
	spin := flag.Bool("spin", false, "be such a process")
	flag.Parse()
	if *spin {
		spinForEver()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *times*runtime.NumCPU(), *runs, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		stop()
		os.Exit(1)
	}
}

// spinForEver keeps a processor busy.
func spinForEver() {
	for n := uint(1); n > 0; n |= 1 {
	}
}

func run(ctx context.Context, busy, runs int, command []string) error {
	if len(command) == 0 || busy < 0 || runs < 1 {
		return errors.New("a command, at least one run and no negative load are needed")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	// The death signal is sent when the thread that started a process ends.
	runtime.LockOSThread()
	for range busy {
		cmd := exec.Command(self, "-spin")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start a busy process: %w", err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // that it was killed is known
		}()
	}
	fmt.Printf("%d busy processes on %d processors\n", busy, runtime.NumCPU())
	var table string
	var errs []error
	for i := 1; i <= runs && ctx.Err() == nil; i++ {
		begin := time.Now()
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		verdict := "passed"
		if err := cmd.Run(); err != nil {
			verdict = err.Error()
			errs = append(errs, fmt.Errorf("run %d: %w", i, err))
		}
		table += fmt.Sprintf("run %d  %6.0f s  %s\n", i, time.Since(begin).Seconds(), verdict)
	}
	fmt.Print(table)
	return errors.Join(append(errs, ctx.Err())...)
}
