package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
)

// board is what is known of a session while it runs: a model fed by events and
// by answers of session.info, in any order and any number of times.
type board struct {
	session api.SessionView
	loaded  bool // all tasks are known
	order   []string
	tasks   map[string]api.TaskView
	hooks   map[string]bool // tasks of hooks that ended
	hints   map[string]bool // that were told
}

// thing is what a task of a session is about.
func thing(k api.Kind) string {
	if k == api.KindVerify || k == api.KindPrune {
		return "repository"
	}
	return "stream"
}

// nameOf names what a task is about.
func nameOf(t api.TaskView) string {
	switch {
	case t.Hook != "":
		return "hooks " + t.Hook
	case t.Stream == "":
		return "repository"
	}
	return t.Stream
}

// shownTasks bounds how many running streams are drawn at a time.
const shownTasks = 8

func newBoard() *board {
	return &board{tasks: map[string]api.TaskView{}, hooks: map[string]bool{}, hints: map[string]bool{}}
}

// load takes over an answer of session.info with all its tasks and returns the
// tasks that are newly ended.
func (b *board) load(info *api.SessionInfoResponse) []api.TaskView {
	if !b.session.State.Final() || info.State.Final() {
		b.session = info.SessionView
	}
	b.loaded = true
	var ended []api.TaskView
	for _, t := range info.TaskList {
		if b.task(t) {
			ended = append(ended, t)
		}
	}
	return ended
}

// apply takes over an event and returns the task that it ended, if it did.
func (b *board) apply(e api.Event) []api.TaskView {
	if e.Task == nil {
		if e.State != "" && !b.session.State.Final() {
			b.session.State = e.State
		}
		return nil
	}
	if b.task(*e.Task) {
		return []api.TaskView{*e.Task}
	}
	return nil
}

// task takes over a task's view, unless a newer one is known, and tells whether that
// ended it.
func (b *board) task(t api.TaskView) bool {
	if t.Hook != "" { // no work of the session's: to be told of only if it fails
		told := b.hooks[t.Task]
		b.hooks[t.Task] = told || t.State.Final()
		return !told && t.State == api.StateFailed
	}
	old, known := b.tasks[t.Task]
	if !known {
		b.order = append(b.order, t.Task)
		slices.Sort(b.order)
	}
	if known && older(t, old) {
		return false
	}
	if t.Stream == "" {
		t.Stream = old.Stream
	}
	b.tasks[t.Task] = t
	return t.State.Final()
}

// older tells whether a view of a task is of an earlier moment than another. The
// service writes progress down every few seconds and tells of it twice a second, so
// that an answer of session.info is often older than the events before it; and events
// may be late.
func older(t, than api.TaskView) bool {
	if than.State.Final() || t.State.Final() {
		return than.State.Final() // what has ended stays ended
	}
	if t.Attempts != than.Attempts {
		return t.Attempts < than.Attempts
	}
	if a, b := stage(t), stage(than); a != b {
		return a < b
	}
	return t.Progress.Seconds < than.Progress.Seconds
}

// stage orders the states of one attempt. A task that an instance gave back is
// pending and has had its attempt.
func stage(t api.TaskView) int {
	switch {
	case t.State == api.StateRunning:
		return 1
	case t.State == api.StateCommitting:
		return 2
	case t.Attempts > 0:
		return 3
	}
	return 0
}

// sums adds up the tasks. How much is done is known, and not -1, only if it is
// known of every task how much there is to do: it would run backwards otherwise.
func (b *board) sums() (p api.Progress, ended int, fraction float64) {
	known, parts := b.loaded, 0.0
	for _, t := range b.tasks {
		x := t.Progress
		p.Bytes += x.Bytes
		p.Messages += x.Messages
		parts += max(taskFraction(t), 0)
		if t.State.Final() {
			// What was to do was an estimate; now it is known.
			ended++
			p.TotalBytes += x.Bytes
			continue
		}
		p.TotalBytes += max(x.TotalBytes, x.Bytes)
		p.BytesPerSecond += x.BytesPerSecond
		known = known && totalKnown(x)
	}
	if !known {
		p.TotalBytes = 0
	}
	switch {
	case len(b.tasks) == 0 || !known:
		return p, ended, -1
	case ended == len(b.tasks):
		return p, ended, 1
	case p.TotalBytes > 0:
		return p, ended, min(float64(p.Bytes)/float64(p.TotalBytes), 0.999)
	}
	return p, ended, min(parts/float64(len(b.tasks)), 0.999)
}

// totalKnown tells whether it is known how much there is to do. Services of before do
// not say so of nothing.
func totalKnown(p api.Progress) bool { return p.TotalKnown || p.TotalBytes > 0 || p.TotalMessages > 0 }

// taskFraction says how much of a task is done, or -1.
func taskFraction(t api.TaskView) float64 {
	p := t.Progress
	switch {
	case t.State.Final():
		return 1
	case t.State == api.StatePending:
		return 0
	case p.TotalBytes > 0:
		return min(float64(p.Bytes)/float64(p.TotalBytes), 0.999)
	case p.TotalMessages > 0:
		return min(float64(p.Messages)/float64(p.TotalMessages), 0.999)
	}
	return -1
}

// lines draws the board for a terminal.
func (b *board) lines(width int) []string {
	p, ended, fraction := b.sums()
	bar := min(max(width-74, 6), 30) // the words beside it need up to 74
	total := fmt.Sprintf("%s %s  %d of %s", b.session.Kind, term.Bar(bar, fraction), ended, term.Plural(len(b.tasks), thing(b.session.Kind)))
	total = strings.Join(append([]string{total, term.Percent(fraction)}, amounts(p)...), "  ")
	lines := []string{total}
	running, nameWidth := b.running()
	for _, t := range running[:min(len(running), shownTasks)] {
		f := taskFraction(t)
		name := term.Printable(nameOf(t))
		pad := strings.Repeat(" ", max(nameWidth-utf8.RuneCountInString(name), 0))
		line := fmt.Sprintf("  %s%s %s", name, pad, term.Bar(bar, f))
		lines = append(lines, strings.Join(append([]string{line, term.Percent(f)}, amounts(t.Progress)...), "  "))
	}
	if more := len(running) - shownTasks; more > 0 {
		lines = append(lines, fmt.Sprintf("  and %s more", term.Plural(more, thing(b.session.Kind))))
	}
	return lines
}

func (b *board) running() ([]api.TaskView, int) {
	var running []api.TaskView
	width := 0
	for _, id := range b.order {
		t := b.tasks[id]
		if t.State == api.StateRunning || t.State == api.StateCommitting {
			running = append(running, t)
			width = max(width, utf8.RuneCountInString(nameOf(t)))
		}
	}
	return running, min(width, 32)
}

// amounts tells of the bytes, their rate and the time that is left.
func amounts(p api.Progress) []string {
	parts := []string{term.Bytes(p.Bytes)}
	if p.TotalBytes > p.Bytes {
		parts[0] += " of " + term.Bytes(p.TotalBytes)
	}
	if p.BytesPerSecond > 0 {
		parts = append(parts, term.Bytes(uint64(p.BytesPerSecond))+"/s")
		left := p.Remaining
		if left == 0 && p.TotalBytes > p.Bytes {
			left = float64(p.TotalBytes-p.Bytes) / p.BytesPerSecond
		}
		if left > 0 {
			parts = append(parts, term.Duration(time.Duration(left*float64(time.Second)))+" left")
		}
	}
	return parts
}

// plain sums the board up in one line, for where nothing can be redrawn.
func (b *board) plain() string {
	p, ended, fraction := b.sums()
	return strings.Join(append([]string{
		fmt.Sprintf("%s %s", b.session.Kind, strings.TrimSpace(term.Percent(fraction))),
		fmt.Sprintf("%d of %s", ended, term.Plural(len(b.tasks), thing(b.session.Kind))),
	}, amounts(p)...), "  ")
}

// endLines tells how a task ended, with what can be done about it. Many fail for the
// same reason: what can be done is told once.
func (b *board) endLines(t api.TaskView) []string {
	lines := taskLines(t)
	if t.Error != nil && t.Error.Hint != "" && !b.hints[t.Error.Hint] {
		b.hints[t.Error.Hint] = true
		lines = append(lines, "    "+term.Printable(t.Error.Hint))
	}
	return lines
}

// taskLines tells how a task ended.
func taskLines(t api.TaskView) []string {
	mark := "✓"
	if t.State != api.StateSucceeded {
		mark = "✗"
	}
	line := fmt.Sprintf("%s %s  %s  %s  %s", mark, term.Printable(nameOf(t)),
		term.Plural(int(t.Progress.Messages), "message"), term.Bytes(t.Progress.Bytes), taskSeconds(t))
	if t.Verified {
		line += "  verified"
	}
	if t.Error != nil {
		line = fmt.Sprintf("%s %s  %s: %s", mark, term.Printable(nameOf(t)), t.State, term.Printable(t.Error.Error()))
	} else if t.State != api.StateSucceeded {
		line = fmt.Sprintf("%s %s  %s", mark, term.Printable(nameOf(t)), t.State)
	}
	lines := []string{line}
	for _, note := range t.Notes {
		lines = append(lines, "    "+term.Printable(note))
	}
	return lines
}

func taskSeconds(t api.TaskView) string {
	if t.Started == nil || t.Ended == nil {
		return term.Duration(time.Duration(t.Progress.Seconds * float64(time.Second)))
	}
	return term.Duration(t.Ended.Sub(*t.Started))
}

// sessionLine tells how a session ended. An error that is that of its tasks, which
// are told of besides, is not repeated.
func sessionLine(s api.SessionView, tasks []api.TaskView) string {
	line := fmt.Sprintf("%s %s %s: %s", s.Kind, s.Session, s.State, term.Plural(s.Tasks.Succeeded, thing(s.Kind)))
	if s.Tasks.Succeeded != s.Tasks.Total {
		line = fmt.Sprintf("%s %s %s: %d of %s", s.Kind, s.Session, s.State, s.Tasks.Succeeded, term.Plural(s.Tasks.Total, thing(s.Kind)))
	}
	line += fmt.Sprintf(", %s, %s", term.Plural(int(s.Progress.Messages), "message"), term.Bytes(s.Progress.Bytes))
	if s.Started != nil && s.Ended != nil {
		line += " in " + term.Duration(s.Ended.Sub(*s.Started))
	}
	own := s.Error != nil && !ofTasks(s.Error, tasks)
	if own {
		line += ": " + term.Printable(s.Error.Error())
	}
	if s.Reason != "" && (s.Error == nil || s.Error.Description != s.Reason) {
		line += " (" + term.Printable(s.Reason) + ")"
	}
	if own && s.Error.Hint != "" {
		line += "\n    " + term.Printable(s.Error.Hint)
	}
	return line
}

// ofTasks tells whether a session's error is one of its tasks, or sums those up.
func ofTasks(e *api.Error, tasks []api.TaskView) bool {
	return slices.ContainsFunc(tasks, func(t api.TaskView) bool {
		return t.Error != nil && (t.Error.ErrCode == e.ErrCode || e.ErrCode == api.CodeTasksFailed)
	})
}
