package service_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/service/session"
	"jetkeep/service/worker"
	"jetkeep/store"
	"jetkeep/store/object/faulty"
	"jetkeep/store/testenv"
)

type handlerFunc func(ctx context.Context, t session.Task, run worker.Run) (session.Result, error)

func (f handlerFunc) Run(ctx context.Context, t session.Task, run worker.Run) (session.Result, error) {
	return f(ctx, t, run)
}

func makeStreams(t *testing.T, nc *nats.Conn, n int) {
	t.Helper()
	for i := range n {
		natstest.MakeStream(t, nc, map[string]any{
			"name": fmt.Sprintf("S%03d", i), "subjects": []string{fmt.Sprintf("s.%d", i)}, "storage": "file",
		})
	}
}

// awaitUpload waits until a session's first task has something to upload.
func awaitUpload(t *testing.T, c *client.Client, session string) {
	t.Helper()
	testenv.Until(t, "something to upload", func() error {
		r, err := c.SessionInfo(t.Context(), api.SessionInfoRequest{Session: session})
		if err == nil && r.Progress.StoredBytes == 0 {
			err = fmt.Errorf("session: %+v", r.SessionView)
		}
		return err
	})
}

// TestCancelDuringUpload cancels a backup whose store hangs: it would never end
// otherwise.
func TestCancelDuringUpload(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	natstest.MakeStream(t, nc, map[string]any{"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": "file"})
	natstest.PublishTo(t, nc, "orders.new", 2000, 1000)
	cfg := setup(t, server)
	run(t, cfg, service.Deps{Repositories: newMemory(t, faulty.Fault{Op: faulty.Put, Times: -1, Kind: faulty.Hang})})
	c := connect(t, server)
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	awaitUpload(t, c, a.Session)
	if _, err := c.SessionCancel(t.Context(), api.SessionCancelRequest{Session: a.Session, Reason: "no more"}); err != nil {
		t.Fatal(err)
	}
	r := wait(t, c, a.Session, api.StateCancelled)
	if r.Reason != "no more" || r.TaskList[0].State != api.StateCancelled {
		t.Errorf("session: %+v", r)
	}
	files, err := os.ReadDir(cfg.Staging.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if i, err := f.Info(); err == nil && i.Size() > 0 && !strings.Contains(f.Name(), "lock") {
			t.Errorf("staging still holds %s of %d bytes", f.Name(), i.Size())
		}
	}
	_, err = c.SessionCancel(t.Context(), api.SessionCancelRequest{Session: a.Session})
	if !api.HasCode(err, api.CodeSessionFinal) {
		t.Errorf("cancel it again: %v", err)
	}
}

// TestEvents follows a session live and reads its events again afterwards.
func TestEvents(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	makeStreams(t, server.Connect(), 2)
	var mu sync.Mutex
	changed := sync.NewCond(&mu)
	var live []api.Event
	reported := func(task string) bool {
		return slices.ContainsFunc(live, func(e api.Event) bool { return e.Event == api.EventProgress && e.Task != nil && e.Task.Task == task })
	}
	run(t, setup(t, server), service.Deps{Handlers: map[api.Kind]worker.Handler{
		api.KindBackup: handlerFunc(func(ctx context.Context, task session.Task, run worker.Run) (session.Result, error) {
			run.Progress.SetTotal(100, 1000)
			run.Progress.Add(50, 500)
			stop := context.AfterFunc(ctx, changed.Broadcast)
			defer stop()
			mu.Lock()
			for !reported(task.ID) && ctx.Err() == nil {
				changed.Wait()
			}
			mu.Unlock()
			return session.Result{RestorePoint: task.ID}, run.Fence(ctx)
		}),
	}})
	c := connect(t, server)
	stop, err := c.Subscribe("", func(e api.Event) {
		mu.Lock()
		defer mu.Unlock()
		live = append(live, e)
		changed.Broadcast()
	})
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(stop)
	defer stop()
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c, a.Session, api.StateSucceeded)
	count := map[api.EventName]int{}
	testenv.Until(t, "the ends of the session and of its tasks", func() error {
		mu.Lock()
		defer mu.Unlock()
		// The session's end may be seen before its last task's.
		ended := map[string]bool{}
		for _, e := range live {
			if e.Event == api.EventCompleted || e.Event == api.EventTaskCompleted {
				ended[e.ID] = true
			}
		}
		if len(ended) < 3 {
			return fmt.Errorf("%d events, %d of an end", len(live), len(ended))
		}
		return nil
	})
	stop()
	mu.Lock()
	defer mu.Unlock()
	told := map[string]bool{} // by id: the end of a session may be told more than once
	for _, e := range live {
		if !told[e.ID] {
			count[e.Event]++
		}
		told[e.ID] = true
		if e.Type != e.Event.Type() || e.Session != a.Session || e.ID == "" || e.Timestamp.IsZero() || e.Instance != "test" {
			t.Errorf("event: %+v", e)
		}
		if e.Event == api.EventProgress && (e.Task == nil || e.Task.Progress.TotalBytes != 1000) {
			t.Errorf("progress: %+v", e.Task)
		}
	}
	// How many of progress there are at most depends on how long it takes.
	if count[api.EventStarted] != 1 || count[api.EventTaskCompleted] != 2 || count[api.EventCompleted] != 1 || count[api.EventProgress] < 2 {
		t.Errorf("events: %v", count)
	}
	var replayed []string
	err = c.Replay(t.Context(), a.Session, func(e api.Event) error {
		replayed = append(replayed, e.ID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range live {
		if !slices.Contains(replayed, e.ID) {
			t.Errorf("replay lacks %s", e.ID)
		}
	}
	if err := c.Replay(t.Context(), session.NewID(time.Now()), func(api.Event) error { return fmt.Errorf("an event") }); err != nil {
		t.Errorf("replay of a session without events: %v", err)
	}
}

// TestListsArePaged makes more sessions and tasks than a page holds.
func TestListsArePaged(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	makeStreams(t, server.Connect(), 30)
	run(t, setup(t, server), service.Deps{Handlers: map[api.Kind]worker.Handler{
		api.KindBackup: handlerFunc(func(ctx context.Context, task session.Task, run worker.Run) (session.Result, error) {
			return session.Result{}, run.Fence(ctx)
		}),
	}})
	c := connect(t, server)
	var ids []string
	for range 5 {
		a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, a.Session)
	}
	for _, id := range ids {
		wait(t, c, id, api.StateSucceeded)
	}
	var got []string
	q := api.SessionListRequest{Limit: 2, Kind: api.KindBackup, States: []api.State{api.StateSucceeded}}
	for {
		r, err := c.SessionList(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if r.Total != 5 {
			t.Errorf("total: %d", r.Total)
		}
		for _, s := range r.Sessions {
			got = append(got, s.Session)
		}
		if q.Cursor = r.Next; q.Cursor == "" {
			break
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	if !slices.Equal(got, ids) {
		t.Errorf("sessions %v, want %v", got, ids)
	}
	if r, err := c.SessionList(t.Context(), api.SessionListRequest{Kind: api.KindRestore}); err != nil || r.Total != 0 || r.Sessions == nil {
		t.Errorf("restores: %+v %v", r, err)
	}
	first, err := c.SessionInfo(t.Context(), api.SessionInfoRequest{Session: ids[0], Limit: 20})
	if err != nil || len(first.TaskList) != 20 || first.Next == "" {
		t.Fatalf("first page: %d tasks, %v", len(first.TaskList), err)
	}
	all, err := c.SessionTasks(t.Context(), ids[0])
	if err != nil || len(all.TaskList) != 30 || all.TaskList[29].Stream != "S029" {
		t.Errorf("all tasks: %d, %v", len(all.TaskList), err)
	}
	info, err := c.TargetInfo(t.Context(), api.TargetInfoRequest{Limit: 10})
	if err != nil || info.TotalStreams != 30 || len(info.Streams) != 10 || info.Next != "S009" || info.Server == "" {
		t.Errorf("target: %+v %v", info, err)
	}
}

// TestNewestOfEachStream backs up different streams at different times and
// asks what a restore would take.
func TestNewestOfEachStream(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	makeStreams(t, nc, 3)
	run(t, setup(t, server), service.Deps{})
	c := connect(t, server)
	backup := func(streams ...string) string {
		t.Helper()
		a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: streams})
		if err != nil {
			t.Fatal(err)
		}
		return wait(t, c, a.Session, api.StateSucceeded).Backup
	}
	first := backup()
	list, err := c.BackupList(t.Context(), api.BackupListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	moment := list.Backups[0].Time
	natstest.PublishTo(t, nc, "s.1", 5, 10)
	second := backup("S001")
	taken := func(q api.RestoreRequest) string {
		t.Helper()
		p, err := c.RestorePlan(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range p.Streams {
			b, _, _ := strings.Cut(s.RestorePoint, ".")
			out = append(out, s.Stream+"="+map[string]string{first: "1", second: "2"}[b])
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	for want, q := range map[string]api.RestoreRequest{
		"S000=1 S001=2 S002=1": {},
		"S000=1 S001=1 S002=1": {At: &moment},
		"S001=2":               {Backup: second},
		"S001=1 S002=1":        {Backup: first, Streams: []string{"*"}, Exclude: []string{"S000"}},
		"S002=1":               {Streams: []string{"S002"}},
	} {
		if got := taken(q); got != want {
			t.Errorf("%+v takes %s, want %s", q, got, want)
		}
	}
	_, err = c.RestorePlan(t.Context(), api.RestoreRequest{Backup: second, Streams: []string{"S000"}})
	if !api.HasCode(err, api.CodeStreamNotFound) {
		t.Errorf("stream that the backup lacks: %v", err)
	}
	r, err := c.BackupList(t.Context(), api.BackupListRequest{Stream: "S00[", Limit: 1})
	if err != nil || r.Total != 0 {
		t.Errorf("backups of no stream: %+v %v", r, err)
	}
	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil || info.Backups != 2 || info.RestorePoints != 4 || info.Streams != 3 || info.Format != store.Format || info.ID == "" {
		t.Errorf("repository: %+v %v", info, err)
	}
}

// TestTwoTargets restores what one account had into another.
func TestTwoTargets(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t, natstest.Config(`
		accounts {
			CONTROL { jetstream: enabled, users: [{user: control, password: x}] }
			ONE { jetstream: enabled, users: [{user: one, password: x}] }
			TWO { jetstream: enabled, users: [{user: two, password: x}] }
		}`))
	as := func(user string) natsconn.Options {
		return natsconn.Options{URL: server.URL(), User: user, Password: "x"}
	}
	cfg := setup(t, server)
	cfg.Control = as("control")
	cfg.Targets = []config.Target{{Name: "one", Options: as("one")}, {Name: "two", Options: as("two")}}
	one, two := server.Connect(nats.UserInfo("one", "x")), server.Connect(nats.UserInfo("two", "x"))
	natstest.MakeStream(t, one, map[string]any{"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": "file"})
	natstest.PublishTo(t, one, "orders.new", 100, 100)
	run(t, cfg, service.Deps{})
	c := clientOf(t, server.Connect(nats.UserInfo("control", "x")))
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil || a.Target != "one" {
		t.Fatalf("%+v %v", a, err)
	}
	wait(t, c, a.Session, api.StateSucceeded)
	_, err = c.RestorePlan(t.Context(), api.RestoreRequest{Target: "two"})
	if !api.HasCode(err, api.CodeBackupNotFound) {
		t.Errorf("restore of a target that was never backed up: %v", err)
	}
	if a, err = c.RestoreCreate(t.Context(), api.RestoreRequest{Target: "two", From: "one"}); err != nil {
		t.Fatal(err)
	}
	wait(t, c, a.Session, api.StateSucceeded)
	if d := natstest.Diff(natstest.Records(t, one, "ORDERS"), natstest.Records(t, two, "ORDERS")); d != "" {
		t.Error(d)
	}
	list, err := c.TargetList(t.Context())
	if err != nil || len(list.Targets) != 2 || !list.Targets[0].Default || strings.Contains(fmt.Sprint(list), "password") {
		t.Errorf("targets: %+v %v", list, err)
	}
}

// TestDiscovery asks micro for the endpoints and looks that each names schemas
// that exist.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	run(t, setup(t, server), service.Deps{Version: "1.2.3"})
	nc := server.Connect()
	m, err := nc.Request("$SRV.INFO.jetkeep", nil, testenv.Hang)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Name, Version string
		Metadata      map[string]string
		Endpoints     []struct {
			Name, Subject string
			QueueGroup    string `json:"queue_group"`
			Metadata      map[string]string
		}
	}
	decode(t, m.Data, &info)
	if info.Name != "jetkeep" || info.Version != "1.2.3" || len(info.Endpoints) != len(api.Endpoints()) || info.Metadata["instance"] != "test" {
		t.Errorf("info: %s", m.Data)
	}
	ids := map[string]bool{}
	for _, v := range api.SchemaTypes() {
		if _, err := api.Schema(v); err != nil {
			t.Error(err)
		}
		ids[api.SchemaID(v)] = true
	}
	for _, e := range info.Endpoints {
		if !ids[e.Metadata["request_schema"]] || !ids[e.Metadata["response_schema"]] || e.QueueGroup != "jetkeep" ||
			!strings.HasPrefix(e.Subject, "jetkeep.v1.") {
			t.Errorf("endpoint: %+v", e)
		}
	}
	refused(t, nc, api.SessionInfo, "")
	if m, err = nc.Request("$SRV.STATS.jetkeep", nil, testenv.Hang); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(m.Data), `"errors":1`) {
		t.Errorf("stats: %s", m.Data)
	}
}

// TestRefusedSubscriptionIsLoud has a server that does not let the service
// listen.
func TestRefusedSubscriptionIsLoud(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t, natstest.Config(`
		accounts { CONTROL { jetstream: enabled, users: [
			{user: deaf, password: x, permissions: {subscribe: {deny: ["jetkeep.v1.backup.>"]}}} ] } }`))
	cfg := setup(t, server)
	cfg.Control = natsconn.Options{URL: server.URL(), User: "deaf", Password: "x"}
	svc, err := service.New(t.Context(), cfg, service.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	if err := svc.Run(ctx); err == nil || !strings.Contains(err.Error(), "jetkeep.v1.backup.") {
		t.Errorf("run: %v", err)
	}
}

// TestRestartFinishesWhatWasRunning stops the service in the middle of a backup
// and starts it again.
func TestRestartFinishesWhatWasRunning(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	natstest.MakeStream(t, nc, map[string]any{"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": "file"})
	natstest.PublishTo(t, nc, "orders.new", 2000, 1000)
	cfg := setup(t, server)
	hanging := run(t, cfg, service.Deps{Repositories: newMemory(t, faulty.Fault{Op: faulty.Put, Times: -1, Kind: faulty.Hang})})
	c := connect(t, server)
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	awaitUpload(t, c, a.Session)
	hanging.end()
	run(t, cfg, service.Deps{})
	r := wait(t, c, a.Session, api.StateSucceeded)
	if r.TaskList[0].Attempts < 2 {
		t.Errorf("task: %+v", r.TaskList[0])
	}
}

// held is a target that lets nobody in until it is released, and then refuses.
type held struct{ released chan struct{} }

func (h held) List() []api.TargetView { return []api.TargetView{{Target: "held", Default: true}} }

func (h held) Dial(context.Context, string) (*natsconn.Conn, error) {
	<-h.released
	return nil, api.Errorf(api.CodeTargetUnavailable, "released")
}

// TestBusy asks for more than the service takes at once.
func TestBusy(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	target := held{make(chan struct{})}
	release := sync.OnceFunc(func() { close(target.released) })
	run(t, setup(t, server), service.Deps{Targets: target})
	t.Cleanup(release) // before the service ends
	nc := server.Connect()
	inbox := nc.NewInbox()
	answers, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	const asked, taken = 100, 64
	for range asked {
		if err := nc.PublishRequest("jetkeep.v1."+api.TargetInfo, inbox, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range asked {
		if i == asked-taken {
			release()
		}
		m, err := answers.NextMsg(testenv.Hang)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		var r api.ErrorResponse
		decode(t, m.Data, &r)
		want := api.CodeBusy
		if i >= asked-taken {
			want = api.CodeTargetUnavailable
		}
		if r.Error == nil || r.Error.ErrCode != want {
			t.Fatalf("answer %d is %s, not %s", i, m.Data, want)
		}
	}
}

// TestStreamIsRestoredOnceAtATime: while a session restores a stream, another
// request for it is refused; when that has ended it is not.
func TestStreamIsRestoredOnceAtATime(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	makeStreams(t, nc, 2)
	config := setup(t, server)
	first := run(t, config, service.Deps{})
	c := connect(t, server)
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c, a.Session, api.StateSucceeded)
	first.end()
	for _, name := range []string{"S000", "S001"} {
		natstest.MustRequest(t, nc, "STREAM.DELETE."+name, nil, nil)
	}
	run(t, config, service.Deps{Handlers: map[api.Kind]worker.Handler{
		api.KindRestore: handlerFunc(func(ctx context.Context, _ session.Task, _ worker.Run) (session.Result, error) {
			<-ctx.Done()
			return session.Result{}, context.Cause(ctx)
		}),
	}})
	running, err := c.RestoreCreate(t.Context(), api.RestoreRequest{Streams: []string{"S000"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RestoreCreate(t.Context(), api.RestoreRequest{}); !api.HasCode(err, api.CodeConflict) {
		t.Errorf("a second restore of the stream: %v", err)
	}
	if _, err := c.RestoreCreate(t.Context(), api.RestoreRequest{Streams: []string{"S001"}}); err != nil {
		t.Errorf("a restore of another stream: %v", err)
	}
	if _, err := c.SessionCancel(t.Context(), api.SessionCancelRequest{Session: running.Session}); err != nil {
		t.Fatal(err)
	}
	wait(t, c, running.Session, api.StateCancelled)
	if _, err := c.RestoreCreate(t.Context(), api.RestoreRequest{Streams: []string{"S000"}}); err != nil {
		t.Errorf("a restore after the first one's end: %v", err)
	}
}
