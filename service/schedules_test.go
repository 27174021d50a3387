package service_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// Three instances run the same schedules on a real server: each slot has one
// session, wherever it ran, and what follows follows. How late a run begins is
// the machine's matter; that it is told truly is ours.
func TestSchedules(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	natstest.MakeStream(t, nc, `{"name":"ORDERS","subjects":["orders.>"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.MakeStream(t, nc, `{"name":"OTHERS","subjects":["others.>"],"storage":"file","retention":"limits","num_replicas":1,"metadata":{"jetkeep.schedule":"often"}}`)
	natstest.MakeStream(t, nc, `{"name":"NOT","subjects":["not.>"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, nc, "orders.x", 50, 100)
	natstest.PublishTo(t, nc, "others.x", 50, 100)
	c := setup(t, server)
	begin := func(i int) *instance {
		own := c
		own.Instance = fmt.Sprintf("i%d", i)
		own.Staging.Dir = t.TempDir()
		return run(t, own, service.Deps{})
	}
	all := []*instance{begin(0), begin(1), begin(2)}
	cl := connect(t, server)
	put, err := cl.SchedulePut(t.Context(), api.Schedule{
		Name: "often", Cron: "@every 2s", Streams: []string{"ORD*"}, Tags: map[string]string{"a": "b"},
		Verify: api.LevelStructure, Drill: true, Keep: &api.Keep{Last: 2}, History: remembered,
	})
	if err != nil || !put.Created || len(put.Next) != 5 || put.Next[1].Time.Sub(put.Next[0].Time) != 2*time.Second {
		t.Fatalf("%+v, %v", put, err)
	}
	eventually(t, "runs have ended", func() bool { return len(scheduleInfo(t, cl, "often").Recent) == remembered })
	if info := scheduleInfo(t, cl, "often"); info.LastSuccess == nil || info.NextRun == nil || len(info.Next) != 5 || info.Target != "default" {
		t.Errorf("%+v", info)
	}
	// Paused, nothing runs any more. Instances hear of it one after the other, so
	// that one of them might begin a run still: one that starts now knows.
	if p, err := cl.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: "often"}); err != nil || len(p.Next) != 0 {
		t.Fatal(p, err)
	}
	rests(t, cl, "often")
	for _, i := range all {
		i.end()
	}
	begin(3)
	paused := rests(t, cl, "often")
	checkRuns(t, cl, paused.Recent)
	last, passed := paused.Recent[0].Slot, time.Now().Add(4*time.Second)
	eventually(t, "slots have passed", func() bool { return time.Now().After(passed) })
	if now := rests(t, cl, "often").Recent[0].Slot; !now.Equal(last) {
		t.Errorf("slot %s ran while the schedule was paused", now)
	}
	// Resumed, nothing is made up for.
	resumed := time.Now()
	if _, err := cl.ScheduleResume(t.Context(), api.ScheduleNameRequest{Name: "often"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs again", func() bool { return scheduleInfo(t, cl, "often").Recent[0].Slot.After(last) })
	if _, err := cl.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: "often"}); err != nil {
		t.Fatal(err)
	}
	again := rests(t, cl, "often")
	for _, r := range again.Recent {
		if r.Slot.After(last) && r.Slot.Before(resumed) {
			t.Errorf("slot %s was made up for", r.Slot)
		}
	}
	checkRuns(t, cl, again.Recent)
	// The history is bounded, and the repository, too.
	eventually(t, "two backups are left", func() bool {
		points, err := cl.BackupList(t.Context(), api.BackupListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return points.Total == 2
	})
	list, err := cl.ScheduleList(t.Context(), api.ScheduleListRequest{})
	if err != nil || list.Total != 1 || list.Schedules[0].Name != "often" {
		t.Error(list, err)
	}
	if _, err := cl.ScheduleDelete(t.Context(), api.ScheduleNameRequest{Name: "often"}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.ScheduleInfo(t.Context(), api.ScheduleNameRequest{Name: "often"}); !api.HasCode(err, api.CodeScheduleNotFound) {
		t.Error(err)
	}
}

func scheduleInfo(t *testing.T, cl *client.Client, name string) *api.ScheduleInfoResponse {
	t.Helper()
	info, err := cl.ScheduleInfo(t.Context(), api.ScheduleNameRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// rests waits until no run of a paused schedule is under way, and says what it is
// then.
func rests(t *testing.T, cl *client.Client, name string) *api.ScheduleInfoResponse {
	t.Helper()
	var info *api.ScheduleInfoResponse
	eventually(t, "nothing runs", func() bool {
		info = scheduleInfo(t, cl, name)
		return info.Running == nil
	})
	return info
}

// remembered is how many runs of the schedule of TestSchedules are remembered.
const remembered = 3

// checkRuns checks the runs of the schedule of TestSchedules, newest first.
func checkRuns(t *testing.T, cl *client.Client, runs []api.ScheduleRun) {
	t.Helper()
	if len(runs) != remembered {
		t.Errorf("%d runs are remembered", len(runs))
	}
	for i, r := range runs {
		if r.State != api.StateSucceeded || r.Reason != "" || r.Manual || len(r.Follow) != 3 || r.Slot.Second()%2 != 0 {
			t.Errorf("%+v", r)
		}
		if late := r.Started.Sub(r.Slot).Seconds(); late < 0 || math.Abs(r.Late-late) > 1e-6 {
			t.Errorf("started %v s after its slot, said to be %v: %+v", late, r.Late, r)
		}
		// Later slots ran later, after the one before had ended.
		if i+1 < len(runs) && (!r.Slot.After(runs[i+1].Slot) || r.Started.Before(*runs[i+1].Ended)) {
			t.Errorf("%+v follows %+v", r, runs[i+1])
		}
		ses, err := cl.SessionInfo(t.Context(), api.SessionInfoRequest{Session: r.Session})
		if err != nil {
			t.Fatal(err)
		}
		var streams []string
		for _, task := range ses.TaskList {
			streams = append(streams, task.Stream)
		}
		slices.Sort(streams)
		if got := strings.Join(streams, ","); got != "ORDERS,OTHERS" || ses.Tags["schedule"] != "often" || ses.Tags["a"] != "b" {
			t.Errorf("session %s backed up %s, tags %v", r.Session, got, ses.Tags)
		}
	}
}

// What runs by hand, and what is refused.
func TestScheduleRequests(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	natstest.MakeStream(t, nc, `{"name":"ORDERS","subjects":["orders.>"],"storage":"file","retention":"limits","num_replicas":1}`)
	run(t, setup(t, server), service.Deps{})
	cl := connect(t, server)
	for field, q := range map[string]api.Schedule{
		"name":        {Name: "no name", Cron: "@daily"},
		"cron":        {Name: "x", Cron: "every day"},
		"zone":        {Name: "x", Cron: "@daily", Zone: "Nowhere"},
		"retry.count": {Name: "x", Cron: "@daily", Retry: &api.ScheduleRetry{Count: -1}},
	} {
		_, err := cl.SchedulePut(t.Context(), q)
		if !api.HasCode(err, api.CodeInvalidRequest) || !strings.Contains(err.Error(), "field "+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := cl.SchedulePut(t.Context(), api.Schedule{Name: "x", Cron: "@daily", Target: "none"}); !api.HasCode(err, api.CodeTargetNotFound) {
		t.Error(err)
	}
	put, err := cl.SchedulePut(t.Context(), api.Schedule{Name: "nightly", Cron: "30 2 * * *", Zone: "Europe/Berlin"})
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range put.Next {
		if !strings.Contains(slot.Local, ":30:00 CE") {
			t.Errorf("%+v", slot)
		}
	}
	a, err := cl.ScheduleTrigger(t.Context(), api.ScheduleNameRequest{Name: "nightly"})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, a.Session, api.StateSucceeded)
	eventually(t, "the run is in the history", func() bool {
		info, err := cl.ScheduleInfo(t.Context(), api.ScheduleNameRequest{Name: "nightly"})
		return err == nil && len(info.Recent) == 1 && info.Recent[0].Manual && info.LastSuccess != nil && info.LastSuccess.Session == a.Session
	})
	again, err := cl.SchedulePut(t.Context(), api.Schedule{Name: "nightly", Cron: "@daily", OptIn: true})
	if err != nil || again.Created {
		t.Error(again, err)
	}
	if _, err := cl.ScheduleTrigger(t.Context(), api.ScheduleNameRequest{Name: "nightly"}); !api.HasCode(err, api.CodeNoStreams) {
		t.Errorf("nobody opted in: %v", err)
	}
}

// What a schedule cannot start is a session that failed, of which an event tells as
// of others.
func TestScheduleCannotStart(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	run(t, setup(t, server), service.Deps{})
	cl := connect(t, server)
	told := make(chan api.Event, 16)
	stop, err := cl.Subscribe("", func(e api.Event) { told <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if _, err := cl.SchedulePut(t.Context(), api.Schedule{Name: "often", Cron: "@every 1s", Streams: []string{"NONE*"}, Tags: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	e := testenv.Receive(t, "an event of the failure", told)
	if e.Event != api.EventFailed || e.Kind != api.KindBackup || e.Target != "default" || e.Tags["schedule"] != "often" || e.Tags["a"] != "b" || !api.HasCode(e.Error, api.CodeNoStreams) {
		t.Errorf("%+v", e)
	}
	ses, err := cl.SessionTasks(t.Context(), e.Session)
	if err != nil || ses.State != api.StateFailed || ses.Tasks.Total != 0 || len(ses.TaskList) != 0 || !api.HasCode(ses.Error, api.CodeNoStreams) {
		t.Errorf("%+v, %v", ses, err)
	}
	eventually(t, "the run is in the history, with its session", func() bool {
		info, err := cl.ScheduleInfo(t.Context(), api.ScheduleNameRequest{Name: "often"})
		return err == nil && len(info.Recent) > 0 && info.Recent[0].State == api.StateFailed && info.Recent[0].Session != ""
	})
}

// Instances say that they live; one that ends in good order leaves.
func TestInstances(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	c := setup(t, server)
	first := run(t, c, service.Deps{})
	other := c
	other.Instance, other.Staging.Dir = "other", t.TempDir()
	run(t, other, service.Deps{})
	cl := connect(t, server)
	// Who has not been heard of for a while, on a machine that stood still, is
	// alive again with its next heartbeat.
	alive := func() string {
		var out []string
		list, err := cl.InstanceList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list.Instances {
			if i.StagingLimit == 0 || i.Started.IsZero() || i.Seen.Before(i.Started) {
				t.Errorf("%+v", i)
			}
			name := i.Instance
			if !i.Alive {
				name += " (silent)"
			}
			out = append(out, name)
		}
		return strings.Join(out, ",")
	}
	eventually(t, "both are listed", func() bool { return alive() == "other,test" })
	first.end()
	eventually(t, "one has left", func() bool { return alive() == "other" })
}
