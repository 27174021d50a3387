package backup

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// TestCaptureInCluster: servers before 2.15 leave consumers of one replica out
// of the snapshot of a stream of three unless both live on the same server.
func TestCaptureInCluster(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cluster := natstest.StartCluster(t, 3, version)
			nc := cluster.Connect()
			request(t, nc, "STREAM.CREATE.TRIPLE", object{
				"name": "TRIPLE", "subjects": []string{"triple"}, "num_replicas": 3, "retention": "limits", "storage": "file",
			})
			publish(t, nc, "triple", 8000, 2000)
			// Until they live on two servers, one of which does not lead the stream.
			consumers, homes := 0, map[string]bool{}
			for ; consumers < 3 || len(homes) < 2; consumers++ {
				var info struct {
					Cluster struct {
						Leader string `json:"leader"`
					} `json:"cluster"`
				}
				natstest.MustRequest(t, nc, fmt.Sprintf("CONSUMER.DURABLE.CREATE.TRIPLE.c%d", consumers), object{
					"stream_name": "TRIPLE", "config": object{"durable_name": fmt.Sprintf("c%d", consumers), "num_replicas": 1, "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant"},
				}, &info)
				homes[info.Cluster.Leader] = true
			}
			target := OfConn(dial(t, cluster.URL()))
			var got *collection
			var out *Outcome
			testenv.Until(t, "a capture while the cluster is whole", func() (err error) {
				got = collect()
				out, err = Capture(t.Context(), target, "TRIPLE", got, Options{})
				if missing := new(jsapi.MissingError); err != nil && !errors.As(err, &missing) && !errors.Is(err, jsapi.ErrNotReady) {
					t.Fatal(err)
				}
				return err // some node did not answer in time
			})
			if len(out.Consumers) != consumers {
				t.Fatalf("%d of %d consumers captured", len(out.Consumers), consumers)
			}
			if made := strings.Contains(strings.Join(out.Notes, "\n"), "consumers that the snapshot lacked"); made != (version != natstest.Latest) {
				t.Errorf("notes %q", out.Notes)
			}
			checkAgainstInfo(t, got.live(out), out)

			// The server that sends is killed in the middle.
			leader := cluster.Leader(nc, "TRIPLE")
			m := &meddler{Target: target, window: 64 << 10, during: func() { cluster.Kill(leader) }}
			_, err := Capture(t.Context(), m, "TRIPLE", collect(), Options{Snapshot: jetsnap.SnapshotOptions{IdleTimeout: 5 * time.Second}})
			if err == nil {
				t.Fatal("a snapshot whose sender was killed is taken as complete")
			}
			t.Log(err)
		})
	}
}
