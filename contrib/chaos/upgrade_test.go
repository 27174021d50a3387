package chaos_test

import (
	"errors"
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
	"jetkeep/store/testenv"
)

// upgradeSlot is how far slots are apart.
const upgradeSlot = 3 * time.Second

// Two instances are replaced one after the other, several times, under load: each
// ends in good order, no slot is lost or runs twice, and no session fails.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	rounds, slots := 2, 8
	if testenv.Campaign() {
		rounds, slots = 5, 20
	}
	cluster := natstest.StartCluster(t, 3, natstest.Latest)
	nc := cluster.Connect(nats.MaxReconnects(-1))
	for _, name := range []string{"SMALL", "LARGE"} {
		config := fmt.Sprintf(`{"name":%q,"subjects":["%s.>"],"storage":"file","retention":"limits","num_replicas":1}`, name, strings.ToLower(name))
		testenv.Until(t, "the stream "+name, func() error { return natstest.Request(nc, "STREAM.CREATE."+name, config, nil) })
	}
	natstest.PublishTo(t, nc, "small.x", 100, 100)
	natstest.PublishTo(t, nc, "large.x", 20_000, 2000)
	rest := fmt.Sprintf("repositories { main { path: %q, create: true } }\n", filepath.Join(t.TempDir(), "repository"))
	var all []*instance
	for _, name := range []string{"i0", "i1"} {
		x := newInstance(t, name, newWay(t, cluster), rest)
		x.start()
		all = append(all, x)
	}
	c, err := client.New(nc, client.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "a schedule that is put", func() error {
		_, err := c.SchedulePut(t.Context(), api.Schedule{Name: "often", Cron: fmt.Sprint("@every ", upgradeSlot), Streams: []string{"SMALL"}, Overlap: api.OverlapQueue, History: 100})
		return err
	})
	var asked []string
	for range rounds {
		for _, x := range all {
			x.serves()
			for range 3 {
				asked = append(asked, begin(t, c).Session)
			}
			x.kill(syscall.SIGTERM)
			if x.exit != nil {
				t.Errorf("%s did not end in good order: %v", x.name, x.exit)
			}
			x.start()
			x.serves()
		}
	}
	info := pause(t, c, "often", slots)
	late := checkSlots(t, info)
	for _, id := range asked {
		if r := finish(t, c, id); r.State != api.StateSucceeded {
			t.Errorf("session %s is %s: %v", id, r.State, r.Error)
		}
	}
	t.Logf("%d slots, at most %.1f s late; %d sessions asked for", len(info.Recent), late, len(asked))
}

// pause pauses a schedule of which so many slots ran, and returns what became of
// all of them.
func pause(t *testing.T, c *client.Client, name string, slots int) (info *api.ScheduleInfoResponse) {
	t.Helper()
	look := func() (err error) {
		info, err = c.ScheduleInfo(t.Context(), api.ScheduleNameRequest{Name: name})
		return err
	}
	testenv.Until(t, "slots that ran", func() error {
		err := look()
		if err == nil && len(info.Recent) < slots {
			err = fmt.Errorf("%d did", len(info.Recent))
		}
		return err
	})
	testenv.Until(t, "a schedule that is paused", func() error {
		_, err := c.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: name})
		return err
	})
	testenv.Until(t, "the end of the last slot", func() error {
		err := look()
		if err == nil && info.Running != nil {
			err = errors.New("it still runs")
		}
		return err
	})
	return info
}

// together is why a machine that is slow leaves slots out, and the only reason
// that is none to complain.
const together = "they passed together; the newest one ran for all"

// checkSlots looks whether each slot ran, once and in one attempt, and returns how
// late they began at most.
func checkSlots(t *testing.T, info *api.ScheduleInfoResponse) (late float64) {
	t.Helper()
	if info.LastSkipped != nil && info.LastSkipped.Reason != together {
		t.Errorf("slots were left out: %+v", info.LastSkipped)
	}
	slices.SortFunc(info.Recent, func(a, b api.ScheduleRun) int { return a.Slot.Compare(b.Slot) })
	for i, r := range info.Recent {
		late = max(late, r.Late)
		if r.State != api.StateSucceeded || r.Attempt != 1 {
			t.Errorf("slot %s: %+v", r.Slot, r)
		}
		if i == 0 {
			continue
		}
		gap := r.Slot.Sub(info.Recent[i-1].Slot)
		if gap <= 0 || gap%upgradeSlot != 0 || gap > upgradeSlot && info.LastSkipped == nil {
			t.Errorf("after slot %s comes %s", info.Recent[i-1].Slot, r.Slot)
		}
	}
	return late
}
