package scheduler

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/service/api"
)

// Two that were triggered in the same second have a verification each: the first
// one's proves nothing about the second backup.
func TestTriggerTwiceInASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemory(), newSessions()
		m.put(t, api.Schedule{Name: "x", Cron: "@yearly", Verify: api.LevelData, Keep: &api.Keep{Last: 1}})
		def, err := Parse(m.specs["x"])
		if err != nil {
			t.Fatal(err)
		}
		defer run(t, m, s, 1)()
		for range 2 {
			synctest.Wait()
			if _, err := newScheduler(m, s, Options{}).Trigger(t.Context(), def); err != nil {
				t.Fatal(err)
			}
			for st := m.state(t, "x"); st.Running != nil; st = m.state(t, "x") {
				time.Sleep(10 * time.Millisecond)
				m.change(def.Schedule) // has it looked at
			}
		}
		want := "backup 00:00:00 1, verify 00:00:00 1, prune 00:00:00 1"
		if got := strings.Join(s.started("x"), ", "); got != want+", "+want {
			t.Errorf("started %s", got)
		}
	})
}
