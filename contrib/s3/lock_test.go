package s3_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
	"jetkeep/store/testenv"
)

// A backup that builds on an older one, which nothing retains, has all that it
// takes over retained by real servers: nothing of it can be deleted.
func TestLockedRepository(t *testing.T) {
	for _, kind := range objectserver.SomeS3Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := objectserver.S3(t, kind)
			x := &site{server: s, bucket: s.NewBucket(t, objectserver.BucketOptions{Lock: true})}
			r, err := store.Init(t.Context(), x.open(t, s.Owner()), store.InitOptions{})
			if err != nil {
				t.Fatal(err)
			}
			backup(t, r, 1000)
			x.mode, x.retain = "compliance", time.Hour
			if r, err = store.Open(t.Context(), x.open(t, s.Owner()), store.OpenOptions{}); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			p := backup(t, r, 1050)
			if p.Retained.Before(begun.Add(x.retain-time.Second)) || p.Retained.After(time.Now().Add(x.retain)) {
				t.Errorf("retained until %s, begun at %s", p.Retained, begun)
			}
			if report, err := r.Verify(t.Context(), store.VerifyOptions{Level: store.VerifyRecords}); err != nil || !report.OK() {
				t.Error(err, report.Problems)
			}
			if err := r.Forget(t.Context(), []string{p.ID}); !errors.Is(err, object.ErrRetained) {
				t.Error("forget:", err)
			}
			// The owner of the bucket himself.
			names := []string{"jetkeep.json", "chains/" + p.Chain + "/0000000000000001"}
			for _, o := range p.Content.Uses.Objects {
				names = append(names, o.Name)
			}
			for _, name := range names {
				info, err := s.Root().StatObject(t.Context(), x.bucket, name, minio.StatObjectOptions{})
				if err != nil {
					t.Fatal(name, err)
				}
				if err := s.Root().RemoveObject(t.Context(), x.bucket, name, minio.RemoveObjectOptions{VersionID: info.VersionID, GovernanceBypass: true}); err == nil {
					t.Errorf("%s was deleted before its time", name)
				}
			}
		})
	}
}

// passes waits until a time is over.
func passes(t *testing.T, until time.Time) {
	t.Helper()
	testenv.True(t, until.String(), func() bool { return time.Now().After(until) })
}

// backup stores the messages 1 to n on top of the newest restore point.
func backup(t *testing.T, r *store.Repository, n uint64) store.Point {
	t.Helper()
	area, err := staging.Open(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer area.Close()
	task := fmt.Sprintf("b.%04d", n)
	w, err := r.NewWriter(t.Context(), store.WriterOptions{Staging: area, Task: task, Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	alive := &seqset.Set{}
	alive.AddRange(1, n)
	base, err := r.Latest(t.Context(), "default", "ORDERS")
	if err == nil {
		err = w.Continue(t.Context(), base, alive)
	} else if errors.Is(err, store.ErrNoPoint) {
		err = nil
	}
	for seq := uint64(1); seq <= n && err == nil; seq++ {
		err = w.Append(&record.Record{Sequence: seq, Time: int64(seq), Subject: []byte("orders.new"), Data: make([]byte, 1000)})
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.Finish(t.Context(), &seqset.Set{})
	if err == nil {
		err = r.Commit(t.Context(), store.Point{
			ID: task, Task: task, Backup: "b", Target: "default", Stream: "ORDERS", Time: time.Now(), Created: time.Now(),
			Config: json.RawMessage(`{"name":"ORDERS"}`), Content: c, Server: "2.15.3", Engine: "messages",
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Point(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
