package chaos_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/seal"
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

// A recorder hands requests on to a store and remembers what was uploaded.
type recorder struct {
	*httptest.Server

	mu    sync.Mutex
	bytes int64 // that the store took
}

func newRecorder(t *testing.T, store string) *recorder {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	r := new(recorder)
	pass := &httputil.ReverseProxy{
		Rewrite:      func(q *httputil.ProxyRequest) { q.SetURL(u); q.Out.Host = q.In.Host }, // which is signed
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ModifyResponse: func(a *http.Response) error {
			q := a.Request
			if q.Method != http.MethodPut || a.StatusCode != http.StatusOK {
				return nil
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.bytes += q.ContentLength
			return nil
		},
	}
	r.Server = httptest.NewServer(pass)
	t.Cleanup(func() {
		r.CloseClientConnections()
		r.Close()
	})
	return r
}

func (r *recorder) uploaded() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

const (
	failoverMessages = 2400
	failoverSize     = 100_000 // bytes, which do not compress
	failoverBytes    = failoverMessages * failoverSize
	// underWay is what may be uploaded twice: four packs of up to 16 MiB that were
	// on their way when it happened.
	underWay = 4 * 17 << 20
	// failoverAt is how much is there when it happens: so much that one sees
	// whether it is uploaded again.
	failoverAt = 2 * underWay
)

// Whoever works on a task is killed, stopped for longer than the lease, or cut
// off from NATS in the middle of the upload: another instance goes on, uploads
// nothing again that is there, and whoever comes back too late says nothing.
func TestFailover(t *testing.T) {
	command := build(t)
	for _, encrypted := range []bool{false, true} {
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
			t.Run(fmt.Sprintf("%s,encrypted=%t", how, encrypted), func(t *testing.T) {
				t.Parallel()
				failover(t, command, encrypted, disturb)
			})
		}
	}
}

func failover(t *testing.T, command string, encrypted bool, disturb func(*instance) func()) {
	cluster := natstest.StartCluster(t, 3, natstest.Latest, natstest.Hidden())
	nc := cluster.Connect(nats.MaxReconnects(-1))
	if err := natstest.Eventually(5*time.Minute, func() error {
		return natstest.Request(nc, "STREAM.CREATE.LARGE", `{"name":"LARGE","subjects":["large"],"storage":"file","retention":"limits","num_replicas":1}`, nil)
	}); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{7})
	natstest.Publish(t, nc, failoverMessages, func(int) *nats.Msg {
		m := &nats.Msg{Subject: "large", Data: make([]byte, failoverSize)}
		_, _ = random.Read(m.Data)
		return m
	})
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
	byName, stores := map[string]*instance{}, map[string]*recorder{}
	for _, name := range []string{"i0", "i1"} {
		stores[name] = newRecorder(t, s3.Endpoint)
		x := newInstance(t, command, name, newWay(t, cluster), fmt.Sprintf(`repositories { main {
  kind: s3, create: true, bucket: %q, endpoint: %q, region: %q, addressing: path, access_key: %q, secret_key: %q, upload_rate: 20MB, part_size: 64MB
  %s } }`, bucket, stores[name].URL, s3.Region, s3.AccessKey, s3.SecretKey, keys))
		x.start()
		byName[name] = x
	}
	c, err := client.New(nc, client.Options{Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var a *api.Accepted
	if err := natstest.Eventually(5*time.Minute, func() (err error) {
		a, err = c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"LARGE"}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	events, err := nc.SubscribeSync("jetkeep.v1.event.backup." + a.Session + ".*")
	if err != nil {
		t.Fatal(err)
	}
	// In the middle of the upload.
	owner := ""
	if err := natstest.Eventually(5*time.Minute, func() error {
		r, err := c.SessionTasks(t.Context(), a.Session)
		if err != nil {
			return err
		}
		if owner = r.TaskList[0].Instance; owner == "" {
			return errors.New("nobody has begun")
		}
		if n := stores[owner].uploaded(); n < failoverAt {
			return fmt.Errorf("%d bytes are uploaded: %s %v", n, r.State, r.TaskList[0].Error)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	back := disturb(byName[owner])
	before := stores[owner].uploaded()
	begun := time.Now()
	var r *api.SessionInfoResponse
	if err := natstest.Eventually(5*time.Minute, func() (err error) {
		r, err = c.SessionTasks(t.Context(), a.Session)
		if err == nil && !r.State.Final() {
			err = fmt.Errorf("the session is %s", r.State)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	task := r.TaskList[0]
	if r.State != api.StateSucceeded || task.Instance == owner || task.Attempts != 2 {
		t.Errorf("the session is %s (%v), after %d attempts, the last one on %s after one on %s", r.State, r.Error, task.Attempts, task.Instance, owner)
	}
	seen, first := time.Now(), stores[owner].uploaded()
	back()
	time.Sleep(2 * lease)
	second, late := stores[task.Instance].uploaded(), stores[owner].uploaded()-first
	t.Logf("failed over in %s; of %d MB the first instance had uploaded %d, the second uploaded %d, the first %d more after that",
		took.Round(100*time.Millisecond), failoverBytes>>20, before>>20, second>>20, late>>20)
	// What was under way when it happened may come twice, and no more. What the first
	// one uploads while it is cut off, and cannot note, is nothing to the second.
	if most := failoverBytes - before + underWay; second > most {
		t.Errorf("the second one uploaded %d bytes, at most %d were not there", second, most)
	}
	if late > underWay {
		t.Errorf("the first one uploaded %d bytes when all had long ended", late)
	}
	if before >= failoverBytes || first+second < failoverBytes {
		t.Errorf("of %d bytes %d were there when it happened, and %d came from the first one and %d from the second", int64(failoverBytes), before, first-before, second)
	}
	judgeEvents(t, events, owner, seen)
	if n := commitsIn(t, c, a.Backup); n != 1 {
		t.Errorf("the backup has %d restore points", n)
	}
	natstest.MustRequest(t, nc, "STREAM.DELETE.LARGE", nil, nil)
	restored, err := c.RestoreCreate(t.Context(), api.RestoreRequest{Backup: a.Backup})
	if err != nil {
		t.Fatal(err)
	}
	if err := natstest.Eventually(5*time.Minute, func() error {
		x, err := c.SessionTasks(t.Context(), restored.Session)
		if err == nil && (x.State != api.StateSucceeded || !x.TaskList[0].Verified || x.TaskList[0].Progress.Messages != failoverMessages) {
			err = fmt.Errorf("the restore is %s: %v", x.State, x.Error)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// One server of three is killed while a session runs: the leader of the state,
// that of the queue, that of all of JetStream. The session succeeds all the same,
// and once.
func TestServersLost(t *testing.T) {
	cluster := natstest.StartCluster(t, 3, natstest.Latest)
	nc := cluster.Connect(nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err := natstest.Eventually(5*time.Minute, func() error {
		return natstest.Request(nc, "STREAM.CREATE.LARGE", `{"name":"LARGE","subjects":["large"],"storage":"file","retention":"limits","num_replicas":3}`, nil)
	}); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{8})
	s3 := objectserver.S3(t, objectserver.Versitygw)
	bucket := s3.NewBucket(t, objectserver.BucketOptions{})
	command := build(t)
	rest := fmt.Sprintf(`repositories { main {
  kind: s3, create: true, bucket: %q, endpoint: %q, region: %q, addressing: path, access_key: %q, secret_key: %q, upload_rate: 4MB } }`,
		bucket, s3.Endpoint, s3.Region, s3.AccessKey, s3.SecretKey)
	for _, name := range []string{"i0", "i1"} {
		newInstance(t, command, name, newWay(t, cluster), rest).start()
	}
	c, err := client.New(nc, client.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for who, leader := range map[string]func() int{
		"state":     func() int { return cluster.Leader(nc, "KV_JETKEEP_SESSIONS") },
		"queue":     func() int { return cluster.Leader(nc, "JETKEEP_TASKS") },
		"JetStream": cluster.MetaLeader,
	} {
		natstest.Publish(t, nc, 400, func(int) *nats.Msg { // 40 MB more each time
			m := &nats.Msg{Subject: "large", Data: make([]byte, failoverSize)}
			_, _ = random.Read(m.Data)
			return m
		})
		var a *api.Accepted
		if err := natstest.Eventually(5*time.Minute, func() (err error) {
			a, err = c.BackupCreate(t.Context(), api.BackupCreateRequest{})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		node := leader()
		before, err := c.SessionTasks(t.Context(), a.Session)
		if err != nil || before.State.Final() {
			t.Fatalf("%s: the session is over before the server is: %v %+v", who, err, before)
		}
		cluster.Kill(node)
		var r *api.SessionInfoResponse
		if err := natstest.Eventually(5*time.Minute, func() (err error) {
			if r, err = c.SessionTasks(t.Context(), a.Session); err == nil && !r.State.Final() {
				err = fmt.Errorf("the session is %s", r.State)
			}
			return err
		}); err != nil {
			t.Fatal(who, err)
		}
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
		m, err := events.NextMsg(100 * time.Millisecond)
		if err != nil {
			break
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
	r, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: backup})
	if err != nil {
		t.Error(err)
		return 0
	}
	return len(r.RestorePoints)
}
