package service_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// The size of the stream that goes through a gate, and how much of it passes at
// first: more than a server sends ahead.
const (
	bulk = 20_000 // messages of 1 KiB
	some = bulk << 10 / 4
)

// A clustered is a cluster of binaries as a target, behind a gate, with the
// service outside.
type clustered struct {
	t       *testing.T
	cluster *natstest.Cluster
	gate    *natstest.Gate
	nc      *nats.Conn
	client  *client.Client
}

func newClustered(t *testing.T, version string) *clustered {
	t.Helper()
	k := &clustered{t: t, cluster: natstest.StartCluster(t, 3, version), gate: natstest.NewGate(t)}
	k.nc = k.cluster.Connect()
	var urls []string
	for _, s := range k.cluster.Nodes {
		urls = append(urls, k.gate.Before(s))
	}
	control := natstest.Start(t)
	c := setup(t, control)
	c.Targets = []config.Target{{Name: "cluster", Options: natsconn.Options{URL: strings.Join(urls, ",")}}}
	run(t, c, service.Deps{Log: warnings(t)})
	k.client = connect(t, control)
	return k
}

// warnings is a log of little, for tests whose output is read by people.
func warnings(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// fill makes an R3 stream of incompressible messages.
func (k *clustered) fill(stream string) {
	k.t.Helper()
	natstest.MakeStream(k.t, k.nc, map[string]any{
		"name": stream, "subjects": []string{stream}, "storage": "file", "retention": "limits", "num_replicas": 3,
	})
	noise := rand.NewChaCha8([32]byte{})
	natstest.Publish(k.t, k.nc, bulk, func(int) *nats.Msg {
		m := &nats.Msg{Subject: stream, Data: make([]byte, 1024)}
		_, _ = noise.Read(m.Data) // never fails
		return m
	})
	k.cluster.AwaitReplicas(k.nc, stream)
}

// backUp starts a backup of a stream and waits until messages of it have
// arrived. The others wait at the gate.
func (k *clustered) backUp(stream string) *api.Accepted {
	k.t.Helper()
	k.gate.Hold(natstest.Downstream, some)
	moved := make(chan api.Event, 1000)
	stop, err := k.client.Subscribe("", func(e api.Event) { moved <- e })
	if err != nil {
		k.t.Fatal(err)
	}
	defer stop()
	accepted, err := k.client.BackupCreate(k.t.Context(), api.BackupCreateRequest{Streams: []string{stream}})
	if err != nil {
		k.t.Fatal(err)
	}
	for {
		e := testenv.Receive(k.t, "messages of the backup", moved)
		if e.State == api.StateSucceeded {
			k.t.Fatalf("the backup succeeded without most of the messages: %+v", e)
		}
		// Who waits for too long at the gate may give up, which is an end as good
		// as any other.
		if e.Event.Final() || e.Task != nil && e.Task.Progress.Messages > 0 {
			return accepted
		}
	}
}

func describe(r *api.SessionInfoResponse) string {
	text := string(r.State)
	for _, task := range r.TaskList {
		text += fmt.Sprintf("; %s %s after %d attempts", task.Stream, task.State, task.Attempts)
		if task.Error != nil {
			text += ": " + task.Error.Description
		}
	}
	return text
}

// The leader of the stream is killed during a backup: the backup is right, or
// it failed, and the next one is right.
func TestClusterLeaderKilledDuringBackup(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel() // nearly all of it is waiting
			k := newClustered(t, version)
			k.fill("BULK")
			digest, messages := natstest.Digest(t, k.nc, "BULK")
			if messages != bulk {
				t.Fatalf("stream has %d messages", messages)
			}
			leader := k.cluster.Leader(k.nc, "BULK")
			first := k.backUp("BULK")
			k.cluster.Kill(leader)
			k.gate.Open()
			r := ended(t, k.client, first.Session)
			t.Logf("leader n%d killed during a backup from %s: %s", leader, version, describe(r))
			k.checkBackup(r, digest)

			k.cluster.Restart(leader)
			k.cluster.AwaitReplicas(k.nc, "BULK")
			second, err := k.client.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"BULK"}})
			if err != nil {
				t.Fatal(err)
			}
			if r = ended(t, k.client, second.Session); r.State != api.StateSucceeded {
				t.Fatalf("backup of the whole cluster: %s", describe(r))
			}
			k.checkBackup(r, digest)
		})
	}
}

// checkBackup fails if a backup that succeeded is not of that digest, or if one
// that failed left a restore point or gives no reason.
func (k *clustered) checkBackup(r *api.SessionInfoResponse, digest string) {
	k.t.Helper()
	info, err := k.client.BackupInfo(k.t.Context(), api.BackupInfoRequest{Backup: r.Session})
	switch {
	case r.State == api.StateSucceeded:
		if err != nil || len(info.RestorePoints) != 1 || info.RestorePoints[0].Digest != digest {
			k.t.Fatalf("backup succeeded and is wrong: %+v, %v", info, err)
		}
	case r.State != api.StateFailed:
		k.t.Fatalf("backup is %s", describe(r))
	default:
		if !api.HasCode(err, api.CodeBackupNotFound) {
			k.t.Fatalf("failed backup left something: %+v, %v", info, err)
		}
		if len(r.TaskList) != 1 || r.TaskList[0].Error == nil {
			k.t.Fatalf("failed backup has no reason: %s", describe(r))
		}
	}
}

// The node that takes in a restore is killed meanwhile: the stream is right, or
// the restore failed and says so, and left no half stream behind.
func TestClusterLeaderKilledDuringRestore(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel() // nearly all of it is waiting
			k := newClustered(t, version)
			k.fill("BULK")
			before := natstest.Records(t, k.nc, "BULK")
			b, err := k.client.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"BULK"}})
			if err != nil {
				t.Fatal(err)
			}
			if r := ended(t, k.client, b.Session); r.State != api.StateSucceeded {
				t.Fatal(describe(r))
			}
			natstest.MustRequest(t, k.nc, "STREAM.DELETE.BULK", nil, nil)
			k.gate.Hold(natstest.Upstream, some)
			accepted, err := k.client.RestoreCreate(t.Context(), api.RestoreRequest{Backup: b.Backup})
			if err != nil {
				t.Fatal(err)
			}
			node := k.restoring("BULK")
			k.cluster.Kill(node)
			if r, err := k.client.SessionInfo(t.Context(), api.SessionInfoRequest{Session: accepted.Session}); err != nil || r.State == api.StateSucceeded {
				t.Fatalf("the restore succeeded without most of the messages: %v", err)
			}
			k.gate.Open()
			r := ended(t, k.client, accepted.Session)
			t.Logf("n%d killed while it took in a restore on %s: %s", node, version, describe(r))
			// The node stays away: started again, 2.14.5 panics over the
			// stream that it was about to make.
			k.checkRestore(r, before)
		})
	}
}

// restoring returns the node that takes in a restore, known from its log.
func (k *clustered) restoring(stream string) int {
	k.t.Helper()
	node := -1
	testenv.Until(k.t, "a node that takes in the restore", func() error {
		for i, s := range k.cluster.Nodes {
			if _, rest, ok := strings.Cut(s.Log(), "Starting restore for stream"); ok && strings.Contains(rest, stream) {
				node = i
				return nil
			}
		}
		return fmt.Errorf("no node takes in stream %s", stream)
	})
	return node
}

func (k *clustered) checkRestore(r *api.SessionInfoResponse, before []record.Record) {
	k.t.Helper()
	if r.State == api.StateSucceeded {
		for range 2 { // by two leaders
			if d := natstest.Diff(before, natstest.Records(k.t, k.nc, "BULK")); d != "" {
				k.t.Fatalf("restore succeeded and is wrong: %s", d)
			}
			k.cluster.StepDown(k.nc, "BULK")
		}
		return
	}
	if r.State != api.StateFailed || len(r.TaskList) != 1 || r.TaskList[0].Error == nil {
		k.t.Fatalf("restore is %s", describe(r))
	}
	var page struct {
		Streams []string `json:"streams"`
	}
	testenv.Until(k.t, "the names of the streams", func() error { return natstest.Request(k.nc, "STREAM.NAMES", nil, &page) })
	if text := describe(r); len(page.Streams) > 0 && !strings.Contains(text, "left") && !strings.Contains(text, "unknown") {
		k.t.Fatalf("failed restore left %v and does not say so: %s", page.Streams, text)
	}
}

// Servers of 2.14 forget some of the consumers with one replica that a stream
// of three has, in snapshots and after restores: all of them come back.
func TestClusterConsumersOfOneReplica(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel() // nearly all of it is waiting
			k := newClustered(t, version)
			natstest.MakeStream(t, k.nc, `{"name":"C","subjects":["c.*"],"storage":"file","retention":"limits","num_replicas":3}`)
			natstest.PublishTo(t, k.nc, "c.a", 300, 100)
			const consumers = 9
			for i := range consumers {
				name := fmt.Sprintf("c%d", i)
				natstest.MakeConsumer(t, k.nc, "C", name, map[string]any{
					"ack_policy": "explicit", "ack_wait": int64(time.Hour), "num_replicas": 1, "description": name,
				})
				natstest.Take(t, k.nc, "C", name, 10+i, func(n int) bool { return n%3 != 1 || n < 4 })
			}
			before := look(t, k.nc, "C")
			b, err := k.client.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: []string{"C"}})
			if err != nil {
				t.Fatal(err)
			}
			if r := ended(t, k.client, b.Session); r.State != api.StateSucceeded {
				t.Fatal(describe(r))
			}
			natstest.MustRequest(t, k.nc, "STREAM.DELETE.C", nil, nil)
			accepted, err := k.client.RestoreCreate(t.Context(), api.RestoreRequest{Backup: b.Backup})
			if err != nil {
				t.Fatal(err)
			}
			if r := ended(t, k.client, accepted.Session); r.State != api.StateSucceeded {
				t.Fatal(describe(r))
			}
			after := look(t, k.nc, "C")
			if d := natstest.Diff(before.records, after.records); d != "" {
				t.Error(d)
			}
			if len(after.consumers) != consumers {
				t.Fatalf("%d consumers came back of %d", len(after.consumers), consumers)
			}
			for i, c := range after.consumers {
				k.checkConsumer(before.consumers[i], c)
			}
		})
	}
}

// checkConsumer compares a consumer. What was delivered and not acknowledged
// may be delivered again: in a cluster no server tells which messages that is.
func (k *clustered) checkConsumer(want, got natstest.ConsumerInfo) {
	k.t.Helper()
	if want.Name != got.Name || want.AckFloor != got.AckFloor {
		k.t.Errorf("consumer %s, want %s: %s", state(got), want.Name, state(want))
	}
	if got.Delivered != want.Delivered && got.Delivered != want.AckFloor {
		k.t.Errorf("consumer %s: %s, was %s", got.Name, state(got), state(want))
	}
	var config struct {
		Replicas int `json:"num_replicas"`
	}
	if err := json.Unmarshal(got.Config, &config); err != nil || config.Replicas != 1 {
		k.t.Errorf("consumer %s has %d replicas, %v", got.Name, config.Replicas, err)
	}
	if d := compareConfig(want.Config, got.Config, nil); d != "" {
		k.t.Errorf("consumer %s: configuration: %s", got.Name, d)
	}
}
