package chaos_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
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
	"jetkeep/store/testenv"
)

var (
	seed     = flag.Uint64("seed", 0, "of what is done; 0 for another one each time")
	sessions = flag.Int("sessions", 0, "sessions that are to be made; 0 for 30, and 200 in a campaign")
)

const (
	instances = 3
	lease     = 8 * time.Second
)

// wanted is how many sessions are to be made.
func wanted() int {
	switch {
	case *sessions > 0:
		return *sessions
	case testenv.Campaign():
		return 200
	}
	return 30
}

// A world is what is tormented.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	cluster *natstest.Cluster
	all     []*instance
	nc      *nats.Conn
	client  *client.Client
	hooks   *hooks
	content map[string][]record.Record
	done    map[string]int // what was done to it
	// troubles are what lasts, and how it is mended, by who has it.
	troubles map[string]func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", s)
	w := &world{t: t, rng: rand.New(rand.NewPCG(s, 1)), content: map[string][]record.Record{}, done: map[string]int{}, troubles: map[string]func(){}}
	w.cluster = natstest.StartCluster(t, 3, natstest.Latest, natstest.Hidden(), natstest.Config(accounts()))
	w.nc = w.cluster.Connect(nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond))
	for i, name := range []string{"ORDERS", "EVENTS", "LOGINS", "BILLS"} {
		config := fmt.Sprintf(`{"name":%q,"subjects":["%s.>"],"storage":"file","retention":"limits","num_replicas":3}`, name, strings.ToLower(name))
		testenv.Until(t, "the stream "+name, func() error { // a node may have no word of another yet
			return natstest.Request(w.nc, "STREAM.CREATE."+name, config, nil)
		})
		natstest.PublishTo(t, w.nc, strings.ToLower(name)+".x", 100+50*i, 200)
		w.content[name] = natstest.Records(t, w.nc, name)
	}
	w.hooks = newHooks(t, w.nc)
	rest := fmt.Sprintf(`
repositories { main { path: %q, create: true } }
hooks {
  before { when: before, subject: "chaos.before", timeout: "2s" }
  after { when: after, subject: "chaos.after", timeout: "2s" }
}
`, filepath.Join(t.TempDir(), "repository"))
	for i := range instances {
		way := newWay(t, w.cluster)
		x := newInstance(t, fmt.Sprintf("i%d", i), way, targets(w.cluster, way)+rest)
		x.start()
		w.all = append(w.all, x)
	}
	// An instance that stands still is asked as often as the others, until the
	// server notices: so wait for none for long.
	w.patience(3 * time.Second)
	testenv.Until(t, "an answer of the service", func() error {
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

// patience sets how long an answer of the service is waited for.
func (w *world) patience(d time.Duration) {
	w.t.Helper()
	var err error
	if w.client, err = client.New(w.nc, client.Options{Timeout: d}); err != nil {
		w.t.Fatal(err)
	}
}

// torment does something to an instance or a server, or mends what was done
// before. An instance has one trouble at a time, one of them has none, and one
// server is down at most.
func (w *world) torment() {
	for _, who := range slices.Sorted(maps.Keys(w.troubles)) {
		if w.rng.IntN(3) == 0 {
			w.mend(who)
		}
	}
	if w.rng.IntN(4) == 0 {
		w.tormentServers(w.rng.IntN(len(w.cluster.Nodes)))
		return
	}
	x := w.all[w.rng.IntN(len(w.all))]
	w.mend(x.name)
	if others := w.troubled(); len(others) == instances-1 {
		w.mend(others[w.rng.IntN(len(others))])
	}
	switch w.rng.IntN(5) {
	case 0, 1:
		w.done["killed"]++
		x.kill(syscall.SIGKILL)
		w.trouble(x.name, x.start)
	case 2:
		w.done["terminated"]++
		x.kill(syscall.SIGTERM)
		x.start()
	case 3:
		w.done["stopped"]++
		x.signal(syscall.SIGSTOP)
		since := time.Now()
		w.trouble(x.name, func() {
			if time.Since(since) > lease {
				w.done["went on after its lease"]++
			}
			x.signal(syscall.SIGCONT)
		})
	case 4:
		if i := w.rng.IntN(len(troubles) + 2); i < len(troubles) {
			w.done["disturbed"]++
			x.way.suffer(i)
		} else {
			w.done["cut off"]++
			x.way.cut()
		}
		w.trouble(x.name, x.way.mend)
	}
	for _, x := range w.all {
		if w.troubles[x.name] == nil && x.up() {
			w.done["ended by itself and was started again"]++
		}
	}
}

// troubled returns the instances that have a trouble.
func (w *world) troubled() []string {
	var out []string
	for _, x := range w.all {
		if w.troubles[x.name] != nil {
			out = append(out, x.name)
		}
	}
	return out
}

func (w *world) tormentServers(i int) {
	if w.troubles["server"] == nil && w.rng.IntN(2) == 0 {
		w.cluster.AwaitReady() // two servers of three must be there
		w.done["server killed"]++
		w.cluster.Kill(i)
		w.trouble("server", w.cluster.Nodes[i].Restart)
		return
	}
	w.done["leaders stepped down"]++
	for _, stream := range []string{"KV_JETKEEP_SESSIONS", "KV_JETKEEP_SCHEDULES", "KV_JETKEEP_STATE", "JETKEEP_TASKS", "JETKEEP_EVENTS"} {
		_ = natstest.Request(w.nc, "STREAM.LEADER.STEPDOWN."+stream, nil, nil) // there may be none
	}
}

// trouble remembers how what was done is mended.
func (w *world) trouble(who string, mend func()) { w.troubles[who] = mend }

func (w *world) mend(who string) {
	if f := w.troubles[who]; f != nil {
		delete(w.troubles, who)
		f()
	}
}

// ask makes backups by request, as long as others do what they do.
func (w *world) ask(rng *rand.Rand, stop <-chan struct{}, accepted map[string]bool, mu *sync.Mutex) {
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
		case <-time.After(time.Duration(500+rng.IntN(1000)) * time.Millisecond):
		}
	}
}

func (w *world) list() []api.SessionView {
	w.t.Helper()
	var all []api.SessionView
	testenv.Until(w.t, "the list of sessions", func() error {
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
	t.Parallel()
	w := newWorld(t)
	for _, s := range []api.Schedule{
		{Name: "often", Cron: "@every 2s", Streams: []string{"ORDERS", "EVENTS"}, Overlap: api.OverlapQueue, History: 100},
		{Name: "seldom", Cron: "@every 3s", Streams: []string{"B*"}, Overlap: api.OverlapSkip, History: 100},
	} {
		testenv.Until(t, "a schedule that is put", func() error {
			_, err := w.client.SchedulePut(t.Context(), s)
			return err
		})
	}
	accepted := map[string]bool{}
	var mu sync.Mutex
	stop, stopped := make(chan struct{}), make(chan struct{})
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 2))
	go func() {
		defer close(stopped)
		w.ask(rng, stop, accepted, &mu)
	}()
	begun := time.Now()
	for made := 0; made < wanted() || wanted() >= 200 && w.missing() != ""; {
		time.Sleep(time.Duration(200+w.rng.IntN(1000)) * time.Millisecond)
		w.torment()
		made = len(w.list())
	}
	close(stop)
	<-stopped
	for who := range w.troubles {
		w.mend(who)
	}
	w.patience(testenv.Hang) // nobody stands still any more
	for _, name := range []string{"often", "seldom"} {
		testenv.Until(t, "a schedule that is paused", func() error {
			_, err := w.client.SchedulePause(t.Context(), api.ScheduleNameRequest{Name: name})
			return err
		})
	}
	testenv.Until(t, "the end of all sessions", func() error {
		all := w.list()
		for _, s := range all {
			if !s.State.Final() {
				return fmt.Errorf("session %s is %s", s.Session, s.State)
			}
		}
		for slot, n := range slotsOf(all).replaced {
			if len(slotsOf(all).made[slot]) == 0 {
				return fmt.Errorf("slot %s has %d sessions whose makers died, and none that took their place", slot, n)
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
	known := map[string]bool{}
	all := w.list()
	for _, s := range all {
		known[s.Session] = true
		states[string(s.Kind)+" "+string(s.State)]++
		if s.State != api.StateSucceeded && s.Error == nil && s.Reason == "" {
			t.Errorf("session %s is %s and does not say why", s.Session, s.State)
		}
		if s.State == api.StateFailed && s.Error != nil {
			t.Logf("session %s failed: %v", s.Session, s.Error)
		}
	}
	slots := slotsOf(all)
	for slot, ids := range slots.made {
		if len(ids) > 1 {
			t.Errorf("slot %s has the sessions %v", slot, ids)
		}
	}
	for _, s := range all {
		if why := w.hooks.judge(s, w.hookFailed); why != "" {
			t.Errorf("session %s, %s: %s", s.Session, s.State, why)
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
	defer bucket.Close()
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
	if len(points) == 0 || len(commits) != len(points) {
		t.Errorf("%d tasks have commits, of %d restore points", len(commits), len(points))
	}
	w.judgeTasks(all, commits)
	restored := w.restore(points)
	t.Logf("%d sessions in %s: %v; %d slots, %d sessions of them replaced; %d restore points, %d commits, %d restored; %d calls of hooks; done: %v",
		len(all), took.Round(time.Second), states, len(slots.made), len(slots.replaced), len(points), len(commits), restored, w.hooks.calls(), w.done)
	if restored != len(points) {
		t.Errorf("%d of %d restore points were restored", restored, len(points))
	}
}

// missing is what was not yet done to the world, empty for nothing.
func (w *world) missing() string {
	for _, what := range []string{"killed", "stopped", "disturbed", "server killed", "leaders stepped down"} {
		if w.done[what] == 0 {
			return what
		}
	}
	return ""
}

// judgeTasks looks that each task of a backup that succeeded has a commit.
func (w *world) judgeTasks(all []api.SessionView, commits map[string]int) {
	for _, s := range all {
		if s.Kind != api.KindBackup || s.State != api.StateSucceeded {
			continue
		}
		for i := range s.Tasks.Total {
			if task := fmt.Sprintf("%s.%04d", s.Session, i+1); commits[task] != 1 {
				w.t.Errorf("task %s succeeded and has %d commits", task, commits[task])
			}
		}
	}
}

// slots are those of all schedules, with the sessions of each that were made, and
// how many were replaced because their makers died.
type slots struct {
	made     map[string][]string
	replaced map[string]int
}

func slotsOf(all []api.SessionView) slots {
	x := slots{map[string][]string{}, map[string]int{}}
	for _, s := range all {
		name := s.Tags["schedule"]
		slot := name + " " + s.Session[:16]
		switch {
		case name == "":
		case unready(&s):
			x.replaced[slot]++
		default:
			x.made[slot] = append(x.made[slot], s.Session)
		}
	}
	return x
}

// unready tells whether the instance that made a session died before it was
// complete, so that nothing was begun.
func unready(s *api.SessionView) bool {
	return s.Error != nil && s.Error.ErrCode == api.CodeTaskAbandoned && strings.Contains(s.Error.Description, "before it was complete")
}

// hookFailed tells whether a session says of itself that a hook after it failed.
func (w *world) hookFailed(session string) bool {
	r, err := w.client.SessionTasks(w.t.Context(), session)
	if err != nil {
		w.t.Error(err)
		return false
	}
	return slices.ContainsFunc(r.TaskList, func(v api.TaskView) bool {
		return v.Hook == api.HookAfter && v.State == api.StateFailed && v.Error != nil
	})
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
