package compare

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/service/embedded"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

type world struct {
	*testing.T
	ctx context.Context
	nc  *nats.Conn
	js  jetstream.JetStream
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	t.Cleanup(cancel)
	server, err := embedded.Start(ctx, embedded.Options{Dir: t.TempDir(), Port: embedded.RandomPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Shutdown(context.Background()) })
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &world{T: t, ctx: ctx, nc: nc, js: js}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) take() *Account {
	w.Helper()
	account, err := Take(w.ctx, w.nc, w.TempDir(), func(string) bool { return true })
	w.must(err)
	return account
}

// differences returns what Diff finds between an earlier recording and now.
func (w *world) differences(before *Account) (Result, string) {
	w.Helper()
	return w.between(before, w.take())
}

func (w *world) between(before, after *Account) (Result, string) {
	w.Helper()
	result, err := Diff(before, after)
	w.must(err)
	var lines []string
	for _, d := range result.Differences {
		lines = append(lines, d.String())
	}
	return result, strings.Join(lines, "\n")
}

// small is the sample's size in tests that need no more.
func small() sample.Size { return sample.Size{Orders: 800, Keys: 60, Object: 300_000, WorkJobs: 100} }

func TestUntouchedAccountIsEqual(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(sample.Fill(w.ctx, w.nc, small(), 1))
	result, text := w.differences(w.take())
	if !result.Equal() || text != "" {
		t.Errorf("an untouched account differs:\n%s", text)
	}
	if len(result.Streams) != len(sample.Streams()) {
		t.Errorf("%d streams compared", len(result.Streams))
	}
	for _, s := range result.Streams {
		if s.Compared <= int(s.Messages) {
			t.Errorf("%s: compared %d things, has %d messages", s.Name, s.Compared, s.Messages)
		}
	}
}

// TestDamageIsFound damages an account in each way and expects the very thing
// to be named.
func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(sample.Fill(w.ctx, w.nc, small(), 1))
	stream := func(name string) jetstream.Stream {
		s, err := w.js.Stream(w.ctx, name)
		w.must(err)
		return s
	}
	damages := []struct {
		name string
		do   func()
		want []string
	}{
		{"a message dropped", func() {
			w.must(stream("ORDERS").DeleteMsg(w.ctx, 101))
		}, []string{"ORDERS: message 101: was present, is absent", "ORDERS: state.num_deleted"}},
		{"a message added", func() {
			_, err := w.js.Publish(w.ctx, "login.u1", nil)
			w.must(err)
		}, []string{"LOGINS: message 201: was absent, is present", "LOGINS: state.last_seq: was 200, is 201"}},
		{"a configuration changed", func() {
			c := stream("LOGINS").CachedInfo().Config
			c.MaxAge = 25 * time.Hour
			_, err := w.js.UpdateStream(w.ctx, c)
			w.must(err)
		}, []string{"LOGINS: config.max_age: was 86400000000000, is 90000000000000"}},
		{"a consumer's configuration changed", func() {
			c, err := stream("ORDERS").Consumer(w.ctx, "shipping")
			w.must(err)
			config := c.CachedInfo().Config
			config.MaxDeliver = 6
			_, err = stream("ORDERS").UpdateConsumer(w.ctx, config)
			w.must(err)
		}, []string{"ORDERS: consumer shipping: config.max_deliver: was 5, is 6"}},
		{"a consumer moved on", func() {
			c, err := stream("ORDERS").Consumer(w.ctx, "shipping")
			w.must(err)
			m, err := c.Next()
			w.must(err)
			w.must(m.Ack())
			w.must(w.nc.Flush())
		}, []string{"ORDERS: consumer shipping: delivered.consumer_seq: was 20, is 21"}},
		{"a consumer lost", func() {
			w.must(stream("WORK").DeleteConsumer(w.ctx, "worker"))
		}, []string{"WORK: consumer worker: was present, is absent", "WORK: state.consumer_count: was 1, is 0"}},
		{"a consumer added", func() {
			_, err := stream("LOGINS").CreateConsumer(w.ctx, jetstream.ConsumerConfig{Durable: "new"})
			w.must(err)
		}, []string{"LOGINS: consumer new: was absent, is present"}},
		{"a key's value changed", func() {
			kv, err := w.js.KeyValue(w.ctx, "settings")
			w.must(err)
			_, err = kv.PutString(w.ctx, "shop.001.limit", "other")
			w.must(err)
		}, []string{"KV_settings: revision ", "is present", "KV_settings: state.last_seq"}},
		{"an object replaced", func() {
			store, err := w.js.ObjectStore(w.ctx, "documents")
			w.must(err)
			_, err = store.PutString(w.ctx, "contract.txt", "nothing")
			w.must(err)
		}, []string{"OBJ_documents: object contract.txt: content", "OBJ_documents: object contract.txt: digest"}},
		{"a stream lost", func() {
			w.must(w.js.DeleteStream(w.ctx, "BIG_ORDERS"))
		}, []string{"BIG_ORDERS: was present, is absent"}},
		{"a stream added", func() {
			_, err := w.js.CreateStream(w.ctx, jetstream.StreamConfig{Name: "EXTRA", Subjects: []string{"extra"}})
			w.must(err)
		}, []string{"EXTRA: was absent, is present"}},
	}
	before := w.take()
	for _, damage := range damages {
		damage.do()
		after := w.take()
		result, text := w.between(before, after)
		if result.Equal() {
			t.Errorf("%s: found equal", damage.name)
		}
		for _, want := range damage.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is not in:\n%s", damage.name, want, text)
			}
		}
		before = after
	}
}

func TestChangedMessageIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.js.CreateStream(w.ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Storage: jetstream.MemoryStorage})
	w.must(err)
	for i := range 900 {
		m := nats.NewMsg(fmt.Sprintf("s.%d", i%3))
		m.Data = fmt.Appendf(nil, "body %d", i)
		if i%2 == 0 {
			m.Header.Set("Number", fmt.Sprint(i))
		}
		_, err := w.js.PublishMsg(w.ctx, m)
		w.must(err)
	}
	before := w.take()
	for _, c := range []struct {
		name   string
		change func(*raw)
		want   []string
	}{
		// The recreated stream has another created time, which memory may have.
		{"nothing", func(*raw) {}, nil},
		{"one byte of the data", func(m *raw) { m.data[0] ^= 1 }, []string{`S: message 801: data: was "sha256:`}},
		{"one byte of the header", func(m *raw) { m.header[12] ^= 1 }, []string{`S: message 801: hdrs: was "sha256:`}},
		{"the header", func(m *raw) { m.header = nil }, []string{`S: message 801: hdrs: was "sha256:`, "is absent"}},
		{"a nanosecond", func(m *raw) { m.time++ }, []string{"S: message 801: time: was "}},
		{"the subject", func(m *raw) { m.subject = "s.9" }, []string{`S: message 801: subject: was "s.2", is "s.9"`}},
		{"the message", func(m *raw) { m.sequence = 0 }, []string{"S: message 801: was present, is absent"}},
	} {
		messages := w.read("S")
		for i := range messages {
			if messages[i].sequence == 801 {
				changed := messages[i]
				changed.data, changed.header = slices.Clone(changed.data), slices.Clone(changed.header)
				c.change(&changed)
				w.replace("S", append(append(slices.Clone(messages[:i]), changed), messages[i+1:]...))
			}
		}
		result, text := w.differences(before)
		if equal := len(c.want) == 0; result.Equal() != equal {
			t.Errorf("%s: equal is %v:\n%s", c.name, result.Equal(), text)
		}
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is not in:\n%s", c.name, want, text)
			}
		}
		w.replace("S", messages)
	}
}

func TestCreatedTimeOfFileStreamsCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.js.CreateStream(w.ctx, jetstream.StreamConfig{Name: "F", Subjects: []string{"f"}})
	w.must(err)
	_, err = w.js.Publish(w.ctx, "f", []byte("one"))
	w.must(err)
	before := w.take()
	w.replace("F", w.read("F"))
	if result, text := w.differences(before); result.Equal() || !strings.HasPrefix(text, "F: created: was ") {
		t.Errorf("a lost created time: %v\n%s", result.Equal(), text)
	}
}

// TestManyDifferencesAreCounted bounds what is kept, not what is counted.
func TestManyDifferencesAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(sample.Fill(w.ctx, w.nc, small(), 1))
	before := w.take()
	s, err := w.js.Stream(w.ctx, "LOGINS")
	w.must(err)
	w.must(s.Purge(w.ctx))
	result, _ := w.differences(before)
	if len(result.Differences) != perStream {
		t.Errorf("%d differences kept", len(result.Differences))
	}
	for _, s := range result.Streams {
		if s.Name == "LOGINS" && s.Count < 200 {
			t.Errorf("%d differences counted", s.Count)
		}
	}
}

// TestTakeFailsRatherThanLeaveOut: a recording of a part would compare equal
// with a restore of that part.
func TestTakeFailsRatherThanLeaveOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(sample.Fill(w.ctx, w.nc, small(), 1))
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	if _, err := Take(ctx, w.nc, t.TempDir(), func(string) bool { return true }); err == nil {
		t.Error("a recording that was cut off is no error")
	}
	a := w.take()
	w.must(os.Remove(a.path("ORDERS", facetMessage)))
	if _, err := Diff(a, w.take()); err == nil {
		t.Error("a recording without its messages is no error")
	}
}

// raw is a message as a V2 archive holds it. The test has an encoder of its
// own, because the package must not depend on jetkeep's.
type raw struct {
	sequence     uint64
	time         int64
	subject      string
	header, data []byte
}

func (w *world) read(stream string) []raw {
	w.Helper()
	s, err := w.js.Stream(w.ctx, stream)
	w.must(err)
	var messages []raw
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		reply, err := w.nc.RequestWithContext(w.ctx, "$JS.API.STREAM.MSG.GET."+stream, fmt.Appendf(nil, `{"seq":%d}`, seq))
		w.must(err)
		var answer struct {
			Message struct {
				Subject    string `json:"subject"`
				Hdrs, Data []byte
				Time       time.Time `json:"time"`
			} `json:"message"`
		}
		w.must(json.Unmarshal(reply.Data, &answer))
		m := answer.Message
		messages = append(messages, raw{seq, m.Time.UnixNano(), m.Subject, m.Hdrs, m.Data})
	}
	return messages
}

// replace deletes a stream and restores it with other messages.
func (w *world) replace(stream string, messages []raw) {
	w.Helper()
	s, err := w.js.Stream(w.ctx, stream)
	w.must(err)
	config, state := s.CachedInfo().Config, s.CachedInfo().State
	stateJSON, err := json.Marshal(map[string]any{
		"messages": state.Msgs, "bytes": state.Bytes, "first_seq": state.FirstSeq, "first_ts": state.FirstTime,
		"last_seq": state.LastSeq, "last_ts": state.LastTime, "consumer_count": 0,
	})
	w.must(err)
	var archive bytes.Buffer
	compressed := s2.NewWriter(&archive)
	_, _ = compressed.Write([]byte("NATSARC1"))
	_, _ = compressed.Write(archiveEntry(raw{subject: "state.json", data: stateJSON}))
	for _, m := range messages {
		if m.sequence > 0 {
			_, _ = compressed.Write(archiveEntry(m))
		}
	}
	_, _ = compressed.Write(archiveEntry(raw{}))
	w.must(compressed.Close())

	w.must(w.js.DeleteStream(w.ctx, stream))
	request, err := json.Marshal(map[string]any{"config": config, "state": state})
	w.must(err)
	deliver := w.request("$JS.API.STREAM.RESTORE."+stream, request)["deliver_subject"]
	for chunk := range slices.Chunk(archive.Bytes(), 100_000) {
		w.request(fmt.Sprint(deliver), chunk)
	}
	w.request(fmt.Sprint(deliver), nil)
}

func (w *world) request(subject string, body []byte) map[string]any {
	w.Helper()
	reply, err := w.nc.RequestWithContext(w.ctx, subject, body)
	w.must(err)
	var answer map[string]any
	if len(reply.Data) > 0 {
		w.must(json.Unmarshal(reply.Data, &answer))
	}
	if answer["error"] != nil {
		w.Fatalf("%s: %v", subject, answer["error"])
	}
	return answer
}

func archiveEntry(m raw) []byte {
	b := binary.AppendUvarint(nil, uint64(len(m.subject)))
	b = binary.AppendVarint(b, m.time)
	b = binary.AppendUvarint(b, m.sequence)
	b = binary.AppendUvarint(b, uint64(len(m.header)))
	b = binary.AppendUvarint(b, uint64(len(m.data)))
	return append(append(append(b, m.subject...), m.header...), m.data...)
}
