package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/cmd/jetkeep/internal/compare"
	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/cmd/jetkeep/internal/term"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/embedded"
)

// demo shows the whole on data of its own: it backs up an account, deletes all
// of it, restores it and compares every message with what was there.
type demo struct {
	keep bool
	json bool
	dir  string

	store    demoStore
	std      stdio
	begin    time.Time
	instance *instance
	nc       *nats.Conn
}

func addDemo(c *cli) {
	d := &demo{}
	var store string
	cmd := c.command(c.app.Command("demo", "Back up, delete and restore sample data, and compare every message"),
		func(ctx context.Context, std stdio) error {
			d.std = std
			if err := d.store.parse(store); err != nil {
				return err
			}
			return d.run(ctx)
		})
	cmd.Flag("keep", "Leave the server up at the end, to look around").UnNegatableBoolVar(&d.keep)
	cmd.Flag("dir", "Keep the data in this directory, which must be empty, instead of a temporary one").PlaceHolder("DIR").StringVar(&d.dir)
	cmd.Flag("store", "Have the repository below a new prefix here, and delete it afterwards: a directory, "+locationHelp).PlaceHolder("PLACE").StringVar(&store)
	cmd.Flag("json", "Write the result as JSON").UnNegatableBoolVar(&d.json)
}

// demoResult is what the demo found, as --json writes it.
type demoResult struct {
	Equal       bool                 `json:"equal"`
	Seconds     float64              `json:"seconds"`
	Backup      string               `json:"backup"`
	Streams     []demoStream         `json:"streams"`
	Differences []compare.Difference `json:"differences"`
}

type demoStream struct {
	Stream         string  `json:"stream"`
	Messages       uint64  `json:"messages"`
	Bytes          uint64  `json:"bytes"`
	StoredBytes    uint64  `json:"stored_bytes"`
	BackupSeconds  float64 `json:"backup_seconds"`
	RestoreSeconds float64 `json:"restore_seconds"`
	Compared       int     `json:"compared"`
	Differences    int     `json:"differences"`
}

// shutdownTimeout bounds the orderly end of what runs in this process.
const shutdownTimeout = 30 * time.Second

func (d *demo) run(ctx context.Context) (err error) {
	d.begin = time.Now()
	work, err := os.MkdirTemp("", "jetkeep-demo-")
	if err != nil {
		return fmt.Errorf("make temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	data := filepath.Join(work, "data")
	if d.dir != "" {
		data = d.dir
		if err := requireEmpty(data); err != nil {
			return err
		}
	}
	if err := d.start(ctx, data); err != nil {
		return interrupted(ctx, err)
	}
	defer func() {
		err = errors.Join(err, d.stop())
		if d.store.given {
			err = errors.Join(err, d.store.clear(d))
		}
	}()
	result, err := d.play(ctx, work)
	if err != nil {
		return interrupted(ctx, err)
	}
	if err := d.report(result); err != nil {
		return err
	}
	if d.keep {
		d.lookAround()
		<-ctx.Done()
	}
	if !result.Equal {
		return errReported
	}
	return nil
}

// interrupted makes the error of a step that the user ended the user's doing.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

func requireEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look into %s: %w", dir, err)
	}
	if len(entries) > 0 {
		return usagef("--dir: %s is not empty", dir)
	}
	return nil
}

func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.std.err, "%6.2fs  %s\n", time.Since(d.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) start(ctx context.Context, data string) error {
	instance, err := startInstance(ctx, instanceOptions{Data: data, Embedded: true, Port: embedded.RandomPort, Repository: d.store.repository()})
	if err != nil {
		return err
	}
	d.instance = instance
	if d.nc, err = nats.Connect(instance.URL(), nats.Name("jetkeep demo")); err != nil {
		return errors.Join(fmt.Errorf("connect to the embedded server: %w", err), d.stop())
	}
	d.say("nats-server and jetkeep run at %s", instance.URL())
	if d.store.given {
		d.say("the repository is %s", d.store.location)
	}
	return nil
}

// stop ends everything in an order that lets each part finish, also when the
// user has interrupted the demo.
func (d *demo) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if d.nc != nil {
		d.nc.Close()
	}
	return d.instance.Close(ctx)
}

// ours picks the streams that are not the service's own.
func ours(stream string) bool { return !api.Reserved(stream) }

func (d *demo) play(ctx context.Context, work string) (*demoResult, error) {
	if err := sample.Fill(ctx, d.nc, sample.Default(), 1); err != nil {
		return nil, err
	}
	before, err := compare.Take(ctx, d.nc, filepath.Join(work, "before"), ours)
	if err != nil {
		return nil, fmt.Errorf("record the account before: %w", err)
	}
	d.say("%s of sample data made and recorded", term.Plural(len(before.Streams), "stream"))

	r, err := client.New(d.nc, client.Options{Prefix: d.instance.Prefix()})
	if err != nil {
		return nil, err
	}
	accepted, err := r.BackupCreate(ctx, api.BackupCreateRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask for a backup: %w", err)
	}
	backup, err := d.follow(ctx, r, accepted)
	if err != nil {
		return nil, err
	}
	if err := d.deleteAll(ctx, before); err != nil {
		return nil, err
	}
	accepted, err = r.RestoreCreate(ctx, api.RestoreRequest{Backup: accepted.Backup})
	if err != nil {
		return nil, fmt.Errorf("ask for a restore: %w", err)
	}
	restore, err := d.follow(ctx, r, accepted)
	if err != nil {
		return nil, err
	}
	after, err := compare.Take(ctx, d.nc, filepath.Join(work, "after"), ours)
	if err != nil {
		return nil, fmt.Errorf("record the account after: %w", err)
	}
	diff, err := compare.Diff(before, after)
	if err != nil {
		return nil, err
	}
	d.say("every message compared")
	return d.result(diff, backup, restore), nil
}

// follow waits for a session and wants all of it to succeed.
func (d *demo) follow(ctx context.Context, r *client.Client, a *api.Accepted) (*api.SessionInfoResponse, error) {
	d.say("%s %s of %s", a.Kind, a.Session, term.Plural(a.Tasks, "stream"))
	b := newBoard()
	info, err := follow(ctx, r, a.Session, b, newWatcher(b, d.std, d.json))
	if err != nil {
		return nil, err
	}
	d.say("%s", sessionLine(info.SessionView, info.TaskList))
	if info.State != api.StateSucceeded {
		for _, t := range info.TaskList {
			if t.Error != nil && !d.json {
				return nil, errReported
			}
			if t.Error != nil {
				return nil, fmt.Errorf("%s of %s: %w", a.Kind, t.Stream, t.Error)
			}
		}
		return nil, fmt.Errorf("the %s is %s", a.Kind, info.State)
	}
	return info, nil
}

// deleteAll deletes every stream of the account but the service's own, and
// makes sure that they are gone.
func (d *demo) deleteAll(ctx context.Context, account *compare.Account) error {
	js, err := jetstream.New(d.nc)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	for _, s := range account.Streams {
		if err := js.DeleteStream(ctx, s.Name); err != nil {
			return fmt.Errorf("delete stream %s: %w", s.Name, err)
		}
	}
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		if ours(name) {
			return fmt.Errorf("stream %s is still there", name)
		}
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("list streams: %w", err)
	}
	d.say("every stream deleted")
	return nil
}

func (d *demo) result(diff compare.Result, backup, restore *api.SessionInfoResponse) *demoResult {
	result := &demoResult{
		Equal: diff.Equal(), Seconds: time.Since(d.begin).Seconds(), Backup: backup.Backup,
		Differences: append([]compare.Difference{}, diff.Differences...),
	}
	for _, s := range diff.Streams {
		b, r := taskFor(backup, s.Name), taskFor(restore, s.Name)
		result.Streams = append(result.Streams, demoStream{
			Stream: s.Name, Messages: s.Messages, Bytes: s.Bytes, StoredBytes: b.Progress.StoredBytes,
			BackupSeconds: spent(b), RestoreSeconds: spent(r), Compared: s.Compared, Differences: s.Count,
		})
	}
	return result
}

func taskFor(info *api.SessionInfoResponse, stream string) api.TaskView {
	for _, t := range info.TaskList {
		if t.Stream == stream {
			return t
		}
	}
	return api.TaskView{}
}

func spent(t api.TaskView) float64 {
	if t.Started == nil || t.Ended == nil {
		return 0
	}
	return t.Ended.Sub(*t.Started).Seconds()
}

func (d *demo) report(r *demoResult) error {
	if d.json {
		return d.std.json(r)
	}
	table := term.NewTable("stream", ">messages", ">bytes", ">stored", ">backup", ">restore", "verdict")
	var messages, bytes, stored uint64
	for _, s := range r.Streams {
		verdict := "identical"
		if s.Differences > 0 {
			verdict = term.Plural(s.Differences, "difference")
		}
		table.Row(s.Stream, term.Count(s.Messages), term.Bytes(s.Bytes), term.Bytes(s.StoredBytes),
			fmt.Sprintf("%.2fs", s.BackupSeconds), fmt.Sprintf("%.2fs", s.RestoreSeconds), verdict)
		messages, bytes, stored = messages+s.Messages, bytes+s.Bytes, stored+s.StoredBytes
	}
	verdict := "identical"
	if !r.Equal {
		verdict = "DIFFERENT"
	}
	table.Row("all", term.Count(messages), term.Bytes(bytes), term.Bytes(stored), "", "", verdict)
	_, _ = io.WriteString(d.std.out, "\n")
	if err := table.Write(d.std.out); err != nil {
		return err
	}
	for _, x := range r.Differences {
		_, _ = fmt.Fprintln(d.std.out, term.Printable(x.String()))
	}
	_, err := fmt.Fprintf(d.std.out, "\nCompared: sequence, time, subject, header and data of every message, configurations,\n"+
		"consumers, created times, key revisions and object digests. All of it took %.1fs.\n", r.Seconds)
	return err
}

func (d *demo) lookAround() {
	_, _ = fmt.Fprintf(d.std.out, `
The server stays up until you press Ctrl-C. In another terminal:

  export NATS_URL=%s
  nats stream ls
  nats req %[2]s.backup.list '{}'
  nats req %[2]s.backup.create '{"streams":["ORDERS","KV_*"]}'
  nats micro info jetkeep
  nats sub '%[2]s.event.>'
`, d.instance.URL(), d.instance.Prefix())
}
