package nats_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

func start(t *testing.T) *natstest.Server {
	t.Helper()
	permissions, err := os.ReadFile("permissions.conf")
	if err != nil {
		t.Fatal(err)
	}
	// Inside this process, whose log has what was refused before the client hears.
	return natstest.StartEmbedded(t, natstest.Config(string(permissions)))
}

// serve runs the service with two targets of one account, one for each of its
// users.
func serve(t *testing.T, server *natstest.Server) (*client.Client, *nats.Conn) {
	t.Helper()
	as := func(user, password string) natsconn.Options {
		return natsconn.Options{URL: server.URL(), User: user, Password: natsconn.Secret(password)}
	}
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	svc, err := service.New(ctx, config.Config{
		Instance: "test",
		Control:  as("jetkeep", "control-secret"),
		Targets: []config.Target{
			{Name: "backup", Options: as("jetkeep-backup", "backup-secret")},
			{Name: "restore", Options: as("jetkeep-restore", "restore-secret")},
		},
		Repositories: []config.Repository{{Name: "default", Kind: config.KindLocal, Path: filepath.Join(dir, "repository"), Create: true}},
		Staging:      config.Staging{Dir: filepath.Join(dir, "staging")},
		Sweep:        200 * time.Millisecond,
	}, service.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-svc.Ready():
	case <-time.After(testenv.Hang):
		t.Fatalf("the service is not ready; the server says:\n%s\n%s", violations(server), testenv.Report())
	}
	operator := server.Connect(nats.UserInfo("operator", "operator-secret"))
	c, err := client.New(operator, client.Options{Timeout: testenv.Hang})
	if err != nil {
		t.Fatal(err)
	}
	return c, operator
}

// violations returns the lines of the server's log about refused subjects.
func violations(server *natstest.Server) string {
	var lines []string
	for line := range strings.Lines(server.Log()) {
		if strings.Contains(line, "Violation") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// A backup and a restore need nothing that the file does not allow.
func TestPermissionsAreEnough(t *testing.T) {
	server := start(t)
	shop := server.Connect(nats.UserInfo("shop", "shop-secret"))
	names := natstest.Sample(t, shop)
	// More than the server sends without an acknowledgement.
	natstest.MakeStream(t, shop, `{"name":"LARGE","subjects":["large"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, shop, "large", 1500, 20_000)
	natstest.MakeStream(t, shop, `{"name":"MEMORY","subjects":["memory"],"storage":"memory","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, shop, "memory", 3000, 100)
	names = append(names, "LARGE", "MEMORY")
	before := map[string]string{}
	for _, name := range names {
		before[name], _ = natstest.Digest(t, shop, name)
	}
	c, operator := serve(t, server)
	// The operator's right to events is tried too.
	events, err := operator.SubscribeSync("jetkeep.v1.event.>")
	if err == nil {
		err = operator.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}

	accepted, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Target: "backup"})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, c, accepted.Session)
	for _, name := range names {
		natstest.MustRequest(t, shop, "STREAM.DELETE."+name, nil, nil)
	}
	accepted, err = c.RestoreCreate(t.Context(), api.RestoreRequest{Backup: accepted.Backup, Target: "restore"})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, c, accepted.Session)
	for _, name := range names {
		if after, _ := natstest.Digest(t, shop, name); after != before[name] {
			t.Errorf("stream %s came back different", name)
		}
	}
	if _, err := events.NextMsg(testenv.Hang); err != nil {
		t.Error("no event arrived:", err)
	}
	if refused := violations(server); refused != "" {
		t.Errorf("the server refused:\n%s", refused)
	}
}

func finish(t *testing.T, c *client.Client, session string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	r, err := c.Wait(ctx, session, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.State != api.StateSucceeded {
		t.Fatalf("session is %s: %v %+v", r.State, r.Error, r.TaskList)
	}
}

// The user for backups changes nothing, and the operator reaches no data.
func TestPermissionsAreNotMore(t *testing.T) {
	server := start(t)
	shop := server.Connect(nats.UserInfo("shop", "shop-secret"))
	natstest.MakeStream(t, shop, `{"name":"A","subjects":["a"],"storage":"file","retention":"limits","num_replicas":1}`)
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	backup := server.Connect(nats.UserInfo("jetkeep-backup", "backup-secret"), quiet)
	operator := server.Connect(nats.UserInfo("operator", "operator-secret"), quiet)
	for _, attempt := range []struct {
		nc      *nats.Conn
		subject string
	}{
		{backup, "a"},
		{backup, "$JS.API.STREAM.DELETE.A"},
		{backup, "$JS.API.STREAM.PURGE.A"},
		{backup, "$JS.API.STREAM.MSG.DELETE.A"},
		{backup, "$JS.API.STREAM.UPDATE.A"},
		{backup, "$JS.API.STREAM.CREATE.B"},
		{backup, "$JS.API.STREAM.RESTORE.B"},
		{operator, "$JS.API.STREAM.NAMES"},
		{operator, "jetkeep.v1.task.backup.x"},
		{operator, "jetkeep.v1.event.backup.x.completed"},
		{operator, "$KV.JETKEEP_SESSIONS.x"},
	} {
		if err := attempt.nc.Publish(attempt.subject, nil); err != nil {
			t.Fatal(err)
		}
		if err := attempt.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(violations(server), `Subject "`+attempt.subject+`"`) {
			t.Errorf("%s was not refused", attempt.subject)
		}
	}
}

// What the comment on the user for backups says that it can do, and that nothing
// keeps it from. If a server closes this, the comment is to change.
func TestBackupUserCanAddMessages(t *testing.T) {
	server := start(t)
	shop := server.Connect(nats.UserInfo("shop", "shop-secret"))
	natstest.MakeStream(t, shop, `{"name":"A","subjects":["a"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.MakeStream(t, shop, `{"name":"B","subjects":["b","c"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, shop, "a", 3, 100)
	backup := server.Connect(nats.UserInfo("jetkeep-backup", "backup-secret"))
	held := func(n uint64) func() error {
		return func() error {
			if got := natstest.Info(t, shop, "B").State.Messages; got < n {
				return fmt.Errorf("it holds %d", got)
			}
			return nil
		}
	}
	natstest.MustRequest(t, backup, "CONSUMER.CREATE.A", map[string]any{
		"stream_name": "A", "config": map[string]any{"deliver_subject": "b", "ack_policy": "none", "deliver_policy": "all", "replay_policy": "instant"},
	}, nil)
	testenv.Until(t, "the consumer's deliveries in the other stream", held(3))
	natstest.MustRequest(t, backup, "STREAM.SNAPSHOT.A", map[string]any{"deliver_subject": "c", "chunk_size": 1024}, nil)
	testenv.Until(t, "the snapshot in the other stream", held(4))
	if got := natstest.Records(t, shop, "A"); len(got) != 3 {
		t.Errorf("the stream that was read holds %d messages", len(got))
	}
}

// Without the lines about consumers everything is captured all the same.
func TestBackupWithoutConsumers(t *testing.T) {
	permissions, err := os.ReadFile("permissions.conf")
	if err != nil {
		t.Fatal(err)
	}
	var less []string
	for line := range strings.Lines(string(permissions)) {
		if !strings.Contains(line, `"$JS.API.CONSUMER.CREATE.*"`) && !strings.Contains(line, `"$JS.API.CONSUMER.DELETE.*.*"`) {
			less = append(less, line)
		}
	}
	server := natstest.StartEmbedded(t, natstest.Config(strings.Join(less, "")))
	shop := server.Connect(nats.UserInfo("shop", "shop-secret"))
	names := natstest.Sample(t, shop)
	natstest.MakeStream(t, shop, `{"name":"MEMORY","subjects":["memory"],"storage":"memory","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, shop, "memory", 3000, 100)
	c, _ := serve(t, server)
	accepted, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Target: "backup"})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, c, accepted.Session)
	info, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: accepted.Backup})
	if err != nil || len(info.RestorePoints) != len(names)+1 {
		t.Errorf("%d restore points, %v", len(info.RestorePoints), err)
	}
}
