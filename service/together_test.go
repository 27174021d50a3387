package service_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
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
	back := time.AfterFunc(8*time.Second, cluster.Nodes[2].Restart)
	defer back.Stop()
	made := make(chan error, 3)
	var all [3]*service.Service
	for i := range all {
		go func() {
			own := c
			own.Instance, own.Staging.Dir = fmt.Sprintf("i%d", i), fmt.Sprintf("%s%d", c.Staging.Dir, i)
			var err error
			all[i], err = service.New(t.Context(), own, service.Deps{})
			made <- err
		}()
	}
	for range all {
		if err := <-made; err != nil {
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
