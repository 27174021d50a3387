package s3_test

import (
	"bytes"
	"context"
	"errors"
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
	"jetkeep/store/testenv"
)

// A staff is a service that works with what a policy allows.
type staff struct {
	t      *testing.T
	client *client.Client
	stop   func()
}

func (x *site) employ(t *testing.T, file string, server *natstest.Server, nc *nats.Conn) *staff {
	t.Helper()
	policy, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	u := x.server.NewUser(t, x.bucket, bytes.ReplaceAll(policy, []byte("BUCKET"), []byte(x.bucket)))
	c := config.Config{
		Instance: "test", Control: natsconn.Options{URL: server.URL()}, Sweep: 200 * time.Millisecond,
		Repositories: []config.Repository{{Name: "main", Kind: config.KindS3, S3: config.S3{
			Endpoint: x.server.Endpoint, Region: x.server.Region, Bucket: x.bucket, Addressing: "path",
			AccessKey: u.AccessKey, SecretKey: natsconn.Secret(u.SecretKey), SessionToken: natsconn.Secret(u.SessionToken),
		}}},
		Staging: config.Staging{Dir: filepath.Join(t.TempDir(), "staging"), Limit: 64 << 20},
	}
	ctx, cancel := context.WithCancel(context.Background())
	svc, err := service.New(ctx, c, service.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	s := &staff{t: t, stop: func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}}
	<-svc.Ready()
	if s.client, err = client.New(nc, client.Options{Timeout: testenv.Hang}); err != nil {
		s.stop()
		t.Fatal(err)
	}
	return s
}

// ended waits for the end of a session.
func (s *staff) ended(session string, err error) *api.SessionInfoResponse {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), testenv.Hang)
	defer cancel()
	r, err := s.client.Wait(ctx, session, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// probe wants that the service says what it lacks, at a step.
func (s *staff) probe(step, permission string) {
	s.t.Helper()
	info, err := s.client.RepositoryInfo(s.t.Context(), api.RepositoryInfoRequest{})
	if err != nil || info.Probe == nil {
		s.t.Fatalf("%+v: %v", info, err)
	}
	for _, p := range info.Probe.Steps {
		want := ""
		if p.Step == step {
			want = permission
		}
		if p.Permission != want {
			s.t.Errorf("%s: lacks %q, want %q: %+v", p.Step, p.Permission, want, p)
		}
	}
}

// A service backs up with the writer's policy, another restores with the
// restorer's, a third deletes with the pruner's. What one may not it says.
func TestServices(t *testing.T) {
	onEach(t, func(t *testing.T, x *site) {
		server := natstest.Start(t)
		nc := server.Connect()
		natstest.MakeStream(t, nc, `{"name":"ORDERS","subjects":["orders.>"],"storage":"file","retention":"limits","num_replicas":1}`)

		writer := x.employ(t, "writer.json", server, nc)
		writer.probe("delete", "s3:DeleteObject")
		var backup string
		for range 2 {
			natstest.PublishTo(t, nc, "orders.new", 200, 300)
			a, err := writer.client.BackupCreate(t.Context(), api.BackupCreateRequest{})
			r := writer.ended(a.Session, err)
			if r.State != api.StateSucceeded {
				t.Fatalf("backup: %+v", r)
			}
			backup = r.TaskList[0].RestorePoint
		}
		backup, _, _ = strings.Cut(backup, ".")
		_, err := writer.client.BackupDelete(t.Context(), api.BackupDeleteRequest{Backup: backup})
		var said *api.Error
		if !errors.As(err, &said) || said.ErrCode != api.CodeNotWritable || !strings.Contains(said.Description, "s3:DeleteObject") {
			t.Error("the writer deletes:", err)
		}
		writer.stop()

		restorer := x.employ(t, "restorer.json", server, nc)
		restorer.probe("write", "s3:PutObject")
		before := natstest.Records(t, nc, "ORDERS")
		natstest.MustRequest(t, nc, "STREAM.DELETE.ORDERS", nil, nil)
		a, err := restorer.client.RestoreCreate(t.Context(), api.RestoreRequest{Backup: backup, Streams: []string{"ORDERS"}})
		if r := restorer.ended(a.Session, err); r.State != api.StateSucceeded {
			t.Fatalf("restore: %+v", r)
		}
		if d := natstest.Diff(before, natstest.Records(t, nc, "ORDERS")); d != "" {
			t.Error(d)
		}
		v, err := restorer.client.RepositoryVerify(t.Context(), api.RepositoryVerifyRequest{Level: api.LevelRecords})
		if r := restorer.ended(v.Session, err); r.State != api.StateSucceeded {
			t.Errorf("verify: %+v, %+v", r.Error, r.TaskList)
		}
		b, err := restorer.client.BackupCreate(t.Context(), api.BackupCreateRequest{})
		if r := restorer.ended(b.Session, err); r.State != api.StateFailed || !strings.Contains(r.Error.Description, "s3:PutObject") {
			t.Errorf("the restorer backs up: %+v", r)
		}
		restorer.stop()

		pruner := x.employ(t, "pruner.json", server, nc)
		pruner.probe("", "")
		d, err := pruner.client.BackupDelete(t.Context(), api.BackupDeleteRequest{Backup: backup})
		if err != nil || len(d.Points) != 1 {
			t.Errorf("delete: %+v, %v", d, err)
		}
		p, err := pruner.client.RepositoryPrune(t.Context(), api.RepositoryPruneRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if r := pruner.ended(p.Session, nil); r.State != api.StateSucceeded {
			t.Errorf("prune: %+v", r)
		}
		pruner.stop()
	})
}
