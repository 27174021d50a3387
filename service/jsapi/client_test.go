package jsapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// Lists are read to their end over all pages, on the oldest and newest server.
func TestLists(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.6.1", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, natsconn.Options{URL: natstest.StartVersion(t, version).URL()})
			const streams, consumers = 300, 270 // pages hold 256 descriptions
			for i := range streams {
				natstest.MakeStream(t, conn.NC, fmt.Sprintf(`{"name":"S%d","subjects":["s%d"],"storage":"memory","max_consumers":-1,"max_msgs":-1,"max_bytes":-1}`, i, i))
			}
			natstest.PublishTo(t, conn.NC, "s0", 3, 3)
			for i := range consumers {
				natstest.MakeConsumer(t, conn.NC, "S0", fmt.Sprintf("C%d", i), map[string]any{"ack_policy": "explicit"})
			}
			names, err := conn.API.StreamNames(t.Context())
			if err != nil || distinct(names) != streams {
				t.Errorf("%d names, %v", len(names), err)
			}
			infos, err := conn.API.Streams(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			names = names[:0]
			for _, i := range infos {
				names = append(names, i.Name())
			}
			if distinct(names) != streams {
				t.Errorf("%d streams", len(names))
			}
			list, err := conn.API.Consumers(t.Context(), "S0")
			if err != nil {
				t.Fatal(err)
			}
			names = names[:0]
			for _, c := range list {
				names = append(names, c.Name)
				if c.NumPending != 3 || c.Created.IsZero() || !strings.Contains(string(c.Config), `"ack_policy":"explicit"`) {
					t.Fatalf("consumer %+v", c)
				}
			}
			if distinct(names) != consumers {
				t.Errorf("%d consumers", len(names))
			}
			if _, err := conn.API.Consumers(t.Context(), "NONE"); !errors.Is(err, jsapi.ErrStreamNotFound) {
				t.Error(err)
			}
			account, err := conn.API.AccountInfo(t.Context())
			if err != nil || account.Streams != streams {
				t.Errorf("%+v, %v", account, err)
			}
		})
	}
}

func distinct(names []string) int {
	seen := map[string]bool{}
	for _, n := range names {
		seen[n] = true
	}
	return len(seen)
}

func TestStreamLife(t *testing.T) {
	t.Parallel()
	conn := dial(t, natsconn.Options{URL: natstest.Start(t).URL()})
	ctx := t.Context()
	info, err := conn.API.CreateStream(ctx, json.RawMessage(`{"name":"S","subjects":["s"],"storage":"file"}`))
	if err != nil || info.Name() != "S" || info.Created.IsZero() {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, err := conn.API.CreateStream(ctx, json.RawMessage(`{"name":"S","subjects":["other"],"storage":"file"}`)); !errors.Is(err, jsapi.ErrStreamExists) {
		t.Error(err)
	}
	info, err = conn.API.UpdateStream(ctx, json.RawMessage(`{"name":"S","subjects":["s","t"],"storage":"file"}`))
	if err != nil || !strings.Contains(string(info.Config), `["s","t"]`) {
		t.Errorf("%+v, %v", info, err)
	}
	info, err = conn.API.StreamInfo(ctx, "S", jsapi.InfoOptions{DeletedDetails: true})
	if err != nil || info.State.Deleted == nil || !info.State.Deleted.Empty() || info.State.NumDeleted != 0 || info.Time.IsZero() {
		t.Errorf("%s, %v, %v", info.Raw, info.State.Deleted, err)
	}
	if err := conn.API.DeleteStream(ctx, "S"); err != nil {
		t.Error(err)
	}
	if err := conn.API.DeleteStream(ctx, "S"); !errors.Is(err, jsapi.ErrStreamNotFound) {
		t.Error(err)
	}
	for _, name := range []string{"", "a.b", "a*", ">", "a b", "a/b", strings.Repeat("a", 256)} {
		if _, err := conn.API.StreamInfo(ctx, name, jsapi.InfoOptions{}); !errors.Is(err, jsapi.ErrInvalidName) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	one := seqset.Of(1)
	err = conn.API.Messages(ctx, "S", one, func(uint64, *record.Record) error { return nil })
	if !errors.Is(err, jsapi.ErrStreamNotFound) {
		t.Errorf("messages of a stream that is gone: %v", err)
	}
}

func TestNoJetStream(t *testing.T) {
	t.Parallel()
	account := `accounts { A { users: [{user: a, password: pw}] }, B { jetstream: enabled, users: [{user: b, password: pw}] } }`
	for name, o := range map[string]natsconn.Options{
		"server":  {URL: natstest.Start(t, natstest.WithoutJetStream()).URL()},
		"account": {URL: natstest.Start(t, natstest.Config(account)).URL(), User: "a", Password: "pw"},
	} {
		conn := dial(t, o) // no answer would be another error, and later
		if _, err := conn.API.AccountInfo(t.Context()); !errors.Is(err, jsapi.ErrNoJetStream) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := conn.API.StreamNames(t.Context()); !errors.Is(err, jsapi.ErrNoJetStream) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A server that does not answer, a connection that is closed and a context
// that is over are three different things.
func TestSilence(t *testing.T) {
	t.Parallel()
	url := natstest.Start(t, natstest.WithoutJetStream()).URL()
	conn := dial(t, natsconn.Options{URL: url, RequestTimeout: 300 * time.Millisecond})
	if _, err := conn.NC.SubscribeSync("$JS.API.>"); err != nil { // listens and says nothing
		t.Fatal(err)
	}
	if _, err := conn.API.AccountInfo(t.Context()); !errors.Is(err, jsapi.ErrNoReply) {
		t.Errorf("no answer: %v", err)
	}
	one := seqset.Of(1, 2)
	err := conn.API.Messages(t.Context(), "S", one, func(uint64, *record.Record) error { return nil })
	if !errors.Is(err, jsapi.ErrNoReply) {
		t.Errorf("no answer to messages: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := dial(t, natsconn.Options{URL: url}).API.AccountInfo(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jsapi.ErrNoReply) {
		t.Errorf("the caller's deadline: %v", err)
	}
	conn.Close()
	if _, err := conn.API.AccountInfo(t.Context()); !errors.Is(err, jsapi.ErrConnectionLost) {
		t.Errorf("closed: %v", err)
	}
	if err := conn.API.Messages(t.Context(), "S", one, nil); !errors.Is(err, jsapi.ErrConnectionLost) {
		t.Errorf("closed, messages: %v", err)
	}
}

// Reading by sequence goes on over a change of leaders, and nothing is missing.
func TestMessagesOverStepDown(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3, natstest.Latest)
	nc := cluster.Connect()
	natstest.MakeStream(t, nc, `{"name":"S","subjects":["s"],"num_replicas":3}`)
	natstest.PublishTo(t, nc, "s", 4000, 100)
	cluster.AwaitReplicas(nc, "S")
	conn := dial(t, natsconn.Options{URL: cluster.Nodes[0].URL()})
	all := new(seqset.Set)
	all.AddRange(1, 4000)
	got := new(seqset.Set)
	err := conn.API.Messages(t.Context(), "S", all, func(seq uint64, r *record.Record) error {
		if r != nil {
			got.Add(seq)
		}
		if seq == 1000 || seq == 3000 {
			cluster.StepDown(nc, "S")
		}
		return nil
	})
	if err != nil || !got.Equal(all) {
		t.Fatalf("%s, %v", got, err)
	}
}

// Requests that nobody answered are repeated, and answers in any order are
// delivered in order. No server can be told to lose requests, so a responder of
// the test's own answers, over a real server without JetStream.
func TestMessagesAskAgain(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, natstest.WithoutJetStream())
	conn := dial(t, natsconn.Options{URL: srv.URL()})
	nc := srv.Connect()
	asked := map[uint64]int{}
	var held *nats.Msg
	heldSeq := uint64(0)
	_, err := nc.Subscribe("$JS.API.STREAM.MSG.GET.S", func(m *nats.Msg) {
		var req struct{ Seq uint64 }
		_ = json.Unmarshal(m.Data, &req)
		asked[req.Seq]++
		if req.Seq%10 == 7 && req.Seq < 30 && asked[req.Seq] == 1 {
			return // lost
		}
		answer := func(m *nats.Msg, seq uint64) {
			_ = m.Respond(fmt.Appendf(nil, `{"message":{"subject":"s","seq":%d,"data":"eA==","time":"2026-01-02T03:04:05.000000%03dZ"}}`, seq, seq))
		}
		if req.Seq%10 == 3 && held == nil {
			held, heldSeq = m, req.Seq // after the next one
			return
		}
		answer(m, req.Seq)
		if held != nil {
			answer(held, heldSeq)
			held = nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	all := new(seqset.Set)
	all.AddRange(1, 900)
	last := uint64(0)
	err = conn.API.Messages(t.Context(), "S", all, func(seq uint64, r *record.Record) error {
		if seq != last+1 || r == nil || r.Sequence != seq || string(r.Data) != "x" {
			return fmt.Errorf("%d after %d: %+v", seq, last, r)
		}
		last = seq
		return nil
	})
	if err != nil || last != 900 {
		t.Errorf("ended at %d: %v", last, err)
	}
}

// Few large messages and many small ones are read within the same bound.
func TestMessagesOfManySizes(t *testing.T) {
	t.Parallel()
	conn := dial(t, natsconn.Options{URL: natstest.Start(t, natstest.Config("max_payload: 8MB")).URL()})
	natstest.MakeStream(t, conn.NC, `{"name":"S","subjects":["s"]}`)
	size := func(i int) int {
		if i > 400 {
			return 2 << 20
		}
		return 10
	}
	const n = 430
	natstest.Publish(t, conn.NC, n, func(i int) *nats.Msg {
		return &nats.Msg{Subject: "s", Data: make([]byte, size(i+1))}
	})
	all := new(seqset.Set)
	all.AddRange(1, n)
	err := conn.API.Messages(t.Context(), "S", all, func(seq uint64, r *record.Record) error {
		if r == nil || len(r.Data) != size(int(seq)) {
			return fmt.Errorf("message %d: %v", seq, r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// BenchmarkReaders reports thousands of messages a second.
func BenchmarkReaders(b *testing.B) {
	for _, version := range []string{"2.6.1", "2.10.29", "2.14.5", natstest.Latest} {
		srv := natstest.StartVersion(b, version)
		conn, err := natsconn.Dial(b.Context(), natsconn.Options{URL: srv.URL()})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(conn.Close)
		natstest.MakeStream(b, conn.NC, `{"name":"S","subjects":["s"],"storage":"memory","num_replicas":1,"max_consumers":-1,"max_msgs":-1,"max_bytes":-1}`)
		const n = 200_000
		natstest.PublishTo(b, conn.NC, "s", n, 256)
		all := new(seqset.Set)
		all.AddRange(1, n)
		b.Run(version+"/stream", func(b *testing.B) {
			for b.Loop() {
				got := 0
				if err := conn.API.ReadStream(b.Context(), "S", 1, n, func(*record.Record) error { got++; return nil }); err != nil || got != n {
					b.Fatal(got, err)
				}
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds()/1000, "kmsg/s")
		})
		b.Run(version+"/messages", func(b *testing.B) {
			for b.Loop() {
				if err := conn.API.Messages(b.Context(), "S", all.Clip(1, n/4), func(uint64, *record.Record) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*n/4/b.Elapsed().Seconds()/1000, "kmsg/s")
		})
	}
}
