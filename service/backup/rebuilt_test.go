package backup_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// TestIncrementFromRebuiltReplica backs a stream up from a replica that was
// rebuilt from nothing: its blocks differ from those of the replica which the
// first backup came from, its messages do not.
func TestIncrementFromRebuiltReplica(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cluster := natstest.StartCluster(t, 3, version)
			nc := cluster.Connect()
			plainStreamOf(t, nc, 3)
			write(t, nc, "s", messages/2, size, 1)
			deleteSome(t, nc, 100, 10, messages/2)
			cluster.AwaitReplicas(nc, "S")
			v := newVault(t)
			first := v.backup(cluster.URL(), "S")
			rescale(t, cluster, nc)
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
	kept := 0
	for _, replicas := range []int{1, 3} {
		natstest.MustRequest(t, nc, "STREAM.UPDATE.S",
			fmt.Sprintf(`{"name":"S","subjects":["s"],"storage":"file","retention":"limits","num_replicas":%d}`, replicas), nil)
		awaitPeers(t, nc, replicas)
		if replicas == 1 {
			kept = cluster.Leader(nc, "S") // the others have nothing now
		}
	}
	cluster.AwaitCopies("S", natstest.Info(t, nc, "S").State.Messages)
	cluster.Kill(kept)
	cluster.Leader(nc, "S") // another one, before the backup asks
}

// awaitPeers waits until the stream has so many replicas, all current.
func awaitPeers(t *testing.T, nc *nats.Conn, n int) {
	t.Helper()
	testenv.Until(t, fmt.Sprintf("%d replicas", n), func() error {
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
}
