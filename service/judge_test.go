package service_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
)

// decisions asks for the plan of a prune and returns what becomes of each
// restore point.
func decisions(t *testing.T, c *client.Client, keep *api.Keep) (*api.PrunePlan, map[string]api.PruneDecided) {
	t.Helper()
	r, err := c.RepositoryPrune(t.Context(), api.RepositoryPruneRequest{Keep: keep, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]api.PruneDecided{}
	for _, d := range r.Plan.Decisions {
		out[d.Point] = d
	}
	return r.Plan, out
}

// TestDamagedPushesNothingOut: a restore point that a verification found
// damaged does not count among the newest, until it is found good.
func TestDamagedPushesNothingOut(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	path := cfg.Repositories[0].Path
	one := pointOf(t, c, backUp(t, c), "ORDERS")
	before := filesBelow(t, path, "packs")
	rewrite(t, server)
	two := pointOf(t, c, backUp(t, c), "ORDERS")
	packs := slices.DeleteFunc(filesBelow(t, path, "packs"), func(f string) bool { return slices.Contains(before, f) })
	largest := slices.MaxFunc(packs, func(a, b string) int { return int(size(t, a) - size(t, b)) })
	keep := &api.Keep{Last: 1}
	if _, d := decisions(t, c, keep); d[one].Keep || !d[two].Keep {
		t.Errorf("both are good: %+v, %+v", d[one], d[two])
	}
	flip(t, largest)
	if v := verifyAll(t, c, api.RepositoryVerifyRequest{}, api.StateFailed); !slices.Equal(v.DamagedList, []string{two}) {
		t.Fatalf("verification: %+v", v)
	}
	if _, d := decisions(t, c, keep); !d[one].Keep {
		t.Errorf("the newest is damaged: %+v, %+v", d[one], d[two])
	}
	flip(t, largest)
	verifyAll(t, c, api.RepositoryVerifyRequest{Level: api.LevelStructure}, api.StateSucceeded)
	if _, d := decisions(t, c, keep); !d[one].Keep {
		t.Errorf("a look at the structure does not make it good: %+v", d[one])
	}
	verifyAll(t, c, api.RepositoryVerifyRequest{}, api.StateSucceeded)
	if _, d := decisions(t, c, keep); d[one].Keep || !d[two].Keep {
		t.Errorf("it is good again: %+v, %+v", d[one], d[two])
	}
}

// TestNothingIsBuiltOnDamage: after a verification found the newest restore
// point damaged, the next backup stores the stream in full, and a damaged
// object that was taken away is stored again.
func TestNothingIsBuiltOnDamage(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	one := pointOf(t, c, backUp(t, c), "ORDERS")
	packs := filesBelow(t, cfg.Repositories[0].Path, "packs")
	largest := slices.MaxFunc(packs, func(a, b string) int { return int(size(t, a) - size(t, b)) })
	flip(t, largest)
	if v := verifyAll(t, c, api.RepositoryVerifyRequest{}, api.StateFailed); !slices.Equal(v.DamagedList, []string{one}) {
		t.Fatalf("verification: %+v", v)
	}
	if err := os.Remove(largest); err != nil {
		t.Fatal(err)
	}
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"ORDERS"}})
	if err != nil {
		t.Fatal(err)
	}
	r := wait(t, c, a.Session, api.StateSucceeded)
	if !strings.Contains(strings.Join(r.TaskList[0].Notes, "\n"), one+" damaged") {
		t.Errorf("notes: %v", r.TaskList[0].Notes)
	}
	info, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: a.Backup})
	if err != nil || info.NewBytes == 0 {
		t.Errorf("backup: %+v %v", info, err)
	}
	vr, err := c.BackupVerify(t.Context(), api.BackupVerifyRequest{Backup: a.Backup, Level: api.LevelRecords})
	verify(t, c, vr, err, api.StateSucceeded)
}

// TestNothingIsBuiltOnWhatSharesDamage: the newest restore point was built on a
// damaged one, and no verification has looked at it.
func TestNothingIsBuiltOnWhatSharesDamage(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	first := backUp(t, c)
	one := pointOf(t, c, first, "ORDERS")
	packs := filesBelow(t, cfg.Repositories[0].Path, "packs")
	largest := slices.MaxFunc(packs, func(a, b string) int { return int(size(t, a) - size(t, b)) })
	two := pointOf(t, c, backUp(t, c), "ORDERS")
	flip(t, largest)
	vr, err := c.BackupVerify(t.Context(), api.BackupVerifyRequest{Backup: first, Level: api.LevelData})
	verify(t, c, vr, err, api.StateFailed)
	if err := os.Remove(largest); err != nil {
		t.Fatal(err)
	}
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"ORDERS"}})
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(wait(t, c, a.Session, api.StateSucceeded).TaskList[0].Notes, "\n")
	if !strings.Contains(notes, one+" damaged") {
		t.Errorf("after %s and %s: notes: %s", one, two, notes)
	}
	again, err := c.BackupVerify(t.Context(), api.BackupVerifyRequest{Backup: a.Backup, Level: api.LevelRecords})
	verify(t, c, again, err, api.StateSucceeded)
}

// TestPolicyLeavesWhatItCannotRead: who cannot read restore points forgets none
// by a policy, and can by name.
func TestPolicyLeavesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := encrypted(t, server, operator(t))
	first := run(t, cfg, service.Deps{})
	c := connect(t, server)
	backup := backUp(t, c)
	backUp(t, c)
	first.end()
	again := natstest.Start(t)
	fresh := setup(t, again)
	fresh.Repositories[0] = config.Repository{Name: "default", Path: cfg.Repositories[0].Path}
	run(t, fresh, service.Deps{})
	c = connect(t, again)
	plan, d := decisions(t, c, &api.Keep{Last: 1})
	if plan.Unread != 4 || plan.Forget != 0 || plan.Keep != 4 || len(d) != 4 {
		t.Errorf("plan: %+v", plan)
	}
	for _, x := range d {
		if !x.Keep || x.Stream != "" || x.Time.IsZero() || !strings.Contains(x.Reasons[0], "sealed") {
			t.Errorf("decision: %+v", x)
		}
	}
	if r := prune(t, c, api.RepositoryPruneRequest{Keep: &api.Keep{Last: 1}, Grace: "0s"}); r.Forgotten != 0 || r.Unread != 4 || r.Points != 4 {
		t.Errorf("pruned: %+v", r)
	}
	if r, err := c.BackupDelete(t.Context(), api.BackupDeleteRequest{Backup: backup}); err != nil || len(r.Points) != 2 {
		t.Errorf("delete: %+v %v", r, err)
	}
	if list, err := c.BackupList(t.Context(), api.BackupListRequest{}); err != nil || list.Total != 1 {
		t.Errorf("backups: %+v %v", list, err)
	}
}

// TestConfiguredPolicy: a prune that names no policy uses the repository's.
func TestConfiguredPolicy(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	cfg.Repositories[0].Keep = &api.Keep{Last: 2}
	cfg.Repositories[0].Prune = &config.Prune{Off: true} // or it may be midnight
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	for range 3 {
		backUp(t, c)
	}
	if plan, _ := decisions(t, c, nil); plan.Forget != 2 {
		t.Errorf("plan: %+v", plan)
	}
	if plan, _ := decisions(t, c, &api.Keep{Last: 1}); plan.Forget != 4 {
		t.Errorf("plan of a policy in the request: %+v", plan)
	}
	if r := prune(t, c, api.RepositoryPruneRequest{}); r.Forgotten != 2 || r.Points != 4 {
		t.Errorf("pruned: %+v", r)
	}
}
