package service_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/testenv"
)

// scratch returns what drills have left in their directory.
func scratch(t *testing.T, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// A drill restores everything there is, from a cluster with three replicas into
// a single server, and leaves nothing.
func TestDrill(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3, natstest.Latest)
	nc := cluster.Connect()
	create := func(config string) {
		t.Helper()
		testenv.Until(t, "a stream", func() error {
			return natstest.Request(nc, "STREAM.CREATE."+strings.Split(config, `"`)[3], config, nil)
		})
	}
	for _, config := range []string{
		`{"name":"HEADERS","subjects":["h.>"],"storage":"file","retention":"limits","num_replicas":3,"allow_direct":true,"republish":{"src":"h.>","dest":"copy.>"}}`,
		`{"name":"QUEUE","subjects":["q.>"],"storage":"memory","retention":"workqueue","num_replicas":1}`,
		`{"name":"AGED","subjects":["a.>"],"storage":"file","retention":"limits","num_replicas":1,"max_age":3600000000000,"placement":{"cluster":"test"}}`,
		`{"name":"EMPTY","subjects":["e.>"],"storage":"file","retention":"limits","num_replicas":1}`,
	} {
		create(config)
	}
	natstest.Publish(t, nc, 300, func(i int) *nats.Msg {
		m := nats.NewMsg(fmt.Sprint("h.", i%7))
		m.Header.Set("Order", fmt.Sprint(i))
		m.Data = []byte(strings.Repeat("x", i))
		return m
	})
	natstest.PublishTo(t, nc, "q.x", 50, 2000)
	natstest.PublishTo(t, nc, "a.x", 20, 10)
	for _, seq := range []int{1, 7, 100, 101, 300} {
		natstest.MustRequest(t, nc, "STREAM.MSG.DELETE.HEADERS", fmt.Sprintf(`{"seq":%d}`, seq), nil)
	}
	// Now, for a mirror keeps what it has when its origin loses it.
	create(`{"name":"MIRROR","mirror":{"name":"HEADERS"},"mirror_direct":true,"storage":"file","retention":"limits","num_replicas":1}`)
	eventually(t, "the mirror has everything", func() bool {
		var info struct {
			State struct {
				Messages uint64 `json:"messages"`
			} `json:"state"`
		}
		return natstest.Request(nc, "STREAM.INFO.MIRROR", nil, &info) == nil && info.State.Messages == 295
	})
	natstest.MustRequest(t, nc, "CONSUMER.DURABLE.CREATE.HEADERS.worker",
		`{"stream_name":"HEADERS","config":{"durable_name":"worker","ack_policy":"explicit","deliver_policy":"all","num_replicas":3}}`, nil)
	c := setup(t, cluster.Nodes[0])
	c.Drill.Dir = filepath.Join(t.TempDir(), "drill")
	stale, other := filepath.Join(c.Drill.Dir, "jetkeep-drill-test.1"), filepath.Join(c.Drill.Dir, "jetkeep-drill-test-b.1")
	for _, dir := range []string{stale, other} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run(t, c, service.Deps{})
	if left := scratch(t, c.Drill.Dir); len(left) != 1 {
		t.Errorf("what a process that died left is there, or what is another instance's is not: %v", left)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	cl := clientOf(t, nc)
	eventually(t, "the other servers know of the service", func() bool {
		_, err := cl.TargetList(t.Context())
		return err == nil
	})
	if _, err := cl.BackupDrill(t.Context(), api.BackupDrillRequest{}); !api.HasCode(err, api.CodeBackupNotFound) {
		t.Errorf("a drill of nothing: %v", err)
	}
	b, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, b.Session, api.StateSucceeded)
	d, err := cl.BackupDrill(t.Context(), api.BackupDrillRequest{})
	if err != nil || d.Tasks != 5 || d.Kind != api.KindDrill || d.Backup != b.Backup {
		t.Fatal(d, err)
	}
	r := wait(t, cl, d.Session, api.StateSucceeded)
	messages := map[string]uint64{"HEADERS": 295, "QUEUE": 50, "AGED": 20, "EMPTY": 0, "MIRROR": 295}
	for _, x := range r.TaskList {
		if !x.Verified || x.Drilled == nil || x.Drilled.Seconds <= 0 || x.Drilled.Server == "" || x.Progress.Messages != messages[x.Stream] {
			t.Errorf("%s: %+v, drilled %+v", x.Stream, x, x.Drilled)
		}
		if x.Stream == "HEADERS" && (x.Drilled.Consumers != 1 || !slices.ContainsFunc(x.Notes, func(n string) bool { return strings.Contains(n, "left out republish") })) {
			t.Errorf("HEADERS: %+v, %q", x.Drilled, x.Notes)
		}
	}
	if left := scratch(t, c.Drill.Dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	// What is damaged does not pass.
	packs := filesBelow(t, c.Repositories[0].Path, "packs")
	pack := slices.MaxFunc(packs, func(a, b string) int { return int(size(t, a) - size(t, b)) })
	flip(t, pack)
	if d, err = cl.BackupDrill(t.Context(), api.BackupDrillRequest{Backup: b.Backup}); err != nil {
		t.Fatal(err)
	}
	if r = ended(t, cl, d.Session); r.State != api.StatePartial && r.State != api.StateFailed {
		t.Errorf("the drill of a damaged backup: %s", r.State)
	}
	damaged := 0
	for _, x := range r.TaskList {
		if x.Error != nil && x.Error.ErrCode == api.CodeDamaged && strings.Contains(x.Error.Description, filepath.Base(pack)) {
			damaged++
		}
	}
	if damaged == 0 {
		t.Errorf("nobody says what is damaged: %+v", r.TaskList)
	}
	if left := scratch(t, c.Drill.Dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A drill of an encrypted repository takes an identity, and one that is too large is
// refused before anything is done.
func TestDrillRefusals(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	natstest.MakeStream(t, nc, `{"name":"A","subjects":["a.>"],"storage":"file","retention":"limits","num_replicas":1}`)
	natstest.Publish(t, nc, 80, func(int) *nats.Msg { return &nats.Msg{Subject: "a.x", Data: make([]byte, 1_000_000)} })
	op := operator(t)
	c := encrypted(t, server, op)
	c.Drill.Limit = 128 << 20
	run(t, c, service.Deps{})
	cl := connect(t, server)
	b, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, b.Session, api.StateSucceeded)
	if _, err := cl.BackupDrill(t.Context(), api.BackupDrillRequest{}); !api.HasCode(err, api.CodeLocked) {
		t.Errorf("without an identity: %v", err)
	}
	d, err := cl.BackupDrill(t.Context(), api.BackupDrillRequest{Identity: sealed(t, cl, op)})
	if err != nil {
		t.Fatal(err)
	}
	r := wait(t, cl, d.Session, api.StateFailed)
	if r.Error == nil || r.Error.ErrCode != api.CodeDiskFull || !strings.Contains(r.Error.Description, "drill.limit") {
		t.Errorf("too large: %+v", r.Error)
	}

	wide := c
	wide.Instance, wide.Staging.Dir, wide.Prefix = "wide", t.TempDir(), "wide.v1"
	wide.Drill.Dir, wide.Drill.Limit = filepath.Join(t.TempDir(), "drill"), 1<<30
	own := natstest.Start(t)
	wide.Control.URL = own.URL()
	wide.Prefix = "jetkeep.v1"
	run(t, wide, service.Deps{})
	cl = connect(t, own)
	if d, err = cl.BackupDrill(t.Context(), api.BackupDrillRequest{Identity: sealed(t, cl, op)}); err != nil {
		t.Fatal(err)
	}
	wait(t, cl, d.Session, api.StateSucceeded)
	if left := scratch(t, wide.Drill.Dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A shelf is a store that gives no packs away until it is free.
type shelf struct {
	object.Driver
	asked, free chan struct{}
	once        sync.Once
}

func (s *shelf) Unwrap() object.Driver { return s.Driver }

func (s *shelf) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if strings.HasPrefix(name, "packs/") {
		s.once.Do(func() { close(s.asked) })
		select {
		case <-s.free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.Driver.Get(ctx, name, offset, length)
}

// A drill that is cancelled in the middle ends and leaves nothing, and another one
// can be done.
func TestDrillCancelled(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	driver := &shelf{Driver: mem.New(), asked: make(chan struct{}), free: make(chan struct{})}
	bucket := object.NewBucket(driver)
	if _, err := store.Init(t.Context(), bucket, store.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	repo, err := store.Open(t.Context(), bucket, store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := setup(t, server)
	c.Drill.Dir = filepath.Join(t.TempDir(), "drill")
	run(t, c, service.Deps{Repositories: memory{repo}})
	cl := connect(t, server)
	backUp(t, cl)
	d, err := cl.BackupDrill(t.Context(), api.BackupDrillRequest{})
	if err != nil {
		t.Fatal(err)
	}
	testenv.Receive(t, "the drill to read a pack", driver.asked)
	if left := scratch(t, c.Drill.Dir); len(left) != 1 {
		t.Errorf("scratch servers: %v", left)
	}
	if _, err := cl.SessionCancel(t.Context(), api.SessionCancelRequest{Session: d.Session}); err != nil {
		t.Fatal(err)
	}
	wait(t, cl, d.Session, api.StateCancelled)
	if left := scratch(t, c.Drill.Dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	close(driver.free)
	if d, err = cl.BackupDrill(t.Context(), api.BackupDrillRequest{}); err != nil {
		t.Fatal(err)
	}
	wait(t, cl, d.Session, api.StateSucceeded)
}
