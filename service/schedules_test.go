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
)

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatal("it never came to be that " + what)
}

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
	for i := range 3 {
		own := c
		own.Instance = fmt.Sprintf("i%d", i)
		own.Staging.Dir = t.TempDir()
		run(t, own, service.Deps{})
	}
	cl := connect(t, server)
	put, err := cl.SchedulePut(t.Context(), api.Schedule{
		Name: "often", Cron: "@every 2s", Streams: []string{"ORD*"}, Tags: map[string]string{"a": "b"},
		Verify: api.LevelStructure, Drill: true, Keep: &api.Keep{Last: 2}, History: 5,
	})
	if err != nil || !put.Created || len(put.Next) != 5 || put.Next[1].Time.Sub(put.Next[0].Time) != 2*time.Second {
		t.Fatalf("%+v, %v", put, err)
	}
	eventually(t, "five runs have ended", func() bool { return len(scheduleInfo(t, cl, "often").Recent) == 5 })
	if info := scheduleInfo(t, cl, "often"); info.LastSuccess == nil || info.NextRun == nil || len(info.Next) != 5 || info.Target != "default" {
		t.Errorf("%+v", info)
	}
	// Paused, nothing runs any more, so that what ran stays to be looked at.
	if p, err := cl.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: "often"}); err != nil || len(p.Next) != 0 {
		t.Fatal(p, err)
	}
	paused := rests(t, cl, "often")
	checkRuns(t, cl, paused.Recent)
	// Resumed, nothing is made up for.
	last, resumed := paused.Recent[0].Slot, time.Now()
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
	points, err := cl.BackupList(t.Context(), api.BackupListRequest{})
	if err != nil || points.Total != 2 {
		t.Errorf("%d backups are left: %v", points.Total, err)
	}
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

// rests waits until a paused schedule of every two seconds has let two slots
// pass, and says what it is then. Instances hear of the pause one after the
// other.
func rests(t *testing.T, cl *client.Client, name string) *api.ScheduleInfoResponse {
	t.Helper()
	var info *api.ScheduleInfoResponse
	since := time.Now()
	eventually(t, "nothing runs", func() bool {
		before := info
		info = scheduleInfo(t, cl, name)
		if info.Running != nil || before == nil || !info.Recent[0].Slot.Equal(before.Recent[0].Slot) {
			since = time.Now()
		}
		return time.Since(since) > 5*time.Second
	})
	return info
}

// checkRuns checks five runs of the schedule of TestSchedules, newest first.
func checkRuns(t *testing.T, cl *client.Client, runs []api.ScheduleRun) {
	t.Helper()
	if len(runs) != 5 {
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
	select {
	case e := <-told:
		if e.Event != api.EventFailed || e.Kind != api.KindBackup || e.Target != "default" || e.Tags["schedule"] != "often" || e.Tags["a"] != "b" || !api.HasCode(e.Error, api.CodeNoStreams) {
			t.Errorf("%+v", e)
		}
		ses, err := cl.SessionTasks(t.Context(), e.Session)
		if err != nil || ses.State != api.StateFailed || ses.Tasks.Total != 0 || len(ses.TaskList) != 0 || !api.HasCode(ses.Error, api.CodeNoStreams) {
			t.Errorf("%+v, %v", ses, err)
		}
	case <-time.After(patience):
		t.Fatal("nothing tells of it")
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
	names := func() (out []string) {
		list, err := cl.InstanceList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list.Instances {
			out = append(out, i.Instance)
			if !i.Alive || i.StagingLimit == 0 || i.Started.IsZero() || time.Since(i.Seen) > time.Minute {
				t.Errorf("%+v", i)
			}
		}
		return out
	}
	eventually(t, "both are listed", func() bool { return strings.Join(names(), ",") == "other,test" })
	first.end()
	eventually(t, "one has left", func() bool { return strings.Join(names(), ",") == "other" })
}
