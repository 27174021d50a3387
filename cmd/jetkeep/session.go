package main

import (
	"context"
	"errors"
	"fmt"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
)

func addSession(c *cli) {
	session := c.app.Command("session", "Look at sessions, cancel them")
	add := func(name, help string, build func(*sessionCommand), run func(*sessionCommand, context.Context, *client.Client, stdio) error) {
		s := &sessionCommand{}
		clause := session.Command(name, help)
		c.command(clause, func(ctx context.Context, std stdio) error {
			return withRemote(ctx, &s.conn, func(r *client.Client) error { return run(s, ctx, r, std) })
		})
		s.arg = func(help string) { clause.Arg("session", help).Required().StringVar(&s.id) }
		s.flag = func(name, help string, target *string) { clause.Flag(name, help).StringVar(target) }
		build(s)
		clause.Flag("json", "Write JSON").UnNegatableBoolVar(&s.json)
		s.conn.flags(clause)
	}
	add("ls", "List sessions, the newest first", func(s *sessionCommand) {
		s.flag("kind", "Only backup, restore, verify or prune", &s.kind)
		s.flag("state", "Only in this state", &s.state)
	}, (*sessionCommand).list)
	add("info", "Show a session and its streams", func(s *sessionCommand) { s.arg("Id of the session") }, (*sessionCommand).info)
	add("cancel", "Cancel a session", func(s *sessionCommand) {
		s.arg("Id of the session")
		s.flag("reason", "Why, for others to read", &s.reason)
	}, (*sessionCommand).cancel)
	add("watch", "Watch a session to its end", func(s *sessionCommand) { s.arg("Id of the session") }, (*sessionCommand).watch)
}

// sessionCommand is what the commands on sessions are given.
type sessionCommand struct {
	conn   connection
	id     string
	kind   string
	state  string
	reason string
	json   bool

	arg  func(help string)
	flag func(name, help string, target *string)
}

func (s *sessionCommand) list(ctx context.Context, r *client.Client, std stdio) error {
	req := api.SessionListRequest{Kind: api.Kind(s.kind)}
	if s.state != "" {
		req.States = []api.State{api.State(s.state)}
	}
	list, err := r.SessionList(ctx, req)
	if err != nil {
		return err
	}
	if s.json {
		return std.json(list)
	}
	table := term.NewTable("session", "kind", "state", "target", "repository", ">streams", ">messages", ">bytes", "duration")
	for _, v := range list.Sessions {
		duration := ""
		if v.Started != nil && v.Ended != nil {
			duration = term.Duration(v.Ended.Sub(*v.Started))
		}
		table.Row(v.Session, string(v.Kind), string(v.State), v.Target, v.Repository,
			fmt.Sprintf("%d/%d", v.Tasks.Succeeded, v.Tasks.Total), term.Count(v.Progress.Messages), term.Bytes(v.Progress.Bytes), duration)
	}
	if err := table.Write(std.out); err != nil {
		return err
	}
	if list.Next != "" {
		_, _ = fmt.Fprintf(std.err, "%d of %s\n", len(list.Sessions), term.Plural(list.Total, "session"))
	}
	return nil
}

func (s *sessionCommand) info(ctx context.Context, r *client.Client, std stdio) error {
	info, err := r.SessionTasks(ctx, s.id)
	if err != nil {
		return err
	}
	if s.json {
		return std.json(info)
	}
	_, _ = fmt.Fprintln(std.out, sessionLine(info.SessionView, info.TaskList))
	if len(info.Tags) > 0 {
		_, _ = fmt.Fprintln(std.out, "tags: "+term.Printable(joined(info.Tags)))
	}
	table := term.NewTable("task", "stream", "state", ">messages", ">bytes", "duration", "error")
	for _, t := range info.TaskList {
		fault := ""
		if t.Error != nil {
			fault = t.Error.Error()
		}
		duration := ""
		if t.Started != nil {
			duration = taskSeconds(t)
		}
		name := t.Stream
		if t.Hook != "" {
			name = nameOf(t)
		}
		table.Row(t.Task, name, string(t.State), term.Count(t.Progress.Messages), term.Bytes(t.Progress.Bytes), duration, fault)
	}
	if err := table.Write(std.out); err != nil {
		return err
	}
	hints := map[string]bool{}
	for _, t := range info.TaskList {
		if t.Error != nil && t.Error.Hint != "" && !hints[t.Error.Hint] {
			hints[t.Error.Hint] = true
			_, _ = fmt.Fprintf(std.out, "%s: %s\n", term.Printable(nameOf(t)), term.Printable(t.Error.Hint))
		}
		for _, note := range t.Notes {
			_, _ = fmt.Fprintf(std.out, "%s: %s\n", term.Printable(nameOf(t)), term.Printable(note))
		}
	}
	printFindings(std, info.TaskList)
	return nil
}

func (s *sessionCommand) cancel(ctx context.Context, r *client.Client, std stdio) error {
	answer, err := r.SessionCancel(ctx, api.SessionCancelRequest{Session: s.id, Reason: s.reason})
	if err != nil {
		return err
	}
	if s.json {
		return std.json(answer)
	}
	text := "is being cancelled"
	if answer.State.Final() {
		text = "is " + string(answer.State)
	}
	_, err = fmt.Fprintf(std.out, "session %s %s\n", answer.Session, text)
	return err
}

// watch shows a session like the command that started it does; with --json it
// writes all its events from the first on, one a line.
func (s *sessionCommand) watch(ctx context.Context, r *client.Client, std stdio) error {
	if !s.json {
		return wait(ctx, r, s.id, std, false)
	}
	b := newBoard()
	w := &jsonWatcher{out: std.out, replay: func(event func(api.Event) error) error { return r.Replay(ctx, s.id, event) }}
	info, err := follow(ctx, r, s.id, b, w)
	if err != nil {
		return err
	}
	return errors.Join(w.err, outcome(info.SessionView))
}
