package service_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
	"jetkeep/service/worker"
	"jetkeep/store/testenv"
)

// verify runs a verification to the state that is expected and returns what it
// found.
func verify(t *testing.T, c *client.Client, a *api.Accepted, err error, want api.State) *api.Verification {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	r := wait(t, c, a.Session, want)
	if r.Kind != api.KindVerify || len(r.TaskList) != 1 || r.TaskList[0].Verification == nil {
		t.Fatalf("session: %+v, tasks %+v", r.SessionView, r.TaskList)
	}
	return r.TaskList[0].Verification
}

func verifyAll(t *testing.T, c *client.Client, q api.RepositoryVerifyRequest, want api.State) *api.Verification {
	t.Helper()
	a, err := c.RepositoryVerify(t.Context(), q)
	return verify(t, c, a, err, want)
}

// filesBelow returns the files of a repository below a folder.
func filesBelow(t *testing.T, repository, folder string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join(repository, folder), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// flip changes one bit in the middle of a file, or changes it back.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// pointOf returns the restore point of a stream in a backup.
func pointOf(t *testing.T, c *client.Client, backup, stream string) string {
	t.Helper()
	info, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: backup})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range info.RestorePoints {
		if p.Stream == stream {
			return p.RestorePoint
		}
	}
	t.Fatalf("backup %s has no stream %s", backup, stream)
	return ""
}

// TestVerifyFindsDamage flips a bit in a pack and has the damage named, at the
// levels that can see it, in repositories of both kinds.
func TestVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "encrypted"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := natstest.Start(t)
			someStreams(t, server)
			op := operator(t)
			cfg := setup(t, server)
			if kind == "encrypted" {
				cfg = encrypted(t, server, op)
			}
			run(t, cfg, service.Deps{})
			c := connect(t, server)
			one := backUp(t, c)
			orders, settings := pointOf(t, c, one, "ORDERS"), pointOf(t, c, one, "KV_settings")
			key := ""
			if kind == "encrypted" {
				if _, err := c.RepositoryVerify(t.Context(), api.RepositoryVerifyRequest{Level: api.LevelRecords}); !api.HasCode(err, api.CodeLocked) {
					t.Errorf("records without an identity: %v", err)
				}
				key = sealed(t, c, op)
			}
			for _, level := range api.Levels() {
				q := api.RepositoryVerifyRequest{Level: level}
				if level == api.LevelRecords {
					q.Identity = key
				}
				v := verifyAll(t, c, q, api.StateSucceeded)
				if v.Points != 2 || v.Objects == 0 || v.ProblemCount != 0 || v.Level != level || level != api.LevelStructure && v.Bytes == 0 {
					t.Errorf("%s of what is whole: %+v", level, v)
				}
			}
			// One bit in a pack of ORDERS: the largest file there is.
			packs := filesBelow(t, cfg.Repositories[0].Path, "packs")
			largest := slices.MaxFunc(packs, func(a, b string) int { return int(size(t, a) - size(t, b)) })
			flip(t, largest)
			if v := verifyAll(t, c, api.RepositoryVerifyRequest{Level: api.LevelStructure}, api.StateSucceeded); v.ProblemCount != 0 {
				t.Errorf("structure sees what it cannot: %+v", v)
			}
			for _, q := range []api.RepositoryVerifyRequest{{}, {Level: api.LevelRecords, Identity: key}} {
				v := verifyAll(t, c, q, api.StateFailed)
				if v.ProblemCount != 1 || v.Damaged != 1 || !slices.Equal(v.DamagedList, []string{orders}) ||
					!strings.HasSuffix(largest, filepath.FromSlash(v.Problems[0].Object)) || !slices.Equal(v.Problems[0].Points, []string{orders}) {
					t.Errorf("level %q: %+v", q.Level, v)
				}
			}
			a, err := c.BackupVerify(t.Context(), api.BackupVerifyRequest{Points: []string{settings}})
			if v := verify(t, c, a, err, api.StateSucceeded); v.Points != 1 {
				t.Errorf("the other restore point: %+v", v)
			}
			a, err = c.BackupVerify(t.Context(), api.BackupVerifyRequest{Backup: one})
			verify(t, c, a, err, api.StateFailed)
			if r, err := c.SessionInfo(t.Context(), api.SessionInfoRequest{Session: a.Session}); err != nil || r.Error.ErrCode != api.CodeDamaged || r.Backup != one {
				t.Errorf("session: %+v %v", r, err)
			}
			parts := 0
			for part := 1; part <= 3; part++ {
				a, err := c.RepositoryVerify(t.Context(), api.RepositoryVerifyRequest{Part: part, Parts: 3})
				if err != nil {
					t.Fatal(err)
				}
				if r, err := c.Wait(t.Context(), a.Session, nil); err != nil || r.State == api.StateFailed {
					parts++
				}
			}
			if parts != 1 {
				t.Errorf("%d of three parts find the damage", parts)
			}
			// A missing object is seen at every level.
			flip(t, largest)
			if err := os.Remove(largest); err != nil {
				t.Fatal(err)
			}
			if v := verifyAll(t, c, api.RepositoryVerifyRequest{Level: api.LevelStructure}, api.StateFailed); !slices.Equal(v.DamagedList, []string{orders}) {
				t.Errorf("missing pack: %+v", v)
			}
		})
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	i, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return i.Size()
}

// prune runs a prune and returns what it did.
func prune(t *testing.T, c *client.Client, q api.RepositoryPruneRequest) *api.Pruned {
	t.Helper()
	a, err := c.RepositoryPrune(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	r := wait(t, c, a.Session, api.StateSucceeded)
	if r.Kind != api.KindPrune || len(r.TaskList) != 1 || r.TaskList[0].Pruned == nil {
		t.Fatalf("session: %+v, tasks %+v", r.SessionView, r.TaskList)
	}
	return r.TaskList[0].Pruned
}

// rewrite replaces the content of ORDERS, so that a later backup shares nothing
// with those before.
func rewrite(t *testing.T, server *natstest.Server) {
	t.Helper()
	nc := server.Connect()
	natstest.MustRequest(t, nc, "STREAM.PURGE.ORDERS", nil, nil)
	natstest.PublishTo(t, nc, "orders.new", 300, 500)
}

// TestPruneWhileBackupRuns prunes without grace, again and again, while
// backups are made; every one of them can be read to its last byte.
func TestPruneWhileBackupRuns(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	run(t, setup(t, server), service.Deps{})
	c := connect(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	var pruned atomic.Int32
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			a, err := c.RepositoryPrune(ctx, api.RepositoryPruneRequest{Keep: &api.Keep{Last: 2}, Grace: "0s"})
			if err != nil {
				t.Error(err)
				return
			}
			r, err := c.Wait(ctx, a.Session, nil)
			if err != nil || r.State != api.StateSucceeded {
				t.Errorf("prune: %+v %v", r, err)
				return
			}
			pruned.Add(1)
		}
	}()
	for n := 0; (n < 8 || pruned.Load() < 3) && !t.Failed(); n++ {
		backUp(t, c)
		natstest.PublishTo(t, server.Connect(), "orders.new", 50, 300)
	}
	close(stop)
	<-done
	if v := verifyAll(t, c, api.RepositoryVerifyRequest{Level: api.LevelRecords}, api.StateSucceeded); v.Points < 4 {
		t.Errorf("what is left: %+v", v)
	}
}

// TestOnePruneAtATime: another one is refused politely.
func TestOnePruneAtATime(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	cfg := setup(t, server)
	first := run(t, cfg, service.Deps{})
	c := connect(t, server)
	first.end() // so that what is asked for waits
	idle := run(t, cfg, service.Deps{Handlers: map[api.Kind]worker.Handler{}})
	defer idle.end()
	a, err := c.RepositoryPrune(t.Context(), api.RepositoryPruneRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RepositoryPrune(t.Context(), api.RepositoryPruneRequest{}); !api.HasCode(err, api.CodeConflict) || !strings.Contains(err.Error(), a.Session) {
		t.Errorf("a second prune: %v", err)
	}
	if _, err := c.SessionCancel(t.Context(), api.SessionCancelRequest{Session: a.Session}); err != nil {
		t.Fatal(err)
	}
	wait(t, c, a.Session, api.StateCancelled)
	if _, err := c.RepositoryPrune(t.Context(), api.RepositoryPruneRequest{}); err != nil {
		t.Errorf("a prune after the first one's end: %v", err)
	}
}
