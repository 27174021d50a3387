package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"jetkeep/service/api"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestTaskTransitions tries every change from every state against the table in
// PROTOCOL.md.
func TestTaskTransitions(t *testing.T) {
	owner := Owner{"a", 1}
	boom := api.Errorf(api.CodeDiskFull, "boom")
	changes := map[string]func(*Task) error{
		"claim":   func(x *Task) error { return x.Claim("b", 3, noon) },
		"renew":   func(x *Task) error { return x.Renew(owner, api.Progress{Messages: 1}) },
		"commit":  func(x *Task) error { return x.Commit(owner) },
		"succeed": func(x *Task) error { return x.Succeed(owner, Result{}, api.Progress{}, noon) },
		"fail":    func(x *Task) error { return x.Fail(owner, boom, Result{}, api.Progress{}, noon) },
		"stop": func(x *Task) error {
			return x.Fail(owner, api.Errorf(api.CodeCancelled, ""), Result{}, api.Progress{}, noon)
		},
		"release": func(x *Task) error { return x.Release(owner) },
		"cancel":  func(x *Task) error { return x.Cancel("", noon) },
	}
	table := map[api.State]map[string]api.State{
		api.StatePending: {"claim": api.StateRunning, "cancel": api.StateCancelled},
		api.StateRunning: {
			"claim": api.StateRunning, "renew": api.StateRunning, "commit": api.StateCommitting, "succeed": api.StateSucceeded,
			"fail": api.StateFailed, "stop": api.StateCancelled, "release": api.StatePending,
		},
		api.StateCommitting: {
			"claim": api.StateRunning, "renew": api.StateCommitting, "commit": api.StateCommitting, "succeed": api.StateSucceeded,
			"fail": api.StateFailed, "stop": api.StateCancelled, "release": api.StatePending,
		},
		api.StateSucceeded: {}, api.StateFailed: {}, api.StateCancelled: {},
	}
	for from, allowed := range table {
		for name, change := range changes {
			x := &Task{ID: "s.0001", State: from}
			if from != api.StatePending {
				x.Instance, x.Attempt = "a", 1
			}
			before := *x
			err := change(x)
			want, ok := allowed[name]
			switch {
			case ok && (err != nil || x.State != want):
				t.Errorf("%s a task that is %s: %s, %v", name, from, x.State, err)
			case !ok && !errors.Is(err, ErrTransition):
				t.Errorf("%s a task that is %s: %v", name, from, err)
			case !ok && !reflect.DeepEqual(before, *x):
				t.Errorf("%s a task that is %s changed it: %+v", name, from, x)
			}
			if x.State.Final() == x.Ended.IsZero() && x.State != from {
				t.Errorf("%s a task that is %s: ended %s", name, from, x.Ended)
			}
		}
	}
}

func TestOnlyTheOwnerChangesATask(t *testing.T) {
	for _, o := range []Owner{{"b", 1}, {"a", 2}, {"a", 0}} {
		x := &Task{State: api.StateRunning, Instance: "a", Attempt: 1}
		for _, err := range []error{
			x.Renew(o, api.Progress{}), x.Commit(o), x.Release(o),
			x.Succeed(o, Result{}, api.Progress{}, noon), x.Fail(o, api.Errorf(api.CodeInternal, ""), Result{}, api.Progress{}, noon),
		} {
			if !errors.Is(err, ErrNotOwner) {
				t.Errorf("owner %v: %v", o, err)
			}
		}
		if x.State != api.StateRunning {
			t.Errorf("owner %v: task is %s", o, x.State)
		}
	}
}

func TestDeathsAreCountedAndHandoversAreNot(t *testing.T) {
	x := &Task{State: api.StatePending}
	for range 10 {
		if err := x.Claim("a", 3, noon); err != nil {
			t.Fatal(err)
		}
		if err := x.Release(x.Owner()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := x.Claim("a", 3, noon); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Claim("a", 3, noon); !errors.Is(err, ErrAbandoned) || x.State != api.StateFailed || x.Error.ErrCode != api.CodeTaskAbandoned {
		t.Errorf("fourth claim: %v, %s", err, x.State)
	}
}

func tasksOf(states string, after map[int][]int) []*Task {
	var out []*Task
	for i, c := range states {
		x := &Task{ID: TaskID("s", i+1), Stream: fmt.Sprint("S", i+1), State: map[rune]api.State{
			'p': api.StatePending, 'r': api.StateRunning, 'c': api.StateCommitting,
			's': api.StateSucceeded, 'f': api.StateFailed, 'x': api.StateCancelled,
		}[c]}
		if x.State == api.StateFailed {
			x.Error = api.Errorf(api.CodeDiskFull, "full")
		}
		for _, a := range after[i+1] {
			x.After = append(x.After, TaskID("s", a))
		}
		out = append(out, x)
	}
	return out
}

func TestAdvance(t *testing.T) {
	for _, c := range []struct {
		state  api.State
		cancel bool
		tasks  string
		after  map[int][]int
		want   Actions
		code   api.ErrCode
	}{
		{api.StatePending, false, "ppp", nil, Actions{Submit: []string{"s.0001", "s.0002", "s.0003"}}, ""},
		{api.StatePending, false, "pp", map[int][]int{2: {1}}, Actions{Submit: []string{"s.0001"}}, ""},
		{api.StatePending, false, "rp", nil, Actions{Submit: []string{"s.0001", "s.0002"}, State: api.StateRunning}, ""},
		{api.StateRunning, false, "fp", map[int][]int{2: {1}}, Actions{Submit: []string{"s.0002"}}, ""},
		{api.StateRunning, false, "pp", nil, Actions{Submit: []string{"s.0001", "s.0002"}}, ""},
		{api.StateRunning, false, "sc", nil, Actions{Submit: []string{"s.0002"}, State: api.StateCommitting}, ""},
		{api.StateCommitting, false, "sr", nil, Actions{Submit: []string{"s.0002"}, State: api.StateRunning}, ""},
		{api.StateRunning, false, "ss", nil, Actions{State: api.StateSucceeded}, ""},
		{api.StatePending, false, "s", nil, Actions{State: api.StateSucceeded}, ""},
		{api.StateRunning, false, "sf", nil, Actions{State: api.StatePartial}, api.CodeTasksFailed},
		{api.StateRunning, false, "ff", nil, Actions{State: api.StateFailed}, api.CodeDiskFull},
		{api.StateRunning, true, "sp", nil, Actions{Cancel: []string{"s.0002"}}, ""},
		{api.StateRunning, true, "rp", nil, Actions{Cancel: []string{"s.0002"}, Submit: []string{"s.0001"}}, ""},
		{api.StateRunning, true, "sx", nil, Actions{State: api.StateCancelled}, api.CodeCancelled},
		{api.StateRunning, true, "fx", nil, Actions{State: api.StateCancelled}, api.CodeCancelled},
		{api.StateRunning, true, "ss", nil, Actions{State: api.StateSucceeded}, ""},
		{api.StateSucceeded, true, "pp", nil, Actions{}, ""},
	} {
		tasks := tasksOf(c.tasks, c.after)
		s := &Session{ID: "s", State: c.state, Cancel: c.cancel, Ready: true, Tasks: len(tasks)}
		got := Advance(s, tasks)
		e := got.Error
		got.Error = nil
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %s cancel %v: %+v, want %+v", c.state, c.tasks, c.cancel, got, c.want)
		}
		if (e == nil) != (c.code == "") {
			t.Errorf("%s %s: error %v", c.state, c.tasks, e)
		} else if e != nil && e.ErrCode != c.code && !(c.code == api.CodeTasksFailed && e.ErrCode == api.CodeDiskFull) {
			t.Errorf("%s %s: error %v, want %s", c.state, c.tasks, e, c.code)
		}
	}
	s := &Session{State: api.StatePending, Tasks: 1}
	if got := Advance(s, tasksOf("p", nil)); !reflect.DeepEqual(got, Actions{}) {
		t.Errorf("a session that is not ready: %+v", got)
	}
	missing := &Session{State: api.StateRunning, Ready: true, Tasks: 2}
	if got := Advance(missing, tasksOf("s", nil)); got.State == api.StateSucceeded {
		t.Error("a session succeeded without one of its tasks")
	}
}

// TestSessionsAlwaysEnd plays instances that claim, die, stop and finish at
// random, and looks that every session ends, and only as its tasks did.
func TestSessionsAlwaysEnd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(rt, "tasks")
		s := &Session{ID: "s", State: api.StatePending, Ready: true, Tasks: n}
		var tasks []*Task
		for i := range n {
			x := &Task{ID: TaskID("s", i+1), State: api.StatePending}
			for j := range i {
				if rapid.IntRange(0, 3).Draw(rt, "waits") == 0 {
					x.After = append(x.After, TaskID("s", j+1))
				}
			}
			tasks = append(tasks, x)
		}
		queued := map[string]bool{}
		owners := map[string]Owner{}
		for step := 0; !s.State.Final(); step++ {
			if step > 2000 {
				rt.Fatalf("it does not end: %+v", s)
			}
			advance(rt, s, tasks, queued)
			if s.State.Final() {
				break
			}
			if rapid.IntRange(0, 40).Draw(rt, "cancel") == 0 {
				_ = s.RequestCancel("")
			}
			play(rt, rapid.SampledFrom(tasks).Draw(rt, "task"), queued, owners)
		}
		judge(rt, s, tasks)
	})
}

// advance does what Advance says and checks that it then says nothing more
// that changes a state.
func advance(rt *rapid.T, s *Session, tasks []*Task, queued map[string]bool) {
	for range 3 {
		a := Advance(s, tasks)
		for _, x := range tasks {
			for _, id := range a.Cancel {
				if x.ID == id {
					if err := x.Cancel("", noon); err != nil {
						rt.Fatal(err)
					}
				}
			}
		}
		for _, id := range a.Submit {
			queued[id] = true
		}
		if a.State != "" {
			if err := s.Move(a, tasks, noon); err != nil {
				rt.Fatal(err)
			}
		}
	}
	if a := Advance(s, tasks); a.State != "" || len(a.Cancel) > 0 {
		rt.Fatalf("not idempotent: %+v", a)
	}
}

// play lets something happen to a task.
func play(rt *rapid.T, x *Task, queued map[string]bool, owners map[string]Owner) {
	o := owners[x.ID]
	was := x.State
	switch rapid.SampledFrom([]string{"claim", "claim", "commit", "succeed", "fail", "release", "lose", "stop"}).Draw(rt, "what") {
	case "claim":
		if queued[x.ID] {
			_ = x.Claim("i", 3, noon)
			owners[x.ID] = x.Owner()
		}
	case "commit":
		_ = x.Commit(o)
	case "succeed":
		_ = x.Succeed(o, Result{}, api.Progress{}, noon)
	case "fail":
		_ = x.Fail(o, api.Errorf(api.CodeDiskFull, ""), Result{}, api.Progress{}, noon)
	case "stop":
		_ = x.Fail(o, api.Errorf(api.CodeCancelled, ""), Result{}, api.Progress{}, noon)
	case "release":
		_ = x.Release(o)
	case "lose":
		delete(queued, x.ID)
	}
	if was.Final() && x.State != was {
		rt.Fatalf("task went from %s to %s", was, x.State)
	}
}

func judge(rt *rapid.T, s *Session, tasks []*Task) {
	c := Count(tasks)
	want := api.StateFailed
	switch {
	case c.Succeeded == c.Total:
		want = api.StateSucceeded
	case c.Cancelled > 0:
		want = api.StateCancelled
	case c.Succeeded > 0:
		want = api.StatePartial
	}
	if s.State != want || c.Pending+c.Running > 0 || s.Ended.IsZero() {
		rt.Fatalf("session is %s, want %s: %+v", s.State, want, c)
	}
	if (s.Error == nil) != (want == api.StateSucceeded) {
		rt.Fatalf("session is %s with error %v", s.State, s.Error)
	}
	for _, x := range tasks {
		if x.State == api.StateSucceeded && x.Attempt == 0 {
			rt.Fatalf("task %s succeeded and nobody claimed it", x.ID)
		}
	}
}

func TestIDs(t *testing.T) {
	for ms := range 1000 {
		at := noon.Add(time.Duration(ms) * time.Millisecond)
		if a, b := NewID(at), NewID(at.Add(time.Millisecond)); a >= b {
			t.Fatalf("%s is not before %s", a, b)
		}
	}
	a, b := NewID(noon), NewID(noon.Add(time.Second))
	if !ValidID(a) || a >= b || a == NewID(noon) {
		t.Errorf("ids %s, %s", a, b)
	}
	if s, ok := SessionOf(TaskID(a, 12)); !ok || s != a || TaskID(a, 12) != a+".0012" {
		t.Errorf("task id %s", TaskID(a, 12))
	}
	for _, bad := range []string{"", "x", a + "x", strings.ToUpper(a), a + ".0001", "*", ">"} {
		if ValidID(bad) {
			t.Errorf("%q is taken for an id", bad)
		}
	}
}

// TestTextsAreBounded keeps what a handler says from growing a task beyond what
// a KV entry can be.
func TestTextsAreBounded(t *testing.T) {
	long := strings.Repeat("ü", 1<<20)
	var notes []string
	for range 1000 {
		notes = append(notes, long)
	}
	x := &Task{State: api.StateRunning, Instance: "a", Attempt: 1}
	y := *x
	if err := x.Succeed(x.Owner(), Result{Notes: notes}, api.Progress{}, noon); err != nil {
		t.Fatal(err)
	}
	if err := y.Fail(y.Owner(), api.Errorf(api.CodeInternal, "%s", long), Result{}, api.Progress{}, noon); err != nil {
		t.Fatal(err)
	}
	for _, v := range []*Task{x, &y} {
		if b, err := json.Marshal(v); err != nil || len(b) > 64<<10 || strings.Contains(string(b), `\ufffd`) {
			t.Errorf("task has %d bytes: %v", len(b), err)
		}
	}
}

// TestEndKeepsFindingsAndDropsIdentity: a verification that fails has found
// something, and a secret is not kept longer than it is of use.
func TestEndKeepsFindingsAndDropsIdentity(t *testing.T) {
	found := &api.Verification{Level: api.LevelData, ProblemCount: 1}
	x := &Task{ID: "s.0001", State: api.StateRunning, Instance: "a", Attempt: 1}
	err := x.Fail(x.Owner(), api.Errorf(api.CodeDamaged, "bad"), Result{Verification: found, Digest: "half"}, api.Progress{}, noon)
	if err != nil || x.View().Verification != found || x.View().Digest != "" {
		t.Errorf("failed task: %+v, %v", x, err)
	}
	tasks := []*Task{x}
	ses := &Session{ID: "s", State: api.StateRunning, Ready: true, Tasks: 1, IdentitySealed: "X.sealed"}
	a := Advance(ses, tasks)
	if err := ses.Move(a, tasks, noon); err != nil || ses.IdentitySealed != "" || ses.Error.Description != "bad" {
		t.Errorf("ended session: %+v, %v", ses, err)
	}
	ses = &Session{ID: "s", State: api.StatePending, IdentitySealed: "X.sealed"}
	if err := ses.Abort(api.Errorf(api.CodeInternal, ""), noon); err != nil || ses.IdentitySealed != "" {
		t.Errorf("aborted session: %+v, %v", ses, err)
	}
}

// The hooks before come first and can refuse everything; those after come last,
// whatever happened; nobody counts them.
func TestAdvanceHooks(t *testing.T) {
	t.Parallel()
	s := &Session{ID: "20260101T000000Z-00000000", Kind: api.KindBackup, State: api.StatePending, Ready: true, Tasks: 2, Hooks: []string{"before", "after"}}
	task := func(id, hook string) *Task {
		return &Task{ID: s.ID + "." + id, Session: s.ID, State: api.StatePending, Hook: hook}
	}
	before, one, two, after := task("before", "before"), task("0001", ""), task("0002", ""), task("after", "after")
	tasks := []*Task{one, two, after, before}
	expect := func(what string, submit, refuse, cancelled []*Task, state api.State) {
		t.Helper()
		a := Advance(s, tasks)
		ids := func(list []*Task) (out []string) {
			for _, x := range list {
				out = append(out, x.ID)
			}
			return out
		}
		if !slices.Equal(a.Submit, ids(submit)) || !slices.Equal(a.Refuse, ids(refuse)) || !slices.Equal(a.Cancel, ids(cancelled)) || a.State != state {
			t.Errorf("%s: %+v", what, a)
		}
		if a.State != "" {
			s.State = a.State
		}
	}
	expect("new", []*Task{before}, nil, nil, "")
	before.State = api.StateRunning
	expect("while the hooks before run", []*Task{before}, nil, nil, api.StateRunning)
	before.State = api.StateSucceeded
	expect("after the hooks before", []*Task{one, two}, nil, nil, "")
	one.State, two.State = api.StateSucceeded, api.StateCommitting
	expect("one is left", []*Task{two}, nil, nil, api.StateCommitting)
	two.State = api.StateSucceeded
	expect("all are done", []*Task{after}, nil, nil, "")
	if state, err := Outcome(s, tasks); state != api.StateSucceeded || err != nil {
		t.Errorf("the hooks after are told %s, %v", state, err)
	}
	after.State = api.StateFailed
	expect("the hooks after failed", nil, nil, nil, api.StateSucceeded)
	if c := Count(tasks); c.Total != 2 || c.Succeeded != 2 {
		t.Errorf("%+v", c)
	}

	s.State, after.State, one.State, two.State, before.State = api.StateRunning, api.StatePending, api.StatePending, api.StatePending, api.StateFailed
	before.Error = api.Errorf(api.CodeHookAborted, "no")
	expect("refused", nil, []*Task{one, two}, nil, "")
	one.State, two.State = api.StateFailed, api.StateFailed
	expect("all are refused", []*Task{after}, nil, nil, "")
	after.State = api.StateSucceeded
	expect("the end of a refusal", nil, nil, nil, api.StateFailed)
	if _, err := Outcome(s, tasks); err == nil || err.ErrCode != api.CodeHookAborted {
		t.Errorf("%v", err)
	}

	s.State, s.Cancel, after.State, one.State, two.State, before.State = api.StateRunning, true, api.StatePending, api.StatePending, api.StatePending, api.StatePending
	expect("cancelled", nil, nil, []*Task{one, two, before}, "")
	one.State, two.State, before.State = api.StateCancelled, api.StateCancelled, api.StateCancelled
	expect("all are cancelled", []*Task{after}, nil, nil, "")
}
