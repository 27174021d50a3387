package service_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/metrics/gatewaytest"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Timeout: testenv.Hang, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// soon waits until a page shows all of the texts, with the status.
func soon(t *testing.T, url string, code int, want ...string) {
	t.Helper()
	testenv.Until(t, url, func() error {
		got, text := fetch(t, url)
		missing := ""
		for _, w := range want {
			if !strings.Contains(text, w) {
				missing = w
			}
		}
		if got == code && missing == "" {
			return nil
		}
		return fmt.Errorf("it answers %d without %q:\n%s", got, missing, text)
	})
}

// TestMetrics: a backup is counted where it is asked for and where it is
// pushed to, and the loss of NATS makes the instance unready and not unhealthy.
func TestMetrics(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	gateway := gatewaytest.Start(t)
	js, err := jetstream.New(server.Connect())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	natstest.PublishTo(t, js.Conn(), "orders.new", 100, 100)
	c := setup(t, server)
	c.Metrics.Listen, c.Metrics.PushURL = "0", gateway.URL
	i := run(t, c, service.Deps{})
	at := "http://" + i.svc.MetricsAddr()
	soon(t, at+"/readyz", 200, "ok")
	cl := connect(t, server)
	asked := time.Now() // before the restore point's moment, as done is after it
	r, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"ORDERS"}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, r.Session, api.StateSucceeded)
	done := time.Now()
	soon(t, at+"/metrics", 200,
		`jetkeep_sessions_total{kind="backup",result="succeeded"} 1`,
		`jetkeep_tasks_total{kind="backup",result="succeeded"} 1`,
		`jetkeep_last_success_timestamp_seconds{repository="default",stream="ORDERS",target="default"}`,
		`jetkeep_store_operations_total{operation="put",repository="default",result="ok"}`,
		`jetkeep_staging_limit_bytes 2.147483648e+09`)
	soon(t, gateway.URL+"/metrics", 200, `jetkeep_sessions_total{instance="test",job="jetkeep",kind="backup",result="succeeded"} 1`)
	// Another instance shows what this one made, before it began and after.
	other := c
	other.Instance, other.Staging.Dir = "other", t.TempDir()
	elsewhere := "http://" + run(t, other, service.Deps{}).svc.MetricsAddr()
	age := regexp.MustCompile(`jetkeep_restore_point_age_seconds\{repository="default",stream="ORDERS",target="default"\} ([0-9.e-]+)`)
	seconds := func(at string) float64 {
		soon(t, at+"/metrics", 200, `jetkeep_restore_point_age_seconds{repository="default",stream="ORDERS",target="default"}`)
		_, text := fetch(t, at+"/metrics")
		s, err := strconv.ParseFloat(age.FindStringSubmatch(text)[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, at := range []string{at, elsewhere} {
		least := time.Since(done).Seconds()
		age := seconds(at)
		if most := time.Since(asked).Seconds(); age < least || age > most {
			t.Errorf("%s: the age is %v s, not between %v and %v", at, age, least, most)
		}
	}
	asked = time.Now()
	if r, err = cl.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"ORDERS"}}); err != nil {
		t.Fatal(err)
	}
	wait(t, cl, r.Session, api.StateSucceeded)
	for _, at := range []string{at, elsewhere} {
		eventually(t, "the age is that of the new restore point", func() bool { return seconds(at) <= time.Since(asked).Seconds() })
	}
	// One that announced none of the sessions pushes what it counted, too.
	soon(t, gateway.URL+"/metrics", 200, `jetkeep_build_info{instance="other",job="jetkeep"`)
	eventually(t, "the stats say that nothing is done", func() bool {
		answer, err := js.Conn().Request("$SRV.STATS.jetkeep", nil, testenv.Hang)
		return err == nil && strings.Contains(string(answer.Data), `"running_tasks":0,"staging_used":0`)
	})
	server.Stop()
	soon(t, at+"/readyz", 503, "not connected to NATS")
	soon(t, at+"/healthz", 200, "ok")
	soon(t, at+"/metrics", 200, "\njetkeep_queue_tasks NaN\n")
}

// TestSchedulesAreMeasured: how late a run was, and the slots that pass while it
// lasts.
func TestSchedulesAreMeasured(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	shop(t, nc)
	c := setup(t, server)
	c.Metrics.Listen = "0"
	c.Hooks = []config.Hook{hook("lasts", "before", "session", config.Call{Subject: "lasts"})}
	answer := make(chan *nats.Msg, 1)
	if _, err := nc.ChanSubscribe("lasts", answer); err != nil {
		t.Fatal(err)
	}
	at := "http://" + run(t, c, service.Deps{}).svc.MetricsAddr() + "/metrics"
	cl := connect(t, server)
	if _, err := cl.SchedulePut(t.Context(), api.Schedule{Name: "often", Cron: "@every 1s", Streams: []string{"A"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "slots are left out", func() bool {
		k := scheduleInfo(t, cl, "often").LastSkipped
		return k != nil && k.Count >= 3
	})
	if _, err := cl.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: "often"}); err != nil {
		t.Fatal(err)
	}
	// On a slow machine some were left out for another reason before.
	leftOut := regexp.MustCompile(`jetkeep_schedule_left_out_slots_total\{schedule="often"\} ([0-9]+)\n`)
	eventually(t, "all slots that were left out are counted", func() bool {
		_, text := fetch(t, at)
		m := leftOut.FindStringSubmatch(text)
		if m == nil {
			return false
		}
		n, err := strconv.Atoi(m[1])
		return err == nil && n >= scheduleInfo(t, cl, "often").LastSkipped.Count
	})
	soon(t, at, 200, `jetkeep_schedule_lateness_seconds_count{schedule="often"} 1`)
	if err := (<-answer).Respond(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the run has succeeded", func() bool { return scheduleInfo(t, cl, "often").LastSuccess != nil })
}
