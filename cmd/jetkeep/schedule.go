package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
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
	add("put", "Make a schedule, or change what is given of one; its policy (--keep-...) forgets only what it made", func(s *scheduleCommand) {
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
	whole(s.clause.Flag("retry", "How often a backup that failed is tried again").PlaceHolder("COUNT").IsSetByUser(&s.retrySet), &s.retry.Count)
	s.clause.Flag("retry-delay", "How long after it failed; default 1m").PlaceHolder("DURATION").StringVar(&s.retry.Delay)
	s.clause.Flag("retry-backoff", "How many times longer from try to try; default 2").PlaceHolder("FACTOR").Float64Var(&s.retry.Backoff)
	whole(s.clause.Flag("history", "How many runs to remember; default 10").PlaceHolder("COUNT").IsSetByUser(&s.historySet), &s.put.History)
	s.clause.Flag("timeout", "Cancel what runs when a backup and what follows it take longer").PlaceHolder("DURATION").StringVar(&s.put.Timeout)
	s.clause.Flag("verify", "Verify each backup: structure, data or records").PlaceHolder("LEVEL").StringVar((*string)(&s.put.Verify))
	s.clause.Flag("drill", "Then restore each backup into a scratch server and compare").UnNegatableBoolVar(&s.put.Drill)
	s.keep.flags(s.clause)
	s.clause.Flag("file", "What to put as JSON, as schedule.put takes it, from a file").PlaceHolder("FILE").StringVar(&s.file)
	s.clause.Flag("reset", "Set a field back to its default, such as zone, keep or keep.daily; can be repeated").PlaceHolder("FIELD").StringsVar(&s.put.Reset)
	s.clause.Flag("replace", "Set back everything that is not given, but for being paused").UnNegatableBoolVar(&s.put.Replace)
	s.clause.Flag("revision", "Only if the schedule is at this revision; 0 if there is none").PlaceHolder("N").IsSetByUser(&s.revisionSet).Uint64Var(&s.revision)
	s.clause.Flag("dry-run", "Print what would change, and change nothing").UnNegatableBoolVar(&s.put.DryRun)
}

// scheduleCommand is what the commands on schedules are given.
type scheduleCommand struct {
	conn   connection
	clause *fisk.CmdClause
	name   string
	put    api.SchedulePutRequest
	keep   keepFlags
	file   string
	json   bool

	start, end string
	retry      api.ScheduleRetry
	tags       map[string]string

	retrySet, historySet, revisionSet bool

	revision uint64
	read     map[string]json.RawMessage // of the file
}

// maxScheduleFile bounds what is read of a file.
const maxScheduleFile = api.MaxBody

// prepare puts together what is to be put. What is not given is left out.
func (s *scheduleCommand) prepare() error {
	s.put.Keep = s.keep.policy()
	if len(s.tags) > 0 {
		s.put.Tags = s.tags
	}
	if s.retry != (api.ScheduleRetry{}) {
		s.put.Retry = &s.retry
	}
	var err error
	if s.put.Start, err = timeOf("--start", s.start); err != nil {
		return err
	}
	if s.put.End, err = timeOf("--end", s.end); err != nil {
		return err
	}
	reset := s.emptied()
	if s.file != "" {
		if !reflect.DeepEqual(s.put.Schedule, api.Schedule{}) || len(reset) > 0 {
			return usagef("--file has what is to be put: no other flag that says what the schedule is goes beside it")
		}
		if err := s.readFile(); err != nil {
			return usagef("--file %s: %w", s.file, err)
		}
	}
	s.put.Name = s.name
	s.put.Reset = append(s.put.Reset, reset...)
	if s.revisionSet {
		s.put.Revision = &s.revision
	}
	return nil
}

// emptied returns the fields that are given as nothing.
func (s *scheduleCommand) emptied() (fields []string) {
	if s.retrySet && s.retry == (api.ScheduleRetry{}) {
		fields = append(fields, "retry")
	}
	if s.historySet && s.put.History == 0 {
		fields = append(fields, "history")
	}
	return append(fields, s.keep.emptied()...)
}

// readFile reads what is to be put. How it is to be put is for flags to say.
func (s *scheduleCommand) readFile() error {
	f, err := os.Open(s.file)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxScheduleFile+1))
	if err != nil {
		return err
	}
	var v api.Schedule
	if err := api.Decode(data, &v); err != nil {
		return err
	}
	if v.Name != "" && v.Name != s.name {
		return fmt.Errorf("it is of schedule %s, not of %s", v.Name, s.name)
	}
	s.read = map[string]json.RawMessage{}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	return json.Unmarshal(data, &s.read)
}

// body is the request. What a file says is sent as it is: that a field is empty may
// be said, too.
func (s *scheduleCommand) body() (any, error) {
	if s.read == nil {
		return s.put, nil
	}
	own, err := json.Marshal(s.put)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return s.read, json.Unmarshal(own, &s.read)
}

func (s *scheduleCommand) doPut(ctx context.Context, r *client.Client, std stdio) error {
	body, err := s.body()
	if err != nil {
		return err
	}
	answer := new(api.SchedulePutResponse)
	if err := r.Do(ctx, api.SchedulePut, body, answer); err != nil {
		return err
	}
	if s.json {
		return std.json(answer)
	}
	if err := s.printPut(std, answer); err != nil {
		return err
	}
	if answer.Policy != nil {
		_, _ = fmt.Fprintln(std.out, term.Printable(answer.Policy.Text))
	}
	if answer.Schedule.Paused {
		_, err := fmt.Fprintln(std.out, "It is paused: nothing is due until it is resumed.")
		return err
	}
	return printSlots(std, answer.Next)
}

// printPut says what is different.
func (s *scheduleCommand) printPut(std stdio, a *api.SchedulePutResponse) error {
	verb := "changed"
	switch {
	case a.Created:
		verb = "made"
	case len(a.Changes) == 0:
		verb = "left as it was"
	}
	if a.DryRun {
		verb = "would be " + verb
	}
	_, _ = fmt.Fprintf(std.out, "Schedule %s %s.\n", a.Name, verb)
	if !a.Created && len(a.Changes) > 0 {
		table := term.NewTable("field", "was", "is")
		for _, c := range a.Changes {
			table.Row(c.Field, orNothing(c.From), orNothing(c.To))
		}
		if err := table.Write(std.out); err != nil {
			return err
		}
	}
	if unsaid := s.unsaid(a.Schedule); len(unsaid) > 0 {
		_, _ = fmt.Fprintf(std.out, "The file does not say these, which stay; --replace sets them back: %s\n", strings.Join(unsaid, ", "))
	}
	return nil
}

func orNothing(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// unsaid returns the fields that a schedule has and that the file it was changed by
// does not have.
func (s *scheduleCommand) unsaid(v api.Schedule) (fields []string) {
	if s.read == nil || s.put.Replace {
		return nil
	}
	b, err := json.Marshal(v)
	has := map[string]json.RawMessage{}
	if err != nil || json.Unmarshal(b, &has) != nil {
		return nil
	}
	for name := range has {
		// A schedule always has a target and a repository.
		if _, said := s.read[name]; !said && name != "target" && name != "repository" {
			fields = append(fields, name)
		}
	}
	slices.Sort(fields)
	return fields
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
	_, err = fmt.Fprintf(std.out, "Schedule %s deleted. Its backups stay: \"jetkeep prune --schedule %s\" with a policy forgets them.\n", answer.Name, answer.Name)
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
