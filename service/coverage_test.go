package service_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// runNow triggers a schedule and waits until that run, and what follows it, has
// succeeded.
func runNow(t *testing.T, c *client.Client, name string) (backup string) {
	t.Helper()
	a, err := c.ScheduleTrigger(t.Context(), api.ScheduleNameRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	testenv.True(t, "the end of a run of "+name, func() bool {
		info := scheduleInfo(t, c, name)
		return info.Running == nil && len(info.Recent) > 0 && info.Recent[0].Session == a.Session
	})
	if r := scheduleInfo(t, c, name).Recent[0]; r.State != api.StateSucceeded || r.Reason != "" {
		t.Fatalf("run of %s: %+v", name, r)
	}
	return a.Backup
}

func putSchedule(t *testing.T, c *client.Client, s api.Schedule) *api.SchedulePutResponse {
	t.Helper()
	if s.Cron == "" {
		s.Cron = "@yearly"
	}
	r, err := c.SchedulePut(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// backupIDs returns the backups that there are, a name for each: what they were
// made by, and "hand" for those that no schedule made.
func backupIDs(t *testing.T, c *client.Client, repository string) map[string]string {
	t.Helper()
	list, err := c.BackupList(t.Context(), api.BackupListRequest{Repository: repository, Limit: api.MaxLimit})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, b := range list.Backups {
		out[b.Backup] = "hand"
		if by := b.Tags[api.ScheduleTag]; by != "" {
			out[b.Backup] = by
		}
	}
	return out
}

// count returns how many backups each has made that are left.
func count(ids map[string]string) map[string]int {
	out := map[string]int{}
	for _, by := range ids {
		out[by]++
	}
	return out
}

// What a schedule forgets is its own, whatever else is in the repository, of the
// same streams and of others: also what others' increments refer to.
func TestScheduleForgetsItsOwn(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	run(t, setup(t, server), service.Deps{})
	c := connect(t, server)
	for range 3 {
		backUp(t, c)
		rewrite(t, server)
	}
	putSchedule(t, c, api.Schedule{Name: "yearly", Streams: []string{"ORDERS", "KV_settings"}, Keep: &api.Keep{Last: 100}})
	putSchedule(t, c, api.Schedule{Name: "often", Streams: []string{"ORDERS"}, Keep: &api.Keep{Last: 2}})
	putSchedule(t, c, api.Schedule{Name: "bare", Streams: []string{"ORDERS"}})
	var often []string
	for range 4 {
		runNow(t, c, "yearly")
		rewrite(t, server)
		often = append(often, runNow(t, c, "often"))
		runNow(t, c, "bare")
	}
	left := backupIDs(t, c, "")
	if n := count(left); n["hand"] != 3 || n["yearly"] != 4 || n["bare"] != 4 || n["often"] != 2 {
		t.Errorf("left are %v", n)
	}
	for i, id := range often {
		if _, there := left[id]; there != (i >= 2) {
			t.Errorf("backup %d of often is there: %v", i, there)
		}
	}
	prune(t, c, api.RepositoryPruneRequest{Grace: "0s", OrphanAge: "0s"})
	if v := verifyAll(t, c, api.RepositoryVerifyRequest{Level: api.LevelRecords}, api.StateSucceeded); v.Points != 3*2+4*2+4+2 {
		t.Errorf("%+v", v)
	}
}

// The session of a schedule's prune says how much the policy decided about, and the
// dry run says of each restore point whose it is.
func TestDryRunSaysWhatIsCovered(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	cfg.Repositories[0].Keep = &api.Keep{Last: 1}
	cfg.Repositories[0].Prune = &config.Prune{Off: true}
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	ids := map[string]string{}
	for _, name := range []string{"own", "none", "gone", "moved"} {
		s := api.Schedule{Name: name, Streams: []string{"ORDERS"}}
		if name == "own" {
			s.Keep = &api.Keep{Last: 1}
		}
		putSchedule(t, c, s)
		runNow(t, c, name)
		ids[name] = pointOf(t, c, runNow(t, c, name), "ORDERS")
	}
	backUp(t, c)
	ids["hand"] = pointOf(t, c, backUp(t, c), "ORDERS")
	// 2 by hand of 2 streams, 1 of own, 2 of each other schedule: 11.
	if _, err := c.ScheduleDelete(t.Context(), api.ScheduleNameRequest{Name: "gone"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ScheduleDelete(t.Context(), api.ScheduleNameRequest{Name: "moved"}); err != nil {
		t.Fatal(err)
	}
	putSchedule(t, c, api.Schedule{Name: "moved", Target: "default", Repository: "default", Keep: &api.Keep{Last: 5}})

	// Of the repository's policy.
	plan, d := decisions(t, c, nil)
	if plan.Points != 11 || plan.Covered != 6 || plan.Forget != 4 {
		t.Errorf("plan of the repository's policy: %+v", plan)
	}
	for name, reason := range map[string]string{
		"own": "schedule own has a policy of its own", "gone": "schedule gone, which is not there", "moved": "schedule moved has a policy of its own",
		"hand": "last 1 of 1",
	} {
		if x := d[ids[name]]; !x.Keep || !strings.Contains(strings.Join(x.Reasons, "; "), reason) {
			t.Errorf("%s: %+v", name, x)
		}
	}
	if x := d[ids["none"]]; x.Keep {
		t.Errorf("a schedule without a policy leaves its restore points to the repository's: %+v", x)
	}
	// Of a policy that somebody asked for, all.
	if plan, _ := decisions(t, c, &api.Keep{Last: 1}); plan.Covered != 11 || plan.Forget != 9 {
		t.Errorf("plan of a policy in the request: %+v", plan)
	}
	// Of a schedule's, there and gone.
	for _, q := range []struct {
		api.RepositoryPruneRequest
		covered, forget int
	}{
		{api.RepositoryPruneRequest{Schedule: "own"}, 1, 0},
		{api.RepositoryPruneRequest{Schedule: "none", Keep: &api.Keep{Last: 1}}, 2, 1},
		{api.RepositoryPruneRequest{Schedule: "gone", Keep: &api.Keep{Last: 1}}, 2, 1},
	} {
		q.DryRun = true
		r, err := c.RepositoryPrune(t.Context(), q.RepositoryPruneRequest)
		if err != nil || r.Schedule != q.Schedule || r.Plan.Covered != q.covered || r.Plan.Forget != q.forget {
			t.Errorf("%s: %+v %v", q.Schedule, r, err)
		}
	}
	for name, code := range map[string]api.ErrCode{"none": api.CodeInvalidRequest, "gone": api.CodeScheduleNotFound} {
		if _, err := c.RepositoryPrune(t.Context(), api.RepositoryPruneRequest{Schedule: name, DryRun: true}); !api.HasCode(err, code) {
			t.Errorf("%s without a policy: %v", name, err)
		}
	}
	// And so it is done: what is gone goes when somebody asks.
	if r := prune(t, c, api.RepositoryPruneRequest{}); r.Covered != 6 || r.Forgotten != 4 || r.Points != 7 {
		t.Errorf("pruned by the repository's policy: %+v", r)
	}
	if r := prune(t, c, api.RepositoryPruneRequest{Schedule: "gone", Keep: &api.Keep{Last: 1}}); r.Covered != 2 || r.Forgotten != 1 || r.Points != 6 {
		t.Errorf("pruned what gone made: %+v", r)
	}
}

// A schedule of the same name on another service that shares the repository, or on
// another target, is another schedule.
func TestSameNameOfAnotherTarget(t *testing.T) {
	t.Parallel()
	server, other := natstest.Start(t), natstest.Start(t)
	someStreams(t, server)
	someStreams(t, other)
	here := setup(t, server)
	there := setup(t, other)
	here.Targets = []config.Target{{Name: "east", Options: here.Control}}
	there.Targets = []config.Target{{Name: "west", Options: there.Control}}
	there.Repositories = here.Repositories
	run(t, here, service.Deps{})
	run(t, there, service.Deps{})
	east, west := connect(t, server), connect(t, other)
	for range 3 {
		backUp(t, west)
	}
	putSchedule(t, west, api.Schedule{Name: "nightly", Streams: []string{"ORDERS"}, Keep: &api.Keep{Last: 100}})
	putSchedule(t, east, api.Schedule{Name: "nightly", Streams: []string{"ORDERS"}, Keep: &api.Keep{Last: 1}})
	for range 3 {
		runNow(t, west, "nightly")
		runNow(t, east, "nightly")
	}
	if n := count(backupIDs(t, west, "")); n["hand"] != 3 || n["nightly"] != 4 {
		t.Errorf("left are %v", n)
	}
	if list, err := east.BackupList(t.Context(), api.BackupListRequest{Target: "west"}); err != nil || list.Total != 6 {
		t.Errorf("of west are left %+v, %v", list, err)
	}
}

// A repository is pruned by its policy without anybody asking, of several instances
// by one, and only what falls under the policy is forgotten; another one, for which
// that is off, is not.
func TestRepositoryPrunesItself(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	cfg.Repositories[0].Keep = &api.Keep{Last: 1}
	cfg.Repositories[0].Prune = &config.Prune{Cron: "@every 2s"}
	cfg.Repositories = append(cfg.Repositories, config.Repository{
		Name: "off", Kind: config.KindLocal, Path: filepath.Join(t.TempDir(), "off"), Create: true, Keep: &api.Keep{Last: 1}, Prune: &config.Prune{Off: true},
	})
	for i := range 2 {
		own := cfg
		own.Instance, own.Staging.Dir = fmt.Sprintf("i%d", i), t.TempDir()
		run(t, own, service.Deps{})
	}
	c := connect(t, server)
	putSchedule(t, c, api.Schedule{Name: "own", Streams: []string{"ORDERS"}, Keep: &api.Keep{Last: 100}})
	for range 3 {
		runNow(t, c, "own")
		backUp(t, c)
		if a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Repository: "off"}); err != nil {
			t.Fatal(err)
		} else {
			wait(t, c, a.Session, api.StateSucceeded)
		}
	}
	testenv.True(t, "the prune", func() bool { return count(backupIDs(t, c, ""))["hand"] == 1 })
	if n := count(backupIDs(t, c, "")); n["own"] != 3 {
		t.Errorf("left are %v", n)
	}
	if n := count(backupIDs(t, c, "off")); n["hand"] != 3 {
		t.Errorf("in the repository that is not pruned are left %v", n)
	}
	checkPrunesThemselves(t, c)
}

// checkPrunesThemselves looks how the prunes of TestRepositoryPrunesItself show.
func checkPrunesThemselves(t *testing.T, c *client.Client) {
	t.Helper()
	list, err := c.RepositoryList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	on, off := list.Repositories[0], list.Repositories[1]
	if on.Keep == nil || on.Keep.Last != 1 || on.Prune == nil || on.Prune.Off || on.Prune.Cron != "@every 2s" || on.Prune.NextRun == nil || on.Prune.LastRun == nil {
		t.Errorf("%+v", on)
	} else if r := on.Prune.LastRun; r.State == api.StateFailed || !strings.HasPrefix(r.Session, r.Slot.Format("20060102T150405Z")) {
		t.Errorf("last run: %+v", r)
	}
	if off.Keep == nil || off.Prune == nil || !off.Prune.Off || off.Prune.NextRun != nil || off.Prune.LastRun != nil {
		t.Errorf("%+v", off)
	}
	sessions, err := c.SessionList(t.Context(), api.SessionListRequest{Kind: api.KindPrune, Limit: api.MaxLimit})
	if err != nil {
		t.Fatal(err)
	}
	slots := map[string]bool{}
	for _, s := range sessions.Sessions {
		if s.Tags[api.ScheduleTag] != "" {
			continue
		}
		slot, _, _ := strings.Cut(s.Session, "-")
		if s.Repository != "default" || slots[slot] || s.State == api.StateFailed {
			t.Errorf("%+v", s)
		}
		slots[slot] = true
	}
	if len(slots) == 0 {
		t.Error("no session tells of the prunes")
	}
}
