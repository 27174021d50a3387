package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"time"

	"github.com/choria-io/fisk"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
)

func addSchedule(c *cli) {
	schedule := c.app.Command("schedule", "Back up by itself, on time")
	add := func(name, help string, build func(*scheduleCommand), run func(*scheduleCommand, context.Context, *client.Client, stdio) error) {
		s := &scheduleCommand{tags: map[string]string{}}
		clause := schedule.Command(name, help)
		c.command(clause, func(ctx context.Context, std stdio) error {
			if err := s.prepare(); err != nil {
				return err
			}
			return withRemote(ctx, &s.conn, func(r *client.Client) error { return run(s, ctx, r, std) })
		})
		s.clause = clause
		build(s)
		clause.Flag("json", "Write JSON").UnNegatableBoolVar(&s.json)
		s.conn.flags(clause)
	}
	name := func(s *scheduleCommand) { s.clause.Arg("name", "Name of the schedule").Required().StringVar(&s.name) }
	add("put", "Make a schedule, or change it", func(s *scheduleCommand) {
		name(s)
		s.putFlags()
	}, (*scheduleCommand).doPut)
	add("ls", "List schedules", func(*scheduleCommand) {}, (*scheduleCommand).list)
	add("info", "Show a schedule, how it went and when it is due", name, (*scheduleCommand).info)
	add("rm", "Delete a schedule; its backups stay", name, (*scheduleCommand).remove)
	add("pause", "Pause a schedule", name, (*scheduleCommand).pause)
	add("resume", "Resume a schedule", name, (*scheduleCommand).resume)
	add("trigger", "Run a schedule now", name, (*scheduleCommand).trigger)
}

// putFlags are those of what a schedule is.
func (s *scheduleCommand) putFlags() {
	s.clause.Flag("cron", "Five fields, @daily or the like, or @every and a duration").PlaceHolder("CRON").StringVar(&s.put.Cron)
	s.clause.Flag("zone", "Time zone of the fields; default UTC").PlaceHolder("ZONE").StringVar(&s.put.Zone)
	s.clause.Flag("stream", "Streams, names or patterns; default: every one").PlaceHolder("NAME").StringsVar(&s.put.Streams)
	s.clause.Flag("exclude", "Names or patterns to leave out").PlaceHolder("NAME").StringsVar(&s.put.Exclude)
	s.clause.Flag("target", "Name of the target").PlaceHolder("NAME").StringVar(&s.put.Target)
	s.clause.Flag("repository", "Name of the repository").PlaceHolder("NAME").StringVar(&s.put.Repository)
	s.clause.Flag("start", "No slot before this time").PlaceHolder("TIME").StringVar(&s.start)
	s.clause.Flag("end", "No slot after this time").PlaceHolder("TIME").StringVar(&s.end)
	s.clause.Flag("opt-in", "Only streams that are named, and those whose metadata names the schedule").UnNegatableBoolVar(&s.put.OptIn)
	s.clause.Flag("tag", "Tag to keep with each backup; can be repeated").PlaceHolder("KEY=VALUE").StringMapVar(&s.tags)
	s.clause.Flag("jitter", "Put off starts by up to this").PlaceHolder("DURATION").StringVar(&s.put.Jitter)
	s.clause.Flag("overlap", "When the predecessor still runs: skip, queue or cancel").PlaceHolder("WHAT").StringVar(&s.put.Overlap)
	s.clause.Flag("missed", "Of slots that passed while no instance ran: once or none").PlaceHolder("WHAT").StringVar(&s.put.Missed)
	s.clause.Flag("start-deadline", "Leave out what could not be started so long after its time").PlaceHolder("DURATION").StringVar(&s.put.Deadline)
	s.clause.Flag("retry", "How often a backup that failed is tried again").PlaceHolder("COUNT").IntVar(&s.retry.Count)
	s.clause.Flag("retry-delay", "How long after it failed; default 1m").PlaceHolder("DURATION").StringVar(&s.retry.Delay)
	s.clause.Flag("retry-backoff", "How many times longer from try to try; default 2").PlaceHolder("FACTOR").Float64Var(&s.retry.Backoff)
	s.clause.Flag("history", "How many runs to remember; default 10").PlaceHolder("COUNT").IntVar(&s.put.History)
	s.clause.Flag("timeout", "Cancel what runs when a backup and what follows it take longer").PlaceHolder("DURATION").StringVar(&s.put.Timeout)
	s.clause.Flag("verify", "Verify each backup: structure, data or records").PlaceHolder("LEVEL").StringVar((*string)(&s.put.Verify))
	s.clause.Flag("drill", "Then restore each backup into a scratch server and compare").UnNegatableBoolVar(&s.put.Drill)
	s.keep.flags(s.clause)
	s.clause.Flag("file", "All of it as JSON, as schedule.put takes it, from a file").PlaceHolder("FILE").StringVar(&s.file)
}

// scheduleCommand is what the commands on schedules are given.
type scheduleCommand struct {
	conn   connection
	clause *fisk.CmdClause
	name   string
	put    api.Schedule
	keep   keepFlags
	file   string
	json   bool

	start, end string
	retry      api.ScheduleRetry
	tags       map[string]string
}

// maxScheduleFile bounds what is read of a file.
const maxScheduleFile = api.MaxBody

// prepare puts together what is to be put.
func (s *scheduleCommand) prepare() error {
	s.put.Keep = s.keep.policy()
	if len(s.tags) > 0 {
		s.put.Tags = s.tags
	}
	if s.retry != (api.ScheduleRetry{}) {
		if s.retry.Count == 0 {
			return usagef("--retry says how often it is tried again; without it there is nothing to delay")
		}
		s.put.Retry = &s.retry
	}
	var err error
	if s.put.Start, err = timeOf("--start", s.start); err != nil {
		return err
	}
	if s.put.End, err = timeOf("--end", s.end); err != nil {
		return err
	}
	if s.file != "" {
		if !reflect.DeepEqual(s.put, api.Schedule{}) {
			return usagef("--file has all of the schedule: no other flag that says what it is goes beside it")
		}
		if err := s.read(&s.put); err != nil {
			return usagef("--file %s: %w", s.file, err)
		}
		if s.put.Name != "" && s.put.Name != s.name {
			return usagef("--file %s is of schedule %s, not of %s", s.file, s.put.Name, s.name)
		}
	}
	s.put.Name = s.name
	return nil
}

func (s *scheduleCommand) doPut(ctx context.Context, r *client.Client, std stdio) error {
	answer, err := r.SchedulePut(ctx, s.put)
	if err != nil {
		return err
	}
	if s.json {
		return std.json(answer)
	}
	verb := "changed"
	if answer.Created {
		verb = "made"
	}
	_, _ = fmt.Fprintf(std.out, "Schedule %s %s.\n", answer.Name, verb)
	return printSlots(std, answer.Next)
}

func (s *scheduleCommand) read(q *api.Schedule) error {
	f, err := os.Open(s.file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxScheduleFile))
	if err != nil {
		return err
	}
	return api.Decode(data, q)
}

func printSlots(std stdio, next []api.ScheduleSlot) error {
	if len(next) == 0 {
		_, _ = fmt.Fprintln(std.out, "It is due at no time.")
		return nil
	}
	table := term.NewTable("due", "on its clocks")
	for _, slot := range next {
		table.Row(moment(slot.Time), slot.Local)
	}
	return table.Write(std.out)
}

func (s *scheduleCommand) list(ctx context.Context, r *client.Client, std stdio) error {
	list, err := r.ScheduleList(ctx, api.ScheduleListRequest{Limit: api.MaxLimit})
	if err != nil {
		return err
	}
	if s.json {
		return std.json(list)
	}
	table := term.NewTable("schedule", "cron", "zone", "next", "last run", "last success")
	for _, v := range list.Schedules {
		next, last, success := "", "", ""
		switch {
		case v.Paused:
			next = "paused"
		case v.NextRun != nil:
			next = moment(v.NextRun.Time)
		}
		switch {
		case v.Running != nil && v.Running.RetryAt != nil:
			last = "failed, again at " + moment(*v.Running.RetryAt)
		case v.Running != nil:
			last = "running"
		case v.LastRun != nil:
			last = string(v.LastRun.State)
		}
		if v.LastSuccess != nil {
			success = moment(v.LastSuccess.Slot)
		}
		table.Row(v.Name, v.Cron, v.Zone, next, last, success)
	}
	if err := table.Write(std.out); err != nil {
		return err
	}
	if list.Next != "" {
		_, _ = fmt.Fprintf(std.err, "%d of %s\n", len(list.Schedules), term.Plural(list.Total, "schedule"))
	}
	return nil
}

func (s *scheduleCommand) info(ctx context.Context, r *client.Client, std stdio) error {
	info, err := r.ScheduleInfo(ctx, api.ScheduleNameRequest{Name: s.name})
	if err != nil {
		return err
	}
	if s.json {
		return std.json(info)
	}
	spec, err := json.Marshal(info.Schedule)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	_, _ = fmt.Fprintln(std.out, term.Printable(string(spec)))
	runs := info.Recent
	if info.Running != nil {
		runs = append([]api.ScheduleRun{*info.Running}, runs...)
	}
	table := term.NewTable("slot", ">attempt", "session", "state", ">late", "reason")
	for _, run := range runs {
		state := string(run.State)
		switch {
		case run.RetryAt != nil:
			state += ", again at " + moment(*run.RetryAt)
		case run.Ended == nil:
			state = "running"
		}
		late := term.Duration(time.Duration(run.Late * float64(time.Second)))
		if run.Manual {
			late = "by hand"
		}
		table.Row(moment(run.Slot), fmt.Sprint(run.Attempt), run.Session, state, late, run.Reason)
	}
	if err := table.Write(std.out); err != nil {
		return err
	}
	if k := info.LastSkipped; k != nil {
		_, _ = fmt.Fprintf(std.out, "left out: %s, the last %s: %s\n", term.Plural(k.Count, "slot"), moment(k.Last), term.Printable(k.Reason))
	}
	return printSlots(std, info.Next)
}

func (s *scheduleCommand) remove(ctx context.Context, r *client.Client, std stdio) error {
	answer, err := r.ScheduleDelete(ctx, api.ScheduleNameRequest{Name: s.name})
	if err != nil {
		return err
	}
	if s.json {
		return std.json(answer)
	}
	_, err = fmt.Fprintf(std.out, "Schedule %s deleted.\n", answer.Name)
	return err
}

func (s *scheduleCommand) pause(ctx context.Context, r *client.Client, std stdio) error {
	answer, err := r.SchedulePause(ctx, api.ScheduleNameRequest{Name: s.name})
	if err != nil {
		return err
	}
	if s.json {
		return std.json(answer)
	}
	_, err = fmt.Fprintf(std.out, "Schedule %s paused.\n", answer.Name)
	return err
}

func (s *scheduleCommand) resume(ctx context.Context, r *client.Client, std stdio) error {
	answer, err := r.ScheduleResume(ctx, api.ScheduleNameRequest{Name: s.name})
	if err != nil {
		return err
	}
	if s.json {
		return std.json(answer)
	}
	_, _ = fmt.Fprintf(std.out, "Schedule %s resumed.\n", answer.Name)
	return printSlots(std, answer.Next)
}

func (s *scheduleCommand) trigger(ctx context.Context, r *client.Client, std stdio) error {
	answer, err := r.ScheduleTrigger(ctx, api.ScheduleNameRequest{Name: s.name})
	if err != nil {
		return err
	}
	if s.json {
		return std.json(answer)
	}
	_, err = fmt.Fprintf(std.out, "Session %s started.\n", answer.Session)
	return err
}
