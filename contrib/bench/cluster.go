package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A cluster is three servers on this machine.
type cluster struct {
	nodes []*process
	url   string
}

const clusterSize = 3

func startCluster(ctx context.Context, server, dir string) (*cluster, error) {
	var ports [2 * clusterSize]int
	var urls, routes []string
	for i := range ports {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		ports[i] = port
		if i < clusterSize {
			urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", port))
		} else {
			routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", port))
		}
	}
	c := &cluster{url: strings.Join(urls, ",")}
	for i := range clusterSize {
		name := fmt.Sprintf("n%d", i)
		data := filepath.Join(dir, name)
		if err := os.MkdirAll(data, 0o700); err != nil {
			c.stop()
			return nil, err
		}
		p, err := start(filepath.Join(data, "log"), server, "-a", "127.0.0.1", "-p", fmt.Sprint(ports[i]), "-n", name, "-js", "-sd", data,
			"--cluster_name", "bench", "--cluster", fmt.Sprintf("nats://127.0.0.1:%d", ports[clusterSize+i]), "--routes", strings.Join(routes, ","))
		if err != nil {
			c.stop()
			return nil, err
		}
		c.nodes = append(c.nodes, p)
	}
	err := until(ctx, time.Minute, func() error {
		nc, err := nats.Connect(c.url)
		if err != nil {
			return err
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		// A stream of three replicas can be made once all three are known.
		_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "READY", Replicas: clusterSize})
		if err == nil {
			err = js.DeleteStream(ctx, "READY")
		}
		return err
	})
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	return c, nil
}

func (c *cluster) stop() {
	for _, p := range c.nodes {
		p.stop()
	}
}

// rebuild takes the stream to one replica and back to three, and makes the one
// that was not rebuilt so hand over to another.
func rebuild(ctx context.Context, b *bench) error {
	return b.js(func(js jetstream.JetStream) error {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		cfg := s.CachedInfo().Config
		var info *jetstream.StreamInfo
		for _, replicas := range []int{1, clusterSize} {
			cfg.Replicas = replicas
			if _, err := js.UpdateStream(ctx, cfg); err != nil {
				return err
			}
			err := until(ctx, 2*time.Minute, func() (err error) {
				if info, err = s.Info(ctx); err != nil {
					return err
				}
				return current(info, replicas)
			})
			if err != nil {
				return err
			}
		}
		was := info.Cluster.Leader
		return until(ctx, time.Minute, func() error {
			if err := b.stepDown(ctx); err != nil {
				return err
			}
			return until(ctx, 5*time.Second, func() error {
				info, err := s.Info(ctx)
				if err == nil && (info.Cluster == nil || info.Cluster.Leader == was || info.Cluster.Leader == "") {
					err = errors.New("no new leader")
				}
				return err
			})
		})
	})
}

func (b *bench) stepDown(ctx context.Context) error {
	nc, err := nats.Connect(b.url)
	if err != nil {
		return err
	}
	defer nc.Close()
	_, err = nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil)
	return err
}

func current(info *jetstream.StreamInfo, replicas int) error {
	if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != replicas-1 {
		return errors.New("replicas are not there yet")
	}
	for _, r := range info.Cluster.Replicas {
		if !r.Current {
			return fmt.Errorf("replica %s is behind", r.Name)
		}
	}
	return nil
}
