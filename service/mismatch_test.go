package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/local"
)

func makeRepository(t *testing.T, path string, o store.InitOptions) {
	t.Helper()
	driver, err := local.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	bucket := object.NewBucket(driver)
	defer bucket.Close()
	if _, err := store.Init(t.Context(), bucket, o); err != nil {
		t.Fatal(err)
	}
}

// TestAnotherRepositoryUnderTheName: neither an instance with a directory of its
// own, nor a directory that was emptied or replaced, spreads backups over
// several repositories.
func TestAnotherRepositoryUnderTheName(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	first := run(t, cfg, service.Deps{})
	c := connect(t, server)
	backUp(t, c)

	// Another directory, empty or not there: never made into a repository.
	other := setup(t, server)
	other.Instance = "other"
	second := run(t, other, service.Deps{})
	first.end()
	for _, endpoint := range []string{api.BackupCreate, api.BackupList} {
		if e := refused(t, server.Connect(), endpoint, ""); e.ErrCode != api.CodeNotARepository {
			t.Errorf("%s of an instance with a directory of its own: %+v", endpoint, e)
		}
	}
	second.end()
	if _, err := os.Stat(other.Repositories[0].Path); !os.IsNotExist(err) {
		t.Errorf("something was made in %s: %v", other.Repositories[0].Path, err)
	}
	// Another repository: it is refused.
	makeRepository(t, other.Repositories[0].Path, store.InitOptions{})
	third := run(t, other, service.Deps{})
	for _, endpoint := range []string{api.BackupCreate, api.BackupList} {
		if e := refused(t, server.Connect(), endpoint, ""); e.ErrCode != api.CodeRepoMismatch {
			t.Errorf("%s of an instance with another repository: %+v", endpoint, e)
		}
	}
	third.end()

	// Replaced while the service runs, and then by one with a key.
	run(t, cfg, service.Deps{})
	path := cfg.Repositories[0].Path
	for i, o := range []store.InitOptions{{}, {Recipients: []string{operator(t).Recipient().String()}}} {
		if err := os.Rename(path, filepath.Join(t.TempDir(), "away")); err != nil {
			t.Fatal(err)
		}
		makeRepository(t, path, o)
		if e := refused(t, server.Connect(), api.BackupCreate, ""); e.ErrCode != api.CodeRepoMismatch || e.Hint == "" {
			t.Errorf("replacement %d: %+v", i, e)
		}
	}
}

// TestPinnedKey: a repository with another key than the configured one, or
// without, is refused.
func TestPinnedKey(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]store.InitOptions{
		"another key": {Recipients: []string{operator(t).Recipient().String()}},
		"no key":      {},
	} {
		server := natstest.Start(t)
		cfg := setup(t, server)
		cfg.Repositories[0].Recipient = operator(t).Recipient().Fingerprint()
		makeRepository(t, cfg.Repositories[0].Path, o)
		run(t, cfg, service.Deps{})
		if e := refused(t, server.Connect(), api.BackupCreate, ""); e.ErrCode != api.CodeRepoMismatch || !strings.Contains(e.Description, "key") {
			t.Errorf("%s: %+v", name, e)
		}
	}
}
