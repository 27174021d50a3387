package chaos_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/seal"
	"jetkeep/store/testenv"
)

const (
	failoverMessages = 1600
	failoverSize     = 100_000 // bytes, which do not compress
	failoverBytes    = failoverMessages * failoverSize
	// underWay is what may be uploaded twice: four packs of up to 16 MiB that were
	// on their way when it happened.
	underWay = 4 * 17 << 20
	// failoverAt is how much is there when it happens: so much that one sees
	// whether it is uploaded again.
	failoverAt = underWay + 10<<20
)

// Whoever works on a task is killed, stopped for longer than the lease, or cut
// off from NATS in the middle of the upload: another instance goes on, uploads
// nothing again that is there, and whoever comes back too late says nothing.
func TestFailover(t *testing.T) {
	for how, disturb := range map[string]func(*instance) (back func()){
		"killed": func(x *instance) func() {
			x.kill(syscall.SIGKILL)
			return x.start
		},
		"stopped": func(x *instance) func() {
			x.signal(syscall.SIGSTOP)
			return func() { x.signal(syscall.SIGCONT) }
		},
		"cut off": func(x *instance) func() {
			x.way.cut()
			return x.way.mend
		},
	} {
		for _, encrypted := range []bool{false, true} {
			if !testenv.Campaign() && encrypted == (how == "stopped") {
				continue // each way once
			}
			t.Run(fmt.Sprintf("%s,encrypted=%t", how, encrypted), func(t *testing.T) {
				t.Parallel()
				failover(t, encrypted, disturb)
			})
		}
	}
}

// A failing is what a failover happens in.
type failing struct {
	t      *testing.T
	nc     *nats.Conn
	client *client.Client
	// by name
	instances map[string]*instance
	stores    map[string]*recorder
}

func newFailing(t *testing.T, encrypted bool) *failing {
	t.Helper()
	cluster := natstest.StartCluster(t, 3, natstest.Latest, natstest.Hidden())
	x := &failing{t: t, nc: cluster.Connect(nats.MaxReconnects(-1)), instances: map[string]*instance{}, stores: map[string]*recorder{}}
	makeLarge(t, x.nc, 1)
	publishLarge(t, x.nc, failoverMessages, 7)
	s3 := objectserver.S3(t, objectserver.Versitygw)
	bucket := s3.NewBucket(t, objectserver.BucketOptions{})
	keys := ""
	if encrypted {
		id, err := seal.Generate(seal.Hybrid)
		if err != nil {
			t.Fatal(err)
		}
		keys = fmt.Sprintf("operator_recipients: [%q], identity: %q", id.Recipient(), id.Secret())
	}
	for _, name := range []string{"i0", "i1"} {
		x.stores[name] = newRecorder(t, s3.Endpoint)
		x.stores[name].holdAfter(failoverAt)
		x.instances[name] = newInstance(t, name, newWay(t, cluster), fmt.Sprintf(`repositories { main {
  kind: s3, create: true, bucket: %q, endpoint: %q, region: %q, addressing: path, access_key: %q, secret_key: %q, upload_rate: 20MB, part_size: 64MB
  %s } }`, bucket, x.stores[name].URL, s3.Region, s3.AccessKey, s3.SecretKey, keys))
		x.instances[name].start()
	}
	var err error
	if x.client, err = client.New(x.nc, client.Options{Timeout: 3 * time.Second}); err != nil {
		t.Fatal(err)
	}
	return x
}

// makeLarge makes the stream LARGE.
func makeLarge(t *testing.T, nc *nats.Conn, replicas int) {
	t.Helper()
	config := fmt.Sprintf(`{"name":"LARGE","subjects":["large"],"storage":"file","retention":"limits","num_replicas":%d}`, replicas)
	testenv.Until(t, "the stream LARGE", func() error { return natstest.Request(nc, "STREAM.CREATE.LARGE", config, nil) })
}

// publishLarge adds messages that do not compress.
func publishLarge(t *testing.T, nc *nats.Conn, n int, seed byte) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{seed})
	natstest.Publish(t, nc, n, func(int) *nats.Msg {
		m := &nats.Msg{Subject: "large", Data: make([]byte, failoverSize)}
		_, _ = random.Read(m.Data)
		return m
	})
}

// begin asks for a backup, until somebody accepts it.
func begin(t *testing.T, c *client.Client) (a *api.Accepted) {
	t.Helper()
	testenv.Until(t, "a backup that is accepted", func() (err error) {
		a, err = c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"LARGE"}})
		return err
	})
	return a
}

// finish waits for the end of a session.
func finish(t *testing.T, c *client.Client, session string) (r *api.SessionInfoResponse) {
	t.Helper()
	testenv.Until(t, "the end of session "+session, func() (err error) {
		if r, err = c.SessionTasks(t.Context(), session); err == nil && !r.State.Final() {
			err = fmt.Errorf("it is %s", r.State)
		}
		return err
	})
	return r
}

func failover(t *testing.T, encrypted bool, disturb func(*instance) func()) {
	x := newFailing(t, encrypted)
	a := begin(t, x.client)
	events, err := x.nc.SubscribeSync("jetkeep.v1.event.backup." + a.Session + ".*")
	if err != nil {
		t.Fatal(err)
	}
	// In the middle of the upload.
	owner := ""
	testenv.Until(t, "the middle of the upload", func() error {
		r, err := x.client.SessionTasks(t.Context(), a.Session)
		if err != nil {
			return err
		}
		if owner = r.TaskList[0].Instance; owner == "" {
			return errors.New("nobody has begun")
		}
		if !x.stores[owner].holds() {
			return fmt.Errorf("%d bytes are uploaded: %s %v", x.stores[owner].uploaded(), r.State, r.TaskList[0].Error)
		}
		return nil
	})
	back := disturb(x.instances[owner])
	before := x.stores[owner].uploaded()
	for _, s := range x.stores {
		s.open()
	}
	begun := time.Now()
	r := finish(t, x.client, a.Session)
	took := time.Since(begun)
	task := r.TaskList[0]
	if r.State != api.StateSucceeded || task.Attempts < 2 {
		t.Fatalf("the session is %s (%v), after %d attempts", r.State, r.Error, task.Attempts)
	}
	seen, first := time.Now(), x.stores[owner].uploaded()
	back()
	other := map[string]string{"i0": "i1", "i1": "i0"}[owner]
	second := x.stores[other].uploaded()
	x.alone(owner, other)
	late := x.stores[owner].uploaded() - first
	t.Logf("failed over in %s, in %d attempts; of %d MB the first instance had uploaded %d, the second uploaded %d, the first %d more after that",
		took.Round(100*time.Millisecond), task.Attempts, failoverBytes>>20, before>>20, second>>20, late>>20)
	// Where a machine is so slow that the second one loses its lease as well, what
	// was under way then comes once more, and the task may end where it began.
	again := int64(task.Attempts-1) * underWay
	if task.Attempts == 2 && task.Instance == owner {
		t.Error("it ended on the instance that it had begun on")
	}
	// What was under way when it happened may come twice, and no more. What the first
	// one uploads while it is cut off, and cannot note, is nothing to the second.
	if most := failoverBytes - before + again; second > most {
		t.Errorf("the second one uploaded %d bytes, at most %d were not there", second, most)
	}
	if late > again {
		t.Errorf("the first one uploaded %d bytes when all had long ended", late)
	}
	if before >= failoverBytes || first+second < failoverBytes {
		t.Errorf("of %d bytes %d were there when it happened, and %d came from the first one and %d from the second", int64(failoverBytes), before, first-before, second)
	}
	if task.Attempts == 2 {
		judgeEvents(t, events, owner, seen)
	}
	if n := commitsIn(t, x.client, a.Backup); n != 1 {
		t.Errorf("the backup has %d restore points", n)
	}
	natstest.MustRequest(t, x.nc, "STREAM.DELETE.LARGE", nil, nil)
	var restored *api.Accepted
	testenv.Until(t, "a restore that is accepted", func() (err error) {
		restored, err = x.client.RestoreCreate(t.Context(), api.RestoreRequest{Backup: a.Backup})
		return err
	})
	if r := finish(t, x.client, restored.Session); r.State != api.StateSucceeded || !r.TaskList[0].Verified || r.TaskList[0].Progress.Messages != failoverMessages {
		t.Errorf("the restore is %s: %v", r.State, r.Error)
	}
}

// alone ends the other instance and has the first owner, which comes back, make a
// backup by itself: then it knows that it was too late.
func (x *failing) alone(owner, other string) {
	x.t.Helper()
	x.instances[other].kill(syscall.SIGTERM)
	if r := finish(x.t, x.client, begin(x.t, x.client).Session); r.State != api.StateSucceeded || r.TaskList[0].Instance != owner {
		x.t.Errorf("the backup by %s alone is %s, by %s: %v", owner, r.State, r.TaskList[0].Instance, r.Error)
	}
}

// One server of three is killed while a session runs: the leader of the state,
// that of the queue, that of all of JetStream. The session succeeds all the same,
// and once.
func TestServersLost(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3, natstest.Latest)
	nc := cluster.Connect(nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	makeLarge(t, nc, 3)
	s3 := objectserver.S3(t, objectserver.Versitygw)
	bucket := s3.NewBucket(t, objectserver.BucketOptions{})
	uploads := newRecorder(t, s3.Endpoint)
	rest := fmt.Sprintf(`repositories { main {
  kind: s3, create: true, bucket: %q, endpoint: %q, region: %q, addressing: path, access_key: %q, secret_key: %q } }`,
		bucket, uploads.URL, s3.Region, s3.AccessKey, s3.SecretKey)
	for _, name := range []string{"i0", "i1"} {
		newInstance(t, name, newWay(t, cluster), rest).start()
	}
	c, err := client.New(nc, client.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	seed := byte(8)
	for who, leader := range map[string]func() int{
		"state":     func() int { return cluster.Leader(nc, "KV_JETKEEP_SESSIONS") },
		"queue":     func() int { return cluster.Leader(nc, "JETKEEP_TASKS") },
		"JetStream": cluster.MetaLeader,
	} {
		seed++
		publishLarge(t, nc, 400, seed) // 40 MB more each time
		uploads.holdAfter(10 << 20)
		a := begin(t, c)
		testenv.True(t, "the middle of the upload", uploads.holds)
		node := leader()
		cluster.Kill(node)
		uploads.open()
		r := finish(t, c, a.Session)
		t.Logf("leader of %s, n%d: %s after %d attempts in %.1f s", who, node, r.State, r.TaskList[0].Attempts, r.Progress.Seconds)
		if r.State != api.StateSucceeded || len(r.TaskList) != 1 || commitsIn(t, c, a.Backup) != 1 {
			t.Errorf("%s: the session is %s: %v", who, r.State, r.Error)
		}
		cluster.Restart(node)
		for _, stream := range []string{"LARGE", "KV_JETKEEP_SESSIONS", "JETKEEP_TASKS"} {
			cluster.AwaitReplicas(nc, stream)
		}
	}
}

// judgeEvents looks at what was told: one end of the task, one of the session, and
// nothing by the first owner once the session had ended.
func judgeEvents(t *testing.T, events *nats.Subscription, owner string, ended time.Time) {
	t.Helper()
	ends := map[string]bool{}
	for {
		// The end of the session was told before the owner came back and ended a
		// later one.
		n, _, err := events.Pending()
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		m, err := events.NextMsg(testenv.Hang)
		if err != nil {
			t.Fatal(err)
		}
		var e api.Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		if e.Event != api.EventProgress {
			ends[e.ID+" "+string(e.State)] = true
		}
		if e.Instance == owner && e.Timestamp.After(ended) {
			t.Errorf("the first owner says, after the end: %s", m.Data)
		}
	}
	var list []string
	for id := range ends {
		if !strings.Contains(id, ".started ") {
			list = append(list, id)
		}
	}
	if len(list) != 2 {
		t.Errorf("the ends that were told: %q", list)
	}
}

func commitsIn(t *testing.T, c *client.Client, backup string) int {
	t.Helper()
	var r *api.BackupInfoResponse
	testenv.Until(t, "what is known of backup "+backup, func() (err error) {
		r, err = c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: backup})
		return err
	})
	return len(r.RestorePoints)
}
