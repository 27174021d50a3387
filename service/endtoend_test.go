package service_test

import (
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
)

// TestBackupAndRestore takes an account through backup, deletion and restore on
// the subjects alone, and compares every message.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	streams := natstest.Sample(t, nc)
	before := map[string][]record.Record{}
	for _, s := range streams {
		before[s] = natstest.Records(t, nc, s)
	}
	run(t, setup(t, server), service.Deps{})
	c := connect(t, server)

	accepted, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Tags: map[string]string{"why": "test"}})
	if err != nil {
		t.Fatal(err)
	}
	if accepted.State != api.StatePending || accepted.Tasks != len(streams) || accepted.Backup != accepted.Session {
		t.Fatalf("accepted: %+v", accepted)
	}
	r := wait(t, c, accepted.Session, api.StateSucceeded)
	if r.Tasks.Succeeded != len(streams) || r.Progress.Messages == 0 {
		t.Fatalf("session: %+v", r.SessionView)
	}
	info, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: accepted.Backup})
	if err != nil {
		t.Fatal(err)
	}
	if info.Streams != len(streams) || info.Tags["why"] != "test" || len(info.RestorePoints) != len(streams) {
		t.Fatalf("backup: %+v", info)
	}
	for _, p := range info.RestorePoints {
		if want := natstest.Sum(before[p.Stream]); want.String() != p.Digest {
			t.Errorf("stream %s: digest %s, want %s", p.Stream, p.Digest, want)
		}
	}

	_, err = c.RestoreCreate(t.Context(), api.RestoreRequest{})
	if !api.HasCode(err, api.CodeStreamExists) {
		t.Fatalf("restore over existing streams: %v", err)
	}
	for _, s := range streams {
		natstest.MustRequest(t, nc, "STREAM.DELETE."+s, nil, nil)
	}
	plan, err := c.RestorePlan(t.Context(), api.RestoreRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Refused || len(plan.Streams) != len(streams) {
		t.Fatalf("plan: %+v", plan)
	}
	accepted, err = c.RestoreCreate(t.Context(), api.RestoreRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r = wait(t, c, accepted.Session, api.StateSucceeded)
	for _, task := range r.TaskList {
		if !task.Verified {
			t.Errorf("stream %s was not verified", task.Stream)
		}
	}
	for _, s := range streams {
		if d := natstest.Diff(before[s], natstest.Records(t, nc, s)); d != "" {
			t.Errorf("stream %s: %s", s, d)
		}
	}
}
