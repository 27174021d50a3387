package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/natstest"
)

const (
	manyStreams  = 1000
	manyMessages = 100
	manySize     = 1000
)

// BenchmarkInstances backs 1,000 streams up in one session, spread over one, two
// and three instances on one server and one directory: the wall time, and how
// many tasks each instance did.
func BenchmarkInstances(b *testing.B) {
	server := natstest.Start(b)
	nc := server.Connect()
	for i := range manyStreams {
		name := fmt.Sprintf("S%04d", i)
		natstest.MakeStream(b, nc, fmt.Sprintf(`{"name":%q,"subjects":["%s.>"],"storage":"file","retention":"limits","num_replicas":1}`, name, strings.ToLower(name)))
		natstest.PublishTo(b, nc, strings.ToLower(name)+".x", manyMessages, manySize)
	}
	command := filepath.Join(b.TempDir(), "jetkeep")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", command, "jetkeep/cmd/jetkeep").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	c, err := client.New(nc, client.Options{Timeout: 30 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := b.TempDir()
			for i := range n {
				text := fmt.Sprintf("instance: i%d\ncontrol { url: %q }\nrepositories { of-%d { path: %q, create: true } }\nstaging { dir: %q }\n",
					i, server.URL(), n, filepath.Join(dir, "repository"), filepath.Join(dir, fmt.Sprint("staging", i)))
				conf := filepath.Join(dir, fmt.Sprint("conf", i))
				if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
					b.Fatal(err)
				}
				p, err := start(conf+".log", command, "serve", "--config", conf)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(p.stop)
			}
			err := natstest.Eventually(30*time.Second, func() error {
				l, err := c.InstanceList(b.Context())
				if err == nil && running(l) != n {
					err = fmt.Errorf("%d instances", running(l))
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			begun := time.Now()
			a, err := c.BackupCreate(b.Context(), api.BackupCreateRequest{Exclude: []string{"KV_*"}})
			if err != nil {
				b.Fatal(err)
			}
			r, err := c.Wait(b.Context(), a.Session, nil)
			wall := time.Since(begun)
			if err != nil || r.State != api.StateSucceeded || r.Tasks.Succeeded != manyStreams {
				b.Fatalf("%v %+v", err, r)
			}
			r, err = c.SessionTasks(b.Context(), a.Session)
			if err != nil {
				b.Fatal(err)
			}
			tasks := map[string]int{}
			for _, t := range r.TaskList {
				tasks[t.Instance]++
			}
			var counts []int
			for _, k := range tasks {
				counts = append(counts, k)
			}
			slices.Sort(counts)
			b.Logf("%d instances: %s, tasks %v", n, wall.Round(10*time.Millisecond), counts)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(wall.Seconds(), "wall-s")
			b.ReportMetric(float64(counts[0]), "least-tasks")
			b.ReportMetric(float64(counts[len(counts)-1]), "most-tasks")
			if len(counts) != n {
				b.Errorf("only %d of %d instances did something", len(counts), n)
			}
		})
	}
}

// running counts the instances that have given a sign of life lately.
func running(l *api.InstanceListResponse) int {
	n := 0
	for _, i := range l.Instances {
		if i.Alive {
			n++
		}
	}
	return n
}
