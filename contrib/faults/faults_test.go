package faults_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

var (
	wanted = flag.Int("faults", 0, "faults to inject into each store's requests; 0 for 60, and 500 in a campaign")
	seed   = flag.Uint64("seed", 0, "of the faults; 0 for another one each time")
	quiet  = log.New(io.Discard, "", 0)
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

// A way is a store behind what disturbs the way to it: connections go through
// one proxy, requests through another, which spoils some.
type way struct {
	proxy *proxy
	tcp   *natstest.Proxy
	url   string // in place of the store's
}

func newWay(t *testing.T, store string, seed uint64) *way {
	t.Helper()
	w := &way{proxy: newProxy(t, store, seed)}
	w.tcp = natstest.NewProxy(t, w.proxy.Listener.Addr().String())
	w.url = "http://" + w.tcp.Addr()
	return w
}

// troubles are what connections suffer from, one a round.
var troubles = []natstest.Trouble{
	{Latency: 30 * time.Millisecond, Jitter: 20 * time.Millisecond},
	{Up: true, Rate: 2_000_000},
	{Share: 0.3, Hold: true, End: 20 * time.Millisecond, Reset: true},
	{Share: 0.5, Limit: 20_000},
	{Up: true, Share: 0.3, Limit: 50_000},
	{Slice: 128, Pause: 10 * time.Microsecond},
	{Share: 0.2, Hold: true, End: 200 * time.Millisecond},
}

// suffer has connections suffer from the trouble of a round, or from none if that
// is negative.
func (w *way) suffer(round int) {
	if round < 0 {
		w.tcp.Mend()
		return
	}
	w.tcp.Disturb(troubles[round%len(troubles)])
}

// A campaign backs up and restores through a way.
type campaign struct {
	t      *testing.T
	nc     *nats.Conn
	client *client.Client
	way    *way
	// points are the restore points that were said to be made, and what they
	// must hold.
	points  map[string]made
	states  map[string]int // of sessions, by kind and state
	staging string         // the directory
}

type made struct {
	stream  string
	records []record.Record
}

// streams are backed up.
var streams = []string{"ORDERS", "EVENTS", "LARGE"}

func start(t *testing.T, w *way, repository config.Repository) *campaign {
	t.Helper()
	server := natstest.Start(t)
	dir := t.TempDir()
	repository.Name, repository.Create = "distant", true
	c := config.Config{
		Instance: "test", Control: natsconn.Options{URL: server.URL()}, Repositories: []config.Repository{repository},
		Staging: config.Staging{Dir: filepath.Join(dir, "staging"), Limit: stagingLimit}, Sweep: 200 * time.Millisecond,
	}
	ctx, stop := context.WithCancel(context.Background())
	svc, err := service.New(ctx, c, service.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-svc.Ready()
	x := &campaign{t: t, nc: server.Connect(), way: w, points: map[string]made{}, states: map[string]int{}, staging: c.Staging.Dir}
	if x.client, err = client.New(x.nc, client.Options{Timeout: testenv.Hang}); err != nil {
		t.Fatal(err)
	}
	for _, name := range streams {
		natstest.MakeStream(t, x.nc, fmt.Sprintf(`{"name":%q,"subjects":["%s.>"],"storage":"file","retention":"limits","num_replicas":1}`, name, strings.ToLower(name)))
	}
	return x
}

// grow adds messages to the streams.
func (x *campaign) grow(round int) {
	natstest.PublishTo(x.t, x.nc, "orders.new", 200, 300)
	natstest.PublishTo(x.t, x.nc, fmt.Sprintf("events.%d", round), 50, 100)
	natstest.PublishTo(x.t, x.nc, "large.x", 8, 200_000)
}

// ended waits for a session's end, however it ends. A request that fails is
// told to the caller, who may try again.
func (x *campaign) ended(a *api.Accepted, err error) *api.SessionInfoResponse {
	x.t.Helper()
	if err != nil {
		x.states["refused requests"]++
		return nil
	}
	ctx, cancel := context.WithTimeout(x.t.Context(), testenv.Hang)
	defer cancel()
	r, err := x.client.Wait(ctx, a.Session, nil)
	if err != nil {
		x.t.Fatalf("session %s: %v", a.Session, err)
	}
	x.states[string(r.Kind)+" "+string(r.State)]++
	if r.State != api.StateSucceeded && r.Error == nil {
		x.t.Errorf("session %s is %s and does not say why", a.Session, r.State)
	}
	return r
}

func (x *campaign) backup() {
	before := map[string][]record.Record{}
	for _, name := range streams {
		before[name] = natstest.Records(x.t, x.nc, name)
	}
	r := x.ended(x.client.BackupCreate(x.t.Context(), api.BackupCreateRequest{}))
	if r == nil {
		return
	}
	for _, task := range r.TaskList {
		if task.State == api.StateSucceeded {
			x.points[task.RestorePoint] = made{task.Stream, before[task.Stream]}
		}
	}
}

// restore brings a backup's stream back and compares it if that is said to have
// succeeded.
func (x *campaign) restore(point string) {
	x.t.Helper()
	m := x.points[point]
	backup, _, _ := strings.Cut(point, ".")
	natstest.MustRequest(x.t, x.nc, "STREAM.DELETE."+m.stream, nil, nil)
	for try := 0; ; try++ {
		r := x.ended(x.client.RestoreCreate(x.t.Context(), api.RestoreRequest{Backup: backup, Streams: []string{m.stream}}))
		if r != nil && r.State == api.StateSucceeded {
			break
		}
		if try == 4 { // it is too bad at the moment
			x.way.proxy.setRate(0)
			x.way.suffer(-1)
		}
		if try == 6 {
			x.t.Fatalf("restore point %s cannot be restored, though nothing disturbs: %+v", point, r)
		}
	}
	if d := natstest.Diff(m.records, natstest.Records(x.t, x.nc, m.stream)); d != "" {
		x.t.Errorf("restore point %s was said to be made, and restored, and is wrong: %s", point, d)
	}
}

// run disturbs until so many faults have met something, and then looks at every
// restore point without a disturbance.
func (x *campaign) run() {
	t := x.t
	faults := *wanted
	switch {
	case faults > 0:
	case testenv.Campaign():
		faults = 500
	default:
		faults = 60
	}
	const fewest = 10 // restore points
	for round := 0; x.way.proxy.total() < faults || len(x.points) < fewest; round++ {
		rate := 0.25
		if round%5 == 4 {
			rate = 0.7 // so bad that sessions fail
		}
		if x.way.proxy.total() >= faults { // and all of them failed
			rate = 0
		}
		x.way.proxy.setRate(rate)
		x.way.suffer(round)
		x.grow(round)
		n := len(x.points)
		x.backup()
		if len(x.points) == n || round%2 == 1 {
			continue
		}
		for point := range x.points {
			x.restore(point)
			break
		}
	}
	x.way.proxy.setRate(0)
	x.way.suffer(-1)
	for point := range x.points {
		x.restore(point)
	}
	v, err := x.client.RepositoryVerify(t.Context(), api.RepositoryVerifyRequest{Level: api.LevelRecords})
	if r := x.ended(v, err); r == nil || r.State != api.StateSucceeded {
		t.Errorf("the repository is not whole: %+v", r)
	}
	t.Logf("%s; %d restore points, all restored and compared; sessions: %v", x.way.proxy, len(x.points), x.states)
}

func theSeed(t *testing.T) uint64 {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", s)
	return s
}

func TestFaultsOnS3(t *testing.T) {
	t.Parallel()
	s := objectserver.S3(t, objectserver.Versitygw)
	w := newWay(t, s.Endpoint, theSeed(t))
	r := config.Repository{Kind: config.KindS3, S3: config.S3{
		Endpoint: w.url, Region: s.Region, Bucket: s.NewBucket(t, objectserver.BucketOptions{}), Addressing: "path",
		AccessKey: s.AccessKey, SecretKey: natsconn.Secret(s.SecretKey),
	}}
	start(t, w, r).run()
}

func TestFaultsOnSwift(t *testing.T) {
	t.Parallel()
	s := objectserver.Swift(t, objectserver.SwiftOptions{})
	w := newWay(t, s.URL, theSeed(t))
	r := config.Repository{Kind: config.KindSwift, Swift: config.Swift{
		AuthURL: w.url + "/auth/v1.0", AuthVersion: 1, User: s.User, Key: natsconn.Secret(s.Key), Container: "backups",
		StorageURL: w.url + "/v1/AUTH_test",
	}}
	start(t, w, r).run()
}
