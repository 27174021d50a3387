package chaos_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/local"
	"jetkeep/store/record"
)

var (
	seed     = flag.Uint64("seed", 0, "of what is done; 0 for another one each time")
	sessions = flag.Int("sessions", 30, "sessions that are to be made")
)

const (
	instances = 3
	lease     = 4 * time.Second
)

// A world is what is tormented.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	cluster *natstest.Cluster
	all     []*instance
	nc      *nats.Conn
	client  *client.Client
	content map[string][]record.Record
	done    map[string]int // what was done to it
	down    int            // the server that was killed, -1 if all run
	stopped *instance      // the one that stands still, nil if none does
	since   time.Time      // when it was stopped
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", s)
	w := &world{t: t, rng: rand.New(rand.NewPCG(s, 1)), content: map[string][]record.Record{}, done: map[string]int{}, down: -1}
	command := build(t)
	w.cluster = natstest.StartCluster(t, 3, natstest.Latest, natstest.Hidden())
	w.nc = w.cluster.Connect(nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond))
	for i, name := range []string{"ORDERS", "EVENTS", "LOGINS", "BILLS"} {
		natstest.MakeStream(t, w.nc, fmt.Sprintf(`{"name":%q,"subjects":["%s.>"],"storage":"file","retention":"limits","num_replicas":3}`, name, strings.ToLower(name)))
		natstest.PublishTo(t, w.nc, strings.ToLower(name)+".x", 100+50*i, 200)
		w.content[name] = natstest.Records(t, w.nc, name)
	}
	repository := filepath.Join(t.TempDir(), "repository")
	for i := range instances {
		x := newInstance(t, command, fmt.Sprintf("i%d", i), newWay(t, w.cluster), repository)
		x.start()
		w.all = append(w.all, x)
	}
	var err error
	if w.client, err = client.New(w.nc, client.Options{Timeout: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the service answers", time.Minute, func() error {
		_, err := w.client.TargetList(t.Context())
		return err
	})
	t.Cleanup(func() {
		for _, x := range w.all {
			x.kill(syscall.SIGKILL)
		}
	})
	return w
}

func (w *world) eventually(what string, limit time.Duration, try func() error) {
	w.t.Helper()
	if err := natstest.Eventually(limit, try); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// torment does one thing to an instance or a server, and mends it, now or next
// time.
func (w *world) torment() {
	if w.stopped != nil && w.rng.IntN(2) == 0 {
		w.proceed()
	}
	if w.down >= 0 && w.rng.IntN(3) == 0 {
		w.restart()
	}
	x := w.all[w.rng.IntN(len(w.all))]
	i := w.rng.IntN(3)
	what := w.rng.IntN(8)
	if x == w.stopped && what < 3 {
		w.proceed()
	}
	switch what {
	case 0, 1:
		w.done["killed"]++
		x.kill(syscall.SIGKILL)
		time.Sleep(time.Duration(w.rng.IntN(1500)) * time.Millisecond)
		x.start()
	case 2:
		w.done["terminated"]++
		x.kill(syscall.SIGTERM)
		x.start()
	case 3:
		if w.stopped == nil {
			w.done["stopped"]++
			x.signal(syscall.SIGSTOP)
			w.stopped, w.since = x, time.Now()
		}
	case 4:
		if w.down < 0 {
			w.done["servers killed"]++
			w.cluster.Kill(i)
			w.down = i
		}
	case 5:
		w.done["leaders stepped down"]++
		for _, stream := range []string{"KV_JETKEEP_SESSIONS", "KV_JETKEEP_SCHEDULES", "JETKEEP_TASKS"} {
			_ = natstest.Request(w.nc, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, nil) // there may be none
		}
	case 6:
		w.done["cut off"]++
		x.way.cut()
		// For less or for longer than the lease.
		time.Sleep(time.Duration(500+w.rng.IntN(6000)) * time.Millisecond)
		x.way.mend()
	case 7:
		w.done["connections disturbed"]++
		x.way.suffer(w.rng.IntN(len(toxics)))
		time.Sleep(time.Duration(500+w.rng.IntN(6000)) * time.Millisecond)
		x.way.mend()
	}
	for _, x := range w.all {
		if x.up() {
			w.done["ended by themselves and were started again"]++
		}
	}
}

// proceed lets an instance go on that stood still.
func (w *world) proceed() {
	if w.stopped == nil {
		return
	}
	if time.Since(w.since) > lease {
		w.done["went on after the end of their lease"]++
	}
	w.stopped.signal(syscall.SIGCONT)
	w.stopped = nil
}

func (w *world) restart() {
	if w.down >= 0 {
		w.cluster.Restart(w.down)
		w.down = -1
	}
}

// ask makes backups by request, as long as others do what they do.
func (w *world) ask(stop <-chan struct{}, accepted map[string]bool, mu *sync.Mutex) {
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 2))
	names := []string{"ORDERS", "EVENTS", "LOGINS", "BILLS"}
	for {
		a, err := w.client.BackupCreate(w.t.Context(), api.BackupCreateRequest{Streams: names[:1+rng.IntN(len(names))]})
		if err == nil {
			mu.Lock()
			accepted[a.Session] = true
			mu.Unlock()
		}
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(300+rng.IntN(600)) * time.Millisecond):
		}
	}
}

func (w *world) list() []api.SessionView {
	w.t.Helper()
	var all []api.SessionView
	w.eventually("list sessions", time.Minute, func() error {
		all = nil
		for q := (api.SessionListRequest{Limit: api.MaxLimit}); ; {
			r, err := w.client.SessionList(w.t.Context(), q)
			if err != nil {
				return err
			}
			all = append(all, r.Sessions...)
			if q.Cursor = r.Next; r.Next == "" {
				return nil
			}
		}
	})
	return all
}

// TestChaos: every session ends, each slot has one session, every restore point
// restores, and no task has two commits.
func TestChaos(t *testing.T) {
	w := newWorld(t)
	for _, s := range []api.Schedule{
		{Name: "often", Cron: "@every 2s", Streams: []string{"ORDERS", "EVENTS"}, Overlap: api.OverlapQueue, History: 100},
		{Name: "seldom", Cron: "@every 3s", Streams: []string{"B*"}, Overlap: api.OverlapSkip, History: 100},
	} {
		w.eventually("put a schedule", time.Minute, func() error {
			_, err := w.client.SchedulePut(t.Context(), s)
			return err
		})
	}
	accepted := map[string]bool{}
	var mu sync.Mutex
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		w.ask(stop, accepted, &mu)
	}()
	begun := time.Now()
	for made := 0; made < *sessions && time.Since(begun) < 5*time.Minute; {
		time.Sleep(time.Duration(200+w.rng.IntN(1000)) * time.Millisecond)
		w.torment()
		made = len(w.list())
	}
	close(stop)
	<-stopped
	w.proceed()
	w.restart()
	for _, name := range []string{"often", "seldom"} {
		w.eventually("pause a schedule", time.Minute, func() error {
			_, err := w.client.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: name})
			return err
		})
	}
	w.eventually("all sessions end", 3*time.Minute, func() error {
		for _, s := range w.list() {
			if !s.State.Final() {
				return fmt.Errorf("session %s is %s", s.Session, s.State)
			}
		}
		return nil
	})
	w.judge(accepted, time.Since(begun))
}

// judge looks at what came of it.
func (w *world) judge(accepted map[string]bool, took time.Duration) {
	t := w.t
	states := map[string]int{}
	slots := map[string]string{}
	known := map[string]bool{}
	all := w.list()
	for _, s := range all {
		known[s.Session] = true
		states[string(s.Kind)+" "+string(s.State)]++
		if name := s.Tags["schedule"]; name != "" {
			slot := name + " " + s.Session[:16]
			if other := slots[slot]; other != "" {
				t.Errorf("slot %s has the sessions %s and %s", slot, other, s.Session)
			}
			slots[slot] = s.Session
		}
		if s.State != api.StateSucceeded && s.Error == nil && s.Reason == "" {
			t.Errorf("session %s is %s and does not say why", s.Session, s.State)
		}
	}
	for id := range accepted {
		if !known[id] {
			t.Errorf("session %s was accepted and is not known", id)
		}
	}
	d, err := local.Open(w.repository())
	if err != nil {
		t.Fatal(err)
	}
	bucket := object.NewBucket(d)
	defer bucket.Close() //nolint:errcheck // only read
	repo, err := store.Open(t.Context(), bucket, store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	report, err := repo.Verify(t.Context(), store.VerifyOptions{Level: store.VerifyRecords})
	if err != nil || !report.OK() {
		t.Errorf("the repository is not whole: %v %v", err, report.Problems)
	}
	points, err := repo.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		if p.Err != nil {
			t.Errorf("restore point %s: %v", p.ID, p.Err)
		}
		if want := uint64(len(w.content[p.Point.Stream])); p.Point.Content.Messages != want {
			t.Errorf("restore point %s has %d messages instead of %d", p.ID, p.Point.Content.Messages, want)
		}
	}
	commits := w.commits(bucket)
	for task, n := range commits {
		if n != 1 {
			t.Errorf("task %s has %d commits", task, n)
		}
	}
	w.restore(points)
	t.Logf("%d sessions in %s: %v; %d slots; %d restore points, %d commits; done: %v",
		len(all), took.Round(time.Second), states, len(slots), len(points), len(commits), w.done)
	if len(all) < *sessions {
		t.Errorf("only %d sessions were made", len(all))
	}
}

func (w *world) repository() string {
	r, err := w.client.RepositoryList(w.t.Context())
	if err != nil || len(r.Repositories) != 1 {
		w.t.Fatal(r, err)
	}
	return r.Repositories[0].Location
}

// commits counts the restore points of each task in the logs.
func (w *world) commits(b *object.Bucket) map[string]int {
	out := map[string]int{}
	for info, err := range b.List(w.t.Context(), "chains/") {
		if err != nil {
			w.t.Fatal(err)
		}
		data, err := b.ReadAll(w.t.Context(), info.Name, 64<<20)
		if err != nil {
			w.t.Fatal(err)
		}
		var kind, task string
		for line := range strings.Lines(string(data)) {
			if line == "\n" {
				break
			}
			if v, ok := strings.CutPrefix(line, "kind: "); ok {
				kind = strings.TrimSpace(v)
			}
			if v, ok := strings.CutPrefix(line, "task: "); ok {
				task = strings.TrimSpace(v)
			}
		}
		if kind == "point" {
			out[task]++
		}
	}
	return out
}

// restore restores some restore points of each stream and compares them.
func (w *world) restore(points []store.Listed) {
	t := w.t
	t.Helper()
	w.rng.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	count := map[string]int{}
	for _, p := range points {
		stream := p.Point.Stream
		if count[stream]++; count[stream] > 3 {
			continue
		}
		natstest.MustRequest(t, w.nc, "STREAM.DELETE."+stream, nil, nil)
		a, err := w.client.RestoreCreate(t.Context(), api.RestoreRequest{Backup: p.Point.Backup, Streams: []string{stream}})
		if err != nil {
			t.Fatal(p.ID, err)
		}
		r, err := w.client.Wait(t.Context(), a.Session, nil)
		if err != nil || r.State != api.StateSucceeded {
			t.Fatalf("restore %s: %v, %+v", p.ID, err, r)
		}
		if d := natstest.Diff(w.content[stream], natstest.Records(t, w.nc, stream)); d != "" {
			t.Errorf("restore point %s is wrong: %s", p.ID, d)
		}
	}
}
