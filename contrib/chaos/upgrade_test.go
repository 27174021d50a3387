package chaos_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
)

// upgradeSlot is how far slots are apart: one is left out only if what runs before it
// takes longer than two of these.
const upgradeSlot = 5 * time.Second

// Two instances are replaced one after the other, several times, under load: each
// ends in good order within its bound, no slot is lost or runs twice, and no
// session fails.
func TestRollingUpgrade(t *testing.T) {
	cluster := natstest.StartCluster(t, 3, natstest.Latest)
	nc := cluster.Connect(nats.MaxReconnects(-1))
	for _, name := range []string{"SMALL", "LARGE"} {
		if err := natstest.Eventually(5*time.Minute, func() error {
			return natstest.Request(nc, "STREAM.CREATE."+name, fmt.Sprintf(`{"name":%q,"subjects":["%s.>"],"storage":"file","retention":"limits","num_replicas":1}`, name, strings.ToLower(name)), nil)
		}); err != nil {
			t.Fatal(err)
		}
	}
	natstest.PublishTo(t, nc, "small.x", 100, 100)
	natstest.PublishTo(t, nc, "large.x", 20_000, 2000)
	rest := fmt.Sprintf("repositories { main { path: %q, create: true } }\n", filepath.Join(t.TempDir(), "repository"))
	command := build(t)
	var all []*instance
	for _, name := range []string{"i0", "i1"} {
		x := newInstance(t, command, name, newWay(t, cluster), rest)
		x.start()
		all = append(all, x)
	}
	c, err := client.New(nc, client.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := natstest.Eventually(5*time.Minute, func() error {
		_, err := c.SchedulePut(t.Context(), api.Schedule{Name: "often", Cron: fmt.Sprint("@every ", upgradeSlot), Streams: []string{"SMALL"}, Overlap: api.OverlapQueue, History: 100})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var asked []string
	ask := func() {
		t.Helper()
		if err := natstest.Eventually(5*time.Minute, func() error {
			a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"LARGE"}})
			if err == nil {
				asked = append(asked, a.Session)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	longest := time.Duration(0)
	for range 3 {
		for _, x := range all {
			for range 3 {
				ask()
			}
			begun := time.Now()
			x.kill(syscall.SIGTERM)
			longest = max(longest, time.Since(begun))
			time.Sleep(time.Second) // the time that a new version takes to be there
			x.start()
			time.Sleep(3 * time.Second)
		}
	}
	var info *api.ScheduleInfoResponse
	if err := natstest.Eventually(5*time.Minute, func() (err error) {
		if info, err = c.ScheduleInfo(t.Context(), api.ScheduleNameRequest{Name: "often"}); err == nil && len(info.Recent) < 12 {
			err = fmt.Errorf("%d slots ran", len(info.Recent))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: "often"}); err != nil {
		t.Fatal(err)
	}
	if err := natstest.Eventually(5*time.Minute, func() (err error) {
		if info, err = c.ScheduleInfo(t.Context(), api.ScheduleNameRequest{Name: "often"}); err == nil && info.Running != nil {
			err = fmt.Errorf("it still runs")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	late := checkSlots(t, info)
	for _, id := range asked {
		if err := natstest.Eventually(5*time.Minute, func() error {
			r, err := c.SessionInfo(t.Context(), api.SessionInfoRequest{Session: id})
			if err == nil && r.State != api.StateSucceeded {
				err = fmt.Errorf("session %s is %s: %v", id, r.State, r.Error)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d slots, at most %.1f s late; %d sessions asked for; an instance ended within %s", len(info.Recent), late, len(asked), longest.Round(time.Millisecond))
	if longest > time.Minute {
		t.Errorf("an instance took %s to end", longest)
	}
}

// checkSlots looks whether each slot ran, once and in one attempt, and returns how
// late they began at most.
func checkSlots(t *testing.T, info *api.ScheduleInfoResponse) (late float64) {
	t.Helper()
	slices.SortFunc(info.Recent, func(a, b api.ScheduleRun) int { return a.Slot.Compare(b.Slot) })
	for i, r := range info.Recent {
		late = max(late, r.Late)
		if r.State != api.StateSucceeded || r.Attempt != 1 {
			t.Errorf("slot %s: %+v", r.Slot, r)
		}
		if i > 0 && r.Slot.Sub(info.Recent[i-1].Slot) != upgradeSlot {
			t.Errorf("after slot %s comes %s", info.Recent[i-1].Slot, r.Slot)
		}
	}
	if info.LastSkipped != nil {
		t.Errorf("slots were left out: %+v", info.LastSkipped)
	}
	return late
}
