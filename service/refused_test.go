package service_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/testenv"
)

// problemsOf returns what an instance says is wrong with it.
func problemsOf(t *testing.T, c *client.Client, instance string) []api.InstanceProblem {
	t.Helper()
	list, err := c.InstanceList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list.Instances {
		if i.Instance == instance {
			return i.Problems
		}
	}
	t.Fatalf("instance %s is not listed: %+v", instance, list)
	return nil
}

// TestReplacedRepositoryIsRefusedAlone: one repository that is not the one that
// its name stands for stops neither the service nor the others. Everybody who
// looks is told, and it can be accepted on purpose.
func TestReplacedRepositoryIsRefusedAlone(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	cfg.Metrics.Listen = "127.0.0.1:0"
	cfg.Repositories = append(cfg.Repositories, config.Repository{
		Name: "second", Kind: config.KindLocal, Path: filepath.Join(t.TempDir(), "second"), Create: true,
	})
	first := run(t, cfg, service.Deps{})
	c := connect(t, server)
	for _, name := range []string{"default", "second"} {
		a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Repository: name})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, c, a.Session, api.StateSucceeded)
	}
	before, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{Repository: "default"})
	if err != nil {
		t.Fatal(err)
	}
	first.end()

	path := cfg.Repositories[0].Path
	if err := os.Rename(path, filepath.Join(t.TempDir(), "away")); err != nil {
		t.Fatal(err)
	}
	makeRepository(t, path, store.InitOptions{Recipients: []string{operator(t).Recipient().String()}})
	again := run(t, cfg, service.Deps{})
	at := "http://" + again.svc.MetricsAddr()

	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Repository: "second"})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c, a.Session, api.StateSucceeded)
	e := refused(t, server.Connect(), api.BackupCreate, "")
	if e.ErrCode != api.CodeRepoMismatch || !strings.Contains(e.Hint, "repository.accept") {
		t.Errorf("backup into the replaced repository: %+v", e)
	}
	problems := problemsOf(t, c, "test")
	if len(problems) != 1 || problems[0].Repository != "default" || !strings.Contains(problems[0].Problem, before.ID) || problems[0].Hint == "" {
		t.Errorf("instance.list says %+v", problems)
	}
	soon(t, at+"/readyz", 200, "ok\n", before.ID)
	if _, body := fetch(t, at+"/metrics"); !strings.Contains(body, `jetkeep_repository_refused{repository="default"} 1`) ||
		strings.Contains(body, `jetkeep_repository_refused{repository="second"} 1`) {
		t.Error("the metric does not say which repository is refused")
	}

	// What is there must be said, to accept it.
	there, err := c.RepositoryAccept(t.Context(), api.RepositoryAcceptRequest{Repository: "default", DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if !there.Changed || there.BeforeID != before.ID || there.ID == before.ID || !there.Encrypted || there.BeforeRecipient != "" {
		t.Errorf("dry run: %+v", there)
	}
	for body, field := range map[string]string{
		`{}`: "repository", `{"repository":"default"}`: "id", `{"repository":"default","id":"` + before.ID + `"}`: "id", `{"repository":"moon"}`: "",
	} {
		if e := refused(t, server.Connect(), api.RepositoryAccept, body); e.Field != field {
			t.Errorf("%s: %+v", body, e)
		}
	}
	if e := refused(t, server.Connect(), api.BackupCreate, ""); e.ErrCode != api.CodeRepoMismatch {
		t.Errorf("accepted by what was no acceptance: %+v", e)
	}
	if _, err := c.RepositoryAccept(t.Context(), api.RepositoryAcceptRequest{Repository: "default", ID: there.ID}); err != nil {
		t.Fatal(err)
	}
	backUp(t, c)
	testenv.Until(t, "the problem to be gone", func() error {
		if p := problemsOf(t, c, "test"); len(p) > 0 {
			return errors.New(p[0].Problem)
		}
		return nil
	})
	if _, body := fetch(t, at+"/metrics"); !strings.Contains(body, `jetkeep_repository_refused{repository="default"} 0`) {
		t.Error("the metric still says that the repository is refused")
	}
}

// TestAcceptedRepositoryIsUsedByAll: also by an instance that has had the old one
// open all the time, and whose directory still is the same.
func TestAcceptedRepositoryIsUsedByAll(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	backUp(t, c)
	path := cfg.Repositories[0].Path
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	makeRepository(t, path, store.InitOptions{})
	there, err := c.RepositoryAccept(t.Context(), api.RepositoryAcceptRequest{Repository: "default", DryRun: true})
	if err != nil || !there.Changed {
		t.Fatalf("%+v, %v", there, err)
	}
	if _, err := c.RepositoryAccept(t.Context(), api.RepositoryAcceptRequest{Repository: "default", ID: there.ID}); err != nil {
		t.Fatal(err)
	}
	made := backUp(t, c)
	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil || info.ID != there.ID || info.Damaged > 0 {
		t.Errorf("the repository in use is %+v, %v", info, err)
	}
	if list, err := c.BackupList(t.Context(), api.BackupListRequest{}); err != nil || len(list.Backups) != 1 || list.Backups[0].Backup != made {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestReplacedKeyIsAcceptedByName: that the id is right is not enough where
// somebody may have put a key of their own into the repository.
func TestReplacedKeyIsAcceptedByName(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	first := run(t, cfg, service.Deps{})
	c := connect(t, server)
	backUp(t, c)
	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first.end()
	known := operator(t).Recipient()
	js, err := jetstream.New(server.Connect())
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), api.BucketState)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "recipient."+info.ID, []byte(known.String())); err != nil {
		t.Fatal(err)
	}
	run(t, cfg, service.Deps{})
	if e := refused(t, server.Connect(), api.BackupCreate, ""); e.ErrCode != api.CodeRepoMismatch {
		t.Fatalf("%+v", e)
	}
	q := api.RepositoryAcceptRequest{Repository: "default", ID: info.ID}
	for _, wrong := range []string{"", known.Fingerprint()} {
		q.Recipient = wrong
		if _, err := c.RepositoryAccept(t.Context(), q); !api.HasCode(err, api.CodeInvalidRequest) {
			t.Errorf("recipient %q: %v", wrong, err)
		}
	}
	q.Recipient = "none"
	r, err := c.RepositoryAccept(t.Context(), q)
	if err != nil || r.BeforeRecipient != known.Fingerprint() || r.Recipient != "none" {
		t.Fatalf("%+v, %v", r, err)
	}
	backUp(t, c)
}

// TestInstancesOfDifferentConfigurations find out by their signs of life: both
// are named, a request says who has what it wants, and a task is left to one
// that can do it.
func TestInstancesOfDifferentConfigurations(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	one := setup(t, server)
	one.Instance = "one"
	run(t, one, service.Deps{})
	other := setup(t, server)
	other.Instance, other.Repositories[0] = "other", config.Repository{
		Name: "far", Kind: config.KindLocal, Path: filepath.Join(t.TempDir(), "far"), Create: true,
	}
	run(t, other, service.Deps{})
	c := connect(t, server)
	for name, want := range map[string][]string{
		"one":   {"instance other is configured otherwise", "it has repository far, which this one has not", "it has no repository default"},
		"other": {"instance one is configured otherwise", "it has no repository far", "it has repository default, which this one has not"},
	} {
		problems := problemsOf(t, c, name)
		if len(problems) != 1 || problems[0].Hint == "" {
			t.Fatalf("problems of %s: %+v", name, problems)
		}
		for _, text := range want {
			if !strings.Contains(problems[0].Problem, text) {
				t.Errorf("problem of %s: %q does not say %q", name, problems[0].Problem, text)
			}
		}
	}
	// Requests go to either, and tasks as well. Ten that were accepted are done.
	accepted, told := 0, 0
	testenv.Until(t, "requests to be answered by both", func() error {
		for _, name := range []string{"default", "far"} {
			a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Repository: name, Streams: []string{"ORDERS"}})
			var e *api.Error
			switch {
			case err == nil:
				accepted++
				wait(t, c, a.Session, api.StateSucceeded)
			case errors.As(err, &e) && e.ErrCode == api.CodeRepoNotFound && strings.Contains(e.Hint, "has it, and"):
				told++
			default:
				t.Fatalf("backup into %s: %v", name, err)
			}
		}
		if accepted < 10 || told == 0 {
			return errors.New("not yet")
		}
		return nil
	})
}
