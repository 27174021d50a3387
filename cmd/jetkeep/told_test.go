package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"jetkeep/service/api"
)

// TestErrorsOfTasksAreToldOnce, with what can be done about them.
func TestErrorsOfTasksAreToldOnce(t *testing.T) {
	full := func(id, stream string) api.TaskView {
		v := taskOf(id, stream, api.StateFailed, 0, 0)
		v.Error = api.Errorf(api.CodeDiskFull, "no room for %s", stream)
		return v
	}
	hint := api.Errorf(api.CodeDiskFull, "").Hint
	count := func(text string, want map[string]int) {
		t.Helper()
		for part, n := range want {
			if got := strings.Count(text, part); got != n {
				t.Errorf("%q is there %d times and not %d:\n%s", part, got, n, text)
			}
		}
	}
	told := func(info *api.SessionInfoResponse) string {
		t.Helper()
		var both bytes.Buffer
		synctest.Test(t, func(t *testing.T) {
			if err := wait(t.Context(), &fakeSessions{info: info}, "S1", stdio{&both, &both}, false); !errors.Is(err, errReported) {
				t.Errorf("%v", err)
			}
		})
		return both.String()
	}
	one := viewOf(api.StateFailed, full("S1.0001", "A"))
	one.Error = api.Errorf(api.CodeDiskFull, "stream A: no room for A")
	count(told(one), map[string]int{"no room for A": 1, hint: 1, "backup S1 failed": 1})
	two := viewOf(api.StateFailed, full("S1.0001", "A"), full("S1.0002", "B"))
	two.Error = api.Errorf(api.CodeTasksFailed, "2 of 2 streams failed, the first one is A: no room for A")
	count(told(two), map[string]int{"no room for A": 1, "no room for B": 1, hint: 1})
	// What is the session's own is told, too.
	own := viewOf(api.StateFailed)
	own.Error = api.Errorf(api.CodeTargetUnavailable, "nobody answers")
	count(told(own), map[string]int{"nobody answers": 1, own.Error.Hint: 1})
	if own.Error.Hint == "" || hint == "" {
		t.Fatal("there are no hints")
	}
}
