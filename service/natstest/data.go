package natstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/store/testenv"
)

// MakeStream makes a stream of the given configuration, JSON or anything that
// encodes to it.
func MakeStream(t testing.TB, nc *nats.Conn, config any) {
	t.Helper()
	raw, ok := config.(string)
	if !ok {
		b, err := json.Marshal(config)
		if err != nil {
			t.Fatalf("encode configuration: %v", err)
		}
		raw = string(b)
	}
	var named struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(raw), &named); err != nil {
		t.Fatalf("decode configuration %s: %v", raw, err)
	}
	MustRequest(t, nc, "STREAM.CREATE."+named.Name, raw, nil)
}

// publishWindow bounds the messages that Publish has under way.
const publishWindow = 500

// Publish publishes n messages of next in order, next(0) first, and waits until
// the server has stored each.
func Publish(t testing.TB, nc *nats.Conn, n int, next func(i int) *nats.Msg) {
	t.Helper()
	inbox := nats.NewInbox()
	acks, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatalf("subscribe for acknowledgements: %v", err)
	}
	defer func() { _ = acks.Unsubscribe() }()
	await := func() {
		t.Helper()
		m, err := acks.NextMsg(testenv.Hang)
		if err != nil {
			t.Fatalf("await acknowledgement: %v\n%s", err, testenv.Report())
		}
		var ack struct {
			Stream string    `json:"stream"`
			Error  *APIError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &ack); err != nil || ack.Error != nil || ack.Stream == "" {
			t.Fatalf("publish: answer %q %v", m.Data, m.Header)
		}
	}
	for i := range n {
		m := next(i)
		if i == 0 {
			awaitListener(t, nc, m)
			continue
		}
		m.Reply = inbox
		if err := nc.PublishMsg(m); err != nil {
			t.Fatalf("publish message %d: %v", i, err)
		}
		if i > publishWindow {
			await()
		}
	}
	for range min(n-1, publishWindow) {
		await()
	}
}

// awaitListener publishes the first message. In a cluster the node that it is
// given to may not know yet of a stream that was made just now.
func awaitListener(t testing.TB, nc *nats.Conn, m *nats.Msg) {
	t.Helper()
	err := Eventually(testenv.Hang, func() error {
		answer, err := nc.RequestMsg(m, testenv.Hang)
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Fatalf("publish: %v", err)
		}
		if err == nil && !bytes.Contains(answer.Data, []byte(`"stream"`)) {
			t.Fatalf("publish: answer %q", answer.Data)
		}
		return err
	})
	if err != nil {
		t.Fatalf("publish: %v\n%s", err, testenv.Report())
	}
}

// PublishTo publishes n messages of size bytes to one subject.
func PublishTo(t testing.TB, nc *nats.Conn, subject string, n, size int) {
	t.Helper()
	random := rand.New(rand.NewPCG(uint64(n), uint64(size)))
	Publish(t, nc, n, func(i int) *nats.Msg {
		return &nats.Msg{Subject: subject, Data: Text(random, size)}
	})
}

// Text returns n bytes that compress about as text does.
func Text(random *rand.Rand, n int) []byte {
	const letters = "etaoin shrdlu0123456789"
	text := make([]byte, n)
	for i := range text {
		text[i] = letters[random.IntN(len(letters))]
	}
	return text
}

// Delete deletes messages of a stream.
func Delete(t testing.TB, nc *nats.Conn, stream string, sequences ...uint64) {
	t.Helper()
	for _, seq := range sequences {
		MustRequest(t, nc, "STREAM.MSG.DELETE."+stream, map[string]uint64{"seq": seq}, nil)
	}
}

// MakeConsumer makes a durable consumer of the given configuration, JSON
// without its name, by the request that every version knows.
func MakeConsumer(t testing.TB, nc *nats.Conn, stream, name string, config map[string]any) {
	t.Helper()
	full := map[string]any{"durable_name": name, "deliver_policy": "all", "replay_policy": "instant"}
	for k, v := range config {
		full[k] = v
	}
	MustRequest(t, nc, "CONSUMER.DURABLE.CREATE."+stream+"."+name,
		map[string]any{"stream_name": stream, "config": full}, nil)
}

// Take pulls n messages from a consumer and acknowledges those that ack picks.
func Take(t testing.TB, nc *nats.Conn, stream, consumer string, n int, ack func(i int) bool) {
	t.Helper()
	for i := range n {
		m, err := ask(nc, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer, nil)
		if err != nil {
			t.Fatalf("take message %d of %s of %s: %v", i, consumer, stream, err)
		}
		if m.Reply == "" || !strings.HasPrefix(m.Reply, "$JS.ACK.") {
			t.Fatalf("take message %d of %s of %s: status %q", i, consumer, stream, m.Header.Get("Status"))
		}
		if !ack(i) {
			continue
		}
		if _, err := ask(nc, m.Reply, []byte("+ACK")); err != nil {
			t.Fatalf("acknowledge message %d of %s of %s: %v", i, consumer, stream, err)
		}
	}
}

// ask sends a request that may come before the cluster's nodes know who listens
// or while they choose a leader, who then may never have seen it. Whoever has seen
// it answers well before it is sent again, on however slow a machine: a message that
// is taken twice would be missing.
func ask(nc *nats.Conn, subject string, body []byte) (m *nats.Msg, err error) {
	err = Eventually(testenv.Hang, func() error {
		m, err = nc.Request(subject, body, time.Minute)
		if err != nil && !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, nats.ErrTimeout) {
			return permanentError{err}
		}
		return err
	})
	return m, err
}

// Sample makes a few small streams of every common kind and returns their
// names, sorted: ORDERS, with headers, deletes at its head, inside and at its end and
// two consumers of which one has acknowledgements pending; WORK, a work queue;
// EMPTY, purged; and, on servers that have them, the bucket KV_settings with
// history and deletes and the object store OBJ_files.
func Sample(t testing.TB, nc *nats.Conn) []string {
	t.Helper()
	sampleOrders(t, nc)
	sampleWork(t, nc)
	MakeStream(t, nc, `{"name":"EMPTY","subjects":["empty"],"storage":"file","retention":"limits","num_replicas":1}`)
	PublishTo(t, nc, "empty", 30, 10)
	MustRequest(t, nc, "STREAM.PURGE.EMPTY", nil, nil)
	if strings.HasPrefix(nc.ConnectedServerVersion(), "2.6.") {
		return []string{"EMPTY", "ORDERS", "WORK"} // buckets want more than it has
	}
	sampleBucket(t, nc)
	sampleObjects(t, nc)
	return []string{"EMPTY", "KV_settings", "OBJ_files", "ORDERS", "WORK"}
}

func sampleOrders(t testing.TB, nc *nats.Conn) {
	t.Helper()
	const n = 3000
	MakeStream(t, nc, `{"name":"ORDERS","subjects":["orders.>"],"storage":"file","retention":"limits",
		"num_replicas":1,"duplicate_window":120000000000}`)
	random := rand.New(rand.NewPCG(1, 2))
	Publish(t, nc, n, func(i int) *nats.Msg {
		m := nats.NewMsg(fmt.Sprintf("orders.%s.%d", [...]string{"eu", "us", "asia"}[i%3], i%5))
		m.Data = Text(random, random.IntN(900))
		switch {
		case i%5 == 0:
			m.Header.Set("Nats-Msg-Id", fmt.Sprintf("order-%d", i))
		case i%7 == 0:
			m.Header.Add("Trace", "a b")
			m.Header.Add("Trace", "ü")
			m.Header.Set("empty", "")
		}
		return m
	})
	MakeConsumer(t, nc, "ORDERS", "half-done", map[string]any{
		"ack_policy": "explicit", "ack_wait": int64(time.Hour), "filter_subject": "orders.eu.*", "max_deliver": 7,
	})
	MakeConsumer(t, nc, "ORDERS", "untouched", map[string]any{"ack_policy": "explicit", "description": "nobody was here"})
	Take(t, nc, "ORDERS", "half-done", 60, func(i int) bool { return i < 10 || i%4 == 0 })
	Delete(t, nc, "ORDERS", 1, 2, 3, 500, 501, 502, 503, 1999, n)
}

func sampleWork(t testing.TB, nc *nats.Conn) {
	t.Helper()
	MakeStream(t, nc, `{"name":"WORK","subjects":["work"],"storage":"file","retention":"workqueue","num_replicas":1}`)
	PublishTo(t, nc, "work", 200, 100)
	MakeConsumer(t, nc, "WORK", "worker", map[string]any{"ack_policy": "explicit", "ack_wait": int64(time.Hour)})
	Take(t, nc, "WORK", "worker", 40, func(i int) bool { return i%9 != 4 })
}

func sampleBucket(t testing.TB, nc *nats.Conn) {
	t.Helper()
	// The older of nats.go's two interfaces, which speaks to servers of every
	// version.
	js, err := nc.JetStream()
	if err != nil {
		t.Fatalf("open JetStream: %v", err)
	}
	kv, err := js.CreateKeyValue(&nats.KeyValueConfig{Bucket: "settings", History: 4, Storage: nats.FileStorage})
	if err != nil {
		t.Fatalf("make bucket: %v", err)
	}
	for i := range 300 {
		if _, err := kv.PutString(fmt.Sprintf("shop.%d", i%40), fmt.Sprintf("value %d", i)); err != nil {
			t.Fatalf("put key: %v", err)
		}
	}
	if err := kv.Delete("shop.3"); err != nil {
		t.Fatalf("delete key: %v", err)
	}
	if err := kv.Purge("shop.4"); err != nil {
		t.Fatalf("purge key: %v", err)
	}
}

func sampleObjects(t testing.TB, nc *nats.Conn) {
	t.Helper()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatalf("open JetStream: %v", err)
	}
	objects, err := js.CreateObjectStore(&nats.ObjectStoreConfig{Bucket: "files", Storage: nats.FileStorage})
	if err != nil {
		t.Fatalf("make object store: %v", err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for _, o := range []struct {
		name string
		size int
	}{{"large", 700_000}, {"gone", 200_000}, {"small", 10}} {
		if _, err := objects.PutBytes(o.name, Text(random, o.size)); err != nil {
			t.Fatalf("put object %s: %v", o.name, err)
		}
	}
	if err := objects.Delete("gone"); err != nil {
		t.Fatalf("delete object: %v", err)
	}
}
