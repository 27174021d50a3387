package natstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/store/testenv"
)

// Cluster is several servers of one version that share one JetStream.
type Cluster struct {
	t     testing.TB
	Nodes []*Server
	wires []*wire // of a Severable one
}

// StartCluster starts n servers, binaries of the given version or embedded ones
// if it is empty, and waits until they have elected a leader of JetStream that
// sees all of them. Only binaries can be killed.
func StartCluster(t testing.TB, n int, version string, opts ...Option) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	ports := make([]int, n)
	for i := range n {
		ports[i] = freePort(t)
	}
	var o options
	for _, set := range opts {
		set(&o)
	}
	for i := range n {
		with := append([]Option{Name(fmt.Sprintf("n%d", i)), Config(c.routes(i, ports, o)), func(o *options) { o.http = true }}, opts...)
		c.Nodes = append(c.Nodes, prepare(t, version, with))
	}
	for _, s := range c.Nodes {
		s.launch()
	}
	for _, s := range c.Nodes {
		s.await()
	}
	c.AwaitReady()
	return c
}

// URL returns the addresses of all nodes.
func (c *Cluster) URL() string {
	urls := make([]string, len(c.Nodes))
	for i, s := range c.Nodes {
		urls[i] = s.URL()
	}
	return strings.Join(urls, ",")
}

// Connect connects a client that may use every node.
func (c *Cluster) Connect(opts ...nats.Option) *nats.Conn {
	c.t.Helper()
	return Connect(c.t, c.URL(), opts...)
}

// Kill ends node i by SIGKILL.
func (c *Cluster) Kill(i int) { c.Nodes[i].Kill() }

// Restart starts node i again and waits until the cluster is whole.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	c.Nodes[i].Restart()
	c.AwaitReady()
}

// Restores tells how many restores each node has begun to take in.
func (c *Cluster) Restores() []int {
	var out []int
	for _, n := range c.Nodes {
		out = append(out, strings.Count(n.Log(), "Starting restore for stream"))
	}
	return out
}

// AwaitReady waits until the leader of JetStream sees every running node.
func (c *Cluster) AwaitReady() {
	c.t.Helper()
	if err := Eventually(testenv.Hang, c.ready); err != nil {
		c.t.Fatalf("await cluster: %v\n%s", err, testenv.Report())
	}
}

func (c *Cluster) ready() error {
	running := 0
	leaders := map[string]bool{}
	current := 0
	for _, s := range c.Nodes {
		if !s.running() {
			continue
		}
		running++
		meta, err := s.meta()
		if err != nil {
			return err
		}
		leaders[meta.Leader] = true
		if meta.Leader != s.options.name {
			continue
		}
		current = 1
		for _, r := range meta.Replicas {
			if r.Current && !r.Offline {
				current++
			}
		}
	}
	if len(leaders) != 1 || leaders[""] {
		return fmt.Errorf("no agreed leader: %v", leaders)
	}
	if current != running {
		return fmt.Errorf("leader sees %d nodes of %d", current, running)
	}
	return nil
}

func (s *Server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node != nil
}

type metaInfo struct {
	Leader   string `json:"leader"`
	Replicas []struct {
		Name    string `json:"name"`
		Current bool   `json:"current"`
		Offline bool   `json:"offline"`
	} `json:"replicas"`
}

// meta asks the monitoring port, which wants no credentials whatever the
// accounts are.
func (s *Server) meta() (metaInfo, error) {
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/jsz", s.http))
	if err != nil {
		return metaInfo{}, err
	}
	defer resp.Body.Close()
	var jsz struct {
		Meta *metaInfo `json:"meta_cluster"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&jsz); err != nil {
		return metaInfo{}, fmt.Errorf("decode state of %s: %w", s.options.name, err)
	}
	if jsz.Meta == nil {
		return metaInfo{}, errors.New("no cluster state yet")
	}
	return *jsz.Meta, nil
}

// Leader returns the index of the node that leads the stream, waiting for an
// election.
func (c *Cluster) Leader(nc *nats.Conn, stream string) int {
	c.t.Helper()
	leader := -1
	err := Eventually(testenv.Hang, func() error {
		var info StreamInfo
		if err := Request(nc, "STREAM.INFO."+stream, nil, &info); err != nil {
			return err
		}
		if info.Cluster == nil || info.Cluster.Leader == "" {
			return errors.New("no leader")
		}
		for i, s := range c.Nodes {
			if s.options.name == info.Cluster.Leader {
				leader = i
			}
		}
		if leader < 0 || !c.Nodes[leader].running() {
			return fmt.Errorf("leader %s does not run", info.Cluster.Leader)
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("find leader of %s: %v\n%s", stream, err, testenv.Report())
	}
	return leader
}

// MetaLeader returns the index of the node that leads JetStream as a whole.
func (c *Cluster) MetaLeader() int {
	c.t.Helper()
	leader := -1
	err := Eventually(testenv.Hang, func() error {
		if err := c.ready(); err != nil {
			return err
		}
		for i, s := range c.Nodes {
			if meta, err := s.meta(); err == nil && meta.Leader == s.options.name {
				leader = i
				return nil
			}
		}
		return errors.New("no node leads JetStream")
	})
	if err != nil {
		c.t.Fatalf("find leader of JetStream: %v\n%s", err, testenv.Report())
	}
	return leader
}

// stepDownAgain is after how many looks that show the same leader it is asked again
// to hand over.
const stepDownAgain = 100

// StepDown makes the leader of the stream hand over and returns the new one.
func (c *Cluster) StepDown(nc *nats.Conn, stream string) int {
	c.t.Helper()
	before := c.Leader(nc, stream)
	tries := 0
	err := Eventually(testenv.Hang, func() error {
		if tries++; tries%stepDownAgain == 1 { // the one that stepped down may be elected again
			MustRequest(c.t, nc, "STREAM.LEADER.STEPDOWN."+stream, nil, nil)
		}
		if c.Leader(nc, stream) == before {
			return errors.New("same leader")
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("step down leader of %s: %v\n%s", stream, err, testenv.Report())
	}
	return c.Leader(nc, stream)
}

// AwaitReplicas waits until every replica of the stream is current.
func (c *Cluster) AwaitReplicas(nc *nats.Conn, stream string) {
	c.t.Helper()
	err := Eventually(testenv.Hang, func() error {
		var info StreamInfo
		if err := Request(nc, "STREAM.INFO."+stream, nil, &info); err != nil {
			return err
		}
		if info.Cluster == nil || info.Cluster.Leader == "" {
			return errors.New("no leader")
		}
		for _, r := range info.Cluster.Replicas {
			if !r.Current {
				return fmt.Errorf("replica %s is behind", r.Name)
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("await replicas of %s: %v\n%s", stream, err, testenv.Report())
	}
}
