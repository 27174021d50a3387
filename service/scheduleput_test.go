package service_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
)

// putRaw sends a body as `nats req` does.
func putRaw(t *testing.T, c *client.Client, body string) (*api.SchedulePutResponse, error) {
	t.Helper()
	raw, err := c.Raw(t.Context(), api.SchedulePut, []byte(body))
	if err != nil {
		return nil, err
	}
	r := new(api.SchedulePutResponse)
	if err := json.Unmarshal(raw, r); err != nil {
		t.Fatal(err)
	}
	return r, nil
}

func changesOf(r *api.SchedulePutResponse) string {
	var out []string
	for _, c := range r.Changes {
		out = append(out, fmt.Sprintf("%s %s -> %s", c.Field, c.From, c.To))
	}
	return strings.Join(out, ", ")
}

const wholeSchedule = `{"name":"nightly","cron":"30 2 * * *","zone":"Europe/Berlin","paused":true,"streams":["ORD*"],"exclude":["ORDERS_OLD"],
	"tags":{"a":"1","b.c":"2"},"overlap":"queue","retry":{"count":3,"delay":"2m"},"verify":"data","drill":true,
	"keep":{"last":5,"daily":14,"zone":"Europe/Berlin"},"history":20,"timeout":"2h"}`

// What is put over a schedule changes what is given and nothing else, and the answer
// says what that was.
func TestPutChangesWhatIsGiven(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	run(t, setup(t, server), service.Deps{})
	c := connect(t, server)
	first, err := putRaw(t, c, wholeSchedule)
	if err != nil || !first.Created || first.Revision == 0 || len(first.Changes) != 19 || first.Schedule.Target != "default" {
		t.Fatalf("%+v %v", first, err)
	}
	last := first
	for _, step := range []struct{ body, changes string }{
		{`{"name":"nightly"}`, ""},
		{`{"name":"nightly","cron":"@daily","zone":null}`, "cron 30 2 * * * -> @daily"},
		{`{"name":"nightly","zone":"Asia/Tokyo","tags":{"d":"3"}}`, "zone Europe/Berlin -> Asia/Tokyo, tags.d  -> 3"},
		{`{"name":"nightly","keep":{"daily":7,"weekly":4}}`, "keep.daily 14 -> 7, keep.weekly  -> 4"},
		{`{"name":"nightly","keep":{"daily":0}}`, "keep.daily 7 -> "},
		{`{"name":"nightly","paused":false,"streams":[],"drill":false,"verify":""}`, `paused true -> , streams ["ORD*"] -> , verify data -> , drill true -> `},
		{`{"name":"nightly","reset":["keep.weekly","tags.b.c","retry","timeout"],"timeout":"1h"}`,
			"tags.b.c 2 -> , timeout 2h -> 1h, retry.count 3 -> , retry.delay 2m -> , keep.weekly 4 -> "},
		{`{"name":"nightly","reset":["keep"],"keep":{"monthly":12}}`, "keep.last 5 -> , keep.monthly  -> 12, keep.zone Europe/Berlin -> "},
	} {
		r, err := putRaw(t, c, step.body)
		if err != nil || r.Created || changesOf(r) != step.changes {
			t.Fatalf("%s: changes %q, %v", step.body, changesOf(r), err)
		}
		info := scheduleInfo(t, c, "nightly")
		if r.Revision <= last.Revision || info.Revision != r.Revision || !reflect.DeepEqual(info.Schedule, r.Schedule) {
			t.Errorf("%s: %+v, and info has %+v", step.body, r, info)
		}
		last = r
	}
	// All of it, but for what pausing did.
	if _, err := c.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: "nightly"}); err != nil {
		t.Fatal(err)
	}
	r, err := putRaw(t, c, `{"name":"nightly","replace":true,"cron":"@weekly","history":20}`)
	want := api.Schedule{Name: "nightly", Cron: "@weekly", Paused: true, Target: "default", Repository: "default", History: 20}
	if err != nil || !reflect.DeepEqual(r.Schedule, want) {
		t.Errorf("%+v %v", r.Schedule, err)
	}
	if r, err = putRaw(t, c, `{"name":"nightly","replace":true,"cron":"@weekly","paused":false}`); err != nil || r.Schedule.Paused || len(r.Next) != 5 {
		t.Errorf("%+v %v", r, err)
	}
}

// What makes no sense changes nothing, and neither does a dry run or who has seen
// an earlier revision.
func TestPutRefuses(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	run(t, setup(t, server), service.Deps{})
	c := connect(t, server)
	first, err := putRaw(t, c, wholeSchedule)
	if err != nil {
		t.Fatal(err)
	}
	for body, field := range map[string]string{
		`{"name":"nightly","zone":"Nowhere"}`:                               "zone",
		`{"name":"nightly","reset":["name"]}`:                               "reset[0]",
		`{"name":"nightly","reset":["zone","nothing"]}`:                     "reset[1]",
		`{"name":"nightly","reset":["keep.nothing"]}`:                       "reset[0]",
		`{"name":"nightly","reset":["cron"]}`:                               "cron",
		`{"name":"nightly","reset":["keep.last","keep.daily"]}`:             "keep",
		`{"name":"nightly","keep":{"last":0,"daily":0,"zone":""}}`:          "keep",
		`{"name":"nightly","retry":{"count":0}}`:                            "retry.count",
		`{"name":"nightly","replace":true,"zone":"Asia/Tokyo"}`:             "cron",
		`{"name":"other","zone":"Asia/Tokyo"}`:                              "cron",
		`{"name":"nightly","tags":{"schedule":"x"}}`:                        "tags.schedule",
		fmt.Sprintf(`{"name":"nightly","revision":%d}`, first.Revision+1e6): "revision",
		`{"name":"nightly","revision":0}`:                                   "revision",
		`{"name":"none","revision":1,"cron":"@daily"}`:                      "revision",
	} {
		_, err := putRaw(t, c, body)
		code := api.CodeInvalidRequest
		if field == "revision" {
			code = api.CodeConflict
		}
		var e *api.Error
		if !errors.As(err, &e) || e.ErrCode != code || e.Field != field {
			t.Errorf("%s: %v", body, err)
		}
	}
	if _, err := putRaw(t, c, `{"name":"nightly","target":"none"}`); !api.HasCode(err, api.CodeTargetNotFound) {
		t.Error(err)
	}
	dry, err := putRaw(t, c, `{"name":"nightly","zone":"Asia/Tokyo","dry_run":true}`)
	if err != nil || !dry.DryRun || changesOf(dry) != "zone Europe/Berlin -> Asia/Tokyo" || dry.Revision != first.Revision {
		t.Errorf("%+v %v", dry, err)
	}
	if dry, err := putRaw(t, c, `{"name":"other","cron":"@daily","dry_run":true}`); err != nil || !dry.Created {
		t.Errorf("%+v %v", dry, err)
	}
	list, err := c.ScheduleList(t.Context(), api.ScheduleListRequest{})
	if err != nil || list.Total != 1 || list.Schedules[0].Revision != first.Revision || !reflect.DeepEqual(list.Schedules[0].Schedule, first.Schedule) {
		t.Errorf("%+v %v", list, err)
	}
	if r, err := putRaw(t, c, fmt.Sprintf(`{"name":"nightly","history":5,"revision":%d}`, first.Revision)); err != nil || r.Schedule.History != 5 {
		t.Errorf("%+v %v", r, err)
	}
	if r, err := putRaw(t, c, `{"name":"other","cron":"@daily","revision":0}`); err != nil || !r.Created {
		t.Errorf("%+v %v", r, err)
	}
}

// Several who change the same schedule at once lose nothing of each other.
func TestPutBesideOthers(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	run(t, setup(t, server), service.Deps{})
	c := connect(t, server)
	putSchedule(t, c, api.Schedule{Name: "x"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			q := api.SchedulePutRequest{Schedule: api.Schedule{Name: "x", Tags: map[string]string{fmt.Sprint("t", i): "1"}}}
			if _, err := c.ScheduleChange(t.Context(), q); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := scheduleInfo(t, c, "x").Tags; len(got) != 8 {
		t.Errorf("%v", got)
	}
}

// Whoever makes or changes a schedule is told what forgets its restore points, and
// how many of an earlier one of that name come under it.
func TestPutSaysWhatForgets(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	cfg.Repositories = append(cfg.Repositories, cfg.Repositories[0])
	cfg.Repositories[1].Name, cfg.Repositories[1].Path = "kept", t.TempDir()
	cfg.Repositories[1].Keep = &api.Keep{Last: 3}
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	points := func(p *api.SchedulePolicy) int {
		if p.Points == nil {
			return -1
		}
		return *p.Points
	}
	if p := putSchedule(t, c, api.Schedule{Name: "x"}).Policy; p == nil || p.Policy != api.PolicyNone || p.Points != nil {
		t.Errorf("%+v", p)
	}
	runNow(t, c, "x")
	if _, err := c.ScheduleDelete(t.Context(), api.ScheduleNameRequest{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	backUp(t, c)
	if p := putSchedule(t, c, api.Schedule{Name: "x", Keep: &api.Keep{Last: 2}}).Policy; p.Policy != api.PolicySchedule || points(p) != 2 ||
		!strings.Contains(p.Text, "tag schedule=x") || !strings.Contains(p.Text, "There are 2 of this schedule") {
		t.Errorf("%+v", p)
	}
	if p := putSchedule(t, c, api.Schedule{Name: "y", Repository: "kept"}).Policy; p.Policy != api.PolicyRepository || points(p) != 0 || !strings.Contains(p.Text, "repository kept") {
		t.Errorf("%+v", p)
	}
}
