package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type bench struct {
	o       options
	dir     string
	url     string
	server  *process
	results map[string][]sample
	ratios  []ratio
	grown   []increment
}

// A ratio of two cases' wall times, and what it should be at most.
type ratio struct{ a, b, bound string }

func (b *bench) startServer(ctx context.Context, store string, args ...string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	b.url = fmt.Sprintf("nats://127.0.0.1:%d", port)
	b.server, err = start(store+".log", b.o.server,
		append([]string{"-a", "127.0.0.1", "-p", fmt.Sprint(port), "-js", "-sd", store}, args...)...)
	if err != nil {
		return err
	}
	return until(ctx, 10*time.Second, func() error {
		nc, err := nats.Connect(b.url)
		if err == nil {
			nc.Close()
		}
		return err
	})
}

// drain is the floor under every backup: it takes the snapshot's chunks,
// acknowledges and forgets them.
func (b *bench) drain(ctx context.Context, _ string) ([]sample, error) {
	nc, err := nats.Connect(b.url, nats.MaxReconnects(0))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	inbox := nats.NewInbox()
	done := make(chan error, 1)
	_, err = nc.Subscribe(inbox, func(m *nats.Msg) {
		if m.Reply != "" {
			_ = m.Respond(nil)
		}
		if len(m.Data) > 0 {
			return
		}
		if status := m.Header.Get("Status"); status != "" && status != "204" {
			done <- fmt.Errorf("snapshot ended with status %s", status)
			return
		}
		done <- nil
	})
	if err != nil {
		return nil, err
	}
	req, err := json.Marshal(map[string]any{"deliver_subject": inbox, "chunk_size": 128 << 10, "window_size": 8 << 20})
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	resp, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.SNAPSHOT."+stream, req)
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(resp.Data), `"error"`) {
		return nil, errors.New(string(resp.Data))
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return []sample{{name: "raw drain of the snapshot", wall: time.Since(begin)}}, err
}

func (b *bench) peersBackup(ctx context.Context, dir string) ([]sample, error) {
	dump := filepath.Join(dir, "nats")
	env := b.resticEnv(dir)
	if _, err := os.Stat(filepath.Join(dir, "restic")); errors.Is(err, os.ErrNotExist) {
		if _, err := commandEnv(ctx, "", env, b.o.restic, "init"); err != nil {
			return nil, err
		}
	}
	dumped, err := command(ctx, "nats backup stream", b.o.nats, "-s", b.url, "backup", "stream", stream, dump, "--no-progress")
	if err != nil {
		return nil, err
	}
	kept, err := commandEnv(ctx, "restic backup", env, b.o.restic, "backup", "--quiet", dump)
	if err != nil {
		return nil, err
	}
	if kept.stored, err = sizeOf(filepath.Join(dir, "restic")); err != nil {
		return nil, err
	}
	return []sample{dumped, kept, together("nats + restic backup", dumped, kept)}, os.RemoveAll(dump)
}

func (b *bench) peersRestore(ctx context.Context, dir string) ([]sample, error) {
	out := filepath.Join(dir, "restored")
	got, err := commandEnv(ctx, "restic restore", b.resticEnv(dir), b.o.restic, "restore", "--quiet", "latest", "--target", out)
	if err != nil {
		return nil, err
	}
	if err := b.deleteStream(ctx); err != nil {
		return nil, err
	}
	put, err := command(ctx, "nats backup restore", b.o.nats, "-s", b.url, "backup", "restore", "stream", filepath.Join(out, dir, "nats"), "--no-progress")
	if err != nil {
		return nil, err
	}
	if err := b.checkCount(ctx); err != nil {
		return nil, err
	}
	return []sample{got, put, together("restic + nats restore", got, put)}, os.RemoveAll(out)
}

func (b *bench) resticEnv(dir string) []string {
	return []string{"RESTIC_REPOSITORY=" + filepath.Join(dir, "restic"), "RESTIC_PASSWORD=bench", "RESTIC_CACHE_DIR=" + filepath.Join(dir, "cache")}
}

// forget takes what a service keeps on the server away, so that the next one is
// new. It would miss the repository that was there before.
func (b *bench) forget(ctx context.Context) error {
	return b.js(func(js jetstream.JetStream) error {
		names := js.StreamNames(ctx)
		for name := range names.Name() {
			if !strings.HasPrefix(name, "JETKEEP") && !strings.HasPrefix(name, "KV_JETKEEP") {
				continue
			}
			if err := js.DeleteStream(ctx, name); err != nil {
				return err
			}
		}
		return names.Err()
	})
}

// jetkeepBackup starts a fresh service on a fresh directory and asks it for a
// backup; the wall time is that of the request until its end.
func (b *bench) jetkeepBackup(ctx context.Context, dir string) ([]sample, error) {
	if err := b.forget(ctx); err != nil {
		return nil, err
	}
	s, err := b.withService(ctx, dir, "jetkeep backup", "backup", stream)
	if err != nil {
		return nil, err
	}
	s.stored, err = sizeOf(filepath.Join(dir, "jetkeep", "repository"))
	return []sample{s}, err
}

func (b *bench) jetkeepRestore(ctx context.Context, dir string) ([]sample, error) {
	var out []sample
	for _, c := range []struct {
		name string
		args []string
	}{
		{"jetkeep restore without read-back", []string{"restore", "--no-verify", stream}},
		{"jetkeep restore with read-back", []string{"restore", stream}},
	} {
		if err := b.deleteStream(ctx); err != nil {
			return nil, err
		}
		s, err := b.withService(ctx, dir, c.name, c.args...)
		if err != nil {
			return nil, err
		}
		if err := b.checkCount(ctx); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// withService runs one client command against a service of its own and charges
// it with what the service used meanwhile.
func (b *bench) withService(ctx context.Context, dir, name string, args ...string) (sample, error) {
	svc, err := start(filepath.Join(dir, "jetkeep.log"), b.o.jetkeep, "serve", "--server", b.url, "--data", filepath.Join(dir, "jetkeep"))
	if err != nil {
		return sample{}, err
	}
	stopped := false
	defer func() {
		if !stopped {
			svc.stop()
		}
	}()
	err = until(ctx, 20*time.Second, func() error {
		_, err := command(ctx, "", b.o.jetkeep, "session", "ls", "--server", b.url)
		return err
	})
	if err != nil {
		raw, _ := os.ReadFile(filepath.Join(dir, "jetkeep.log"))
		return sample{}, fmt.Errorf("%w\n%s", err, raw)
	}
	before := cpuOf(svc.cmd.Process.Pid)
	s, err := command(ctx, name, b.o.jetkeep, append(args, "--server", b.url)...)
	if err != nil {
		return sample{}, err
	}
	s.cpu = cpuOf(svc.cmd.Process.Pid) - before
	s.rss = peakOf(svc.cmd.Process.Pid)
	svc.stop()
	stopped = true
	return s, nil
}

func (b *bench) deleteStream(ctx context.Context) error {
	return b.js(func(js jetstream.JetStream) error { return js.DeleteStream(ctx, stream) })
}

func (b *bench) checkCount(ctx context.Context) error { return b.checkMessages(ctx, b.o.messages) }

func (b *bench) checkMessages(ctx context.Context, want int) error {
	return b.js(func(js jetstream.JetStream) error {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		if n := s.CachedInfo().State.Msgs; n != uint64(want) {
			return fmt.Errorf("stream holds %d messages, not %d", n, want)
		}
		return nil
	})
}

func (b *bench) js(fn func(jetstream.JetStream) error) error {
	nc, err := nats.Connect(b.url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return fn(js)
}

func together(name string, parts ...sample) sample {
	out := sample{name: name}
	for _, p := range parts {
		out.wall += p.wall
		out.cpu += p.cpu
		out.rss = max(out.rss, p.rss)
		out.stored = max(out.stored, p.stored)
	}
	return out
}

// keep adds to the results.
func (b *bench) keep(samples ...sample) {
	for _, s := range samples {
		b.results[s.name] = append(b.results[s.name], s)
	}
}

func (b *bench) print(w io.Writer) {
	if len(b.results) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "case\twall s (median)\tmin\tmax\tcpu s\tpeak RSS MiB\tstored MiB\tMiB/s")
	names := make([]string, 0, len(b.results))
	for n := range b.results {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		m := median(b.results[n])
		wall := func(s sample) float64 { return s.wall.Seconds() }
		rate := "-"
		if m.moved > 0 {
			rate = fmt.Sprintf("%.0f", float64(m.moved>>20)/m.wall.Seconds())
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%d\t%d\t%s\n", n, m.wall.Seconds(),
			wall(slices.MinFunc(b.results[n], byWall)), wall(slices.MaxFunc(b.results[n], byWall)),
			m.cpu.Seconds(), m.rss>>20, m.stored>>20, rate)
	}
	_ = t.Flush() // to a terminal or file; what follows fails too if it does
	fmt.Fprintln(w)
	for _, r := range b.ratios {
		fmt.Fprintf(w, "%s / %s: wall %.2f (bound %s)\n", r.a, r.b, b.ratio(r.a, r.b), r.bound)
	}
	if ours, theirs := b.results["jetkeep backup"], b.results["restic backup"]; len(ours) > 0 && len(theirs) > 0 {
		fmt.Fprintf(w, "jetkeep backup / restic backup: stored %.2f (bound 0.8)\n", float64(median(ours).stored)/float64(median(theirs).stored))
	}
	fmt.Fprintln(w)
}

// ratio is the median of the ratios of each run's pair.
func (b *bench) ratio(x, y string) float64 {
	var r []float64
	for i := range b.results[x] {
		r = append(r, b.results[x][i].wall.Seconds()/b.results[y][i].wall.Seconds())
	}
	slices.Sort(r)
	return r[len(r)/2]
}

func byWall(a, b sample) int { return int(a.wall - b.wall) }

// median takes each figure's own median.
func median(s []sample) sample {
	at := func(get func(sample) int64) int64 {
		v := make([]int64, len(s))
		for i := range s {
			v[i] = get(s[i])
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return sample{
		name:   s[0].name,
		wall:   time.Duration(at(func(s sample) int64 { return int64(s.wall) })),
		cpu:    time.Duration(at(func(s sample) int64 { return int64(s.cpu) })),
		rss:    at(func(s sample) int64 { return s.rss }),
		stored: at(func(s sample) int64 { return s.stored }),
		moved:  s[0].moved,
	}
}

func until(ctx context.Context, patience time.Duration, try func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
