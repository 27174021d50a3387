package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/record"
)

// offline runs a part of the nats command that needs no server, and returns
// what it writes.
func offline(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), natstest.Tool(t, natstest.CLI), append([]string{"--no-context"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// edit makes an edited copy of a backup.
func edit(t *testing.T, from string, args ...string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "edited")
	if out, err := offline(t, append([]string{"backup", "edit", "--no-progress", from, to}, args...)...); err != nil {
		t.Fatalf("edit %v: %v\n%s", args, err, out)
	}
	return to
}

// takeIn imports a directory with everything in it.
func takeIn(t *testing.T, dir string) (*store.Repository, []store.Point) {
	t.Helper()
	repo := newRepo(t)
	points, err := Import(t.Context(), repo, dir, ImportOptions{Target: "old", Staging: newStaging(t)})
	if err != nil {
		t.Fatal(err)
	}
	return repo, points
}

func putOut(t *testing.T, repo *store.Repository, points []store.Point, f Format, each bool) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	if _, err := Export(t.Context(), repo, points, out, f, each); err != nil {
		t.Fatal(err)
	}
	return out
}

// restored restores the backup of a stream into a new server of the newest
// version and looks at it.
func restored(t *testing.T, dir, name string) stream {
	t.Helper()
	s := natstest.Start(t)
	command(t, s, "backup", "restore", "stream", "--no-progress", dir)
	return look(t, s.Connect(), name)
}

// accepted demands that the nats command finds a V2 export good, knows what is in it,
// and can edit it.
func accepted(t *testing.T, dir string, p store.Point) (edited string) {
	t.Helper()
	if out, err := offline(t, "backup", "validate", "--no-progress", dir); err != nil || !strings.HasPrefix(out, "OK: ") {
		t.Errorf("validate %s: %v\n%s", p.Stream, err, out)
	}
	out, err := offline(t, "backup", "info", "--json", "--no-progress", dir)
	if err != nil {
		t.Fatalf("info %s: %v\n%s", p.Stream, err, out)
	}
	var info struct {
		Config    struct{ Name string }
		Declared  state
		Consumers []string
		Messages  uint64
		FirstSeq  uint64    `json:"first_seq"`
		LastSeq   uint64    `json:"last_seq"`
		FirstTime time.Time `json:"first_time"`
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatalf("info %s: %v\n%s", p.Stream, err, out)
	}
	c := p.Content
	if info.Config.Name != p.Stream || info.Messages != c.Messages || info.FirstSeq != c.FirstSeq || info.LastSeq != c.LastSeq ||
		len(info.Consumers) != p.Consumers.Count || info.Declared.Messages != c.Messages || info.Declared.LastSeq != p.State.LastSeq {
		t.Errorf("info of %+v, %+v:\n%s", c, p.State, out)
	}
	return edit(t, dir)
}

// sameAgain demands that a directory holds what a restore point does.
func sameAgain(t *testing.T, repo *store.Repository, p store.Point, dir string) {
	t.Helper()
	again, points := takeIn(t, dir)
	got := points[0]
	if d := natstest.Diff(stored(t, repo, p), stored(t, again, got)); d != "" {
		t.Errorf("%s: %s", p.Stream, d)
	}
	if got.Stream != p.Stream || got.State.LastSeq != p.State.LastSeq || got.State.FirstSeq != p.State.FirstSeq || got.Consumers.Count != p.Consumers.Count {
		t.Errorf("state %+v with %d consumers, was %+v with %d", got.State, got.Consumers.Count, p.State, p.Consumers.Count)
	}
}

func stored(t *testing.T, repo *store.Repository, p store.Point) (out []record.Record) {
	t.Helper()
	err := each(t.Context(), repo, p, func(r *record.Record) error {
		out = append(out, record.Record{
			Sequence: r.Sequence, Time: r.Time, Subject: bytes.Clone(r.Subject), Header: bytes.Clone(r.Header), Data: bytes.Clone(r.Data),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// forward puts consumers that are behind the first message where a server puts
// them when it restores a stream whose state says where it begins. That of an
// edited archive does not.
func (s stream) forward() stream {
	s.consumers = slices.Clone(s.consumers)
	for i := range s.consumers {
		if c, before := &s.consumers[i], s.info.State.FirstSeq-1; c.Delivered.Stream < before {
			c.Delivered.Consumer, c.Delivered.Stream = 0, before
			c.AckFloor = c.Delivered
		}
	}
	return s
}

// Whatever the edit command of nats makes of a backup comes in, is exactly what
// the nats command restores of it, and goes out again in each format.
func TestEditedComesIn(t *testing.T) {
	s := natstest.Start(t)
	nc := s.Connect()
	natstest.Sample(t, nc)
	natstest.MakeStream(t, nc, `{"name":"TICKS","subjects":["ticks"],"storage":"memory","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, nc, "ticks", 50, 100)
	account := filepath.Join(t.TempDir(), "account")
	command(t, s, "backup", "account", "--force", account)
	middle := time.Unix(0, natstest.Records(t, nc, "ORDERS")[1500].Time).UTC().Format(time.RFC3339Nano)
	keys := filepath.Join(t.TempDir(), "obfuscated")
	if out, err := offline(t, "backup", "edit", "--no-progress", "--obfuscate", filepath.Join(account, "EMPTY"), keys); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	formats := []Format{V1, V2, V2Tar}
	for i, c := range []struct{ stream, args, note string }{
		{"ORDERS", "", "edited by nats v0.5.1: "},
		{"ORDERS", "--first-seq 1000", "edited by nats v0.5.1: first-seq=1000"},
		{"ORDERS", "--last-seq 1000", "last-seq=1000"},
		{"ORDERS", "--first-seq 1990 --last-seq 2005 --renumber", "renumber"},
		{"ORDERS", "--after " + middle, "after="},
		{"ORDERS", "--before " + middle, "before="},
		{"ORDERS", "--subject orders.eu.* --subject orders.asia.>", "subject"},
		{"ORDERS", "--exclude-subject orders.us.*", "exclude-subject"},
		{"ORDERS", "--header Trace", "header"},
		{"ORDERS", "--header Nats-Msg-Id:order-25", "header"},
		{"ORDERS", "--exclude-header Nats-Msg-Id", "header"},
		{"ORDERS", "--payload-match [a-m]9", "payload-match"},
		{"ORDERS", "--exclude-payload-match a", "payload-match"},
		{"ORDERS", "--last-per-subject 2", "last-per-subject=2"},
		{"ORDERS", "--last-per-subject 1 --renumber", "renumber"},
		{"ORDERS", "--renumber", "renumber"},
		{"ORDERS", "--first-seq 99999", "first-seq=99999"},
		{"ORDERS", "--obfuscate", "edited and obfuscated by nats v0.5.1"},
		{"ORDERS", "--obfuscate --obfuscation-key " + keys + ".keys.json", "obfuscated"},
		{"KV_settings", "--kv-compact", "kv-compact"},
		{"KV_settings", "--kv-compact --renumber", "kv-compact"},
		{"KV_settings", "--obfuscate", "obfuscated"},
		{"KV_settings", "--last-seq 1 --renumber", "renumber"},
		{"OBJ_files", "", "edited"},
		{"OBJ_files", "--exclude-subject $O.files.C.>", "edited"},
		{"WORK", "", "edited"},
		{"WORK", "--first-seq 999", "edited"},
		{"EMPTY", "", "edited"},
		{"EMPTY", "--renumber", "edited"},
		{"TICKS", "--first-seq 20", "edited"},
	} {
		t.Run(c.stream+" "+c.args, func(t *testing.T) {
			t.Parallel()
			edited := edit(t, filepath.Join(account, c.stream), strings.Fields(c.args)...)
			if b, err := os.ReadFile(filepath.Join(edited, arcFile)); err != nil || bytes.Count(b, []byte("S2sTwO")) < 2 {
				t.Fatalf("the command wrote one S2 stream: this shows nothing, %v", err)
			}
			repo, points := takeIn(t, edited)
			p := points[0]
			if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
			if p.Created.Before(time.Unix(1, 0)) {
				t.Errorf("created %s", p.Created)
			}
			want := restored(t, edited, p.Stream)
			if st := want.info.State; p.State.Messages != st.Messages || p.State.FirstSeq != st.FirstSeq || p.State.LastSeq != st.LastSeq {
				t.Errorf("state %+v, the server has %+v", p.State, st)
			}
			f := formats[i%len(formats)]
			if c.stream == "TICKS" {
				f = V2
			}
			want.forward().same(t, restored(t, putOut(t, repo, points, f, false), p.Stream))
			again := accepted(t, putOut(t, repo, points, []Format{V2, V2Tar}[i%2], false), p)
			sameAgain(t, repo, p, again)
		})
	}
}

// What servers of both formats gave to the nats command comes in, and what goes
// out passes its info, validate, edit and restore. Of V1 the command itself
// knows nothing but how to restore it.
func TestExportsPassTheCommand(t *testing.T) {
	for _, version := range []string{"2.10.29", "2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			src := natstest.StartVersion(t, version)
			nc := src.Connect()
			names := natstest.Sample(t, nc)
			before := map[string]stream{}
			for _, name := range names {
				before[name] = look(t, nc, name)
			}
			account := filepath.Join(t.TempDir(), "account")
			command(t, src, "backup", "account", "--force", account)
			repo, points := takeIn(t, account)
			formats := []Format{V1, V2}
			if version == natstest.Latest {
				formats = append(formats, V2Tar) // the same in a file of another name
			}
			for _, f := range formats {
				out := putOut(t, repo, points, f, true)
				for _, p := range points {
					dir := filepath.Join(out, p.Stream)
					if f == V1 {
						if text, err := offline(t, "backup", "validate", "--no-progress", dir); err == nil || !strings.Contains(text, "not a NATS Server 2.15 stream backup") {
							t.Errorf("validate of V1: %v\n%s", err, text)
						}
						continue
					}
					sameAgain(t, repo, p, accepted(t, dir, p))
				}
				dst := natstest.Start(t)
				command(t, dst, "backup", "restore", "account", out)
				into := dst.Connect()
				for _, name := range names {
					before[name].same(t, look(t, into, name))
				}
			}
		})
	}
}

// The deprecated forms of the commands make and take the same.
func TestDeprecatedCommands(t *testing.T) {
	src := natstest.Start(t)
	nc := src.Connect()
	names := natstest.Sample(t, nc)
	account, single := filepath.Join(t.TempDir(), "account"), filepath.Join(t.TempDir(), "single")
	command(t, src, "account", "backup", "--force", account)
	command(t, src, "stream", "backup", "--no-progress", "ORDERS", single)
	repo, points := takeIn(t, account)
	one, alone := takeIn(t, single)
	dst := natstest.Start(t)
	command(t, dst, "account", "restore", putOut(t, repo, points, V2, true))
	for _, name := range names {
		look(t, nc, name).same(t, look(t, dst.Connect(), name))
	}
	dst = natstest.Start(t)
	command(t, dst, "stream", "restore", "--no-progress", putOut(t, one, alone, V2, false))
	look(t, nc, "ORDERS").same(t, look(t, dst.Connect(), "ORDERS"))
}

// What `nats sub` records comes in: it is framed as edited archives are.
func TestCapturedComesIn(t *testing.T) {
	s := natstest.Start(t)
	nc := s.Connect()
	natstest.Sample(t, nc)
	dir := filepath.Join(t.TempDir(), "captured")
	command(t, s, "sub", "--stream", "ORDERS", "--all", "--count", "2991", "--backup", dir, "--quiet")
	repo, points := takeIn(t, dir)
	p := points[0]
	if p.Stream != "ORDERS" || p.Content.Messages != 2991 || !strings.Contains(strings.Join(p.Notes, "\n"), "captured by a subscription to orders.>, which missed 0 messages") {
		t.Errorf("%+v", p)
	}
	want := restored(t, dir, "ORDERS")
	want.same(t, restored(t, putOut(t, repo, points, V1, false), "ORDERS"))
	want.same(t, restored(t, accepted(t, putOut(t, repo, points, V2, false), p), "ORDERS"))
}

// Of a stream that the nats command cannot back up it leaves an empty directory
// and reports success. The others come in, and it is named.
func TestEmptyDirectory(t *testing.T) {
	s := natstest.StartVersion(t, "2.14.5")
	nc := s.Connect()
	names := natstest.Sample(t, nc)
	natstest.MakeStream(t, nc, `{"name":"TICKS","subjects":["ticks"],"storage":"memory","retention":"limits","num_replicas":1}`)
	account := filepath.Join(t.TempDir(), "account")
	command(t, s, "backup", "account", "--force", account)
	if !emptyDir(filepath.Join(account, "TICKS")) {
		t.Fatal("the command leaves something else")
	}
	got, left, err := chosen(t, account)
	if err != nil || !slices.Equal(got, names) || fmt.Sprint(left) != "[{TICKS "+ErrNotBackedUp.Error()+"}]" {
		t.Errorf("taken in %v, left out %v, %v", got, left, err)
	}
	if got, left, err := chosen(t, account, "TICKS", "ORDERS"); !errors.Is(err, ErrNotBackedUp) || len(got)+len(left) > 0 {
		t.Errorf("by name %v, left out %v, %v", got, left, err)
	}
	if got, left, err := chosen(t, account, "KV_*"); err != nil || !slices.Equal(got, []string{"KV_settings"}) || len(left) > 0 {
		t.Errorf("others by pattern %v, left out %v, %v", got, left, err)
	}
}

// chosen imports some streams and returns those that came in.
func chosen(t *testing.T, dir string, streams ...string) (names []string, left []LeftOut, err error) {
	t.Helper()
	repo := newRepo(t)
	points, err := Import(t.Context(), repo, dir, ImportOptions{
		Target: "old", Staging: newStaging(t), Streams: streams, LeftOut: func(l LeftOut) { left = append(left, l) },
	})
	for _, p := range points {
		names = append(names, p.Stream)
	}
	if listed, lerr := repo.Points(t.Context()); lerr != nil || len(listed) != len(names) {
		t.Errorf("%d restore points are there, %d were told of, %v", len(listed), len(names), lerr)
	}
	return names, left, err
}

// jetkeep's own streams are in what the nats command makes of an account. They
// come in only if they are named.
func TestOwnStreamsAreLeftOut(t *testing.T) {
	s := natstest.Start(t)
	nc := s.Connect()
	for _, name := range []string{"ORDERS", "JETKEEP_EVENTS", "KV_JETKEEP_STATE", "OBJ_JETKEEP_X", "KV_shop"} {
		natstest.MakeStream(t, nc, fmt.Sprintf(`{"name":%q,"subjects":["%s"],"storage":"file","retention":"limits","num_replicas":1}`, name, name))
		natstest.PublishTo(t, nc, name, 10, 10)
	}
	account := filepath.Join(t.TempDir(), "account")
	command(t, s, "backup", "account", "--force", account)
	all := "[{JETKEEP_EVENTS E} {KV_JETKEEP_STATE E} {OBJ_JETKEEP_X E}]"
	for _, c := range []struct {
		streams, want, left string
		err                 error
	}{
		{"", "KV_shop ORDERS", all, nil},
		{"*", "KV_shop ORDERS", all, nil},
		{"KV_*", "KV_shop", "[{KV_JETKEEP_STATE E}]", nil},
		{"ORDERS", "ORDERS", "[]", nil},
		{"ORDERS KV_JETKEEP_STATE", "KV_JETKEEP_STATE ORDERS", "[]", nil},
		{"* KV_JETKEEP_STATE", "KV_JETKEEP_STATE KV_shop ORDERS", "[{JETKEEP_EVENTS E} {OBJ_JETKEEP_X E}]", nil},
		{"JETKEEP_*", "", "[]", ErrOwn},
		{"ORDERS NONE", "", "[]", ErrNoStream},
		{"NONE*", "", "[]", ErrNoStream},
	} {
		names, left, err := chosen(t, account, strings.Fields(c.streams)...)
		if got := strings.ReplaceAll(fmt.Sprint(left), ErrOwn.Error(), "E"); strings.Join(names, " ") != c.want || got != c.left || !errors.Is(err, c.err) {
			t.Errorf("%q: taken in %v, left out %s, %v", c.streams, names, got, err)
		}
	}
	// Its directory is no name: that of a whole account may be given by mistake.
	if names, _, err := chosen(t, filepath.Join(account, "KV_JETKEEP_STATE")); !errors.Is(err, ErrOwn) || len(names) > 0 {
		t.Errorf("alone: %v, %v", names, err)
	}
	if names, _, err := chosen(t, filepath.Join(account, "KV_JETKEEP_STATE"), "KV_JETKEEP_STATE"); err != nil || len(names) != 1 {
		t.Errorf("alone by name: %v, %v", names, err)
	}
}
