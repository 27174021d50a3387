package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/service/api"
)

// fakeSessions plays a service whose answers and events the test gives.
type fakeSessions struct {
	mu     sync.Mutex
	info   *api.SessionInfoResponse
	err    error
	asked  int
	handle func(api.Event)
}

func (f *fakeSessions) SessionTasks(context.Context, string) (*api.SessionInfoResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.info, f.err
}

func (f *fakeSessions) Subscribe(_ string, handle func(api.Event)) (func(), error) {
	f.handle = handle
	return func() {}, nil
}

func (f *fakeSessions) set(info *api.SessionInfoResponse, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.info, f.err = info, err
}

func viewOf(state api.State, tasks ...api.TaskView) *api.SessionInfoResponse {
	v := &api.SessionInfoResponse{SessionView: api.SessionView{Session: "S1", Kind: api.KindBackup, State: state}, TaskList: tasks}
	for _, t := range tasks {
		v.Tasks.Total++
		if t.State == api.StateSucceeded {
			v.Tasks.Succeeded++
		}
		v.Progress.Messages += t.Progress.Messages
		v.Progress.Bytes += t.Progress.Bytes
	}
	return v
}

func taskOf(id, stream string, state api.State, bytes, total uint64) api.TaskView {
	return api.TaskView{Task: id, Stream: stream, State: state, Progress: api.Progress{Messages: bytes / 100, Bytes: bytes, TotalBytes: total}}
}

func progressOf(t api.TaskView) api.Event {
	return api.Event{ID: t.Task + string(t.State), Event: api.EventProgress, Session: "S1", State: t.State, Task: &t}
}

// TestWaitEndsWithTheSession: events may be lost, the state decides.
func TestWaitEndsWithTheSession(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state api.State
		want  error
	}{
		{api.StateSucceeded, nil}, {api.StatePartial, errPartial}, {api.StateFailed, errReported},
		{api.StateCancelled, errReported}, {api.StateSkipped, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &fakeSessions{info: viewOf(api.StateRunning, taskOf("S1.0001", "A", api.StateRunning, 100, 1000))}
			time.AfterFunc(90*time.Second, func() {
				s.set(viewOf(c.state, taskOf("S1.0001", "A", api.StateSucceeded, 1000, 1000)), nil)
			})
			var out, errs bytes.Buffer
			begin := time.Now()
			err := wait(t.Context(), s, "S1", stdio{&out, &errs}, false)
			if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Errorf("%s: %v", c.state, err)
			}
			if took := time.Since(begin); took < 90*time.Second || took > 92*time.Second {
				t.Errorf("%s: waited %v", c.state, took)
			}
			if want := "backup S1 " + string(c.state) + ": 1 stream, 10 messages, 1000 B\n"; out.String() != want {
				t.Errorf("wrote %q, want %q", out.String(), want)
			}
			if n := strings.Count(errs.String(), "✓ A  10 messages"); n != 1 {
				t.Errorf("the stream's end is told %d times:\n%s", n, errs.String())
			}
			if n := strings.Count(errs.String(), "backup 10%"); n < 10 || n > 20 {
				t.Errorf("%d lines of progress in 90 s", n)
			}
		})
	}
}

// TestWaitOutlivesTheService: a service that restarts is waited for.
func TestWaitOutlivesTheService(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSessions{err: errors.New("no responders")}
		time.AfterFunc(time.Minute, func() { s.set(viewOf(api.StateSucceeded), nil) })
		var out, errs bytes.Buffer
		if err := wait(t.Context(), s, "S1", stdio{&out, &errs}, false); err != nil {
			t.Error(err)
		}
		if n := strings.Count(errs.String(), "no answer from the service"); n != 1 {
			t.Errorf("the trouble is told %d times:\n%s", n, errs.String())
		}
	})
	s := &fakeSessions{err: api.Errorf(api.CodeSessionNotFound, "no session S1")}
	if err := wait(t.Context(), s, "S1", stdio{new(bytes.Buffer), new(bytes.Buffer)}, false); !api.HasCode(err, api.CodeSessionNotFound) {
		t.Errorf("a session that does not exist: %v", err)
	}
}

func TestInterruptedWaitSaysHowToGoOn(t *testing.T) {
	t.Parallel()
	s := &fakeSessions{info: viewOf(api.StateRunning)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	std := stdio{&out, &errs}
	err := wait(ctx, s, "S1", std, false)
	if code := exitCode(err, std); code != exitInterrupted {
		t.Errorf("exit code %d for %v", code, err)
	}
	if !strings.Contains(errs.String(), "jetkeep session cancel S1") {
		t.Errorf("wrote\n%s", errs.String())
	}
}

func TestWatchersShowEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSessions{info: viewOf(api.StateRunning, taskOf("S1.0001", "A", api.StatePending, 0, 0))}
		failed := taskOf("S1.0001", "A", api.StateFailed, 0, 0)
		failed.Error = api.Errorf(api.CodeDiskFull, "no space\x1b[2J")
		time.AfterFunc(100*time.Millisecond, func() {
			s.handle(progressOf(failed))
			s.set(viewOf(api.StateFailed, failed), nil)
			s.handle(api.Event{ID: "end", Event: api.EventFailed, State: api.StateFailed})
		})
		var out bytes.Buffer
		b := newBoard()
		past := api.Event{ID: "past", Event: api.EventStarted}
		w := &jsonWatcher{out: &out, replay: func(event func(api.Event) error) error {
			return errors.Join(event(past), event(past))
		}}
		begin := time.Now()
		if _, err := follow(t.Context(), s, "S1", b, w); err != nil {
			t.Fatal(err)
		}
		if time.Since(begin) > 200*time.Millisecond {
			t.Errorf("the final event did not end the waiting: %v", time.Since(begin))
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		var e api.Event
		if len(lines) != 3 || json.Unmarshal([]byte(lines[1]), &e) != nil || e.Task == nil || e.Task.Stream != "A" {
			t.Errorf("events as JSON:\n%s", out.String())
		}
		if text := strings.Join(taskLines(failed), "\n"); text != "✗ A  failed: no space?[2J (disk_full)" {
			t.Errorf("a failed stream is told as %q", text)
		}
	})
}

func TestSessionLineSaysTheReasonOnce(t *testing.T) {
	t.Parallel()
	v := viewOf(api.StateCancelled)
	v.Reason, v.Error = "too slow", api.Errorf(api.CodeCancelled, "too slow")
	if got := sessionLine(v.SessionView, nil); strings.Count(got, "too slow") != 1 {
		t.Error(got)
	}
	v.Error = api.Errorf(api.CodeHookFailed, "nobody answers")
	if got := sessionLine(v.SessionView, nil); !strings.Contains(got, "nobody answers") || !strings.Contains(got, "too slow") {
		t.Error(got)
	}
}

func TestBoard(t *testing.T) {
	t.Parallel()
	b := newBoard()
	if lines := b.lines(80); len(lines) != 1 {
		t.Errorf("an empty board: %q", lines)
	}
	b.load(viewOf(api.StateRunning,
		taskOf("S1.0001", "ORDERS", api.StateRunning, 500, 1000),
		taskOf("S1.0002", "KV_settings", api.StatePending, 0, 3000),
		taskOf("S1.0003", "OBJ", api.StateSucceeded, 1000, 1000)))
	if ended := b.apply(progressOf(taskOf("S1.0003", "OBJ", api.StateRunning, 900, 1000))); ended != nil || b.tasks["S1.0003"].State != api.StateSucceeded {
		t.Error("a late event brought an ended stream back")
	}
	if _, ended, fraction := b.sums(); ended != 1 || fraction != 0.3 {
		t.Errorf("%d ended, %v done", ended, fraction)
	}
	running := taskOf("S1.0001", "ORDERS", api.StateRunning, 750, 1000)
	running.Progress.BytesPerSecond = 250
	b.apply(progressOf(running))
	got := strings.Join(b.lines(94), "\n")
	want := "backup ███████░░░░░░░░░░░░░  1 of 3 streams   35%  1.7 KiB of 4.9 KiB  250 B/s  13.0s left\n" +
		"  ORDERS ███████████████░░░░░   75%  750 B of 1000 B  250 B/s  1.00s left"
	if got != want {
		t.Errorf("drawn\n%s\nwant\n%s", got, want)
	}
	if ended := b.load(viewOf(api.StateSucceeded,
		taskOf("S1.0001", "ORDERS", api.StateSucceeded, 1000, 1000),
		taskOf("S1.0002", "KV_settings", api.StateSucceeded, 3000, 3000),
		taskOf("S1.0003", "OBJ", api.StateSucceeded, 1000, 1000))); len(ended) != 2 {
		t.Errorf("%d streams newly ended", len(ended))
	}
	if got := b.plain(); got != "backup 100%  3 of 3 streams  4.9 KiB" {
		t.Errorf("plain line %q", got)
	}
}
