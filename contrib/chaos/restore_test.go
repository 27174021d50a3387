package chaos_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/testenv"
)

// spares are accounts of the cluster that restore points are restored into, one
// backup at a time each.
const spares = 2

// spare is the name of the target and of the user that a spare account is.
func spare(i int) string { return fmt.Sprint("spare", i) }

// accounts configures the spare ones of the servers, and one for whoever does not
// say who it is.
func accounts() string {
	text := "no_auth_user: main\naccounts {\nMAIN { jetstream: enabled, users: [{user: main, password: x}] }\n"
	for i := range spares {
		text += fmt.Sprintf("SPARE%d { jetstream: enabled, users: [{user: %s, password: x}] }\n", i, spare(i))
	}
	return text + "}\n"
}

// targets configures those of an instance: what is backed up it reaches by its way,
// the spare ones, which are needed once all is mended, directly.
func targets(c *natstest.Cluster, w way) string {
	text := fmt.Sprintf("targets {\ndefault { url: %q, default: true }\n", w.url())
	for i := range spares {
		text += fmt.Sprintf("%s { url: %q, user: %s, password: x }\n", spare(i), c.URL(), spare(i))
	}
	return text + "}\n"
}

// restore restores every backup into a spare account, as whoever lost everything
// would, and compares each of its streams with what was published. It returns how
// many restore points that were.
func (w *world) restore(points []store.Listed) int {
	w.t.Helper()
	backups := map[string][]string{} // streams by backup
	for _, p := range points {
		backups[p.Point.Backup] = append(backups[p.Point.Backup], p.Point.Stream)
	}
	next := make(chan string, len(backups))
	for backup := range backups {
		next <- backup
	}
	close(next)
	var done atomic.Int64
	w.t.Run("restore", func(t *testing.T) {
		for i := range spares {
			t.Run(spare(i), func(t *testing.T) {
				t.Parallel()
				nc := w.cluster.Connect(nats.UserInfo(spare(i), "x"))
				for backup := range next {
					n, err := w.restoreInto(t, spare(i), nc, backup, backups[backup])
					if err != nil {
						t.Errorf("restore backup %s: %v", backup, err)
					}
					done.Add(int64(n))
				}
			})
		}
	})
	return int(done.Load())
}

// restoreInto returns how many streams were as they had been, and empties the
// account again, so that one failure is one.
func (w *world) restoreInto(t *testing.T, target string, nc *nats.Conn, backup string, streams []string) (int, error) {
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	defer func() {
		for _, stream := range natstest.Streams(t, nc) {
			if err := natstest.Request(nc, "STREAM.DELETE."+stream, nil, nil); err != nil {
				t.Errorf("delete %s: %v", stream, err)
			}
		}
	}()
	a, err := w.client.RestoreCreate(ctx, api.RestoreRequest{Backup: backup, Target: target})
	if err != nil {
		return 0, err
	}
	r, err := w.client.Wait(ctx, a.Session, nil)
	if err != nil {
		return 0, err
	}
	if r.State != api.StateSucceeded || r.Tasks.Succeeded != len(streams) {
		return 0, fmt.Errorf("session %s is %s, %d of %d streams: %v", a.Session, r.State, r.Tasks.Succeeded, len(streams), r.Error)
	}
	same := 0
	for _, stream := range streams {
		if d := natstest.Diff(w.content[stream], natstest.Records(t, nc, stream)); d != "" {
			return same, fmt.Errorf("%s is wrong: %s", stream, d)
		}
		same++
	}
	return same, nil
}
