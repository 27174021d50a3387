package scheduler

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/service/api"
)

// A KV in which others write before us, once for each of the changes, and which
// says once after each of them, or after what we write, what was true before.
type rivals struct {
	*memory
	changes []func(*State)
	old     *State
	lags    bool
	own     bool // it lags behind us
}

func (m *rivals) State(ctx context.Context, name string) (State, uint64, error) {
	st, rev, err := m.memory.State(ctx, name)
	if m.lags && m.old != nil {
		m.lags = false
		return *m.old, 1, err
	}
	return st, rev, err
}

func (m *rivals) Write(ctx context.Context, name string, st State, revision uint64) (uint64, error) {
	if len(m.changes) > 0 {
		now, rev, err := m.memory.State(ctx, name)
		if err != nil {
			return 0, err
		}
		m.changes[0](&now)
		m.changes, m.lags = m.changes[1:], true
		if _, err := m.memory.Write(ctx, name, now, rev); err != nil {
			return 0, err
		}
	}
	written, err := m.memory.Write(ctx, name, st, revision)
	m.lags = m.lags || m.own && err == nil
	return written, err
}

// A slot's session is not taken back because the next slot would take its place
// here: another instance may have noted it meanwhile.
func TestTakesBackNothingThatAnotherNoted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Hour
		m.put(t, api.Schedule{Name: "x", Cron: "* * * * *"})
		def, err := Parse(m.specs["x"])
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(minutes(1))
		slot := time.Now().UTC()
		run := api.ScheduleRun{Slot: slot, Attempt: 1, Stage: StageBackup, Started: slot}
		run.Session = sessionOf("x", run)
		x := newScheduler(&rivals{memory: m, changes: []func(*State){
			func(st *State) {
				st.LastSkipped = &api.ScheduleSkip{Count: 1}
				time.Sleep(minutes(1)) // the next slot is due here, and not yet there
			},
			func(st *State) { st.Settled, st.Running = slot, &run },
		}}, s, Options{Log: slog.New(slog.DiscardHandler)})
		if _, err := x.act(t.Context(), def); err != nil {
			t.Fatal(err)
		}
		if st := m.state(t, "x"); st.Running == nil || st.Running.Session != run.Session || !st.Settled.Equal(slot.Add(time.Minute)) {
			t.Errorf("%+v", st)
		}
		if len(s.log) != 2 || s.log[0].id != run.Session || s.log[0].cancelled != "" || s.log[1].cancelled == "" {
			t.Errorf("the session that was noted: %+v, the one that was not: %+v", s.log[0], s.log[len(s.log)-1])
		}
	})
}

// What a replica says that lags behind takes no session back.
func TestTakesBackNothingForALag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Hour
		m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", Retry: &api.ScheduleRetry{Count: 1, Delay: "1m"}})
		def, err := Parse(m.specs["x"])
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		slot := time.Now().UTC()
		run := api.ScheduleRun{Slot: slot, Attempt: 1, Stage: StageBackup, Started: slot}
		run.Session = sessionOf("x", run)
		s.all[run.Session] = &made{id: run.Session, at: slot} // so says the replica
		old := State{Settled: slot, Running: &run}
		failed, again := run, run
		failed.Ended, failed.RetryAt, failed.State = &slot, &slot, api.StateFailed
		again.Attempt = 2
		again.Session = sessionOf("x", again)
		for _, running := range []*api.ScheduleRun{&run, &failed} {
			st, rev, err := m.State(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			st.Settled, st.Running = slot, running
			if _, err := m.Write(t.Context(), "x", st, rev); err != nil {
				t.Fatal(err)
			}
		}
		x := newScheduler(&rivals{memory: m, old: &old, changes: []func(*State){
			func(st *State) { st.Running = &again },
		}}, s, Options{Log: slog.New(slog.DiscardHandler)})
		if _, err := x.act(t.Context(), def); err != nil {
			t.Fatal(err)
		}
		if len(s.log) != 1 || s.log[0].id != again.Session || s.log[0].cancelled != "" {
			t.Errorf("%+v", s.log)
		}
	})
}

// What could not be started, as is written, is not started for what a replica says
// that does not have that yet.
func TestStartsNothingForALag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		tries := 0
		s.refuse = func(string) error {
			if tries++; tries == 1 {
				return api.Errorf(api.CodeNoStreams, "there is no stream yet")
			}
			return nil
		}
		m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *"})
		def, err := Parse(m.specs["x"])
		if err != nil {
			t.Fatal(err)
		}
		old := m.state(t, "x")
		time.Sleep(time.Hour)
		x := newScheduler(&rivals{memory: m, old: &old, own: true}, s, Options{Log: slog.New(slog.DiscardHandler)})
		if _, err := x.act(t.Context(), def); err != nil {
			t.Fatal(err)
		}
		if len(s.log) != 0 {
			t.Errorf("%+v", s.log[0])
		}
	})
}
