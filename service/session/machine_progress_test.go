package session

import (
	"testing"
	"time"

	"jetkeep/service/api"
)

// TestTotalsOfASessionNeedAllTasks: the totals of some would make it look nearer to
// its end than it is.
func TestTotalsOfASessionNeedAllTasks(t *testing.T) {
	known := &Task{State: api.StateRunning, Progress: api.Progress{Bytes: 10, TotalBytes: 100, TotalMessages: 1, TotalKnown: true}}
	unknown := &Task{State: api.StatePending}
	if p := Sum([]*Task{known, unknown}); p.TotalKnown || p.TotalBytes != 0 || p.TotalMessages != 0 || p.Bytes != 10 {
		t.Errorf("with one that is unknown: %+v", p)
	}
	hook := &Task{State: api.StatePending, Hook: HookAfter}
	if p := Sum([]*Task{known, hook}); !p.TotalKnown || p.TotalBytes != 100 {
		t.Errorf("with one of hooks: %+v", p)
	}
	// They do not become unknown while an attempt has not looked yet.
	task := &Task{ID: "s.0001", State: api.StatePending, Progress: api.Progress{TotalBytes: 100, TotalMessages: 1, TotalKnown: true}}
	if err := task.Claim("a", 3, time.Now()); err != nil || task.Progress.TotalBytes != 100 {
		t.Errorf("claimed: %+v, %v", task.Progress, err)
	}
	if err := task.Renew(task.Owner(), api.Progress{Seconds: 1}); err != nil || task.Progress.TotalBytes != 100 || !task.Progress.TotalKnown || task.Progress.Seconds != 1 {
		t.Errorf("renewed: %+v, %v", task.Progress, err)
	}
	if err := task.Release(task.Owner()); err != nil || task.Progress.TotalBytes != 100 || task.Progress.Seconds != 0 {
		t.Errorf("released: %+v, %v", task.Progress, err)
	}
}
