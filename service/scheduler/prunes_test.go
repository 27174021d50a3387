package scheduler

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/schedule"
	"jetkeep/service/api"
)

// pruneMemory keeps the state of prunes as KV does.
type pruneMemory struct {
	mu     sync.Mutex
	states map[string]PruneState
	revs   map[string]uint64
	away   bool
}

func newPruneMemory() *pruneMemory {
	return &pruneMemory{states: map[string]PruneState{}, revs: map[string]uint64{}}
}

func (m *pruneMemory) PruneState(_ context.Context, repository string) (PruneState, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return PruneState{}, 0, errAway
	}
	return m.states[repository], m.revs[repository], nil
}

func (m *pruneMemory) writePrune(_ context.Context, repository string, st PruneState, revision uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.away:
		return errAway
	case m.revs[repository] != revision:
		return ErrConflict
	}
	m.states[repository] = st
	m.revs[repository]++
	return nil
}

func (m *pruneMemory) Now(context.Context) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return time.Time{}, errAway
	}
	return time.Now(), nil
}

// pruneSessions are those that were started.
type pruneSessions struct {
	mu      sync.Mutex
	ids     map[string]bool
	started []string // "repository time", in order
	refuse  error
	dies    int // how many of the next ones are left before their task is written
	unready map[string]bool
}

func (s *pruneSessions) StartPrune(_ context.Context, id, repository string) error {
	time.Sleep(10 * time.Millisecond) // all instances are here, before one has written that it was
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ids[id]:
		return ErrExists
	case s.refuse != nil:
		return s.refuse
	}
	s.ids[id] = true
	s.started = append(s.started, repository+" "+time.Now().UTC().Format("02T15:04"))
	if s.dies > 0 {
		s.dies--
		s.unready[id] = true
	}
	return nil
}

func (s *pruneSessions) View(_ context.Context, id string) (*View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unready[id] {
		return &View{State: api.StateFailed, Unready: true}, nil
	}
	return &View{State: api.StateSucceeded}, nil
}

func (s *pruneSessions) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.started
	s.started = nil
	return out
}

func (s *pruneSessions) set(refuse error, dies int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse, s.dies = refuse, dies
}

// runPruners starts instances and returns what ends them.
func runPruners(t *testing.T, m *pruneMemory, s *pruneSessions, instances int, crons map[string]string) (stop func()) {
	t.Helper()
	var prunes []Prune
	for repository, cron := range crons {
		times, err := schedule.New(schedule.Spec{Cron: cron, Zone: "UTC"})
		if err != nil {
			t.Fatal(err)
		}
		prunes = append(prunes, Prune{repository, times})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range instances {
		p := &Pruner{store: m, sessions: s, prunes: prunes, log: slog.New(slog.DiscardHandler), alive: func() {}}
		wg.Go(func() { p.Run(ctx) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// The bubble's time begins at 2000-01-01 00:00:00 UTC.
func TestPrunerRunsEachSlotOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := newPruneMemory(), &pruneSessions{ids: map[string]bool{}, unready: map[string]bool{}}
		time.Sleep(time.Hour)
		stop := runPruners(t, m, s, 3, map[string]string{"a": "@daily", "b": "30 4 * * *"})
		time.Sleep(3 * 24 * time.Hour)
		stop()
		want := []string{"b 01T04:30", "a 02T00:00", "b 02T04:30", "a 03T00:00", "b 03T04:30", "a 04T00:00"}
		if got := s.take(); !slices.Equal(got, want) {
			t.Errorf("started %v, want %v", got, want)
		}
		// Two slots of each pass while no instance runs: the newest is made up for.
		time.Sleep(2 * 24 * time.Hour)
		defer runPruners(t, m, s, 2, map[string]string{"a": "@daily", "b": "30 4 * * *"})()
		time.Sleep(time.Hour)
		got := s.take()
		slices.Sort(got)
		if want := []string{"a 06T01:00", "b 06T01:00"}; !slices.Equal(got, want) {
			t.Errorf("made up for %v, want %v", got, want)
		}
	})
}

// When the times are changed, none of the new ones that passed before is made up
// for, and instances that have different ones both keep to theirs.
func TestPrunerWithOtherTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := newPruneMemory(), &pruneSessions{ids: map[string]bool{}, unready: map[string]bool{}}
		stop := runPruners(t, m, s, 1, map[string]string{"a": "@daily"})
		time.Sleep(34 * time.Hour)
		stop()
		if got := s.take(); !slices.Equal(got, []string{"a 02T00:00"}) {
			t.Fatalf("started %v", got)
		}
		// 10:00: slot 09:00 has passed.
		defer runPruners(t, m, s, 1, map[string]string{"a": "0 9 * * *"})()
		time.Sleep(time.Hour)
		if got := s.take(); len(got) > 0 {
			t.Errorf("made up for %v", got)
		}
		defer runPruners(t, m, s, 1, map[string]string{"a": "0 20 * * *"})()
		time.Sleep(24 * time.Hour)
		if got, want := s.take(), []string{"a 02T20:00", "a 03T09:00"}; !slices.Equal(got, want) {
			t.Errorf("started %v, want %v", got, want)
		}
	})
}

// A prune waits for another one to end and for KV to come back, and one whose maker
// died is made again.
func TestPrunerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := newPruneMemory(), &pruneSessions{ids: map[string]bool{}, unready: map[string]bool{}}
		defer runPruners(t, m, s, 2, map[string]string{"a": "0 9 * * *"})()
		time.Sleep(8*time.Hour + 59*time.Minute)
		s.set(api.Errorf(api.CodeConflict, "another one runs"), 0)
		time.Sleep(11 * time.Minute)
		s.set(nil, 0)
		time.Sleep(time.Minute)
		if got := s.take(); len(got) != 1 || !strings.HasPrefix(got[0], "a 01T09:10") {
			t.Errorf("after another one: %v", got)
		}
		time.Sleep(23 * time.Hour)
		m.mu.Lock()
		m.away = true
		m.mu.Unlock()
		time.Sleep(2 * time.Hour)
		m.mu.Lock()
		m.away = false
		m.mu.Unlock()
		time.Sleep(time.Minute)
		if got := s.take(); len(got) != 1 || !strings.HasPrefix(got[0], "a 02T10:1") {
			t.Errorf("after an outage: %v", got)
		}
		s.set(nil, 100)
		time.Sleep(24 * time.Hour)
		if got := s.take(); len(got) != 1+maxReplaced {
			t.Errorf("whose makers died: %v", got)
		}
		s.set(nil, 1)
		time.Sleep(24 * time.Hour)
		if got := s.take(); len(got) != 2 {
			t.Errorf("whose maker died: %v", got)
		}
	})
}
