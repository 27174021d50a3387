package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/archive"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/local"
	"jetkeep/store/record"
	"jetkeep/store/seal"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// TestByHand does what the README in a repository says, with the commands that
// it shows and the program that it holds: no code of jetkeep runs on the way
// from the repository into the server.
func TestByHand(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "hybrid", "classic"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newByHand(t, name)
			first, second := h.increments()
			h.restore("", second)
			if name != "classic" {
				h.restore(first.point, first)
				h.damage()
			}
		})
	}
}

// byHand is a repository and what a person has beside it.
type byHand struct {
	t        *testing.T
	dir      string // of the repository
	operator string // file with a secret key
	repo     *store.Repository
	bin      string // directory with the commands
}

// kept is one restore point and what it must bring back.
type keptByHand struct {
	point    string
	messages []*record.Record
}

func newByHand(t *testing.T, kind string) *byHand {
	t.Helper()
	h := &byHand{t: t, dir: filepath.Join(t.TempDir(), "repository"), bin: t.TempDir()}
	h.link()
	d, err := local.Create(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	var opt store.InitOptions
	if kind != "plain" {
		id, err := seal.Generate(seal.Kind(kind))
		if err != nil {
			t.Fatal(err)
		}
		h.operator = filepath.Join(t.TempDir(), "operator.key")
		if err := os.WriteFile(h.operator, []byte(id.Secret()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		opt = store.InitOptions{Recipients: []string{id.Recipient().String()}, Classic: kind == "classic"}
	}
	bucket := object.NewBucket(d)
	if h.repo, err = store.Init(t.Context(), bucket, opt); err != nil {
		t.Fatal(err)
	}
	if kind != "plain" {
		w, err := h.repo.NewWriterKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// As the service has it, which cannot read messages.
		if h.repo, err = store.Open(t.Context(), bucket, store.OpenOptions{WriterKey: w}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// link puts the commands that a person needs into a directory of their own.
func (h *byHand) link() {
	h.t.Helper()
	for name, tool := range map[string]string{"age": "age-1.3.2", "nats": natstest.CLI} {
		if err := os.Symlink(natstest.Tool(h.t, tool), filepath.Join(h.bin, name)); err != nil {
			h.t.Fatal(err)
		}
	}
}

// increments stores a full restore point and, from that, others with what was
// added and without what was deleted. It returns the first and the last, whose
// metadata has become so large that it lies in objects of its own.
func (h *byHand) increments() (first, last keptByHand) {
	var all []*record.Record
	for range 5000 {
		all = append(all, orderOf(uint64(len(all)+1)))
	}
	early := func(r *record.Record) bool { return r.Sequence <= 4900 && r.Sequence%97 != 0 }
	late := func(r *record.Record) bool {
		return r.Sequence > 250 && r.Sequence%97 != 0 && (r.Sequence < 2000 || r.Sequence > 2100) && (r.Sequence > 4900 || r.Sequence%2 == 0)
	}
	first = h.store("20260101T000000Z-aaaaaaaa.0001", all, early)
	for day := range 32 {
		last = h.store(fmt.Sprintf("20260201T000000Z-bbbbbb%02d.0001", day), all, late)
		for range 10 {
			r := orderOf(uint64(len(all) + 1))
			r.Data = bytes.Repeat(r.Subject, 4000)
			all = append(all, r)
		}
	}
	packs, err := filepath.Glob(filepath.Join(h.dir, "packs", "*", "*"))
	if err != nil || len(packs) < 30 {
		h.t.Fatalf("%d packs, %v", len(packs), err)
	}
	p, err := h.repo.Point(h.t.Context(), last.point)
	if err != nil {
		h.t.Fatal(err)
	}
	if c := p.Content; c.Tables.Count != 1 || c.Tables.List[0].Ref == nil || c.Deleted.Ref == nil || p.Consumers.Ref == nil {
		h.t.Fatalf("metadata is small: %d segments in %d packs, %d tables %v, deleted %d %v, consumers %v", c.Segments, c.Packs, c.Tables.Count, c.Tables.List[0].Ref, c.Deleted.Count, c.Deleted.Ref, p.Consumers.Ref)
	}
	return first, last
}

// orderOf makes a message: some with headers, some without data, some large.
func orderOf(seq uint64) *record.Record {
	random := rand.New(rand.NewPCG(seq, 3))
	r := &record.Record{
		Sequence: seq, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano() + int64(seq)*1_234_567_891,
		Subject: fmt.Appendf(nil, "orders.%d.<new>", seq%13), Data: natstest.Text(random, int(random.Uint32()%2000)),
	}
	switch {
	case seq%5 == 0:
		r.Header = fmt.Appendf(nil, "NATS/1.0\r\nNats-Msg-Id: %d\r\nShop: Köln\r\n\r\n", seq)
	case seq%7 == 0:
		r.Data = nil
	case seq%1000 == 1:
		r.Data = natstest.Text(random, 300_000)
	}
	return r
}

func (h *byHand) store(task string, all []*record.Record, live func(*record.Record) bool) keptByHand {
	t, ctx := h.t, h.t.Context()
	t.Helper()
	area, err := staging.Open(t.TempDir(), 2<<20) // small, so that packs are
	if err != nil {
		t.Fatal(err)
	}
	defer area.Close()
	w, err := h.repo.NewWriter(ctx, store.WriterOptions{Staging: area, Task: task, Target: "default", Stream: "ORDERS"})
	if err != nil {
		t.Fatal(err)
	}
	kept := keptByHand{point: task}
	alive, dead := &seqset.Set{}, &seqset.Set{}
	for _, r := range all {
		if live(r) {
			alive.Add(r.Sequence)
			kept.messages = append(kept.messages, r)
		}
	}
	base, err := h.repo.Latest(ctx, "default", "ORDERS")
	if err == nil {
		err = w.Continue(ctx, base, alive)
	}
	if err != nil && !errors.Is(err, store.ErrNoPoint) {
		t.Fatal(err)
	}
	for i, r := range kept.messages {
		if i%500 == 250 { // deleted while the snapshot was made
			dead.Add(r.Sequence)
		}
		if err := w.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	for i := 250; i < len(kept.messages); i += 499 {
		kept.messages = append(kept.messages[:i:i], kept.messages[i+1:]...)
	}
	for _, r := range all[:kept.messages[len(kept.messages)-1].Sequence] {
		if !alive.Contains(r.Sequence) {
			dead.Add(r.Sequence)
		}
	}
	content, err := w.Finish(ctx, dead)
	if err != nil {
		t.Fatal(err)
	}
	h.commit(task, content, kept)
	return kept
}

func (h *byHand) commit(task string, content store.Content, kept keptByHand) {
	t, ctx := h.t, h.t.Context()
	t.Helper()
	var err error
	first, last := kept.messages[0], kept.messages[len(kept.messages)-1]
	p := store.Point{
		ID: task, Task: task, Backup: strings.TrimSuffix(task, ".0001"), Target: "default", Stream: "ORDERS", Lineage: "l",
		Created: time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC), Time: time.Unix(0, last.Time).UTC(), Server: "2.15.2", Engine: "snapshot_v2",
		Config:  json.RawMessage(`{"name":"ORDERS","subjects":["orders.>"],"storage":"file","num_replicas":1,"retention":"limits","discard":"old"}`),
		Content: content,
		State: store.State{
			Messages: uint64(len(kept.messages)), Bytes: content.Bytes, FirstSeq: first.Sequence, LastSeq: last.Sequence,
			FirstTime: time.Unix(0, first.Time).UTC(), LastTime: time.Unix(0, last.Time).UTC(), Consumers: 1,
		},
	}
	consumer, err := json.Marshal(archive.Consumer{
		Name: "billing", Created: p.Created,
		Config: fmt.Appendf(nil, `{"durable_name":"billing","description":%q,"ack_policy":"explicit","deliver_policy":"all","replay_policy":"instant","max_deliver":5,"metadata":{"note":%q}}`,
			"of the shop", strings.Repeat("paid, ", 4000)),
		State: archive.ConsumerState{
			Delivered:   archive.SequencePair{Consumer: 40, Stream: first.Sequence + 20},
			AckFloor:    archive.SequencePair{Consumer: 30, Stream: first.Sequence + 10},
			Pending:     []archive.Pending{{Stream: first.Sequence + 12, Consumer: 31, Time: last.Time}},
			Redelivered: []archive.Redelivered{{Stream: first.Sequence + 12, Count: 2}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.Consumers, err = h.repo.PutConsumers(ctx, content, []json.RawMessage{consumer}); err != nil {
		t.Fatal(err)
	}
	if err := h.repo.Commit(ctx, p); err != nil {
		t.Fatal(err)
	}
}

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// run does the steps of the README from the first to that which holds until.
func (h *byHand) run(out, until string, env ...string) (string, error) {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "README.md"))
	if err != nil {
		h.t.Fatal(err)
	}
	script := "set -e\n"
	for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		script += block[1]
		if strings.Contains(block[1], until) {
			break
		}
	}
	script = strings.Replace(script, "OUT=../by-hand\n", "OUT='"+out+"'\n", 1)
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "PATH="+h.bin+":"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+h.t.TempDir(), "OPERATOR_KEY="+h.operator)
	cmd.Env = append(cmd.Env, env...)
	b, err := cmd.CombinedOutput()
	return string(b), err
}

// restore follows the README to its end and compares what the server has then.
func (h *byHand) restore(point string, want keptByHand) {
	t := h.t
	t.Helper()
	server := natstest.Start(t)
	out := filepath.Join(t.TempDir(), "by hand")
	text, err := h.run(out, "nats backup restore", "NATS_URL="+server.URL(), "POINT="+point)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if strings.Contains(text, "damaged") || !strings.Contains(text, fmt.Sprintf("%s: %d messages of stream ORDERS", want.point, len(want.messages))) {
		t.Errorf("the program says:\n%s", text)
	}
	if _, err := os.Stat(filepath.Join(out, "repository.key")); err == nil {
		t.Error("the repository's key was left lying around")
	}
	sameMessages(t, server.Connect(), want.messages)
}

// sameMessages compares the stream on the server with what it must hold.
func sameMessages(t *testing.T, nc *nats.Conn, want []*record.Record) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	state := stream.CachedInfo().State
	if state.Msgs != uint64(len(want)) || state.FirstSeq != want[0].Sequence || state.LastSeq != want[len(want)-1].Sequence {
		t.Fatalf("stream has %+v, want %d messages", state, len(want))
	}
	for _, w := range want {
		m, err := nc.Request("$JS.API.STREAM.MSG.GET.ORDERS", fmt.Appendf(nil, `{"seq":%d}`, w.Sequence), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Message struct {
				Subject string    `json:"subject"`
				Seq     uint64    `json:"seq"`
				Hdrs    []byte    `json:"hdrs"`
				Data    []byte    `json:"data"`
				Time    time.Time `json:"time"`
			} `json:"message"`
		}
		if err := json.Unmarshal(m.Data, &got); err != nil {
			t.Fatal(err)
		}
		g := got.Message
		if g.Subject != string(w.Subject) || g.Seq != w.Sequence || string(g.Hdrs) != string(w.Header) || string(g.Data) != string(w.Data) || g.Time.UnixNano() != w.Time {
			t.Fatalf("message %d is %+v", w.Sequence, g)
		}
	}
	consumer, err := stream.Consumer(t.Context(), "billing")
	if err != nil {
		t.Fatal(err)
	}
	info := consumer.CachedInfo()
	if info.AckFloor.Stream != want[0].Sequence+10 || info.NumAckPending != 1 || info.Config.MaxDeliver != 5 {
		t.Errorf("consumer is %+v", info)
	}
}

// damage flips a byte of each pack in turn: the README finds it, and its
// program makes nothing of it.
func (h *byHand) damage() {
	t := h.t
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(h.dir, "packs", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	pack := packs[len(packs)/2]
	good, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte{}, good...)
	bad[len(bad)/3] ^= 4
	if err := os.WriteFile(pack, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(h.dir, pack)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := h.run(filepath.Join(t.TempDir(), "out"), "sha256sum"); err != nil || !strings.Contains(text, "damaged: "+rel) {
		t.Errorf("the check says %v\n%s", err, text)
	}
	if text, err := h.run(filepath.Join(t.TempDir(), "out"), "tail -n 1"); err == nil || !strings.Contains(text, "damaged: "+rel) {
		t.Errorf("the program says %v\n%s", err, text)
	}
}

// TestByHandGolden follows the README that lies in the repositories which the
// first program of the format left, with metadata in objects of every kind, and
// compares what comes out with what the program of today reads.
func TestByHandGolden(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"format2-age"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &byHand{t: t, dir: filepath.Join(t.TempDir(), name), bin: t.TempDir()}
			h.link()
			golden := filepath.Join("..", "store", "testdata", name)
			if err := os.CopyFS(h.dir, os.DirFS(golden)); err != nil {
				t.Fatal(err)
			}
			var identities []string
			if b, err := os.ReadFile(golden + ".key"); err == nil {
				if h.operator, err = filepath.Abs(golden + ".key"); err != nil {
					t.Fatal(err)
				}
				ids, err := seal.ParseIdentities(string(b))
				if err != nil {
					t.Fatal(err)
				}
				identities = []string{ids[0].Secret()}
			}
			h.compareAll(identities)
		})
	}
}

// compareAll makes an archive of each restore point by hand and reads it.
func (h *byHand) compareAll(identities []string) {
	t := h.t
	t.Helper()
	d, err := local.Open(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	repo, err := store.Open(t.Context(), object.NewBucket(d), store.OpenOptions{Identities: identities})
	if err != nil {
		t.Fatal(err)
	}
	points, err := repo.Points(t.Context())
	if err != nil || len(points) < 2 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	for _, l := range points {
		if l.Err != nil {
			t.Fatal(l.Err)
		}
		out := filepath.Join(t.TempDir(), "out")
		text, err := h.run(out, "tail -n 1", "POINT="+l.ID)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		file, err := os.Open(filepath.Join(out, "backup", "stream.tar.s2"))
		if err != nil {
			t.Fatal(err)
		}
		got := &summed{}
		_, err = archive.Read(file, l.Point.Stream, got)
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		rd, err := repo.NewReader(t.Context(), l.Point)
		if err != nil {
			t.Fatal(err)
		}
		want := &summed{consumers: l.Point.Consumers.Count}
		for {
			r, err := rd.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = want.Record(r)
		}
		rd.Close()
		if *got != *want || got.count == 0 {
			t.Errorf("%s: by hand %+v, want %+v", l.ID, got, want)
		}
	}
}

// summed counts and hashes what it is given.
type summed struct {
	sum              record.Sum
	count, consumers int
}

func (s *summed) Record(r *record.Record) error {
	s.sum.Add(record.Append(nil, r))
	s.count++
	return nil
}

func (s *summed) Tombstone(uint64) error          { return nil }
func (s *summed) Consumer(archive.Consumer) error { s.consumers++; return nil }
