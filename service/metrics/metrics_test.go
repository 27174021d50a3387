package metrics_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"jetkeep/service/api"
	"jetkeep/service/metrics"
	"jetkeep/store/object/observe"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// filled returns metrics each of which has a value.
func filled(now time.Time) *metrics.Metrics {
	m := metrics.New(metrics.Options{Version: "1.2.3", Streams: 2, Now: func() time.Time { return now }})
	one := func() float64 { return 1 }
	m.Watch(metrics.Gauges{Running: one, StagingUsed: one, StagingLimit: one, Differ: one})
	m.SessionEnded(metrics.Session{Kind: api.KindBackup, State: api.StateSucceeded, Started: now.Add(-2 * time.Second), Ended: now})
	for i := range 4 {
		m.TaskEnded(metrics.Task{
			Kind: api.KindBackup, State: api.StateSucceeded, Target: "t", Stream: fmt.Sprint("S", i), Repository: "r",
			Attempts: 3, Started: now.Add(-time.Minute), Ended: now.Add(-50 * time.Second), Read: 100, Stored: 50, Uploaded: 10,
		})
	}
	m.Store("r", observe.Operation{Op: observe.Put, Result: observe.OK, Bytes: 7, Count: 1, Took: time.Second})
	m.StoreRetried("r")
	m.HookCalled("pause", api.HookBefore, api.Errorf(api.CodeHookAborted, "no"))
	m.Notified("chat", errors.New("away"))
	m.Queued(5)
	m.Surveyed("empty", now, nil)
	for i := range 102 {
		m.ScheduleLate(fmt.Sprint("s", i), time.Second)
	}
	m.RepositoryRefused("local", true)
	m.SlotsLeftOut("s0", 3)
	return m
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestValues(t *testing.T) {
	t.Parallel()
	text := scrape(t, filled(time.Unix(1_800_000_000, 0)).Handler())
	for _, want := range []string{
		`jetkeep_build_info{version="1.2.3"} 1`,
		`jetkeep_sessions_total{kind="backup",result="succeeded"} 1`,
		`jetkeep_session_duration_seconds_sum{kind="backup",result="succeeded"} 2`,
		`jetkeep_tasks_total{kind="backup",result="succeeded"} 4`,
		`jetkeep_task_retries_total{kind="backup"} 8`,
		`jetkeep_read_bytes_total{kind="backup"} 400`,
		`jetkeep_stored_bytes_total{kind="backup"} 200`,
		`jetkeep_uploaded_bytes_total{kind="backup"} 40`,
		`jetkeep_last_success_timestamp_seconds{repository="r",stream="S0",target="t"} 1.79999995e+09`,
		`jetkeep_restore_point_age_seconds{repository="r",stream="S1",target="t"} 60`,
		`jetkeep_restore_point_age_seconds{repository="_other",stream="_other",target="_other"} 60`,
		`jetkeep_labels_dropped_total{label="stream"} 2`,
		`jetkeep_labels_dropped_total{label="schedule"} 2`,
		`jetkeep_schedule_lateness_seconds_count{schedule="_other"} 2`,
		`jetkeep_schedule_left_out_slots_total{schedule="s0"} 3`,
		`jetkeep_queue_tasks 5`,
		`jetkeep_store_operations_total{operation="put",repository="r",result="ok"} 1`,
		`jetkeep_store_operation_duration_seconds_sum{operation="put",repository="r"} 1`,
		`jetkeep_store_retries_total{repository="r"} 1`,
		`jetkeep_store_bytes_total{operation="put",repository="r"} 7`,
		`jetkeep_hooks_total{hook="pause",result="aborted",when="before"} 1`,
		`jetkeep_notifications_total{notification="chat",result="failed"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, `stream="S2"`) || strings.Contains(text, `schedule="s100"`) {
		t.Error("labels are above their bound")
	}
}

// TestReference: METRICS.md has each metric with its type and labels, and no
// other.
func TestReference(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, shown []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(jetkeep_[a-z_]+)` \\| ([a-z]+) \\| ([^|]*)\\|").FindAllStringSubmatch(string(b), -1) {
		labels := regexp.MustCompile("[a-z]+").FindAllString(m[3], -1)
		slices.Sort(labels)
		documented = append(documented, fmt.Sprint(m[1], m[2], labels))
	}
	m := filled(time.Now())
	gone := metrics.NewPusher(m, "http://127.0.0.1:1", "i")
	gone.Wake()
	ended, end := context.WithCancel(t.Context())
	end()
	gone.Run(ended, func(error) {})
	text := scrape(t, m.Handler())
	for _, typ := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(text, -1) {
		sample := regexp.MustCompile(`(?m)^` + typ[1] + `(?:_sum)?(?:\{(.*)\})? `).FindStringSubmatch(text)
		labels := []string{}
		for _, l := range regexp.MustCompile(`([a-z]+)="`).FindAllStringSubmatch(sample[1], -1) {
			labels = append(labels, l[1])
		}
		slices.Sort(labels)
		shown = append(shown, fmt.Sprint(typ[1], typ[2], labels))
	}
	slices.Sort(documented)
	slices.Sort(shown)
	if len(shown) < 20 || !slices.Equal(documented, shown) {
		t.Errorf("METRICS.md says\n%s\nand there are\n%s", strings.Join(documented, "\n"), strings.Join(shown, "\n"))
	}
}

// TestPromtool: Prometheus's own tool has nothing to complain of.
func TestPromtool(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	cmd := exec.CommandContext(ctx, "promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t, filled(time.Now()).Handler()))
	if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"9464": "127.0.0.1:9464", ":9464": "127.0.0.1:9464", "0.0.0.0:1": "0.0.0.0:1", "[::]:2": "[::]:2",
		"host": "", "a:b": "", "70000": "", "1:2:3": "",
	} {
		got, err := metrics.Address(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v", in, got, err)
		}
	}
}

func get(t *testing.T, url string) (int, string) {
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
	b, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestServer(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	s, err := metrics.Listen(ctx, "0", filled(time.Now()), metrics.Checks{
		Healthy: func() error { return nil }, Ready: func() error { return errors.New("not yet") },
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	at := "http://" + s.Addr()
	if code, text := get(t, at+"/metrics"); code != 200 || !strings.Contains(text, "jetkeep_queue_tasks 5") {
		t.Error(code, text)
	}
	if code, text := get(t, at+"/healthz"); code != 200 || text != "ok\n" {
		t.Error(code, text)
	}
	if code, text := get(t, at+"/readyz"); code != 503 || text != "not yet\n" {
		t.Error(code, text)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c, err := net.DialTimeout("tcp", s.Addr(), time.Second); err == nil {
		_ = c.Close()
		t.Error("it still listens")
	}
}

// Restore points that a repository has not any more are forgotten, those that
// were made since it was asked are not.
func TestSurveyed(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	m := metrics.New(metrics.Options{Streams: 5, Now: func() time.Time { return now }})
	point := func(stream, repository string, ago time.Duration) metrics.Point {
		return metrics.Point{Target: "t", Stream: stream, Repository: repository, Begun: now.Add(-ago), Ended: now.Add(-ago)}
	}
	m.Point(point("GONE", "r", time.Hour))
	m.Point(point("GONE", "other", time.Hour))
	m.Point(point("NEW", "r", time.Second))
	m.Point(point("KEPT", "r", time.Hour))
	m.Surveyed("r", now.Add(-time.Minute), []metrics.Point{point("KEPT", "r", 2*time.Hour), point("OLD", "r", 3*time.Hour), point("OLD", "r", 30*time.Minute), point("OLD", "r", 4*time.Hour)})
	text := scrape(t, m.Handler())
	if !strings.Contains(text, `jetkeep_restore_points{repository="r"} 4`+"\n") {
		t.Error("4 restore points are not counted")
	}
	for series, want := range map[string]string{"GONE/r": "", "GONE/other": "3600", "NEW/r": "1", "KEPT/r": "3600", "OLD/r": "1800"} {
		stream, repository, _ := strings.Cut(series, "/")
		got := regexp.MustCompile(`jetkeep_restore_point_age_seconds\{repository="` + repository + `",stream="` + stream + `",target="t"\} (.*)`).FindStringSubmatch(text)
		if want == "" && got != nil || want != "" && (got == nil || got[1] != want) {
			t.Errorf("%s: %q, should be %s", series, got, want)
		}
	}
}

// What shares the labels above the bound is forgotten like the rest, and what of
// it gets labels of its own when there is room is not shown twice.
func TestSurveyedAboveTheBound(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	m := metrics.New(metrics.Options{Streams: 1, Now: func() time.Time { return now }})
	point := func(stream string) metrics.Point {
		return metrics.Point{Target: "t", Stream: stream, Repository: "r", Begun: now.Add(-time.Hour), Ended: now.Add(-time.Hour)}
	}
	for i, left := range [][]metrics.Point{{point("A"), point("B")}, {point("B")}, {}} {
		m.Surveyed("r", now, left)
		if n := strings.Count(scrape(t, m.Handler()), "jetkeep_restore_point_age_seconds{"); n != len(left) {
			t.Errorf("%d: there are %d series, of %d streams", i, n, len(left))
		}
	}
}
