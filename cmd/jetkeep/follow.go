package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
)

// sessions is what following a session needs of the service.
type sessions interface {
	// SessionTasks returns the session with all its tasks.
	SessionTasks(ctx context.Context, session string) (*api.SessionInfoResponse, error)
	// Subscribe calls fn for each event of the session until stop is called.
	Subscribe(session string, fn func(api.Event)) (stop func(), err error)
}

// The pace of following. Events can be lost and the service can restart, so
// the session's own state is read again and again; that alone decides.
const (
	pollInterval  = time.Second
	quietInterval = 5 * time.Second // between two plain lines
)

// A watcher shows what happens to a session.
type watcher interface {
	begin() error // when no event can be missed any more
	event(api.Event)
	ended([]api.TaskView)
	tick(now time.Time)
	trouble(error)
	close()
}

// follow waits until a session has ended. It ends with errInterrupted when the
// context does; the session goes on.
func follow(ctx context.Context, s sessions, session string, b *board, w watcher) (*api.SessionInfoResponse, error) {
	defer w.close()
	events := make(chan api.Event, 1024)
	stop, err := s.Subscribe(session, func(e api.Event) {
		select {
		case events <- e:
		default: // the next answer of session.info makes up for it
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to events of %s: %w", session, err)
	}
	defer stop()
	if err := w.begin(); err != nil {
		return nil, err
	}
	redraw := time.NewTicker(100 * time.Millisecond)
	defer redraw.Stop()
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, errInterrupted
		case e := <-events:
			w.event(e)
			w.ended(b.apply(e))
			if e.Event.Final() {
				poll.Reset(0)
			}
		case now := <-redraw.C:
			w.tick(now)
		case <-poll.C:
			info, err := ask(ctx, s, session)
			if api.HasCode(err, api.CodeSessionNotFound) {
				return nil, err
			}
			if err != nil {
				w.trouble(err)
			} else {
				w.ended(b.load(info))
				if info.State.Final() {
					return info, nil
				}
			}
			poll.Reset(pollInterval)
		}
	}
}

// ask bounds one question, because a service that is gone may never answer.
func ask(ctx context.Context, s sessions, session string) (*api.SessionInfoResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.SessionTasks(ctx, session)
}

// newWatcher picks how a session is shown: not at all, drawn or in plain lines.
func newWatcher(b *board, std stdio, quiet bool) watcher {
	if quiet {
		return silent{}
	}
	if _, ok := term.Width(std.err); ok {
		width := func() int { w, _ := term.Width(std.err); return w }
		return &drawing{board: b, screen: term.NewScreen(std.err, width), width: width}
	}
	return &plainLines{board: b, out: std.err}
}

type silent struct{}

func (silent) begin() error         { return nil }
func (silent) event(api.Event)      {}
func (silent) ended([]api.TaskView) {}
func (silent) tick(time.Time)       {}
func (silent) trouble(error)        {}
func (silent) close()               {}

// jsonWatcher writes each event as a line of JSON, first those of the past.
type jsonWatcher struct {
	silent
	out    io.Writer
	replay func(event func(api.Event) error) error
	seen   map[string]bool
	err    error
}

func (j *jsonWatcher) begin() error {
	j.seen = map[string]bool{}
	return j.replay(func(e api.Event) error {
		j.event(e)
		return j.err
	})
}

func (j *jsonWatcher) event(e api.Event) {
	if j.seen[e.ID] {
		return
	}
	j.seen[e.ID] = true
	line, err := json.Marshal(e)
	if err == nil {
		_, err = fmt.Fprintf(j.out, "%s\n", line)
	}
	j.err = errors.Join(j.err, err)
}

// drawing redraws a board on a terminal.
type drawing struct {
	silent
	board   *board
	screen  *term.Screen
	width   func() int
	problem string
}

func (d *drawing) lines() []string {
	lines := d.board.lines(d.width())
	if d.problem != "" {
		lines = append(lines, d.problem)
	}
	return lines
}

func (d *drawing) ended(tasks []api.TaskView) {
	for _, t := range tasks {
		d.screen.Print(d.board.endLines(t), d.lines())
	}
	d.problem = ""
}

func (d *drawing) tick(time.Time) { d.screen.Draw(d.lines()) }

func (d *drawing) trouble(err error) { d.problem = "no answer from the service: " + err.Error() }

// close leaves what stays and nothing else.
func (d *drawing) close() { d.screen.Draw(nil) }

// plainLines writes a line when something ended, and one now and then.
type plainLines struct {
	silent
	board    *board
	out      io.Writer
	last     time.Time
	troubled bool
}

func (p *plainLines) ended(tasks []api.TaskView) {
	p.troubled = false
	for _, t := range tasks {
		for _, line := range p.board.endLines(t) {
			_, _ = fmt.Fprintln(p.out, line)
		}
	}
}

func (p *plainLines) tick(now time.Time) {
	if p.last.IsZero() {
		p.last = now
	}
	if now.Sub(p.last) >= quietInterval {
		p.last = now
		_, _ = fmt.Fprintln(p.out, p.board.plain())
	}
}

func (p *plainLines) trouble(err error) {
	if !p.troubled {
		p.troubled = true
		_, _ = fmt.Fprintf(p.out, "no answer from the service, still waiting: %v\n", err)
	}
}

// outcome is the error that a session's final state comes to.
func outcome(s api.SessionView) error {
	switch s.State {
	case api.StateSucceeded, api.StateSkipped:
		return nil
	case api.StatePartial:
		return errPartial
	}
	return errReported
}

// printFindings tells what verifications and prunes came to.
func printFindings(std stdio, tasks []api.TaskView) {
	for _, t := range tasks {
		if t.Verification != nil {
			printVerification(std, t.Verification)
		}
		if t.Pruned != nil {
			printPruned(std, t.Pruned)
		}
	}
}

// wait follows an accepted session to its end and reports it.
func wait(ctx context.Context, s sessions, session string, std stdio, asJSON bool) error {
	b := newBoard()
	info, err := follow(ctx, s, session, b, newWatcher(b, std, asJSON))
	if errors.Is(err, errInterrupted) {
		_, _ = fmt.Fprintf(std.err, "no longer waiting; session %s goes on\n"+
			"  watch it again:  jetkeep session watch %[1]s\n  cancel it:       jetkeep session cancel %[1]s\n", session)
	}
	if err != nil {
		return err
	}
	if asJSON {
		err = std.json(info)
	} else {
		_, err = fmt.Fprintln(std.out, sessionLine(info.SessionView, info.TaskList))
		printFindings(std, info.TaskList)
	}
	return errors.Join(err, outcome(info.SessionView))
}
