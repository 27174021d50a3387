package restore

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/store"
)

// Bounds of asking what the user in use may publish. What was not asked or not
// answered within them is taken as allowed: the restore itself tells.
const (
	permissionStreams = 100
	permissionsAtOnce = 16
	permissionWait    = 2 * time.Second
	permissionsWait   = 5 * time.Second
)

// refusals returns, by stream, the subject that a restore publishes on and that the
// target's server refuses to the user in use.
//
// It asks by empty messages: a server answers an empty request for a restore with an
// error, and nobody listens yet where a restore sends its data to. Nothing is done
// about either. A target with a stream that would keep such messages is not asked.
func refusals(ctx context.Context, conn *natsconn.Conn, t Target, points []store.Point) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, permissionsWait)
	defer cancel()
	var (
		g   errgroup.Group
		mu  sync.Mutex
		out = map[string]string{}
	)
	g.SetLimit(permissionsAtOnce)
	token := rand.Text()
	for _, p := range points[:min(len(points), permissionStreams)] {
		if jsapi.CheckName(p.Stream) != nil {
			continue
		}
		subjects := []string{conn.API.Subject("STREAM.RESTORE." + p.Stream), "$JS.SNAPSHOT.RESTORE." + p.Stream + "." + token}
		if t.keeps(subjects) {
			continue
		}
		g.Go(func() error {
			for _, subject := range subjects {
				if conn.API.Refused(ctx, subject, permissionWait) {
					mu.Lock()
					defer mu.Unlock()
					out[p.Stream] = subject
					return nil
				}
			}
			return nil
		})
	}
	_ = g.Wait() // none returns one
	return out
}

// keeps tells whether a stream of the target takes messages of one of the subjects.
func (t Target) keeps(subjects []string) bool {
	for _, s := range t.Streams {
		if _, _, ok := overlapping(s.Subjects, subjects); ok {
			return true
		}
	}
	return false
}

func (b *builder) permission(e *entry) {
	if subject := b.target.Refused[e.Stream]; subject != "" {
		e.problem(CodePermission, "Grant the target's user to publish on $JS.API.STREAM.RESTORE.* and $JS.SNAPSHOT.RESTORE.>, or restore into the account by another target whose user may; contrib/nats lists all permissions that are needed.",
			"the target's user may not publish on %s", subject)
	}
}
