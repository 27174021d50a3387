package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store/sign"
)

// signing makes a key that a service signs with.
func signing(t *testing.T) (file, public string) {
	t.Helper()
	seed, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.ParseSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(file, []byte("# of a test\n"+seed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, signer.Public()
}

// TestTrustedKeys: what somebody else signed, or nobody, is neither restored nor
// passed by a verification once keys are trusted.
func TestTrustedKeys(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	before := someStreams(t, server)
	cfg := setup(t, server)
	ours, public := signing(t)
	theirs, another := signing(t)

	unsigned := run(t, cfg, service.Deps{})
	c := connect(t, server)
	first := backUp(t, c)
	unsigned.end()

	cfg.Repositories[0].SignSeedFile, cfg.Repositories[0].TrustedKeys = ours, []string{another}
	trusting := run(t, cfg, service.Deps{})
	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil || info.Unsigned || info.SigningKey != public || len(info.TrustedKeys) != 1 || info.TrustedKeys[0] != another {
		t.Errorf("repository: %+v %v", info, err)
	}
	if _, err := c.RestorePlan(t.Context(), api.RestoreRequest{Backup: first}); !api.HasCode(err, api.CodeUntrusted) {
		t.Errorf("plan of what is not signed: %v", err)
	}
	second := backUp(t, c)
	if _, err := c.RestorePlan(t.Context(), api.RestoreRequest{Backup: second}); err != nil {
		t.Errorf("plan of what the service signed itself: %v", err)
	}
	trusting.end()

	// The same repository, with somebody else's key and trust in that alone.
	cfg.Repositories[0].SignSeedFile, cfg.Repositories[0].TrustedKeys = theirs, []string{another}
	other := run(t, cfg, service.Deps{})
	if _, err := c.RestorePlan(t.Context(), api.RestoreRequest{Backup: second}); !api.HasCode(err, api.CodeUntrusted) {
		t.Errorf("plan of what somebody else signed: %v", err)
	}
	if v := verifyAll(t, c, api.RepositoryVerifyRequest{}, api.StateFailed); v.ProblemCount == 0 {
		t.Errorf("verification: %+v", v)
	}
	other.end()

	cfg.Repositories[0].TrustedKeys = []string{public, another}
	run(t, cfg, service.Deps{})
	dropStreams(t, server, before)
	bringBack(t, c, api.RestoreRequest{Backup: second})
	same(t, server, before)
}

// TestSeedThatIsNone: a service that should sign and cannot does not go on
// without.
func TestSeedThatIsNone(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	cfg := setup(t, server)
	cfg.Repositories[0].SignSeedFile = filepath.Join(t.TempDir(), "absent")
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	if _, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{}); !api.HasCode(err, api.CodeKeyUnavailable) {
		t.Errorf("a backup without the seed: %v", err)
	}
	if _, err := os.Stat(cfg.Repositories[0].Path); !os.IsNotExist(err) {
		t.Errorf("a repository was made: %v", err)
	}
}

// TestRollback puts an older copy of the repository in place.
func TestRollback(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	i := run(t, cfg, service.Deps{})
	c := connect(t, server)
	backUp(t, c)
	i.end()
	path, old := cfg.Repositories[0].Path, filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(path)); err != nil {
		t.Fatal(err)
	}
	i = run(t, cfg, service.Deps{})
	rewrite(t, server)
	backUp(t, c)
	if v := verifyAll(t, c, api.RepositoryVerifyRequest{}, api.StateSucceeded); v.Points != 4 {
		t.Errorf("before: %+v", v)
	}
	i.end()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(old, path); err != nil {
		t.Fatal(err)
	}
	run(t, cfg, service.Deps{})
	v := verifyAll(t, c, api.RepositoryVerifyRequest{Level: api.LevelStructure}, api.StateFailed)
	if v.ProblemCount == 0 {
		t.Errorf("verification after a rollback: %+v", v)
	}
	// Backups go on and say so, for as long as nobody has looked.
	for range 3 {
		a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"ORDERS"}})
		if err != nil {
			t.Fatal(err)
		}
		r := wait(t, c, a.Session, api.StateSucceeded)
		if notes := r.TaskList[0].Notes; len(notes) == 0 || !strings.Contains(notes[0], "JETKEEP_STATE") {
			t.Errorf("notes of a backup after a rollback: %v", notes)
		}
	}
}
