package faults_test

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/seal"
	"jetkeep/store/testenv"
)

// stagingLimit is the least that the configuration allows, and less than what
// is backed up here.
const stagingLimit = 64 << 20

// bulk is what bulky's stream has, in bytes.
const bulk = 500 * 200_000

// bulky starts a service with one stream of 100 MB that does not compress, in
// a repository behind a way. stored tells how many bytes its store has.
func bulky(t *testing.T, change func(r *config.Repository)) (x *campaign, w *way, stored func() int64) {
	t.Helper()
	s := objectserver.S3(t, objectserver.Versitygw)
	w = newWay(t, s.Endpoint, 1)
	bucket := s.NewBucket(t, objectserver.BucketOptions{})
	r := config.Repository{Kind: config.KindS3, S3: config.S3{
		Endpoint: w.url, Region: s.Region, Bucket: bucket, Addressing: "path",
		AccessKey: s.AccessKey, SecretKey: natsconn.Secret(s.SecretKey),
	}}
	if change != nil {
		change(&r)
	}
	x = start(t, w, r)
	natstest.PublishTo(t, x.nc, "large.x", 500, bulk/500)
	return x, w, func() (n int64) {
		for o := range s.Root().ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			n += o.Size
		}
		return n
	}
}

// begin makes a backup and waits until it has uploaded as much as is given, to a
// store as far as that tells, and returns its session's id.
func (x *campaign) begin(enough int64, uploaded func() int64) string {
	x.t.Helper()
	if enough > 0 { // slowly enough for a test that is slow itself to come in time
		x.way.tcp.Disturb(natstest.Trouble{Up: true, Rate: 10_000_000})
	}
	a, err := x.client.BackupCreate(x.t.Context(), api.BackupCreateRequest{Streams: []string{"LARGE"}})
	if err != nil {
		x.t.Fatal(err)
	}
	testenv.True(x.t, "uploads", func() bool { return uploaded() >= enough })
	return a.Session
}

func (x *campaign) end(session string) *api.SessionInfoResponse {
	x.t.Helper()
	return x.ended(&api.Accepted{Session: session}, nil)
}

// whole wants a session to have made a restore point of LARGE that restores.
func (x *campaign) whole(r *api.SessionInfoResponse) {
	x.t.Helper()
	if r.State != api.StateSucceeded || len(r.TaskList) != 1 {
		x.t.Fatalf("the session is %s: %+v", r.State, r.Error)
	}
	point := r.TaskList[0].RestorePoint
	x.points[point] = made{"LARGE", natstest.Records(x.t, x.nc, "LARGE")}
	x.restore(point)
}

// A store that takes less than the server sends holds the dump back: staging
// stays within its limit and the backup succeeds.
func TestSlowStore(t *testing.T) {
	t.Parallel()
	x, w, _ := bulky(t, nil)
	var most atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			most.Store(max(most.Load(), size(x.staging)))
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	session := x.begin(1<<20, w.proxy.uploaded.Load)
	w.tcp.Disturb(natstest.Trouble{Up: true, Hold: true})
	testenv.True(t, "staging that fills up", func() bool { return most.Load() >= stagingLimit/2 })
	w.tcp.Disturb(natstest.Trouble{Up: true, Rate: 4_000_000})
	r := x.end(session)
	close(stop)
	<-done
	t.Logf("at most %d MB of 100 in staging", most.Load()>>20)
	if most.Load() > stagingLimit {
		t.Errorf("staging grew to %d bytes, the limit is %d", most.Load(), stagingLimit)
	}
	w.suffer(-1)
	x.whole(r)
}

func size(dir string) (n int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}

// When a store comes back, the task goes on, and sends again only what was not
// stored.
func TestStoreReturns(t *testing.T) {
	t.Parallel()
	x, w, stored := bulky(t, nil)
	session := x.begin(20<<20, w.proxy.uploaded.Load)
	w.tcp.Cut()
	testenv.True(t, "attempts to reach the store", func() bool { return w.tcp.Refused() >= 8 })
	arrived, kept := w.proxy.uploaded.Load(), stored()
	w.tcp.Mend()
	x.whole(x.end(session))
	if again := w.proxy.uploaded.Load() - arrived; again > bulk-kept+bulk/20 {
		t.Errorf("%d bytes were sent again, of %d, and %d were there", again, bulk, kept)
	}
}

// When it stays away the task fails and says so, and the attempt after that
// uses what arrived, in an encrypted repository too.
func TestStoreStaysAway(t *testing.T) {
	t.Parallel()
	for name, encrypted := range map[string]bool{"plain": false, "encrypted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, w, stored := bulky(t, func(r *config.Repository) {
				r.S3.RetryFor = 2 * time.Second
				if encrypted {
					id, err := seal.Generate(seal.Hybrid)
					if err != nil {
						t.Fatal(err)
					}
					file := filepath.Join(t.TempDir(), "identity")
					if err := os.WriteFile(file, []byte(id.Secret()+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
					r.OperatorRecipients, r.IdentityFile = []string{id.Recipient().String()}, file
				}
			})
			session := x.begin(bulk/4, stored)
			w.tcp.Cut()
			r := x.end(session)
			if r.State != api.StateFailed || len(r.TaskList) != 1 || r.TaskList[0].Error == nil || r.TaskList[0].Error.ErrCode != api.CodeStoreUnavailable {
				t.Fatalf("the session is %s: %+v", r.State, r.TaskList)
			}
			t.Log(r.TaskList[0].Error)
			if n := size(x.staging); n != 0 {
				t.Errorf("%d bytes are left in staging", n)
			}
			arrived, kept := w.proxy.uploaded.Load(), stored()
			w.tcp.Mend()
			x.whole(x.end(x.begin(0, stored)))
			again := w.proxy.uploaded.Load() - arrived
			t.Logf("%d bytes were sent at first, of which %d were kept, and %d then", arrived, kept, again)
			if again > bulk-kept+bulk/20 {
				t.Errorf("%d bytes were sent again, of %d, and %d were there", again, bulk, kept)
			}
		})
	}
}
