package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/service/api"
)

func TestRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.outcome = func(x *made) api.State {
			if x.attempt < 3 {
				return api.StateFailed
			}
			return api.StateSucceeded
		}
		m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", Retry: &api.ScheduleRetry{Count: 5, Delay: "1m", Backoff: 3}})
		defer run(t, m, s, 2)()
		time.Sleep(time.Hour + 30*time.Second)
		if st := m.state(t, "x"); st.Running == nil || st.Running.RetryAt == nil || st.Running.Reason != "as the test wants it" {
			t.Errorf("after the first attempt %+v", st.Running)
		}
		time.Sleep(minutes(5))
		if got := strings.Join(s.started("x"), ", "); got != "backup 01:00:00 1, backup 01:00:00 2, backup 01:00:00 3" {
			t.Errorf("started %s", got)
		}
		time.Sleep(minutes(30))
		st := m.state(t, "x")
		if st.Running != nil || st.LastSuccess == nil || st.LastSuccess.Attempt != 3 || len(st.Recent) != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// A schedule that is paused tries nothing again by itself, and says why the run
// failed; what somebody triggered is tried again.
func TestPauseEndsRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.outcome = func(*made) api.State { return api.StateFailed }
		v := api.Schedule{Name: "x", Cron: "0 * * * *", Retry: &api.ScheduleRetry{Count: 1, Delay: "10m"}}
		m.put(t, v)
		defer run(t, m, s, 2)()
		time.Sleep(time.Hour + time.Minute)
		v.Paused = true
		m.change(v)
		time.Sleep(2 * time.Hour)
		if got := strings.Join(s.started("x"), ", "); got != "backup 01:00:00 1" {
			t.Errorf("started %s", got)
		}
		st := m.state(t, "x")
		if st.Running != nil || len(st.Recent) != 1 || st.Recent[0].State != api.StateFailed || st.Recent[0].Reason != "as the test wants it" {
			t.Errorf("%+v", st)
		}
		def, err := Parse(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newScheduler(m, s, Options{}).Trigger(t.Context(), def); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := len(s.started("x")); got != 3 {
			t.Errorf("%d sessions were started, want 3", got)
		}
	})
}

// A session whose maker died before it was ready is replaced in each stage, and is
// no attempt; not for ever, though.
func TestMakerDies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		unready  func(n int) bool // of those that were started, the n-th
		want     string
		state    api.State
		replaced int
		reason   string
	}{
		"once": {func(n int) bool { return n == 0 }, "backup 01:00:00 1, backup 01:00:00 1, verify 01:00:00 1", api.StateSucceeded, 1, ""},
		"in each stage": {
			func(n int) bool { return n == 0 || n == 2 },
			"backup 01:00:00 1, backup 01:00:00 1, verify 01:00:00 1, verify 01:00:00 1", api.StateSucceeded, 2, "",
		},
		"always": {
			func(int) bool { return true },
			"backup 01:00:00 1, backup 01:00:00 1, backup 01:00:00 1, backup 01:00:00 1, backup 01:00:00 2", api.StateFailed, 3, "its maker died",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, s := newMemory(), newSessions()
				s.takes = time.Minute
				s.unready = func(x *made) bool { return c.unready(slices.Index(s.log, x)) }
				m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", Verify: api.LevelData, Retry: &api.ScheduleRetry{Count: 1, Delay: "1m"}})
				defer run(t, m, s, 3)()
				time.Sleep(time.Hour + minutes(20))
				if got := strings.Join(s.started("x"), ", "); got != c.want {
					t.Errorf("started %s", got)
				}
				st := m.state(t, "x")
				if st.Running != nil || len(st.Recent) != 1 || st.Recent[0].State != c.state || st.Recent[0].Replaced != c.replaced || st.Recent[0].Reason != c.reason {
					t.Errorf("%+v", st)
				}
				ids := map[string]bool{}
				for _, x := range s.log {
					ids[x.id] = true
				}
				if len(ids) != len(s.log) {
					t.Errorf("ids are used twice: %v", ids)
				}
			})
		})
	}
}

// Sessions of attempts that failed fall out of the history with their run.
func TestHistoryOfRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.outcome = func(x *made) api.State { return api.StateFailed }
		m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", History: 2, Retry: &api.ScheduleRetry{Count: 2, Delay: "1m"}})
		defer run(t, m, s, 2)()
		time.Sleep(8*time.Hour + minutes(30))
		if st := m.state(t, "x"); len(st.Recent) != 2 || len(s.all) != 6 {
			t.Errorf("%d runs and %d sessions are remembered", len(st.Recent), len(s.all))
		}
	})
}

// A slot that is left out while a run waits for its next try is settled as well:
// it is not looked at without pause until then.
func TestRetryBesideASlotLeftOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.outcome = func(*made) api.State { return api.StateFailed }
		m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", Missed: api.MissedNone, Retry: &api.ScheduleRetry{Count: 1, Delay: "100m"}})
		stop := run(t, m, s, 1)
		time.Sleep(time.Hour + minutes(5))
		stop()
		time.Sleep(time.Hour) // nobody is there at 2 o'clock
		def, err := Parse(m.specs["x"])
		if err != nil {
			t.Fatal(err)
		}
		st, a := Step(def, m.state(t, "x"), time.Now(), nil)
		if a.Kind != actWrite || !a.Wake.After(time.Now()) || st.LastSkipped == nil || st.LastSkipped.Count != 1 {
			t.Fatalf("%+v, skipped %+v", a, st.LastSkipped)
		}
		defer run(t, m, s, 1)()
		time.Sleep(minutes(50))
		if got := strings.Join(s.started("x"), ", "); got != "backup 01:00:00 1, backup 01:00:00 2" {
			t.Errorf("started %s", got)
		}
	})
}

// A run that keeps failing gives way to the next slot.
func TestRetriesGiveWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.outcome = func(*made) api.State { return api.StateFailed }
		m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", Retry: &api.ScheduleRetry{Count: 20, Delay: "40m", Backoff: 1}})
		defer run(t, m, s, 1)()
		time.Sleep(2*time.Hour + minutes(5))
		if got := strings.Join(s.started("x"), ", "); got != "backup 01:00:00 1, backup 01:00:00 2, backup 02:00:00 1" {
			t.Errorf("started %s", got)
		}
	})
}

// Verification and pruning follow a backup that succeeded, each if the one
// before did.
func TestFollow(t *testing.T) {
	t.Parallel()
	keep := &api.Keep{Last: 3}
	for name, c := range map[string]struct {
		verify  api.Level
		keep    *api.Keep
		outcome map[string]api.State
		want    string
		reason  string
	}{
		"all":           {api.LevelData, keep, nil, "backup 01:00:00 1, verify 01:00:00 1, prune 01:00:00 1", ""},
		"prune":         {"", keep, nil, "backup 01:00:00 1, prune 01:00:00 1", ""},
		"failed backup": {api.LevelData, keep, map[string]api.State{StageBackup: api.StatePartial}, "backup 01:00:00 1", "as the test"},
		"failed verify": {api.LevelData, keep, map[string]api.State{StageVerify: api.StateFailed}, "backup 01:00:00 1, verify 01:00:00 1", "verify: as the test"},
		"failed prune":  {"", keep, map[string]api.State{StagePrune: api.StateFailed}, "backup 01:00:00 1, prune 01:00:00 1", "prune: as the test"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, s := newMemory(), newSessions()
				s.takes = time.Minute
				s.outcome = func(x *made) api.State {
					if o, ok := c.outcome[x.stage]; ok {
						return o
					}
					return api.StateSucceeded
				}
				m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", Verify: c.verify, Keep: c.keep})
				defer run(t, m, s, 3)()
				time.Sleep(time.Hour + minutes(10))
				if got := strings.Join(s.started("x"), ", "); got != c.want {
					t.Errorf("started %s", got)
				}
				st := m.state(t, "x")
				if proven := name == "all" || strings.HasSuffix(name, "prune"); proven != (st.LastSuccess != nil) {
					t.Errorf("the last success is %+v", st.LastSuccess)
				}
				if st.Running != nil || len(st.Recent) != 1 || !strings.HasPrefix(st.Recent[0].Reason, c.reason) || (c.reason == "") != (st.Recent[0].Reason == "") {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// A trigger that meets a change of the state is noted there nevertheless, and taken
// back if something else runs by then.
func TestTriggerMeets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		other := func(st *State) { st.Running = &api.ScheduleRun{Session: "other", Stage: StageBackup} }
		for name, tc := range map[string]struct {
			change   func(*State)
			writes   error
			conflict bool
		}{
			"nothing":     {},
			"a skip":      {change: func(st *State) { st.LastSkipped = &api.ScheduleSkip{Count: 1} }},
			"another run": {change: other, conflict: true},
			"a KV away":   {writes: errAway},
		} {
			m, s := newMemory(), newSessions()
			m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", History: 1})
			def, err := Parse(m.specs["x"])
			if err != nil {
				t.Fatal(err)
			}
			st, rev, _ := m.State(t.Context(), "x")
			at := time.Now()
			s.all["old"] = &made{id: "old"}
			st.Recent = []api.ScheduleRun{{Session: "old"}}
			st.Running = &api.ScheduleRun{Session: "failed", Ended: &at, RetryAt: &at, State: api.StateFailed}
			if _, err := m.Write(t.Context(), "x", st, rev); err != nil {
				t.Fatal(err)
			}
			x := newScheduler(&meets{memory: m, change: tc.change, writes: tc.writes}, s, Options{})
			a, err := x.Trigger(t.Context(), def)
			switch {
			case tc.change == nil && tc.writes == nil, tc.change != nil && !tc.conflict:
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				st := m.state(t, "x")
				if st.Running == nil || st.Running.Session != a.Session || !st.Running.Manual || len(st.Recent) != 1 || st.Recent[0].Session != "failed" {
					t.Errorf("%s: %+v", name, st)
				}
				if s.all["old"] != nil || s.all[a.Session] == nil || s.all[a.Session].cancelled != "" {
					t.Errorf("%s: sessions %v", name, s.all)
				}
			default:
				if err == nil || api.HasCode(err, api.CodeConflict) != tc.conflict {
					t.Errorf("%s: %v", name, err)
				}
				var said *api.Error
				if tc.conflict && (!errors.As(err, &said) || !strings.Contains(said.Hint, "session.cancel")) {
					t.Errorf("%v does not say what to do", err)
				}
				if len(s.log) != 1 || s.log[0].cancelled == "" {
					t.Errorf("%s: %d sessions, and the first goes on beside the schedule", name, len(s.log))
				}
			}
		}
	})
}

// A slot's session that is made while somebody triggers a run is taken back, if the
// slot is left out for that, and is the slot's, if it is queued.
func TestTriggerWhileASlotStarts(t *testing.T) {
	t.Parallel()
	for overlap, cancelled := range map[string]bool{api.OverlapSkip: true, api.OverlapQueue: false} {
		synctest.Test(t, func(t *testing.T) {
			m, s := newMemory(), newSessions()
			s.takes = time.Hour
			m.put(t, api.Schedule{Name: "x", Cron: "* * * * *", Overlap: overlap})
			def, err := Parse(m.specs["x"])
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(minutes(1))
			manual := func(st *State) { st.Running = &api.ScheduleRun{Session: "manual", Stage: StageBackup} }
			s.all["manual"] = &made{id: "manual", at: time.Now()}
			x := newScheduler(&meets{memory: m, change: manual}, s, Options{Log: slog.New(slog.DiscardHandler)})
			if _, err := x.act(t.Context(), def); err != nil {
				t.Fatal(err)
			}
			if len(s.log) != 1 || (s.log[0].cancelled != "") != cancelled {
				t.Errorf("%s: %+v", overlap, s.log)
			}
			st := m.state(t, "x")
			if (st.LastSkipped != nil) != cancelled || st.Running.Session != "manual" {
				t.Errorf("%s: %+v", overlap, st)
			}
			s.all["manual"].cancelled = "by hand"
			if _, err := x.act(t.Context(), def); err != nil {
				t.Fatal(err)
			}
			if _, err := x.act(t.Context(), def); err != nil {
				t.Fatal(err)
			}
			if st := m.state(t, "x"); !cancelled && (st.Running == nil || st.Running.Session != s.log[0].id || len(s.log) != 1) {
				t.Errorf("%s: then %+v", overlap, st)
			}
		})
	}
}

// What was triggered in the very second of a slot, before that was started, takes
// none of its sessions: each backup has its own verification.
func TestTriggerInTheSecondOfASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Minute
		m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *", Jitter: "30m", Verify: api.LevelData})
		def, err := Parse(m.specs["x"])
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := newScheduler(m, s, Options{}).Trigger(t.Context(), def); err != nil {
			t.Fatal(err)
		}
		defer run(t, m, s, 1)()
		time.Sleep(minutes(50))
		if got := strings.Join(s.started("x"), ", "); got != "backup 01:00:00 1, verify 01:00:00 1, backup 01:00:00 1, verify 01:00:00 1" {
			t.Errorf("started %s", got)
		}
	})
}

// A KV in which a state changes before it is written for the first time, or that
// takes nothing.
type meets struct {
	*memory
	change func(*State)
	writes error
}

func (m *meets) Write(ctx context.Context, name string, st State, revision uint64) (uint64, error) {
	if m.writes != nil {
		return 0, m.writes
	}
	if change := m.change; change != nil {
		m.change = nil
		now, rev, err := m.State(ctx, name)
		if err != nil {
			return 0, err
		}
		change(&now)
		if _, err := m.memory.Write(ctx, name, now, rev); err != nil {
			return 0, err
		}
	}
	return m.memory.Write(ctx, name, st, revision)
}

// An instance whose clock is ahead leaves out no slot when it joins others, and
// cancels nothing that takes no longer than it may; one whose clock is behind that
// started it makes none of it late.
func TestClocksDiffer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]api.Schedule{
		"missed": {Missed: api.MissedNone}, "timeout": {Timeout: "3m"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, s := newMemory(), newSessions()
				s.takes = 110 * time.Second
				c.Name, c.Cron = "x", "*/2 * * * *"
				m.put(t, c)
				for range 5 { // the first is as it should be, one ahead and one behind join
					stop := run(t, m, s, 1)
					time.Sleep(minutes(2) + 30*time.Second)
					stop()
					stop = run(t, m, s, 3)
					time.Sleep(minutes(3) + 30*time.Second)
					synctest.Wait() // a slot is due at this very moment
					stop()
				}
				var slots []time.Time
				for _, x := range s.log {
					slots = append(slots, x.slot)
					if x.cancelled != "" || x.at.Before(x.slot) {
						t.Errorf("%+v", x)
					}
				}
				if len(slots) != 15 || len(slices.CompactFunc(slots, time.Time.Equal)) != 15 {
					t.Errorf("%d slots of 15", len(slots))
				}
				if st := m.state(t, "x"); st.LastSkipped != nil {
					t.Errorf("%+v", st.LastSkipped)
				}
			})
		})
	}
}

// A slot that is put off is still to come.
func TestUpcoming(t *testing.T) {
	t.Parallel()
	def, err := Parse(api.Schedule{Name: "x", Cron: "@daily", Jitter: "24h"})
	if err != nil {
		t.Fatal(err)
	}
	slot := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	start := def.Timetable.StartOf("x", slot)
	for _, tt := range []struct {
		settled, now, want time.Time
	}{
		{slot.Add(-24 * time.Hour), start.Add(-time.Second), slot},
		{slot.Add(-24 * time.Hour), start, slot.Add(24 * time.Hour)},
		{slot, start.Add(-time.Second), slot.Add(24 * time.Hour)}, // paused meanwhile
		{time.Time{}, start.Add(-time.Second), slot.Add(24 * time.Hour)},
	} {
		if next := def.Upcoming(tt.settled, tt.now, 2); len(next) != 2 || !next[0].Time.Equal(tt.want) {
			t.Errorf("%+v: %+v", tt, next)
		}
	}
}
