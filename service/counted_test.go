package service_test

import (
	"strings"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
)

// TestFirstFailureIsAnIncrease: the counters of what never happened are shown, and how
// many restore points there are is known at once, on each instance.
func TestFirstFailureIsAnIncrease(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	shop(t, server.Connect())
	c := setup(t, server)
	c.Metrics.Listen = "0"
	c.Hooks = []config.Hook{hook("resume", "after", "session", config.Call{Subject: "nobody"})}
	c.Hooks[0].Kinds = []string{"prune"}
	at := "http://" + run(t, c, service.Deps{}).svc.MetricsAddr() + "/metrics"
	soon(t, at, 200,
		`jetkeep_sessions_total{kind="backup",result="failed"} 0`,
		`jetkeep_sessions_total{kind="verify",result="failed"} 0`,
		`jetkeep_hooks_total{hook="resume",result="failed",when="after"} 0`,
		`jetkeep_store_operations_total{operation="put",repository="default",result="failed"} 0`,
		`jetkeep_store_retries_total{repository="default"} 0`,
		`jetkeep_restore_points{repository="default"} 0`)
	other := c
	other.Instance, other.Staging.Dir = "other", t.TempDir()
	elsewhere := "http://" + run(t, other, service.Deps{}).svc.MetricsAddr() + "/metrics"
	soon(t, elsewhere, 200, `jetkeep_restore_points{repository="default"} 0`)
	cl := connect(t, server)
	var backups []string
	for range 3 {
		b, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, cl, b.Session, api.StateSucceeded)
		backups = append(backups, b.Backup)
	}
	for _, at := range []string{at, elsewhere} {
		soon(t, at, 200, `jetkeep_restore_points{repository="default"} 6`)
	}
	p, err := cl.RepositoryPrune(t.Context(), api.RepositoryPruneRequest{Keep: &api.Keep{Last: 2}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, p.Session, api.StateSucceeded)
	for _, at := range []string{at, elsewhere} {
		soon(t, at, 200, `jetkeep_restore_points{repository="default"} 4`)
	}
	if _, err := cl.BackupDelete(t.Context(), api.BackupDeleteRequest{Backup: backups[1]}); err != nil {
		t.Fatal(err)
	}
	// Of what is forgotten by hand only the instance knows that did it.
	eventually(t, "one of the instances knows", func() bool {
		for _, at := range []string{at, elsewhere} {
			if _, text := fetch(t, at); containsLine(text, `jetkeep_restore_points{repository="default"} 2`) {
				return true
			}
		}
		return false
	})
	if _, err := cl.SchedulePut(t.Context(), api.Schedule{Name: "nightly", Cron: "@yearly"}); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{at, elsewhere} {
		soon(t, at, 200, `jetkeep_schedule_left_out_slots_total{schedule="nightly"} 0`)
	}
}

func containsLine(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.TrimSpace(l) == line {
			return true
		}
	}
	return false
}
