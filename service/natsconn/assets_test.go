package natsconn_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// TestReplicas: three where that is possible, one where it never will be, what
// was asked for otherwise, and nothing while a server is away.
func TestReplicas(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		servers     int
		config      string
		asked, want int
	}{
		"a server":                           {servers: 1, want: 1},
		"two servers":                        {servers: 2, want: 1},
		"three servers":                      {servers: 3, want: 3},
		"three servers, one asked":           {servers: 3, asked: 1, want: 1},
		"three servers, room for two copies": {servers: 3, want: 1, config: `accounts { A { users: [{user: a, password: a}], jetstream: {max_file: 2M} } }`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var nc *nats.Conn
			login := nats.UserInfo("a", "a")
			if tc.servers == 1 {
				nc = natstest.Start(t).Connect()
			} else {
				nc = natstest.StartCluster(t, tc.servers, natstest.Latest, natstest.Config(tc.config)).Connect(login)
			}
			js := must(jetstream.New(nc))(t)
			var stream jetstream.Stream
			testenv.Until(t, "a stream", func() (err error) {
				stream, err = natsconn.Stream(t.Context(), js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxBytes: 1e6, Replicas: tc.asked})
				return err
			})
			if got := stream.CachedInfo().Config.Replicas; got != tc.want {
				t.Errorf("the stream has %d replicas, want %d", got, tc.want)
			}
			var kv jetstream.KeyValue
			testenv.Until(t, "a bucket", func() (err error) {
				kv, err = natsconn.Bucket(t.Context(), js, jetstream.KeyValueConfig{Bucket: "B", MaxBytes: 1e6, Replicas: tc.asked})
				return err
			})
			if got := must(kv.Status(natstest.Context(t)))(t).Config().Replicas; got != tc.want {
				t.Errorf("the bucket has %d replicas, want %d", got, tc.want)
			}
		})
	}
}

// TestReplicasServerAway: a server that is away for now is no reason for one
// replica.
func TestReplicasServerAway(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, "2.11.12")
	leader := c.MetaLeader()
	away := (leader + 1) % len(c.Nodes)
	js := must(jetstream.New(c.Nodes[leader].Connect()))(t)
	c.Nodes[away].Stop()
	c.AwaitReady() // the leader knows
	var err error
	testenv.True(t, "an answer", func() bool {
		var stream jetstream.Stream
		stream, err = natsconn.Stream(t.Context(), js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
		if err == nil {
			t.Fatalf("it was made with %d replicas", stream.CachedInfo().Config.Replicas)
		}
		return !errors.Is(err, context.DeadlineExceeded)
	})
	if !strings.Contains(err.Error(), "the setting replicas may ask for fewer") || !strings.Contains(err.Error(), "peer offline") {
		t.Error(err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
