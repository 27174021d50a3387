package service_test

import (
	"fmt"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
)

// TestIncrementByAnotherInstance ends an instance after the first backup and
// lets another one, with a staging area of its own, do the second.
func TestIncrementByAnotherInstance(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	natstest.MakeStream(t, nc, `{"name":"S","subjects":["s"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, nc, "s", 4000, 2000)
	first := setup(t, server)
	var points []api.RestorePointView
	var digests []string
	for n := range 2 {
		config := setup(t, server)
		config.Instance, config.Repositories = fmt.Sprintf("i%d", n), first.Repositories
		i := run(t, config, service.Deps{})
		c := connect(t, server)
		accepted, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"S"}})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, c, accepted.Session, api.StateSucceeded)
		info, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: accepted.Backup})
		if err != nil {
			t.Fatal(err)
		}
		points = append(points, info.RestorePoints[0])
		digest, _ := natstest.Digest(t, nc, "S")
		digests = append(digests, digest)
		i.end()
		natstest.PublishTo(t, nc, "s", 40, 2000)
	}
	if a, b := points[0].NewBytes, points[1].NewBytes; b > a/40 || b < a/200 {
		t.Errorf("%d bytes were uploaded first, and %d after one percent more", a, b)
	}
	for n, p := range points {
		if p.Digest != digests[n] || len(p.Notes) > 0 {
			t.Errorf("restore point %d: digest %s instead of %s, notes %q", n, p.Digest, digests[n], p.Notes)
		}
	}
}
