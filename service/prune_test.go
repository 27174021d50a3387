package service_test

import (
	"slices"
	"strings"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
)

// TestForgetPinPrune takes backups through their end.
func TestForgetPinPrune(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "encrypted"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := natstest.Start(t)
			someStreams(t, server)
			cfg := setup(t, server)
			op := operator(t)
			if kind == "encrypted" {
				cfg = encrypted(t, server, op)
				cfg.Repositories[0].IdentityFile = keyFile(t, op)
			}
			run(t, cfg, service.Deps{})
			c := connect(t, server)
			var backups []string
			for range 4 {
				backups = append(backups, backUp(t, c))
				rewrite(t, server)
			}
			want := contents(t, server, "ORDERS")
			backups = append(backups, backUp(t, c))

			pinAndDelete(t, server, c, backups)
			pruned := prunePlanned(t, c, backups)
			// Everything that is left can still be restored.
			dropStreams(t, server, map[string][]record.Record{"ORDERS": nil, "KV_settings": nil})
			bringBack(t, c, api.RestoreRequest{})
			same(t, server, want)
			if pruned.Deleted == 0 || pruned.DeletedBytes == 0 || pruned.Waiting != 0 {
				t.Errorf("pruned: %+v", pruned)
			}
			if v := verifyAll(t, c, api.RepositoryVerifyRequest{Level: api.LevelRecords}, api.StateSucceeded); v.Points != 4 || v.Orphans != 0 {
				t.Errorf("after the prune: %+v", v)
			}
		})
	}
}

// pinAndDelete pins the first backup, deletes the second one and one restore
// point of the third.
func pinAndDelete(t *testing.T, server *natstest.Server, c *client.Client, backups []string) {
	t.Helper()
	pinned, err := c.BackupPin(t.Context(), api.BackupPinRequest{Backup: backups[0], Reason: "audit"})
	if err != nil || len(pinned.Points) != 2 {
		t.Fatalf("pin: %+v %v", pinned, err)
	}
	info, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: backups[0]})
	if err != nil || info.Pinned != 2 || info.RestorePoints[0].Pinned == nil || info.RestorePoints[0].Pinned.Reason != "audit" || info.RestorePoints[0].Pinned.Since == nil {
		t.Errorf("pinned backup: %+v %v", info, err)
	}
	for _, q := range []api.BackupDeleteRequest{{Backup: backups[0]}, {Points: pinned.Points[:1]}} {
		if _, err := c.BackupDelete(t.Context(), q); !api.HasCode(err, api.CodePinned) || !strings.Contains(err.Error(), "audit") {
			t.Errorf("delete what is pinned: %v", err)
		}
	}
	if _, err := c.BackupUnpin(t.Context(), api.BackupUnpinRequest{Points: pinned.Points[:1]}); !api.HasCode(err, api.CodePinned) {
		t.Errorf("unpin a part of a pinned backup: %v", err)
	}
	dry, err := c.BackupDelete(t.Context(), api.BackupDeleteRequest{Backup: backups[1], DryRun: true})
	if err != nil || len(dry.Points) != 2 || !dry.DryRun {
		t.Fatalf("dry run: %+v %v", dry, err)
	}
	done, err := c.BackupDelete(t.Context(), api.BackupDeleteRequest{Backup: backups[1]})
	if err != nil || !slices.Equal(done.Points, dry.Points) {
		t.Errorf("delete: %+v %v", done, err)
	}
	if _, err := c.BackupDelete(t.Context(), api.BackupDeleteRequest{Backup: backups[1]}); !api.HasCode(err, api.CodeBackupNotFound) {
		t.Errorf("delete it again: %v", err)
	}
	one := pointOf(t, c, backups[2], "ORDERS")
	if _, err := c.BackupDelete(t.Context(), api.BackupDeleteRequest{Points: []string{one, done.Points[0]}}); !api.HasCode(err, api.CodeBackupNotFound) {
		t.Errorf("delete one that is there and one that is not: %v", err)
	}
	if _, err := c.BackupDelete(t.Context(), api.BackupDeleteRequest{Points: []string{one}}); err != nil {
		t.Errorf("delete a restore point: %v", err)
	}
	list, err := c.BackupList(t.Context(), api.BackupListRequest{})
	if err != nil || list.Total != 4 || list.Backups[2].Streams != 1 || list.Backups[3].Pinned != 2 {
		t.Errorf("backups: %+v %v", list, err)
	}
}

// prunePlanned prunes with a policy as its plan says, first with a wait and then
// without.
func prunePlanned(t *testing.T, c *client.Client, backups []string) *api.Pruned {
	t.Helper()
	keep := &api.Keep{Last: 1}
	plan, err := c.RepositoryPrune(t.Context(), api.RepositoryPruneRequest{Keep: keep, DryRun: true, Grace: "0s", Limit: 3})
	if err != nil || plan.Session != "" || plan.Plan == nil {
		t.Fatalf("plan: %+v %v", plan, err)
	}
	p := plan.Plan
	// 7 restore points: 2 pinned, the newest of both streams, and 3 to forget.
	if p.Points != 7 || p.Forget != 3 || p.Keep != 4 || p.Unread != 0 || p.Objects == 0 || p.Bytes == 0 || len(p.Decisions) != 3 || p.Next == "" {
		t.Errorf("plan: %+v", p)
	}
	for _, d := range p.Decisions {
		if len(d.Reasons) == 0 || d.Stream == "" || d.Target != "default" || d.Keep != strings.HasPrefix(d.Point, backups[4]) {
			t.Errorf("decision: %+v", d)
		}
	}
	first := prune(t, c, api.RepositoryPruneRequest{Keep: keep})
	if first.Forgotten != 3 || first.Points != 4 || first.Deleted != 0 || first.Waiting == 0 || len(first.ForgetList) != 3 || len(first.Text) == 0 {
		t.Errorf("prune that waits: %+v", first)
	}
	if first.Waiting != p.Objects {
		t.Errorf("%d objects wait, the plan said %d", first.Waiting, p.Objects)
	}
	list, err := c.BackupList(t.Context(), api.BackupListRequest{})
	if err != nil || list.Total != 2 || list.Backups[0].Backup != backups[4] || list.Backups[1].Backup != backups[0] {
		t.Errorf("backups: %+v %v", list, err)
	}
	// Without a policy nothing is forgotten.
	return prune(t, c, api.RepositoryPruneRequest{Grace: "0s", OrphanAge: "0s"})
}
