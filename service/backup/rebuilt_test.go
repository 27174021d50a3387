package backup_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/natstest"
)

// TestIncrementFromRebuiltReplica backs a stream up from a replica that was
// rebuilt from nothing: its blocks differ from those of the replica which the
// first backup came from, its messages do not.
func TestIncrementFromRebuiltReplica(t *testing.T) {
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			cluster := natstest.StartCluster(t, 3, version)
			nc := cluster.Connect()
			plainStreamOf(t, nc, 3)
			write(t, nc, "s", messages/2, size, 1)
			deleteSome(t, nc, 100, 10, messages/2)
			cluster.AwaitReplicas(nc, "S")
			v := newVault(t)
			first := v.backup(cluster.URL(), "S")
			leader := cluster.Leader(nc, "S")
			rescale(t, cluster, nc)
			if cluster.Leader(nc, "S") == leader {
				t.Fatalf("node %d led before: the test shows nothing", leader)
			}
			second := v.backup(cluster.URL(), "S")
			v.increment(first, second, 0.002)
			write(t, nc, "s", 50, size, 2)
			third := v.backup(cluster.URL(), "S")
			v.increment(first, third, 0.03)
		})
	}
}

func plainStreamOf(t *testing.T, nc *nats.Conn, replicas int) {
	t.Helper()
	natstest.MakeStream(t, nc, fmt.Sprintf(`{"name":"S","subjects":["s"],"storage":"file","retention":"limits","num_replicas":%d}`, replicas))
}

// rescale takes the stream to one replica and back to three, and kills the one
// that was not rebuilt so.
func rescale(t *testing.T, cluster *natstest.Cluster, nc *nats.Conn) {
	t.Helper()
	for _, replicas := range []int{1, 3} {
		natstest.MustRequest(t, nc, "STREAM.UPDATE.S",
			fmt.Sprintf(`{"name":"S","subjects":["s"],"storage":"file","retention":"limits","num_replicas":%d}`, replicas), nil)
		awaitPeers(t, nc, replicas)
	}
	cluster.Kill(cluster.Leader(nc, "S"))
}

// awaitPeers waits until the stream has so many replicas, all current.
func awaitPeers(t *testing.T, nc *nats.Conn, n int) {
	t.Helper()
	err := natstest.Eventually(2*time.Minute, func() error {
		var info natstest.StreamInfo
		if err := natstest.Request(nc, "STREAM.INFO.S", nil, &info); err != nil {
			return err
		}
		if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != n-1 {
			return errors.New("not so many replicas yet")
		}
		for _, r := range info.Cluster.Replicas {
			if !r.Current {
				return fmt.Errorf("replica %s is behind", r.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("await %d replicas: %v", n, err)
	}
}
