package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/service/backup"
	"jetkeep/service/jetsnap"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/service/restore"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seal"
	"jetkeep/store/staging"
)

type job = backup.Job

// The streams of these tests hold some 12 MiB, so that they have about six
// segments.
const (
	messages = 6000
	size     = 2000
)

// A vault is a repository with the restore points made into it, and what the
// server had when each was made.
type vault struct {
	t      *testing.T
	bucket *object.Bucket
	points []made
	scrap  *natstest.Server // takes what is restored
	n      int
	// What the service has to write with, and what it takes to read.
	options  store.OpenOptions
	identity []string
}

type made struct {
	store.Point
	records  []record.Record // of the stream at the moment, by the server's own word
	uploaded uint64
}

func newVault(t *testing.T) *vault { return vaultOn(t, mem.New(), store.InitOptions{}) }

func vaultOn(t *testing.T, d object.Driver, o store.InitOptions) *vault {
	t.Helper()
	v := &vault{t: t, bucket: object.NewBucket(d)}
	if _, err := store.Init(t.Context(), v.bucket, o); err != nil {
		t.Fatal(err)
	}
	return v
}

// sealedVault is one whose service has no key that reads a message.
func sealedVault(t *testing.T, d object.Driver) *vault {
	t.Helper()
	operator, err := seal.Generate(seal.Hybrid)
	if err != nil {
		t.Fatal(err)
	}
	v := vaultOn(t, d, store.InitOptions{Recipients: []string{operator.Recipient().String()}})
	v.identity = []string{operator.Secret()}
	v.options.WriterKey = v.newWriterKey()
	return v
}

func (v *vault) newWriterKey() string {
	v.t.Helper()
	key, err := v.open().NewWriterKey(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	return key
}

// open opens the repository as a process does that was started just now.
func (v *vault) open() *store.Repository {
	v.t.Helper()
	r, err := store.Open(v.t.Context(), v.bucket, v.options)
	if err != nil {
		v.t.Fatal(err)
	}
	return r
}

// unlocked opens the repository as somebody does who has the key.
func (v *vault) unlocked() *store.Repository {
	v.t.Helper()
	r := v.open()
	if !r.Encrypted() {
		return r
	}
	if r.Readable() {
		v.t.Fatal("the service can read messages")
	}
	r, err := r.Unlock(v.t.Context(), v.identity)
	if err != nil {
		v.t.Fatal(err)
	}
	return r
}

// objects returns the sizes of the objects under a prefix.
func (v *vault) objects(prefix string) map[string]uint64 {
	v.t.Helper()
	out := map[string]uint64{}
	for info, err := range v.bucket.List(v.t.Context(), prefix) {
		if err != nil {
			v.t.Fatal(err)
		}
		out[info.Name] = uint64(info.Size)
	}
	return out
}

type quiet struct{}

func (quiet) Begin(uint64, uint64)     {}
func (quiet) Add(uint64, uint64)       {}
func (quiet) SetStored(uint64, uint64) {}

// job makes a job of a process of its own: nothing is left of an earlier one.
func (v *vault) job(url, stream string) *job {
	v.t.Helper()
	area, err := staging.Open(v.t.TempDir(), 64<<20)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = area.Close() })
	v.n++
	session := fmt.Sprintf("20260101T%06dZ-aaaaaaaa", v.n)
	return &job{
		Dial: func(ctx context.Context) (*natsconn.Conn, error) {
			return natsconn.Dial(ctx, natsconn.Options{URL: url})
		},
		Repository: v.open(), Staging: area,
		Point:    store.Point{Task: session + ".0000", Backup: session, Target: "default", Stream: stream},
		Progress: quiet{}, Log: slog.New(slog.NewTextHandler(testWriter{v.t}, nil)),
		Fence: func(context.Context) error { return nil },
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// backup backs a stream up that nobody changes meanwhile, and reads every
// restore point made so far to see that it still holds what it held.
func (v *vault) backup(url, stream string, change ...func(*job)) made {
	v.t.Helper()
	j := v.job(url, stream)
	for _, c := range change {
		c(j)
	}
	before := v.objects("")
	p, err := j.Run(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	m := made{Point: p, records: natstest.Records(v.t, natstest.Connect(v.t, url), stream)}
	names := []string{}
	for name, size := range v.objects("") {
		if _, ok := before[name]; !ok {
			m.uploaded += size
			names = append(names, fmt.Sprintf("%s %d", name, size))
		}
	}
	v.t.Logf("point %s, lineage %s: %d messages, %d bytes raw, %d stored, %d new, %d uploaded; notes %q\n\t%s",
		p.ID, p.Lineage, p.Content.Messages, p.Content.RawBytes, p.Content.StoredBytes, p.Content.NewBytes, m.uploaded, p.Notes, strings.Join(names, "\n\t"))
	if len(p.Notes) == 0 { // else an attempt may have failed, whose uploads do not count
		v.honest(m)
	}
	v.points = append(v.points, m)
	for i := range v.points {
		v.read(v.points[i])
	}
	return m
}

// honest compares what a restore point says was uploaded for it with the store.
func (v *vault) honest(m made) {
	v.t.Helper()
	// The commit record cannot count itself.
	if n := m.Content.NewBytes; n > m.uploaded || m.uploaded-n > commitsOf(v, m) {
		v.t.Errorf("restore point %s says %d bytes were uploaded, there are %d more", m.ID, n, m.uploaded)
	}
}

func commitsOf(v *vault, m made) (n uint64) {
	for name, size := range v.objects("") {
		if strings.HasPrefix(name, "chains/") || name == "commits/"+m.ID {
			n += size
		}
	}
	return n
}

// read compares a restore point in the repository with what the server had.
func (v *vault) read(m made) {
	v.t.Helper()
	repo := v.unlocked()
	p, err := repo.Point(v.t.Context(), m.ID)
	if err != nil {
		v.t.Fatal(err)
	}
	r, err := repo.NewReader(v.t.Context(), p)
	if err != nil {
		v.t.Fatal(err)
	}
	defer r.Close()
	var got []record.Record
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			v.t.Fatal(err)
		}
		got = append(got, clone(rec))
	}
	if d := natstest.Diff(m.records, got); d != "" {
		v.t.Fatalf("restore point %s:\n%s", m.ID, d)
	}
}

func clone(r *record.Record) record.Record {
	b := append(append(append([]byte{}, r.Subject...), r.Header...), r.Data...)
	s, h := len(r.Subject), len(r.Subject)+len(r.Header)
	return record.Record{Sequence: r.Sequence, Time: r.Time, Subject: b[:s:s], Header: b[s:h:h], Data: b[h:]}
}

// restore brings restore points into a server of their own, one after the
// other, and compares every message there.
func (v *vault) restore(points ...made) {
	v.t.Helper()
	if v.scrap == nil {
		v.scrap = natstest.Start(v.t)
	}
	for _, m := range points {
		v.restoreTo(v.scrap.URL(), m)
		natstest.MustRequest(v.t, v.scrap.Connect(), "STREAM.DELETE."+m.Stream, nil, nil)
	}
}

// restoreTo brings a restore point into a server where there is no such stream.
func (v *vault) restoreTo(url string, m made) {
	v.t.Helper()
	conn, err := natsconn.Dial(v.t.Context(), natsconn.Options{URL: url})
	if err != nil {
		v.t.Fatal(err)
	}
	defer conn.Close()
	result, err := restore.Execute(v.t.Context(), restore.Job{Conn: conn, Repo: restore.FromRepository(v.unlocked()), Point: m.Point})
	if err != nil {
		v.t.Fatal(err)
	}
	if !result.Verified {
		v.t.Errorf("restore of %s was not verified", m.ID)
	}
	if d := natstest.Diff(m.records, natstest.Records(v.t, conn.NC, m.Stream)); d != "" {
		v.t.Fatalf("restored from %s:\n%s", m.ID, d)
	}
}

// increment fails unless m goes on from the life of first and uploaded at most
// the given share of what that takes.
func (v *vault) increment(first, m made, most float64) {
	v.t.Helper()
	if m.Lineage != first.Lineage {
		v.t.Errorf("lineage %s, that of the first backup is %s; notes %q", m.Lineage, first.Lineage, m.Notes)
	}
	share := float64(m.uploaded) / float64(first.Content.StoredBytes)
	v.t.Logf("uploaded %.4f of the first backup, %.3f allowed", share, most)
	if share > most {
		v.t.Errorf("%d bytes were uploaded, %.4f of the first backup's, at most %.2f are sound", m.uploaded, share, most)
	}
}

// newLineage fails unless m was found to be of another life than before, with a
// note that says all of the given words.
func (v *vault) newLineage(before, m made, words ...string) {
	v.t.Helper()
	if m.Lineage == before.Lineage {
		v.t.Errorf("restore point %s is taken as of the same life as %s", m.ID, before.ID)
	}
	notes := strings.Join(m.Notes, "\n")
	for _, w := range append(words, "new lineage") {
		if !strings.Contains(notes, w) {
			v.t.Errorf("notes do not say %q: %q", w, notes)
		}
	}
}

// write publishes n messages whose content follows from the seed.
func write(t *testing.T, nc *nats.Conn, subject string, n, size int, seed uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, uint64(n)))
	natstest.Publish(t, nc, n, func(i int) *nats.Msg {
		return &nats.Msg{Subject: subject, Data: natstest.Text(random, size), Header: nats.Header{"Number": {fmt.Sprint(i)}}}
	})
}

// fill makes stream S, with more settings, and n messages in it whose times are
// always the same. Where segments and packs end depends on them, and so does how
// much a later backup uploads: with these, 6,000 messages of 2,000 bytes are a pack
// of segments that end with messages 919, 1641, 3149, 4435, 5273 and the last.
func fill(t *testing.T, url, settings string, n, size int) {
	t.Helper()
	conn, err := natsconn.Dial(t.Context(), natsconn.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	config := json.RawMessage(`{"name":"S","subjects":["s"],"storage":"file","num_replicas":1,"discard":"old","max_consumers":-1,"max_bytes":-1,"max_msg_size":-1` + settings + `}`)
	if !strings.Contains(settings, "retention") {
		config = bytes.Replace(config, []byte(`"storage"`), []byte(`"retention":"limits","storage"`), 1)
	}
	begin := time.Date(2024, 1, 1, 18, 0, 0, 0, time.UTC)
	var b bytes.Buffer
	w := archive.NewV1Writer(&b, archive.Meta{Stream: "S", Config: config, Created: begin, Server: conn.NC.ConnectedServerVersion()})
	random := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range n {
		err := w.Record(&record.Record{
			Sequence: uint64(i + 1), Time: begin.Add(time.Duration(i) * time.Millisecond).UnixNano(), Subject: []byte("s"),
			Header: fmt.Appendf(nil, "NATS/1.0\r\nNumber: %d\r\n\r\n", i), Data: natstest.Text(random, size),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(uint64(n)); err != nil {
		t.Fatal(err)
	}
	if _, err := jetsnap.New(conn.API).Restore(t.Context(), "S", config, &b, jetsnap.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
}

func plainStream(t *testing.T, nc *nats.Conn, settings ...string) {
	t.Helper()
	natstest.MakeStream(t, nc, `{"name":"S","subjects":["s"],"storage":"file","retention":"limits","num_replicas":1`+strings.Join(append([]string{""}, settings...), ",")+`}`)
}
