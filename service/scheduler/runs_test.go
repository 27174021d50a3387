package scheduler

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/service/api"
)

func TestRetry(t *testing.T) {
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

// A session whose maker died before it was ready is replaced in each stage, and is
// no attempt; not for ever, though.
func TestMakerDies(t *testing.T) {
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

// A run that keeps failing gives way to the next slot.
func TestRetriesGiveWay(t *testing.T) {
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
