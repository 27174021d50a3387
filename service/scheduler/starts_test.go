package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/service/api"
)

// What is away for a moment after an outage, or when a backup is to be verified, is
// waited for, too.
func TestCannotStartForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Minute
		var until time.Time
		away := func(d time.Duration) {
			s.mu.Lock()
			defer s.mu.Unlock()
			until = time.Now().Add(d)
		}
		s.refuse = func(string) error {
			if time.Now().Before(until) {
				return api.Errorf(api.CodeTargetUnavailable, "the target is away")
			}
			return nil
		}
		m.put(t, api.Schedule{Name: "x", Cron: "0 1 * * *", Verify: api.LevelData})
		time.Sleep(3 * time.Hour)
		away(minutes(1))
		defer run(t, m, s, 2)()
		time.Sleep(minutes(1) + 30*time.Second)
		away(minutes(1) + 30*time.Second)
		time.Sleep(minutes(10))
		if st := m.state(t, "x"); st.LastSuccess == nil {
			t.Errorf("%+v", st)
		}
	})
}

// A target that is away for good fails also the runs of a schedule whose slots come
// faster than an instance gives up, and each failure has its time.
func TestCannotStartOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.refuse = func(string) error { return api.Errorf(api.CodeTargetUnavailable, "the target is away") }
		m.put(t, api.Schedule{Name: "x", Cron: "* * * * *"})
		defer run(t, m, s, 2)()
		time.Sleep(minutes(10) + 30*time.Second)
		recent := m.state(t, "x").Recent
		if len(recent) < 3 || len(recent) > 5 {
			t.Errorf("%d runs have failed in 10 minutes: %+v", len(recent), recent)
		}
		for _, r := range recent {
			if r.State != api.StateFailed || !strings.Contains(r.Reason, "is away") || r.Session == "" {
				t.Errorf("%+v", r)
			}
		}
		if len(s.unstarted) != len(recent) {
			t.Errorf("%d sessions tell of %d runs", len(s.unstarted), len(recent))
		}
	})
}

// A stage that follows a backup and cannot be started is a session that failed, too.
func TestCannotFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Minute
		m.put(t, api.Schedule{Name: "x", Cron: "0 1 * * *", Verify: api.LevelData})
		defer run(t, m, s, 2)()
		time.Sleep(time.Hour + 30*time.Second)
		s.mu.Lock()
		s.refuse = func(string) error { return api.Errorf(api.CodeLocked, "it is locked") }
		s.mu.Unlock()
		time.Sleep(minutes(5))
		st := m.state(t, "x")
		if len(st.Recent) != 1 || st.Recent[0].Reason != "verify: it is locked (repository_locked)" || len(st.Recent[0].Follow) != 1 || len(s.unstarted) != 1 {
			t.Errorf("%+v, sessions %+v", st.Recent, s.unstarted)
		}
	})
}

// hangs are sessions that cannot be started, and say so after a long time only; one
// of them was made nevertheless.
type hangs struct{ *sessions }

func (h hangs) Start(ctx context.Context, id string, d *Definition, run api.ScheduleRun) error {
	<-ctx.Done()
	if err := h.sessions.Start(context.Background(), id, d, run); err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	return ctx.Err()
}

// A target that does not answer fails the run as one does that refuses.
func TestStartHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Hour
		m.put(t, api.Schedule{Name: "x", Cron: "0 1 * * *"})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { newScheduler(m, hangs{s}, Options{Log: slog.New(slog.DiscardHandler)}).Run(ctx) })
		time.Sleep(time.Hour + minutes(10))
		cancel()
		wg.Wait()
		if st := m.state(t, "x"); len(st.Recent) != 1 || st.Recent[0].State != api.StateFailed {
			t.Errorf("%+v", st)
		}
		if len(s.log) != 1 || s.log[0].cancelled == "" {
			t.Errorf("%d sessions, and the schedule knows of none", len(s.log))
		}
	})
}

// A prune is refused while another one of the repository runs, and follows it.
func TestPruneFollowsAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Minute
		ends := time.Now().Add(time.Hour + minutes(2) + 30*time.Second)
		s.refuse = func(id string) error {
			if time.Now().Before(ends) && time.Since(ends) > -minutes(2) {
				return api.Errorf(api.CodeConflict, "another prune runs")
			}
			return nil
		}
		m.put(t, api.Schedule{Name: "x", Cron: "0 1 * * *", Keep: &api.Keep{Last: 1}})
		defer run(t, m, s, 2)()
		time.Sleep(time.Hour + minutes(10))
		if st := m.state(t, "x"); len(st.Recent) != 1 || st.Recent[0].Reason != "" || len(st.Recent[0].Follow) != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// What waits in the queue is not too late because it waits there.
func TestQueueWithoutMissed(t *testing.T) {
	t.Parallel()
	for deadline, want := range map[string]string{
		"":   "backup 00:10:00 1, backup 00:20:00 1",
		"1m": "backup 00:10:00 1, backup 00:30:00 1",
	} {
		synctest.Test(t, func(t *testing.T) {
			m, s := newMemory(), newSessions()
			s.takes = 15 * time.Minute
			m.put(t, api.Schedule{Name: "x", Cron: "*/10 * * * *", Overlap: api.OverlapQueue, Missed: api.MissedNone, Deadline: deadline})
			defer run(t, m, s, 2)()
			time.Sleep(minutes(39))
			if got := strings.Join(s.started("x"), ", "); got != want {
				t.Errorf("with the deadline %q started %s", deadline, got)
			}
		})
	}
}

// A slot that comes while the predecessor runs is left out when it comes, and not
// begun late when the predecessor ends a moment afterwards.
func TestSkipInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = 8 * time.Second
		m.put(t, api.Schedule{Name: "x", Cron: "@every 7s"})
		defer run(t, m, s, 1)()
		time.Sleep(minutes(1))
		st := m.state(t, "x")
		for _, r := range st.Recent {
			if r.Late != 0 {
				t.Errorf("slot %s began %v s late", r.Slot, r.Late)
			}
		}
		if len(st.Recent) < 3 || st.LastSkipped == nil {
			t.Errorf("%+v", st)
		}
	})
}

// silent is a KV whose server does not tell the time.
type silent struct{ *memory }

func (silent) Now(ctx context.Context) (time.Time, error) {
	<-ctx.Done()
	return time.Time{}, ctx.Err()
}

// While the server does not tell the time nobody waits for others who ask it: a
// request to trigger a run is answered in time.
func TestManyAskForTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newScheduler(silent{newMemory()}, newSessions(), Options{})
		var wg sync.WaitGroup
		for range parallel {
			wg.Go(func() {
				begun := time.Now()
				if _, err := x.now(t.Context()); err == nil {
					t.Error("it has a time")
				}
				if took := time.Since(begun); took > 2*askFor {
					t.Errorf("after %s", took)
				}
			})
		}
		wg.Wait()
	})
}

// An outage that begins when a slot is tried, and in which KV is away, too, takes
// nothing from the time in which what comes back last is waited for.
func TestTriesAnewAfterAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Minute
		back := time.Now().Add(time.Hour + minutes(30))
		s.refuse = func(string) error {
			if time.Now().Before(back.Add(30 * time.Second)) {
				return api.Errorf(api.CodeTargetUnavailable, "the target is away")
			}
			return nil
		}
		away := func(is bool) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.away = is
		}
		m.put(t, api.Schedule{Name: "x", Cron: "0 1 * * *"})
		defer run(t, m, s, 2)()
		time.Sleep(time.Hour + 10*time.Second)
		away(true)
		time.Sleep(time.Until(back))
		away(false)
		time.Sleep(minutes(5))
		if st := m.state(t, "x"); st.LastSuccess == nil {
			t.Errorf("%+v", st)
		}
	})
}

// However many schedules have targets that do not answer, the loop is not taken for
// stuck.
func TestManyHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Hour
		for i := range 10 * parallel {
			m.put(t, api.Schedule{Name: "x" + strconv.Itoa(i), Cron: "0 1 * * *"})
		}
		var longest time.Duration
		last := time.Now()
		o := Options{Log: slog.New(slog.DiscardHandler), Alive: func() { longest, last = max(longest, time.Since(last)), time.Now() }}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { newScheduler(m, hangs{s}, o).Run(ctx) })
		time.Sleep(2 * time.Hour)
		cancel()
		wg.Wait()
		if longest > lookAgain+time.Second {
			t.Errorf("the loop did not come around for %s", longest)
		}
	})
}

// A clock that is set while it is known how far it is from the server's changes
// nothing.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newScheduler(newMemory(), newSessions(), Options{})
		var ahead time.Duration
		x.clock = func() time.Time { return time.Now().Add(ahead) }
		for _, ahead = range []time.Duration{0, time.Hour, -time.Hour, 10 * time.Minute} {
			now, err := x.now(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if off := time.Until(now()); off.Abs() > clockExact {
				t.Errorf("set to %s ahead, it is %s behind", ahead, off)
			}
			time.Sleep(clockAge / 4)
		}
	})
}

// Slots that are left out one after the other for the same reason are told together.
func TestSkipsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = 5*time.Minute + 30*time.Second
		m.put(t, api.Schedule{Name: "x", Cron: "* * * * *"})
		defer run(t, m, s, 2)()
		for _, c := range []struct {
			at, count   int
			first, last string
			all         int // since the start
		}{{4, 3, "00:02", "00:04", 3}, {6, 5, "00:02", "00:06", 5}, {9, 2, "00:08", "00:09", 7}} {
			time.Sleep(time.Until(time.Date(2000, 1, 1, 0, c.at, 20, 0, time.UTC)))
			k := m.state(t, "x").LastSkipped
			if k == nil || k.Count != c.count || k.First.Format("15:04") != c.first || k.Last.Format("15:04") != c.last || m.left("x") != c.all {
				t.Errorf("after %d minutes: %+v, %d reported", c.at, k, m.left("x"))
			}
		}
	})
}
