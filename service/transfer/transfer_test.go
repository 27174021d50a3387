package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jsmbackup "github.com/nats-io/jsm.go/backup"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service/archive"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/staging"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

func newRepo(t *testing.T) *store.Repository {
	t.Helper()
	r, err := store.Init(t.Context(), object.NewBucket(mem.New()), store.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newStaging(t *testing.T) *staging.Area {
	t.Helper()
	a, err := staging.Open(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// command runs the real nats command.
func command(t *testing.T, s *natstest.Server, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), natstest.Tool(t, natstest.CLI), append([]string{"--server", s.URL(), "--no-context"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nats %v: %v\n%s", args, err, out)
	}
}

// A stream as a client sees it.
type stream struct {
	info      natstest.StreamInfo
	records   []record.Record
	consumers []natstest.ConsumerInfo
}

func look(t *testing.T, nc *nats.Conn, name string) stream {
	t.Helper()
	return stream{natstest.Info(t, nc, name), natstest.Records(t, nc, name), natstest.Consumers(t, nc, name)}
}

func (s stream) same(t *testing.T, got stream) {
	t.Helper()
	if d := natstest.Diff(s.records, got.records); d != "" {
		t.Error(d)
	}
	if s.info.State.LastSeq != got.info.State.LastSeq || s.info.State.Messages != got.info.State.Messages {
		t.Errorf("state %+v, was %+v", got.info.State, s.info.State)
	}
	if len(got.consumers) != len(s.consumers) {
		t.Fatalf("%d consumers, were %d", len(got.consumers), len(s.consumers))
	}
	for i, c := range s.consumers {
		g := got.consumers[i]
		if c.Delivered.Consumer == 0 && g.Delivered.Consumer == 0 {
			// A server puts one that has delivered nothing before the first message.
			c.Delivered, c.AckFloor = g.Delivered, g.AckFloor
		}
		if g.Name != c.Name || g.Delivered != c.Delivered || g.AckFloor != c.AckFloor || g.NumAckPending != c.NumAckPending {
			t.Errorf("consumer %+v, was %+v", g, c)
		}
	}
	for _, field := range []string{"name", "subjects", "retention", "storage", "max_msgs_per_subject", "allow_rollup_hdrs", "description"} {
		if a, b := value(t, s.info.Config, field), value(t, got.info.Config, field); a != b {
			t.Errorf("%s is %s, was %s", field, b, a)
		}
	}
}

func value(t *testing.T, config json.RawMessage, field string) string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(config, &m); err != nil {
		t.Fatal(err)
	}
	return string(m[field])
}

// What the nats command backs up from servers of all ages is imported,
// exported, restored by the nats command, and is the same.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, into string
		format     Format
	}{
		{"2.10.29", "2.9.25", V1},
		{"2.10.29", "2.10.29", V1},
		{"2.14.5", natstest.Latest, V1},
		{natstest.Latest, "2.14.5", V1},
		{natstest.Latest, natstest.Latest, V2Tar},
	} {
		t.Run(c.from+" to "+c.into+" "+string(c.format), func(t *testing.T) {
			t.Parallel()
			src := natstest.StartVersion(t, c.from)
			nc := src.Connect()
			names := natstest.Sample(t, nc)
			before := map[string]stream{}
			for _, name := range names {
				before[name] = look(t, nc, name)
			}
			dir := filepath.Join(t.TempDir(), "account")
			command(t, src, "backup", "account", "--force", dir)
			repo := newRepo(t)
			points, err := Import(t.Context(), repo, dir, ImportOptions{Target: "old", Staging: newStaging(t)})
			if err != nil {
				t.Fatal(err)
			}
			if len(points) != len(names) {
				t.Fatalf("%d restore points of %d streams", len(points), len(names))
			}
			out := filepath.Join(t.TempDir(), "out")
			if _, err := Export(t.Context(), repo, points, out, c.format, true); err != nil {
				t.Fatal(err)
			}
			dst := natstest.StartVersion(t, c.into)
			into := dst.Connect()
			for _, name := range names {
				t.Run(name, func(t *testing.T) {
					command(t, dst, "backup", "restore", "stream", filepath.Join(out, name))
					before[name].same(t, look(t, into, name))
				})
			}
		})
	}
}

// A single stream in memory storage, which only V2 can carry.
func TestMemoryStream(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	natstest.MakeStream(t, nc, `{"name":"TICKS","subjects":["ticks"],"storage":"memory","retention":"limits","num_replicas":1}`)
	natstest.PublishTo(t, nc, "ticks", 500, 100)
	natstest.Delete(t, nc, "TICKS", 7, 8, 300)
	before := look(t, nc, "TICKS")
	dir := filepath.Join(t.TempDir(), "ticks")
	command(t, s, "backup", "stream", "TICKS", dir)
	repo := newRepo(t)
	points, err := Import(t.Context(), repo, dir, ImportOptions{Target: "old", Staging: newStaging(t)})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if _, err := Export(t.Context(), repo, points, out, V1, false); !errors.Is(err, ErrMemory) {
		t.Errorf("as v1: %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed export left something: %v", err)
	}
	if _, err := Export(t.Context(), repo, points, out, V2, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Export(t.Context(), repo, points, out, V2, false); !errors.Is(err, ErrExists) {
		t.Errorf("over another: %v", err)
	}
	natstest.MustRequest(t, nc, "STREAM.DELETE.TICKS", nil, nil)
	command(t, s, "backup", "restore", "stream", out)
	before.same(t, look(t, nc, "TICKS"))
}

// sampleBackup imports what the nats command makes of one stream.
func sampleBackup(t *testing.T, version string) (dir string, repo *store.Repository, p store.Point) {
	t.Helper()
	s := natstest.StartVersion(t, version)
	nc := s.Connect()
	natstest.Sample(t, nc)
	dir = filepath.Join(t.TempDir(), "orders")
	command(t, s, "backup", "stream", "ORDERS", dir)
	repo = newRepo(t)
	points, err := Import(t.Context(), repo, dir, ImportOptions{Target: "old", Staging: newStaging(t)})
	if err != nil {
		t.Fatal(err)
	}
	return dir, repo, points[0]
}

// The verifier of nats' own library accepts an export, and refuses one of
// which a byte is changed.
func TestVerifierOfNats(t *testing.T) {
	t.Parallel()
	_, repo, p := sampleBackup(t, natstest.Latest)
	out := filepath.Join(t.TempDir(), "out")
	if _, err := Export(t.Context(), repo, []store.Point{p}, out, V2, false); err != nil {
		t.Fatal(err)
	}
	report, err := jsmbackup.Verify(out)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Complete || report.Messages != p.Content.Messages || report.Consumers != p.Consumers.Count ||
		report.FirstSeq != p.Content.FirstSeq || report.LastSeq != p.Content.LastSeq {
		t.Errorf("report %+v of %+v", report, p.Content)
	}
	file := filepath.Join(out, arcFile)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := jsmbackup.Verify(out); err == nil {
		t.Error("a changed archive is accepted: the verifier shows nothing")
	}
}

func TestDamagedIsRefused(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			dir, _, _ := sampleBackup(t, version)
			archived := tarFile
			if version == natstest.Latest {
				archived = arcFile
			}
			file := filepath.Join(dir, archived)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			metadata, err := os.ReadFile(filepath.Join(dir, metaFile))
			if err != nil {
				t.Fatal(err)
			}
			var incomplete *IncompleteError
			as := func(err error) bool { return errors.As(err, &incomplete) }
			is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
			for name, d := range map[string]struct {
				archive, meta []byte
				want          func(error) bool
			}{
				"flipped": {flip(data), metadata, is(archive.ErrCorrupt)},
				"cut": {data[:len(data)*2/3], metadata, func(err error) bool {
					return errors.Is(err, archive.ErrTruncated) || errors.Is(err, archive.ErrCorrupt)
				}},
				"cut to a half": {nil, metadata, is(archive.ErrTruncated)},
				"no meta":       {data, []byte{}, as},
				"foreign meta":  {data, []byte("{}"), is(ErrNotABackup)},
				"more counted":  {data, bytes.Replace(metadata, []byte(`"messages": 29`), []byte(`"messages": 39`), 1), as},
			} {
				if bytes.Equal(d.archive, data) && bytes.Equal(d.meta, metadata) {
					t.Fatalf("%s: nothing is damaged", name)
				}
				bad := t.TempDir()
				for file, b := range map[string][]byte{archived: d.archive, metaFile: d.meta} {
					if err := os.WriteFile(filepath.Join(bad, file), b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				repo := newRepo(t)
				points, err := Import(t.Context(), repo, bad, ImportOptions{Target: "old", Staging: newStaging(t), Now: time.Now})
				if !d.want(err) || len(points) > 0 {
					t.Errorf("%s: %d restore points, %v", name, len(points), err)
				}
				if listed, err := repo.Points(t.Context()); err != nil || len(listed) > 0 {
					t.Errorf("%s left %d restore points, %v", name, len(listed), err)
				}
			}
			more := t.TempDir()
			fewer := bytes.Replace(metadata, []byte(`"messages": 29`), []byte(`"messages": 19`), 1)
			for file, b := range map[string][]byte{archived: data, metaFile: fewer} {
				if err := os.WriteFile(filepath.Join(more, file), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			points, err := Import(t.Context(), newRepo(t), more, ImportOptions{Target: "old", Staging: newStaging(t)})
			if err != nil || !strings.Contains(strings.Join(points[0].Notes, "\n"), "which of them were deleted") {
				t.Errorf("more than was counted: %+v, %v", points, err)
			}
			if _, err := Import(t.Context(), newRepo(t), t.TempDir(), ImportOptions{Target: "old", Staging: newStaging(t)}); !errors.Is(err, ErrNotABackup) {
				t.Errorf("empty directory: %v", err)
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if _, err := Import(t.Context(), newRepo(t), dir, ImportOptions{Target: "old", Staging: newStaging(t)}); !as(err) {
				t.Errorf("without an archive: %v", err)
			}
		})
	}
}

func flip(b []byte) []byte {
	out := bytes.Clone(b)
	out[len(out)/2] ^= 0x10
	return out
}
