package service_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// TestRestoreNamesTheTargetsThatThereAre: whoever asks for what is not there is told
// what is.
func TestRestoreNamesTheTargetsThatThereAre(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	shop(t, server.Connect())
	c := setup(t, server)
	for _, name := range []string{"default", "imported"} {
		c.Targets = append(c.Targets, config.Target{Name: name, Options: natsconn.Options{URL: server.URL()}})
	}
	run(t, c, service.Deps{})
	cl := connect(t, server)
	back := func(q api.BackupCreateRequest) {
		t.Helper()
		b, err := cl.BackupCreate(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		wait(t, cl, b.Session, api.StateSucceeded)
	}
	refused := func(q api.RestoreRequest, code api.ErrCode, hint string, texts ...string) {
		t.Helper()
		_, err := cl.RestorePlan(t.Context(), q)
		var e *api.Error
		if !errors.As(err, &e) || e.ErrCode != code || !strings.Contains(e.Hint, hint) {
			t.Fatalf("%+v: %#v", q, err)
		}
		for _, text := range texts {
			if !strings.Contains(e.Description, text) {
				t.Errorf("%+v: %q does not say %q", q, e.Description, text)
			}
		}
	}
	refused(api.RestoreRequest{}, api.CodeBackupNotFound, "backup.list", "no backup of target default")
	back(api.BackupCreateRequest{Target: "imported"})
	refused(api.RestoreRequest{}, api.CodeBackupNotFound, `"from"`, "no backup of target default", "backups of imported")
	back(api.BackupCreateRequest{Streams: []string{"A"}})
	refused(api.RestoreRequest{Streams: []string{"B"}}, api.CodeStreamNotFound, `"from"`, "no stream B", "restore points of imported")
	early := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	refused(api.RestoreRequest{At: &early}, api.CodeBackupNotFound, `"at"`, "at or before 2020", "the oldest is of ")
	if plan, err := cl.RestorePlan(t.Context(), api.RestoreRequest{From: "imported"}); err != nil || len(plan.Streams) != 2 {
		t.Errorf("from imported: %+v, %v", plan, err)
	}
}
