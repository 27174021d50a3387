package service_test

import (
	"strings"
	"testing"
	"time"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
)

// One restore point that nobody signed holds up the newest of the stream that it
// says it is of, and says which; no others.
func TestUntrustedHoldsUpItsOwnStream(t *testing.T) {
	server := natstest.Start(t)
	before := someStreams(t, server)
	cfg := setup(t, server)
	seed, public := signing(t)

	cfg.Repositories[0].SignSeedFile = seed
	signed := run(t, cfg, service.Deps{})
	c := connect(t, server)
	backUp(t, c)
	signed.end()

	cfg.Repositories[0].SignSeedFile = ""
	unsigned := run(t, cfg, service.Deps{})
	rewrite(t, server)
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"ORDERS"}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c, a.Session, api.StateSucceeded)
	unsigned.end()

	cfg.Repositories[0].SignSeedFile, cfg.Repositories[0].TrustedKeys = seed, []string{public}
	run(t, cfg, service.Deps{})
	dropStreams(t, server, before)
	for name, q := range map[string]api.RestoreRequest{
		"all": {}, "that one": {Streams: []string{"ORDERS"}}, "a pattern": {Streams: []string{"O*"}}, "the backup": {Backup: a.Backup},
	} {
		_, err := c.RestorePlan(t.Context(), q)
		if !api.HasCode(err, api.CodeUntrusted) || q.Backup == "" && !strings.Contains(err.Error(), "stream ORDERS") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, q := range map[string]api.RestoreRequest{
		"all others": {Exclude: []string{"ORDERS"}}, "of another target": {From: "another"},
	} {
		if _, err := c.RestorePlan(t.Context(), q); api.HasCode(err, api.CodeUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	at := time.Now().Add(-24 * time.Hour)
	if _, err := c.RestorePlan(t.Context(), api.RestoreRequest{At: &at}); api.HasCode(err, api.CodeUntrusted) {
		t.Errorf("of the day before: %v", err)
	}
	bringBack(t, c, api.RestoreRequest{Exclude: []string{"ORDERS"}})
}
