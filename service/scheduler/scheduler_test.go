package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/service/api"
)

// memory keeps specs and states as KV does.
type memory struct {
	mu       sync.Mutex
	specs    map[string]api.Schedule
	states   map[string][]byte
	revs     map[string]uint64
	watchers []func(change)
	away     bool
	leftOut  map[string]int // slots, as instances report them
}

func newMemory() *memory {
	return &memory{specs: map[string]api.Schedule{}, states: map[string][]byte{}, revs: map[string]uint64{}, leftOut: map[string]int{}}
}

// leaves counts slots that an instance says were left out.
func (m *memory) leaves(schedule string, slots int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leftOut[schedule] += slots
}

// left returns how many there were.
func (m *memory) left(schedule string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leftOut[schedule]
}

var errAway = errors.New("KV is away")

func (m *memory) State(_ context.Context, name string) (st State, rev uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return st, 0, errAway
	}
	if m.states[name] != nil {
		err = json.Unmarshal(m.states[name], &st)
	}
	return st, m.revs[name], err
}

func (m *memory) Write(_ context.Context, name string, st State, revision uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return 0, errAway
	}
	if m.revs[name] != revision {
		return 0, ErrConflict
	}
	m.states[name], _ = json.Marshal(st)
	m.revs[name]++
	for _, on := range m.watchers {
		on(change{name: name, state: &st, revision: m.revs[name]})
	}
	return m.revs[name], nil
}

func (m *memory) begin(ctx context.Context, name string, now time.Time) error {
	m.mu.Lock()
	_, ok := m.specs[name]
	m.mu.Unlock()
	if !ok {
		return nil
	}
	_, rev, err := m.State(ctx, name)
	if err == nil {
		_, err = m.Write(ctx, name, State{Settled: now}, rev)
	}
	return err
}

func (m *memory) Now(context.Context) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return time.Time{}, errAway
	}
	return time.Now(), nil
}

func (m *memory) watch(ctx context.Context, on func(change), ready func()) error {
	m.mu.Lock()
	for name, spec := range m.specs {
		on(change{name: name, spec: &spec})
	}
	ready()
	m.watchers = append(m.watchers, on)
	m.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (m *memory) put(t *testing.T, s api.Schedule) {
	t.Helper()
	if _, err := Parse(s); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.states[s.Name], _ = json.Marshal(State{Settled: time.Now()})
	m.revs[s.Name]++
	m.mu.Unlock()
	m.change(s)
}

// change puts a schedule and leaves its state.
func (m *memory) change(s api.Schedule) {
	m.mu.Lock()
	m.specs[s.Name] = s
	watchers := slices.Clone(m.watchers)
	m.mu.Unlock()
	for _, on := range watchers {
		on(change{name: s.Name, spec: &s})
	}
}

func (m *memory) state(t *testing.T, name string) State {
	t.Helper()
	st, _, err := m.State(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// sessions are those that were started.
type sessions struct {
	mu  sync.Mutex
	all map[string]*made
	log []*made // all that were ever started
	// unstarted are those that were noted because they could not be.
	unstarted []*made
	refuse    func(name string) error
	outcome   func(m *made) api.State // how it ends; succeeded if nil
	takes     time.Duration
	// unready says which sessions were left before their tasks were written.
	unready func(m *made) bool
}

type made struct {
	id, name, stage string
	slot, at        time.Time
	attempt         int
	cancelled       string
	failed          string // why it could not be started
}

func newSessions() *sessions { return &sessions{all: map[string]*made{}} }

func (s *sessions) Start(_ context.Context, id string, d *Definition, run api.ScheduleRun) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[id] != nil {
		return ErrExists
	}
	if s.refuse != nil {
		if err := s.refuse(d.Name); err != nil {
			return err
		}
	}
	s.all[id] = &made{id: id, name: d.Name, stage: run.Stage, slot: run.Slot, at: time.Now(), attempt: run.Attempt}
	s.log = append(s.log, s.all[id])
	return nil
}

func (s *sessions) Fail(_ context.Context, id string, d *Definition, run api.ScheduleRun, why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[id] != nil {
		return ErrExists
	}
	s.all[id] = &made{id: id, name: d.Name, stage: run.Stage, slot: run.Slot, at: time.Now(), attempt: run.Attempt, failed: why.Error()}
	s.unstarted = append(s.unstarted, s.all[id])
	return nil
}

func (s *sessions) View(_ context.Context, id string) (*View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.all[id]
	switch {
	case m == nil:
		return nil, nil // as the interface says
	case m.failed != "":
		return &View{State: api.StateFailed, Reason: m.failed}, nil
	case m.cancelled != "":
		return &View{State: api.StateCancelled, Reason: m.cancelled}, nil
	case time.Since(m.at) < s.takes:
		return &View{State: api.StateRunning}, nil
	case s.unready != nil && s.unready(m):
		return &View{State: api.StateFailed, Unready: true, Reason: "its maker died"}, nil
	case s.outcome == nil:
		return &View{State: api.StateSucceeded}, nil
	}
	return &View{State: s.outcome(m), Reason: "as the test wants it"}, nil
}

func (s *sessions) Cancel(_ context.Context, id, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.all[id]; m != nil {
		m.cancelled = reason
	}
	return nil
}

func (s *sessions) Watch(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return nil
}

func (s *sessions) Forget(_ context.Context, ids []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		delete(s.all, id)
	}
	return nil
}

// started returns what was started of a schedule, in order, as
// "stage slot attempt".
func (s *sessions) started(name string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.log {
		if m.name == name {
			out = append(out, fmt.Sprintf("%s %s %d", m.stage, m.slot.Format("15:04:05"), m.attempt))
		}
	}
	return out
}

// skews are how far the clocks of instances are ahead.
var skews = []time.Duration{0, 4 * time.Minute, -4 * time.Minute}

// run starts instances, whose clocks differ, and returns what ends them.
func run(t *testing.T, m *memory, s *sessions, instances int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range instances {
		x := newScheduler(m, s, Options{Log: slog.New(slog.DiscardHandler), LeftOut: m.leaves})
		x.clock = func() time.Time { return time.Now().Add(skews[i%len(skews)]) }
		x.lookAgain = 12 * time.Hour // or most of a simulated year would be that
		wg.Go(func() { x.Run(ctx) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// brute finds the slots of a schedule minute by minute, knowing nothing of
// package schedule. Times of day that clocks go over are due when they do, those
// that they show twice the first time.
func brute(t *testing.T, zone string, from, to time.Time, due func(local time.Time) bool) (out []time.Time) {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	wall := func(at time.Time) time.Time {
		l := at.In(loc)
		return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), 0, 0, time.UTC)
	}
	at := from.Truncate(time.Minute)
	shown := wall(at) // the latest time of day so far
	for at = at.Add(time.Minute); !at.After(to); at = at.Add(time.Minute) {
		is := false
		for ; shown.Before(wall(at)); is = is || due(shown) {
			shown = shown.Add(time.Minute)
		}
		if is {
			out = append(out, at.UTC())
		}
	}
	return out
}

// A year of three schedules in three zones, of which two have slots while clocks
// change, run by up to three instances whose own clocks differ by minutes and which
// are away now and then: no slot twice, none lost.
func TestYear(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		schedules := map[string]struct {
			cron, zone string
			due        func(time.Time) bool
		}{
			"berlin": {"30 2 * * *", "Europe/Berlin", func(l time.Time) bool { return l.Hour() == 2 && l.Minute() == 30 }},
			"newyork": {"*/30 1-17 * * 0-5", "America/New_York", func(l time.Time) bool {
				return l.Minute()%30 == 0 && l.Hour() >= 1 && l.Hour() <= 17 && l.Weekday() <= 5
			}},
			"kolkata": {"0 */6 1,15 * *", "Asia/Kolkata", func(l time.Time) bool {
				return l.Minute() == 0 && l.Hour()%6 == 0 && (l.Day() == 1 || l.Day() == 15)
			}},
		}
		from := time.Now()
		for name, c := range schedules {
			m.put(t, api.Schedule{Name: name, Cron: c.cron, Zone: c.zone})
		}
		s.outcome = func(*made) api.State { return api.StateSucceeded }
		slots := map[string]map[time.Time]int{}
		rng := rand.New(rand.NewPCG(1, 2))
		for day := 0; day < 365; {
			n := 1 + rng.IntN(3)
			stop := run(t, m, s, n)
			days := 1 + rng.IntN(20)
			time.Sleep(time.Duration(days)*24*time.Hour - 13*time.Minute)
			stop()
			day += days
			time.Sleep(time.Duration(rng.IntN(12)) * time.Minute) // nobody is there; fewer than between two slots
		}
		stop := run(t, m, s, 3)
		time.Sleep(time.Hour)
		stop()
		for _, x := range s.log {
			if slots[x.name] == nil {
				slots[x.name] = map[time.Time]int{}
			}
			slots[x.name][x.slot]++
			if late := x.at.Sub(x.slot); late > 13*time.Minute || late < 0 {
				t.Errorf("%s was started %s late", x.id, late)
			}
		}
		total := 0
		for name, c := range schedules {
			want := brute(t, c.zone, from, time.Now(), c.due)
			got := slices.SortedFunc(maps.Keys(slots[name]), time.Time.Compare)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %d slots were run, %d were due", name, len(got), len(want))
			}
			for slot, n := range slots[name] {
				if n != 1 {
					t.Errorf("%s: slot %s was run %d times", name, slot, n)
				}
			}
			if n := m.left(name); n != 0 {
				t.Errorf("%s: %d slots are said to be left out", name, n)
			}
			total += len(want)
		}
		t.Logf("%d slots", total)
	})
}

// at is the n-th whole minute of a test.
func minutes(n int) time.Duration { return time.Duration(n) * time.Minute }

func TestOverlap(t *testing.T) {
	t.Parallel()
	for overlap, want := range map[string]string{
		api.OverlapSkip:   "backup 00:01:00 1, backup 00:04:00 1, backup 00:07:00 1",
		api.OverlapQueue:  "backup 00:01:00 1, backup 00:03:00 1, backup 00:06:00 1",
		api.OverlapCancel: "backup 00:01:00 1, backup 00:02:00 1, backup 00:03:00 1, backup 00:04:00 1",
	} {
		t.Run(overlap, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, s := newMemory(), newSessions()
				s.takes = 150 * time.Second
				m.put(t, api.Schedule{Name: "x", Cron: "* * * * *", Overlap: overlap})
				defer run(t, m, s, 2)()
				time.Sleep(minutes(8) + 30*time.Second)
				if got := strings.Join(s.started("x"), ", "); !strings.HasPrefix(got, want) {
					t.Errorf("started %s", got)
				}
				st := m.state(t, "x")
				if overlap == api.OverlapSkip && (st.LastSkipped == nil || !strings.Contains(st.LastSkipped.Reason, "still ran")) {
					t.Errorf("%+v", st.LastSkipped)
				}
			})
		})
	}
}

func TestMissed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spec api.Schedule
		want string
		skip int
		last string
	}{
		"once":           {api.Schedule{}, "backup 01:00:00 1", 5, "00:50"},
		"none":           {api.Schedule{Missed: api.MissedNone}, "", 6, "01:00"},
		"none, no limit": {api.Schedule{Missed: api.MissedNone, Deadline: "0s"}, "", 6, "01:00"},
		"start_deadline": {api.Schedule{Deadline: "3m"}, "", 6, "01:00"},
		"long deadline":  {api.Schedule{Deadline: "6m"}, "backup 01:00:00 1", 5, "00:50"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, s := newMemory(), newSessions()
				c.spec.Name, c.spec.Cron = "x", "*/10 * * * *"
				m.put(t, c.spec)
				time.Sleep(minutes(65))
				stop := run(t, m, s, 3)
				time.Sleep(minutes(1))
				if got := strings.Join(s.started("x"), ", "); got != c.want {
					t.Errorf("started %s", got)
				}
				if k := m.state(t, "x").LastSkipped; k == nil || k.Count != c.skip || k.Reason == "" || k.Last.Format("15:04") != c.last || m.left("x") != c.skip {
					t.Errorf("skipped %+v, %d reported", k, m.left("x"))
				}
				time.Sleep(minutes(5))
				if got := s.started("x"); len(got) == 0 || got[len(got)-1] != "backup 01:10:00 1" {
					t.Errorf("then %s", got)
				}
				stop()
			})
		})
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		s.takes = time.Hour
		m.put(t, api.Schedule{Name: "x", Cron: "0 1 * * *", Timeout: "10m", Retry: &api.ScheduleRetry{Count: 3}})
		stop := run(t, m, s, 2)
		time.Sleep(2 * time.Hour)
		stop()
		st := m.state(t, "x")
		if len(st.Recent) == 0 || st.Recent[0].State != api.StateCancelled || !strings.Contains(st.Recent[0].Reason, "longer than 10m") {
			t.Errorf("%+v", st)
		}
	})
}

// While nothing can be started the slot is tried again, and if that takes too
// long it has failed and says why.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		refusal := error(nil)
		s.refuse = func(string) error { return refusal }
		set := func(err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			refusal = err
		}
		m.put(t, api.Schedule{Name: "x", Cron: "0 * * * *"})
		defer run(t, m, s, 2)()
		set(api.Errorf(api.CodeTargetUnavailable, "the target is away"))
		time.Sleep(time.Hour + minutes(1))
		set(nil)
		time.Sleep(minutes(1))
		if got := strings.Join(s.started("x"), ", "); got != "backup 01:00:00 1" {
			t.Errorf("started %s", got)
		}
		set(api.Errorf(api.CodeTargetUnavailable, "the target is away"))
		time.Sleep(time.Hour + minutes(3))
		if r := m.state(t, "x").Recent[0]; r.State != api.StateFailed || !strings.Contains(r.Reason, "is away") {
			t.Errorf("%+v", r)
		}
		set(api.Errorf(api.CodeNoStreams, "no stream matches"))
		time.Sleep(time.Hour - minutes(4))
		if r := m.state(t, "x").Recent[0]; r.Slot.Hour() != 3 || !strings.Contains(r.Reason, "no stream") {
			t.Errorf("what is wrong with the request is known at once: %+v", r)
		}
	})
}

// KV that is away for some time loses no slot.
func TestKVAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		m.put(t, api.Schedule{Name: "x", Cron: "*/10 * * * *"})
		defer run(t, m, s, 3)()
		time.Sleep(minutes(9))
		m.mu.Lock()
		m.away = true
		m.mu.Unlock()
		time.Sleep(minutes(6))
		m.mu.Lock()
		m.away = false
		m.mu.Unlock()
		time.Sleep(minutes(1))
		if got := strings.Join(s.started("x"), ", "); got != "backup 00:10:00 1" {
			t.Errorf("started %s", got)
		}
	})
}

// History is kept to its limit, and sessions that fall out are forgotten.
func TestHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		m.put(t, api.Schedule{Name: "x", Cron: "* * * * *", History: 4, Keep: &api.Keep{Last: 1}})
		defer run(t, m, s, 2)()
		time.Sleep(minutes(30) + 30*time.Second)
		st := m.state(t, "x")
		if len(st.Recent) != 4 || len(s.all) != 8 {
			t.Errorf("%d runs and %d sessions are remembered", len(st.Recent), len(s.all))
		}
	})
}

// An instance that slept while others went on takes back what it started.
func TestZombieTakesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		m.put(t, api.Schedule{Name: "x", Cron: "* * * * *"})
		def, err := Parse(m.specs["x"])
		if err != nil {
			t.Fatal(err)
		}
		zombie := newScheduler(m, &asleep{sessions: s, m: m, t: t}, Options{Log: slog.New(slog.DiscardHandler)})
		time.Sleep(minutes(1))
		if _, err := zombie.act(t.Context(), def); err != nil {
			t.Fatal(err)
		}
		late := s.all[SessionID("x", time.Now().UTC().Truncate(24*time.Hour).Add(minutes(1)), StageBackup, 1)]
		if late == nil || late.cancelled == "" {
			t.Errorf("what was started too late goes on: %+v", late)
		}
	})
}

// asleep sleeps before it starts a session, while others settle the slot and
// forget its session.
type asleep struct {
	*sessions
	m    *memory
	t    *testing.T
	once sync.Once
}

func (a *asleep) Start(ctx context.Context, id string, d *Definition, run api.ScheduleRun) error {
	a.once.Do(func() {
		time.Sleep(minutes(30))
		st, rev, _ := a.m.State(ctx, "x")
		st.Settled = time.Now()
		if _, err := a.m.Write(ctx, "x", st, rev); err != nil {
			a.t.Error(err)
		}
	})
	return a.sessions.Start(ctx, id, d, run)
}

func TestParse(t *testing.T) {
	t.Parallel()
	for field, s := range map[string]api.Schedule{
		"name":           {Name: "a.b", Cron: "@daily"},
		"cron":           {Name: "a", Cron: "61 * * * *"},
		"zone":           {Name: "a", Cron: "@daily", Zone: "Mars/Olympus"},
		"jitter":         {Name: "a", Cron: "@daily", Jitter: "soon"},
		"overlap":        {Name: "a", Cron: "@daily", Overlap: "maybe"},
		"missed":         {Name: "a", Cron: "@daily", Missed: "all"},
		"start_deadline": {Name: "a", Cron: "@daily", Deadline: "-1s"},
		"timeout":        {Name: "a", Cron: "@daily", Timeout: "x"},
		"retry.count":    {Name: "a", Cron: "@daily", Retry: &api.ScheduleRetry{Count: 21}},
		"retry.delay":    {Name: "a", Cron: "@daily", Retry: &api.ScheduleRetry{Delay: "x"}},
		"retry.backoff":  {Name: "a", Cron: "@daily", Retry: &api.ScheduleRetry{Backoff: 0.5}},
		"verify":         {Name: "a", Cron: "@daily", Verify: "well"},
		"keep":           {Name: "a", Cron: "@daily", Keep: &api.Keep{}},
		"history":        {Name: "a", Cron: "@daily", History: 101},
	} {
		_, err := Parse(s)
		var e *api.Error
		if !errors.As(err, &e) || e.ErrCode != api.CodeInvalidRequest || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if a, b := SessionID("x", time.Unix(0, 0), StageBackup, 1), SessionID("x", time.Unix(0, 0), StageBackup, 2); a == b || a[:17] != "19700101T000000Z-" {
		t.Error(a, b)
	}
}
