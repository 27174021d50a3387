package main

import (
	"strings"
	"testing"

	"jetkeep/service/api"
)

// viewAt is a running task as it was so many seconds after its attempt began.
func viewAt(id string, attempts int, seconds float64, bytes, total uint64) api.TaskView {
	t := taskOf(id, id, api.StateRunning, bytes, total)
	t.Attempts, t.Progress.Seconds, t.Progress.TotalKnown = attempts, seconds, total > 0
	return t
}

// TestBoardTakesTheNewerView: what session.info answers was written down up to
// seconds before the events that have arrived.
func TestBoardTakesTheNewerView(t *testing.T) {
	b := newBoard()
	fraction := func() float64 { _, _, f := b.sums(); return f }
	b.load(viewOf(api.StateRunning, viewAt("S1.0001", 1, 1, 100, 1000)))
	b.apply(progressOf(viewAt("S1.0001", 1, 5.5, 750, 1000)))
	b.load(viewOf(api.StateRunning, viewAt("S1.0001", 1, 4, 390, 1000)))
	if f := fraction(); f != 0.75 {
		t.Errorf("an older answer made it %v", f)
	}
	b.apply(progressOf(viewAt("S1.0001", 1, 5, 700, 1000)))
	if f := fraction(); f != 0.75 {
		t.Errorf("a late event made it %v", f)
	}
	committing := viewAt("S1.0001", 1, 6, 1000, 1000)
	committing.State = api.StateCommitting
	b.apply(progressOf(committing))
	b.load(viewOf(api.StateRunning, viewAt("S1.0001", 1, 7, 900, 1000)))
	if s := b.tasks["S1.0001"].State; s != api.StateCommitting {
		t.Errorf("past the fence it is %s again", s)
	}
	// What is newer counts, also if less is done: the instance gave the task back,
	// and another one begins anew.
	back := taskOf("S1.0001", "S1.0001", api.StatePending, 0, 1000)
	back.Attempts = 1
	b.load(viewOf(api.StateRunning, back))
	if f := fraction(); f != 0 {
		t.Errorf("after it was given back it is %v", f)
	}
	b.apply(progressOf(viewAt("S1.0001", 2, 0.5, 100, 1000)))
	b.apply(progressOf(viewAt("S1.0001", 1, 8, 950, 1000)))
	if f := fraction(); f != 0.1 {
		t.Errorf("a late event of the first attempt made it %v", f)
	}
	if b.load(viewOf(api.StateSucceeded, taskOf("S1.0001", "S1.0001", api.StateSucceeded, 1000, 1000))); fraction() != 1 {
		t.Errorf("at the end it is %v", fraction())
	}
	if b.load(viewOf(api.StateRunning)); b.session.State != api.StateSucceeded {
		t.Errorf("a session that ended is %s again", b.session.State)
	}
}

// TestBoardDoesNotGuessTotals: a stream of unknown size may be the largest of all.
func TestBoardDoesNotGuessTotals(t *testing.T) {
	b := newBoard()
	b.apply(progressOf(viewAt("S1.0001", 1, 1, 750, 1000)))
	if _, _, f := b.sums(); f != -1 {
		t.Errorf("before it is known which tasks there are, %v is done", f)
	}
	b.load(viewOf(api.StateRunning, viewAt("S1.0001", 1, 1, 750, 1000), taskOf("S1.0002", "B", api.StatePending, 0, 0)))
	if p, _, f := b.sums(); f != -1 || p.TotalBytes != 0 {
		t.Errorf("with a stream of unknown size %v of %d bytes is done", f, p.TotalBytes)
	}
	if line := b.plain(); !strings.Contains(line, "?%") || !strings.Contains(line, "0 of 2 streams  750 B") {
		t.Errorf("plain line %q", line)
	}
	b.apply(progressOf(viewAt("S1.0002", 1, 1, 0, 9000)))
	if _, _, f := b.sums(); f != 0.075 {
		t.Errorf("%v is done", f)
	}
	empty := taskOf("S1.0003", "C", api.StatePending, 0, 0)
	empty.Progress.TotalKnown = true
	b.load(viewOf(api.StateRunning, empty))
	if _, _, f := b.sums(); f != 0.075 {
		t.Errorf("with an empty stream %v is done", f)
	}
}
