package service_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// Instances that start together on a cluster that has only just begun wait for
// its leaders, and make each stream and bucket once.
func TestStartTogether(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3, natstest.Latest)
	c := setup(t, cluster.Nodes[0])
	c.Control.URL = cluster.URL()
	// A server that is away when they start: what is made needs all three.
	cluster.Kill(2)
	made := make(chan error, 3)
	var all [3]*service.Service
	var logs [3]lockedBuffer
	var opened [3]atomic.Bool
	for i := range all {
		go func() {
			own := c
			own.Instance, own.Staging.Dir = fmt.Sprintf("i%d", i), fmt.Sprintf("%s%d", c.Staging.Dir, i)
			deps := service.Deps{Log: slog.New(slog.NewTextHandler(&logs[i], nil))}
			var err error
			all[i], err = service.New(t.Context(), own, deps)
			// They wait a minute, in which a slow machine may not have started the
			// server again.
			for err != nil && patient(&logs[i]) && t.Context().Err() == nil {
				all[i], err = service.New(t.Context(), own, deps)
			}
			opened[i].Store(true)
			made <- err
		}()
	}
	for i := range all {
		// One may come in between: a new leader takes the server to be there.
		testenv.True(t, "each instance waits for the cluster", func() bool { return patient(&logs[i]) || opened[i].Load() })
	}
	cluster.Nodes[2].Restart()
	for range all {
		if err := testenv.Receive(t, "an instance", made); err != nil {
			t.Errorf("start: %v", err)
		}
	}
	if t.Failed() {
		return
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 3)
	for _, s := range all {
		go func() { done <- s.Run(ctx) }()
	}
	for _, s := range all {
		<-s.Ready()
	}
	cl := clientOf(t, cluster.Connect())
	eventually(t, "every server knows of the service", func() bool {
		l, err := cl.TargetList(t.Context())
		return err == nil && len(l.Targets) == 1
	})
	for _, stream := range []string{api.StreamTasks, api.StreamEvents, "KV_" + api.BucketSessions} {
		var info struct {
			Config struct {
				Replicas int `json:"num_replicas"`
			} `json:"config"`
		}
		natstest.MustRequest(t, cluster.Nodes[0].Connect(), "STREAM.INFO."+stream, nil, &info)
		if info.Config.Replicas != 3 {
			t.Errorf("%s has %d replicas", stream, info.Config.Replicas)
		}
	}
	stop()
	for range all {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// patient says whether an instance waited for the cluster.
func patient(log *lockedBuffer) bool { return strings.Contains(log.String(), "JetStream is not ready") }
