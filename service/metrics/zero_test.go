package metrics_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/metrics"
	"jetkeep/store/object/observe"
)

func configured() *metrics.Metrics {
	return metrics.New(metrics.Options{
		Repositories: []string{"r"}, Notifications: []string{"chat"},
		Hooks: []metrics.Hook{{Name: "pause", When: api.HookBefore}, {Name: "resume", When: api.HookAfter}},
	})
}

// TestCountersBeginAtZero: an alert on the increase of a counter sees its first one
// only if the series was there before.
func TestCountersBeginAtZero(t *testing.T) {
	m := configured()
	m.ScheduleKnown("nightly")
	text := scrape(t, m.Handler())
	b, err := os.ReadFile("METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	counters := regexp.MustCompile("(?m)^\\| `(jetkeep_[a-z_]+)` \\| counter ").FindAllStringSubmatch(string(b), -1)
	if len(counters) < 10 {
		t.Fatalf("METRICS.md has %d counters", len(counters))
	}
	for _, c := range counters {
		if !regexp.MustCompile(`(?m)^` + c[1] + `\{.*\} 0$`).MatchString(text) {
			t.Errorf("%s does not begin at 0", c[1])
		}
	}
	want := []string{
		`jetkeep_hooks_total{hook="pause",result="aborted",when="before"}`,
		`jetkeep_hooks_total{hook="pause",result="failed",when="before"}`,
		`jetkeep_hooks_total{hook="resume",result="failed",when="after"}`,
		`jetkeep_notifications_total{notification="chat",result="failed"}`,
		`jetkeep_pushes_total{result="failed"}`,
		`jetkeep_schedule_left_out_slots_total{schedule="nightly"}`,
		`jetkeep_labels_dropped_total{label="schedule"}`,
		`jetkeep_labels_dropped_total{label="stream"}`,
	}
	for _, kind := range api.Kinds() {
		for _, result := range []string{"succeeded", "partial", "failed", "cancelled", "skipped"} {
			want = append(want, `jetkeep_sessions_total{kind="`+string(kind)+`",result="`+result+`"}`)
		}
		want = append(want, `jetkeep_tasks_total{kind="`+string(kind)+`",result="failed"}`, `jetkeep_task_retries_total{kind="`+string(kind)+`"}`)
	}
	for _, op := range observe.Operations() {
		for _, result := range observe.Results() {
			want = append(want, `jetkeep_store_operations_total{operation="`+op+`",repository="r",result="`+result+`"}`)
		}
	}
	for _, series := range want {
		if !strings.Contains(text, series+" 0\n") {
			t.Errorf("%s does not begin at 0", series)
		}
	}
}

// TestOneSpelling: what is asked for is the same word in every label.
func TestOneSpelling(t *testing.T) {
	if text := scrape(t, configured().Handler()); strings.Contains(text, "canceled") || !strings.Contains(text, `result="cancelled"`) {
		t.Error("there are two spellings of cancelled")
	}
}

// TestRestorePointsAreCounted between the looks into a repository, too.
func TestRestorePointsAreCounted(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := configured()
	point := func(id string, at time.Time) metrics.Point {
		return metrics.Point{ID: id, Target: "t", Stream: "S", Repository: "r", Begun: at, Ended: at}
	}
	check := func(what, want string) {
		t.Helper()
		got := regexp.MustCompile(`jetkeep_restore_points\{repository="r"\} (.*)`).FindStringSubmatch(scrape(t, m.Handler()))
		if want == "" && got != nil || want != "" && (got == nil || got[1] != want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	m.Point(point("early", now.Add(-time.Second)))
	if check("before it was looked into", ""); m.Counted("r") {
		t.Error("it is counted")
	}
	m.Surveyed("r", now, []metrics.Point{point("early", now.Add(-time.Second)), point("old", now.Add(-time.Hour))})
	check("after a look", "2")
	m.Point(point("new", now.Add(time.Second)))
	m.Point(point("new", now.Add(time.Second)))
	m.Point(point("newer", now.Add(2*time.Second)))
	check("two were made, of one of which was heard twice", "4")
	m.Forgot("r", 1, now.Add(3*time.Second))
	check("one was forgotten", "3")
	m.Forgot("r", 1, now.Add(-time.Second))
	check("one was forgotten before the look", "3")
	m.Surveyed("r", now.Add(1500*time.Millisecond), []metrics.Point{point("old", now.Add(-time.Hour))})
	check("a look that one of two was made after", "2")
	m.Forgot("r", 9, now.Add(time.Minute))
	check("never less than nothing", "0")
	for i := range 25_000 {
		m.Point(point(string(rune(i+0x10000)), now.Add(time.Hour)))
	}
	check("more than are remembered by id", "25000")
}
