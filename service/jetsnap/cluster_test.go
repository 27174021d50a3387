package jetsnap_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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
	"jetkeep/store/testenv"
)

var streamR3 = strings.Replace(streamS, `"num_replicas":1`, `"num_replicas":3`, 1)

// lost is after how long a request or a transfer counts as lost that an election may
// have swallowed.
const lost = 2 * time.Minute

// silence is what ends a transfer from a server that was killed. What is killed only
// after it is begun may end by it sooner on a machine that is slow.
const silence = 10 * time.Second

// A leader that steps down finishes its snapshot; one that is killed leaves
// silence, and a new snapshot comes from the next leader.
func TestClusterSnapshot(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cluster := natstest.StartCluster(t, 3, version)
			nc := cluster.Connect()
			fill(t, nc, streamR3, "s.a", 480, 64<<10)
			cluster.AwaitReplicas(nc, "S")
			besides := func(leader int) *jetsnap.Client {
				c, _ := client(t, natsconn.Options{URL: cluster.Nodes[(leader+1)%3].URL(), RequestTimeout: lost})
				return c
			}
			inTime(t, func() error {
				s, err := begin(t, besides(cluster.Leader(nc, "S")), lost)
				if err != nil {
					return err
				}
				defer s.Close()
				cluster.StepDown(nc, "S")
				n, err := io.Copy(io.Discard, s)
				if err == nil && n < 480*64<<10-1<<20 {
					return fmt.Errorf("%d bytes after the step-down", n)
				}
				return err
			})

			var c *jetsnap.Client
			testenv.Until(t, "silence, and no end before the kill", func() error {
				leader := cluster.Leader(nc, "S")
				c = besides(leader)
				s, err := begin(t, c, silence)
				if err != nil {
					return err
				}
				defer s.Close()
				cluster.Kill(leader)
				if _, err = io.Copy(io.Discard, s); err == nil {
					t.Fatal("a success after the kill")
				}
				if !errors.Is(err, jetsnap.ErrIdle) {
					cluster.Restart(leader)
					return expect(err, jetsnap.ErrIdle)
				}
				return nil
			})
			testenv.Until(t, "a snapshot from the next leader", func() error {
				s, err := c.Snapshot(t.Context(), "S", jetsnap.SnapshotOptions{IdleTimeout: silence})
				if err != nil {
					return err
				}
				defer s.Close()
				_, err = io.Copy(io.Discard, s)
				return err
			})
		})
	}
}

// The node that takes in a restore is killed: no success, and an end in time.
func TestClusterRestore(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cluster := natstest.StartCluster(t, 3, version)
			nc := cluster.Connect()
			fill(t, nc, streamR3, "s.a", 480, 64<<10)
			cluster.AwaitReplicas(nc, "S")
			c, conn := client(t, natsconn.Options{URL: cluster.Nodes[0].URL(), RequestTimeout: lost})
			snap, data := take(t, c, "S")
			want, _ := natstest.Digest(t, nc, "S")
			inTime(t, func() error {
				remove(t, conn, "S")
				o := jetsnap.RestoreOptions{IdleTimeout: lost, InstallTimeout: testenv.Hang, State: snap.State}
				info, err := c.Restore(t.Context(), "S", snap.Config, bytes.NewReader(data), o)
				if err == nil && info.State.Messages != 480 {
					return fmt.Errorf("%d messages", info.State.Messages)
				}
				return err
			})
			if got, _ := natstest.Digest(t, nc, "S"); got != want {
				t.Error("restored stream differs")
			}

			// The server places the restore anywhere, also on the connection's
			// own node, which is another case.
			testenv.Until(t, "a restore on another node than the connection's", func() error {
				remove(t, conn, "S")
				return killRestoring(t, cluster, c, snap.Config, data)
			})
		})
	}
}

// killRestoring kills the node that takes in a restore in the middle of it; it fails,
// with nothing killed, if that is node 0 or the restore ended before.
func killRestoring(t *testing.T, cluster *natstest.Cluster, c *jetsnap.Client, config json.RawMessage, data []byte) error {
	t.Helper()
	before := cluster.Restores()
	var mu sync.Mutex // Restore may return while its source is still read
	node := -1
	over := false
	kill := &hook{f: func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		for i, n := range cluster.Restores() {
			if n > before[i] {
				node = i
			}
		}
		if node > 0 {
			cluster.Kill(node)
		}
	}}
	// The first part must have arrived before the node is looked for.
	src := io.MultiReader(bytes.NewReader(data[:20<<20]), kill, bytes.NewReader(data[20<<20:]))
	// Who does not notice that nobody listens any more ends after that time, each time.
	_, err := c.Restore(t.Context(), "S", config, src, jetsnap.RestoreOptions{IdleTimeout: lost, InstallTimeout: lost})
	mu.Lock()
	defer mu.Unlock()
	over = true
	switch {
	case node <= 0:
		return fmt.Errorf("node %d restores, and the end is %w", node, err)
	case errors.Is(err, jetsnap.ErrAborted):
		return nil
	case err == nil:
		t.Fatalf("a success, and node %d was killed in the middle of it", node)
	}
	cluster.Restart(node)
	return fmt.Errorf("node %d was killed: %w", node, err)
}

const hubConfig = `
accounts { SYS {users: [{user: sys, password: pw}]}, A { jetstream: enabled, users: [{user: a, password: pw}] } }
system_account: SYS
leafnodes { listen: "127.0.0.1:-1" }
`

// A stream of a leaf node's domain is backed up and restored through the hub,
// and the hub's own domain does not know it.
func TestDomainBehindLeafNode(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.Some("2.10.29", "2.14.5", natstest.Latest) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			hub := natstest.StartVersion(t, version, natstest.Domain("HUB"), natstest.Config(hubConfig))
			port := ""
			testenv.True(t, "the port for leaf nodes", func() (whole bool) {
				_, port, _ = strings.Cut(hub.Log(), "Listening for leafnode connections on 127.0.0.1:")
				port, _, whole = strings.Cut(port, "\n")
				return whole
			})
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
			testenv.Until(t, "the way to the leaf node", func() error {
				_, err := conn.API.StreamInfo(t.Context(), "S", jsapi.InfoOptions{})
				return err
			})
			snap, data := take(t, c, "S")
			seen := 0
			err := conn.API.Messages(t.Context(), "S", seqset.Of(1, 2, 480, 481), func(seq uint64, r *record.Record) error {
				if r != nil && r.Sequence == seq {
					seen++
				}
				return nil
			})
			if err != nil || seen != 3 {
				t.Errorf("read %d messages: %v", seen, err)
			}
			inTime(t, func() error {
				remove(t, conn, "S")
				_, err := c.Restore(t.Context(), "S", snap.Config, bytes.NewReader(data), patient)
				return err
			})
			if got, _ := natstest.Digest(t, edge, "S"); got != want {
				t.Error("restored stream differs")
			}
		})
	}
}
