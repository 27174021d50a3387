package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"jetkeep/service/jetsnap"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// In a cluster, streams of both storages, replicated or not, come back with
// their consumers, and a source does not begin again although a cluster gives
// each restored stream a new life.
func TestCluster(t *testing.T) {
	t.Parallel()
	for _, version := range []string{natstest.Latest, "2.14.5"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := natstest.StartCluster(t, 3, version)
			conn := dial(t, c.URL())
			storages := []string{"file", "memory"}
			if version != natstest.Latest {
				storages = storages[:1]
			}
			for _, storage := range storages {
				for _, replicas := range []int{1, 3} {
					clusterOrders(t, c, conn, storage, replicas)
					clusterSources(t, c, conn, storage, replicas)
					clusterFailure(t, c, storage, replicas)
				}
			}
		})
	}
}

func clusterOrders(t *testing.T, c *natstest.Cluster, conn *natsconn.Conn, storage string, replicas int) {
	t.Helper()
	nc := c.Connect()
	what := fmt.Sprintf("%s, %d replicas", storage, replicas)
	makeOrders(t, nc, fmt.Sprintf(`{"name":"ORDERS","subjects":["orders.*"],"storage":%q,"num_replicas":%d}`, storage, replicas))
	k := newKept()
	p := k.capture(t, conn, "ORDERS")
	want := k.consumers[p.ID][0].State
	drop(t, nc, "ORDERS")
	if r := mustExecute(t, c.URL(), k, p); !r.Verified || hasFinding(r.Warnings, CodeConfigChanged) {
		t.Errorf("%s: result %+v", what, r)
	}
	wantRecords(t, nc, "ORDERS", k.records[p.ID])
	var is natstest.ConsumerInfo
	testenv.Until(t, "the consumer to be listed", func() error {
		list := natstest.Consumers(t, nc, "ORDERS")
		if len(list) != 1 {
			return fmt.Errorf("%d are", len(list))
		}
		is = list[0]
		return nil
	})
	if is.Delivered.Stream != want.Delivered.Stream || is.AckFloor.Stream != want.AckFloor.Stream || is.NumAckPending != len(want.Pending) {
		t.Errorf("%s: consumer %+v, want %+v", what, is, want)
	}
	if replicas > 1 {
		c.AwaitReplicas(nc, "ORDERS")
		c.StepDown(nc, "ORDERS")
		wantRecords(t, nc, "ORDERS", k.records[p.ID])
	}
	drop(t, nc, "ORDERS")
}

// TestClusterServerBack: a cluster that has not enough servers when a restore
// begins is waited for. Servers before 2.12 place no stream on one that is down;
// later ones only on none that they have not heard of since they started, which
// takes a moment that no test can hold.
func TestClusterServerBack(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, "2.11.12")
	leader := c.MetaLeader()
	down := (leader + 1) % len(c.Nodes)
	nc := c.Nodes[leader].Connect()
	conn := dial(t, c.Nodes[leader].URL())
	makeOrders(t, nc, `{"name":"ORDERS","subjects":["orders.*"],"num_replicas":3}`)
	k := newKept()
	p := k.capture(t, conn, "ORDERS")
	drop(t, nc, "ORDERS")
	c.Nodes[down].Stop() // by which it tells the others
	ended := make(chan error, 1)
	var fences atomic.Int64
	fence := func(context.Context) error { fences.Add(1); return nil }
	go func() {
		_, err := Execute(t.Context(), Job{Conn: conn, Repo: k, Point: p, Fence: fence, patience: testenv.Hang})
		ended <- err
	}()
	// The claim is asked for again before the upload is repeated.
	testenv.True(t, "the first upload to be refused", func() bool {
		if len(ended) > 0 {
			t.Fatal("it ended before the server was back:", <-ended)
		}
		return fences.Load() >= 2
	})
	c.Restart(down)
	if err := testenv.Receive(t, "the end of the restore", ended); err != nil {
		t.Fatal(err)
	}
	wantRecords(t, nc, "ORDERS", k.records[p.ID])
}

// clusterFailure checks that a restore which fails leaves the name free.
func clusterFailure(t *testing.T, c *natstest.Cluster, storage string, replicas int) {
	t.Helper()
	nc := c.Connect()
	records := numbered(1, 3000, func(r *record.Record) { r.Data = make([]byte, 1000) })
	in := point("HALF", fmt.Sprintf(`"subjects":["half"],"storage":%q,"num_replicas":%d`, storage, replicas))
	in.Point.State.Messages, in.Point.State.LastSeq = 3000, 3000
	k := newKept()
	p := k.put(in.Point, records, nil)
	k.cut[p.ID] = 2000
	if _, err := execute(t, c.URL(), k, p); !errors.Is(err, errCut) {
		t.Errorf("%s, %d replicas: error %v, want %v", storage, replicas, err, errCut)
	}
	if got := natstest.Streams(t, nc); len(got) > 0 {
		t.Errorf("%s, %d replicas: names %v are occupied", storage, replicas, got)
	}
	delete(k.cut, p.ID)
	if r := mustExecute(t, c.URL(), k, p); !r.Verified {
		t.Errorf("%s, %d replicas: result %+v", storage, replicas, r)
	}
	drop(t, nc, "HALF")
}

func clusterSources(t *testing.T, c *natstest.Cluster, conn *natsconn.Conn, storage string, replicas int) {
	t.Helper()
	nc := c.Connect()
	what := fmt.Sprintf("%s, %d replicas", storage, replicas)
	create(t, nc, fmt.Sprintf(`{"name":"IN","subjects":["in.>"],"storage":%q,"num_replicas":%d}`, storage, replicas))
	create(t, nc, fmt.Sprintf(`{"name":"ALL","storage":%q,"num_replicas":%d,"sources":[{"name":"IN"}]}`, storage, replicas))
	publish(t, nc, "in.x", 20)
	awaitMessages(t, nc, "ALL", 20)
	k := newKept()
	in, out := k.capture(t, conn, "IN"), k.capture(t, conn, "ALL")
	drop(t, nc, "ALL", "IN")
	mustExecute(t, c.URL(), k, in)
	mustExecute(t, c.URL(), k, out)
	checkSourcing(t, nc, what, 20)
	if replicas > 1 {
		c.AwaitReplicas(nc, "ALL")
		c.StepDown(nc, "ALL") // the new leader asks again where to begin
		checkSourcing(t, nc, what, 30)
	}
	drop(t, nc, "ALL", "IN")
}

// A server that is killed while it restores leaves nothing, or what it left is
// deleted when it is back; the error never says that the stream is there.
func TestServerDiesDuringRestore(t *testing.T) {
	t.Parallel()
	for _, storage := range []string{"file", "memory"} {
		t.Run(storage, func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t)
			k, p := big(t, s, dial(t, s.URL()), storage, 12000)
			died := make(chan struct{})
			k.hook = func(n int) {
				if n == 11000 {
					go func() {
						defer close(died)
						s.Kill()
					}()
					<-died
					s.Start()
				}
			}
			_, err := execute(t, s.URL(), k, p)
			if err == nil {
				t.Fatal("restore succeeded")
			}
			t.Log(err)
			k.hook = nil
			nc := s.Connect()
			if got := natstest.Streams(t, nc); len(got) > 0 {
				t.Fatalf("streams %v are left after %v", got, err)
			}
			if r := mustExecute(t, s.URL(), k, p); !r.Verified {
				t.Errorf("result %+v", r)
			}
		})
	}
}

// replicate makes a restore point one of a stream of three replicas.
func replicate(t *testing.T, p *store.Point) {
	t.Helper()
	o, err := decodeObject(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	o["num_replicas"] = []byte("3")
	if p.Config, err = json.Marshal(o); err != nil {
		t.Fatal(err)
	}
}

// A restore in a cluster whose server dies under it fails and leaves the name free:
// the next one, made as soon as the server is back, keeps its stream. It is back no
// sooner, for 2.14.5 crashes if it learns of a restore that is not ended.
func TestClusterServerDiesDuringRestore(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			serverDiesDuringRestore(t, natstest.StartCluster(t, 3, version))
		})
	}
}

func serverDiesDuringRestore(t *testing.T, c *natstest.Cluster) {
	t.Helper()
	conn := dial(t, c.Nodes[0].URL())
	nc := c.Nodes[0].Connect()
	k, p := big(t, c.Nodes[0], conn, "file", 12000)
	replicate(t, &p)
	killed := 0
	// The cluster chooses the server that takes a restore in.
	for began := time.Now(); killed == 0; {
		if time.Since(began) > testenv.Hang {
			t.Fatal("every restore went to the connection's own server")
		}
		before := c.Restores()
		k.hook = func(n int) {
			if n != 11000 {
				return
			}
			for i, n := range c.Restores() {
				if i > 0 && n > before[i] {
					killed = i
					c.Kill(i)
				}
			}
		}
		_, err := Execute(t.Context(), Job{Conn: conn, Repo: k, Point: p, patience: testenv.Hang})
		if killed > 0 {
			if !errors.Is(err, jetsnap.ErrAborted) {
				t.Fatalf("its server died, and the restore ended with %v", err)
			}
			t.Log(err)
			k.hook = nil
			c.Nodes[killed].Start()
			_, err = Execute(t.Context(), Job{Conn: conn, Repo: k, Point: p, patience: testenv.Hang})
		}
		if err != nil {
			t.Fatal(err)
		}
		wantRecords(t, nc, "BIG", k.records[p.ID])
		if killed > 0 {
			c.AwaitReplicas(nc, "BIG")
			c.StepDown(nc, "BIG")
			wantRecords(t, nc, "BIG", k.records[p.ID])
		}
		drop(t, nc, "BIG")
	}
}

// More replicas than there are servers are refused before anything is sent.
func TestReplicasOnOneServer(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	k, p := big(t, s, dial(t, s.URL()), "file", 10)
	replicate(t, &p)
	_, err := execute(t, s.URL(), k, p)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Problems[0].Code != CodeReplicas {
		t.Errorf("error %v, want %s", err, CodeReplicas)
	}
}
