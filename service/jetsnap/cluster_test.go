package jetsnap_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

var streamR3 = strings.Replace(streamS, `"num_replicas":1`, `"num_replicas":3`, 1)

// A leader that steps down finishes its snapshot; one that is killed leaves
// silence, and a new snapshot comes from the next leader.
func TestClusterSnapshot(t *testing.T) {
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			cluster := natstest.StartCluster(t, 3, version)
			nc := cluster.Connect()
			fill(t, nc, streamR3, "s.a", 480, 64<<10)
			cluster.AwaitReplicas(nc, "S")
			begin := func(node int) (*jetsnap.Client, *jetsnap.Snapshot) {
				c, _ := client(t, natsconn.Options{URL: cluster.Nodes[node].URL(), RequestTimeout: 15 * time.Second})
				s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{MaxBuffered: 256 << 10, IdleTimeout: 15 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(s, make([]byte, 1<<20)); err != nil {
					t.Fatal(err)
				}
				return c, s
			}
			leader := cluster.Leader(nc, "S")
			_, s := begin((leader + 1) % 3)
			cluster.StepDown(nc, "S")
			if n, err := io.Copy(io.Discard, s); err != nil || n < 480*64<<10-1<<20 {
				t.Errorf("after the step-down: %d bytes, %v", n, err)
			}
			s.Close()

			leader = cluster.Leader(nc, "S")
			c, s := begin((leader + 1) % 3)
			cluster.Kill(leader)
			if n, err := io.Copy(io.Discard, s); !errors.Is(err, jetsnap.ErrIdle) {
				t.Errorf("after the kill: %d bytes, %v", n, err)
			}
			s.Close()
			err := natstest.Eventually(2*time.Minute, func() error {
				s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{IdleTimeout: 15 * time.Second})
				if err != nil {
					return err
				}
				defer s.Close()
				_, err = io.Copy(io.Discard, s)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// The node that takes in a restore is killed: no success, and an end in time.
func TestClusterRestore(t *testing.T) {
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			cluster := natstest.StartCluster(t, 3, version)
			nc := cluster.Connect()
			fill(t, nc, streamR3, "s.a", 480, 64<<10)
			cluster.AwaitReplicas(nc, "S")
			c, conn := client(t, natsconn.Options{URL: cluster.Nodes[0].URL()})
			snap, data := take(t, c, "S", jetsnap.SnapshotOptions{})
			want, _ := natstest.Digest(t, nc, "S")
			if err := conn.API.DeleteStream(t.Context(), "S"); err != nil {
				t.Fatal(err)
			}
			gone(t, conn, "S")
			info, err := c.Restore(t.Context(), "S", snap.Config, bytes.NewReader(data), jetsnap.RestoreOptions{State: snap.State})
			if err != nil || info.State.Messages != 480 {
				t.Fatalf("%+v, %v", info, err)
			}
			if got, _ := natstest.Digest(t, nc, "S"); got != want {
				t.Error("restored stream differs")
			}

			// The server places the restore anywhere, also on the connection's
			// own node, which is another case.
			for try := 1; ; try++ {
				if err := conn.API.DeleteStream(t.Context(), "S"); err != nil {
					t.Fatal(err)
				}
				gone(t, conn, "S")
				if killRestoring(t, cluster, c, snap.Config, data) {
					return
				}
				if try == 8 {
					t.Fatal("every restore went to the connection's own node")
				}
			}
		})
	}
}

// killRestoring kills the node that takes in a restore in the middle of it; it
// reports false, with the restore done, if that is node 0.
func killRestoring(t *testing.T, cluster *natstest.Cluster, c *jetsnap.Client, config json.RawMessage, data []byte) bool {
	t.Helper()
	before := cluster.Restores()
	var mu sync.Mutex // Restore may return while its source is still read
	node := -1
	var killed time.Time
	kill := &hook{f: func() {
		mu.Lock()
		defer mu.Unlock()
		for i, n := range cluster.Restores() {
			if n > before[i] {
				node = i
			}
		}
		if node > 0 {
			cluster.Kill(node)
			killed = time.Now()
		}
	}}
	// The first part must have arrived before the node is looked for.
	src := io.MultiReader(bytes.NewReader(data[:20<<20]), kill, bytes.NewReader(data[20<<20:]))
	_, err := c.Restore(t.Context(), "S", config, src, jetsnap.RestoreOptions{})
	mu.Lock()
	defer mu.Unlock()
	switch {
	case node < 0:
		t.Fatalf("no node restores, error %v", err)
	case node == 0:
		if err != nil {
			t.Fatal(err)
		}
		return false
	case !errors.Is(err, jetsnap.ErrAborted):
		t.Errorf("got %v", err)
	}
	if d := time.Since(killed); d > 25*time.Second {
		t.Errorf("noticed after %s", d)
	}
	return true
}

const hubConfig = `
accounts { SYS {users: [{user: sys, password: pw}]}, A { jetstream: enabled, users: [{user: a, password: pw}] } }
system_account: SYS
leafnodes { listen: "127.0.0.1:-1" }
`

// A stream of a leaf node's domain is backed up and restored through the hub,
// and the hub's own domain does not know it.
func TestDomainBehindLeafNode(t *testing.T) {
	for _, version := range []string{"2.10.29", "2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			hub := natstest.StartVersion(t, version, natstest.Domain("HUB"), natstest.Config(hubConfig))
			_, port, found := strings.Cut(hub.Log(), "Listening for leafnode connections on 127.0.0.1:")
			if !found {
				t.Fatal("no port for leaf nodes")
			}
			port, _, _ = strings.Cut(port, "\n")
			leaf := natstest.StartVersion(t, version, natstest.Domain("EDGE"), natstest.Config(
				`leafnodes { remotes: [ {url: "nats-leaf://a:pw@127.0.0.1:`+strings.TrimSpace(port)+`"} ] }`))
			edge := leaf.Connect()
			fill(t, edge, streamS, "s.a", 480, 64<<10)
			want, _ := natstest.Digest(t, edge, "S")

			login := natsconn.Options{URL: hub.URL(), User: "a", Password: "pw"}
			_, own := client(t, login)
			if _, err := own.API.StreamInfo(t.Context(), "S", jsapi.InfoOptions{}); !errors.Is(err, jsapi.ErrStreamNotFound) {
				t.Errorf("in the hub's domain: %v", err)
			}
			login.Domain = "NOWHERE"
			_, nowhere := client(t, login)
			if _, err := nowhere.API.AccountInfo(t.Context()); !errors.Is(err, jsapi.ErrNoJetStream) {
				t.Errorf("in a domain that does not exist: %v", err)
			}
			login.Domain = "EDGE"
			c, conn := client(t, login)
			err := natstest.Eventually(2*time.Minute, func() error {
				_, err := conn.API.StreamInfo(t.Context(), "S", jsapi.InfoOptions{})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			snap, data := take(t, c, "S", jetsnap.SnapshotOptions{})
			seen := 0
			err = conn.API.Messages(t.Context(), "S", seqset.Of(1, 2, 480, 481), func(seq uint64, r *record.Record) error {
				if r != nil && r.Sequence == seq {
					seen++
				}
				return nil
			})
			if err != nil || seen != 3 {
				t.Errorf("read %d messages: %v", seen, err)
			}
			if err := conn.API.DeleteStream(t.Context(), "S"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Restore(t.Context(), "S", snap.Config, bytes.NewReader(data), jetsnap.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			if got, _ := natstest.Digest(t, edge, "S"); got != want {
				t.Error("restored stream differs")
			}
		})
	}
}
