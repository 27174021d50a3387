package backup

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jsapi"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// between acts between the steps of a capture.
type between struct {
	Target
	infos  int
	hook   func()
	fired  bool
	onInfo func(n int)
	onList func()
}

func (b *between) StreamInfo(ctx context.Context, stream string, o jsapi.InfoOptions) (*jsapi.StreamInfo, error) {
	b.infos++
	if b.onInfo != nil {
		b.onInfo(b.infos)
	}
	return b.Target.StreamInfo(ctx, stream, o)
}

func (b *between) Messages(ctx context.Context, stream string, seqs *seqset.Set, fn func(uint64, *record.Record) error) error {
	if !b.fired && b.hook != nil {
		b.fired = true
		b.hook()
	}
	return b.Target.Messages(ctx, stream, seqs, fn)
}

func (b *between) Consumers(ctx context.Context, stream string) ([]*jsapi.ConsumerInfo, error) {
	if b.onList != nil {
		b.onList()
	}
	return b.Target.Consumers(ctx, stream)
}

// say publishes numbered messages of a life of stream A.
func say(t *testing.T, nc *nats.Conn, life string, from, to int) {
	t.Helper()
	natstest.Publish(t, nc, to-from+1, func(i int) *nats.Msg {
		return &nats.Msg{Subject: "a", Data: fmt.Appendf(nil, "%s %d", life, from+i)}
	})
}

// takeAll lets consumer C acknowledge n messages, and waits until it has them.
func takeAll(t *testing.T, nc *nats.Conn, n int) {
	t.Helper()
	natstest.Take(t, nc, "A", "C", n, func(int) bool { return true })
}

// The stream is deleted and made again between the last STREAM.INFO and the read of the tail.
func TestRecreatedBeforeTail(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "A", nil)
	say(t, nc, "old", 1, 100)
	b := &between{Target: OfConn(dial(t, srv.URL()))}
	b.onInfo = func(n int) {
		if n == 2 { // complete's: a tail of 10 messages came during the snapshot
			say(t, nc, "old", 101, 110)
		}
	}
	b.hook = func() {
		request(t, nc, "STREAM.DELETE.A", nil)
		createStream(t, srv, "A", nil)
		say(t, nc, "new", 1, 120)
	}
	sink := collect()
	out, err := Capture(t.Context(), b, "A", sink, Options{})
	if err != nil {
		t.Logf("held: %v", err)
		return
	}
	var o, n int
	for _, r := range sink.live(out) {
		if bytes.HasPrefix(r.Data, []byte("old")) {
			o++
		} else {
			n++
		}
	}
	t.Errorf("capture succeeded with %d messages of the old life and %d of the new", o, n)
}

// The stream loses its end (crash) after the snapshot, and grows again; created is the same.
func TestForkHiddenByTail(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "A", nil)
	say(t, nc, "old", 1, 100)
	b := &between{Target: OfConn(dial(t, srv.URL()))}
	forked := &forkAfter{Target: b}
	b.onInfo = func(n int) {
		if n == 2 {
			forked.on = true // 91..100 are other messages from here on
			say(t, nc, "tail", 101, 110)
		}
	}
	sink := collect()
	out, err := Capture(t.Context(), forked, "A", sink, Options{})
	if err != nil {
		t.Logf("held: %v", err)
		return
	}
	t.Errorf("capture succeeded: message 95 is %q, the server's is %q; %d messages", sink.records[95].Data, "fork of 95", len(sink.live(out)))
}

type forkAfter struct {
	Target
	on bool
}

func (f *forkAfter) Messages(ctx context.Context, stream string, seqs *seqset.Set, fn func(uint64, *record.Record) error) error {
	return f.Target.Messages(ctx, stream, seqs, func(seq uint64, r *record.Record) error {
		if r != nil && f.on && seq > 90 && seq <= 100 {
			r.Data = fmt.Appendf(nil, "fork of %d", seq)
		}
		return fn(seq, r)
	})
}

// A consumer is deleted and made again between snapshot and list.
func TestConsumerRecreated(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "A", nil)
	say(t, nc, "old", 1, 100)
	mk := func() {
		request(t, nc, "CONSUMER.DURABLE.CREATE.A.C", object{"stream_name": "A", "config": object{"durable_name": "C", "ack_policy": "explicit", "deliver_policy": "all"}})
	}
	mk()
	takeAll(t, nc, 100)
	b := &between{Target: OfConn(dial(t, srv.URL()))}
	b.onList = func() {
		request(t, nc, "CONSUMER.DELETE.A.C", nil)
		mk()
	}
	out, err := Capture(t.Context(), b, "A", collect(), Options{})
	if err != nil {
		t.Logf("held: %v", err)
		return
	}
	c := out.Consumers[0]
	if c.State.AckFloor.Stream != 0 {
		t.Errorf("the new consumer (created %s), which got nothing, is captured as acknowledged up to %d", c.Created, c.State.AckFloor.Stream)
	}
}

// A consumer that is taken from the list is ahead of the moment.
func TestConsumerAhead(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "A", nil)
	say(t, nc, "old", 1, 100)
	b := &between{Target: OfConn(dial(t, srv.URL()))}
	b.onList = func() {
		say(t, nc, "old", 101, 120)
		request(t, nc, "CONSUMER.DURABLE.CREATE.A.C", object{"stream_name": "A", "config": object{"durable_name": "C", "ack_policy": "explicit", "deliver_policy": "all"}})
		takeAll(t, nc, 120)
		b.onList = nil
	}
	out, err := Capture(t.Context(), b, "A", collect(), Options{})
	if err != nil {
		t.Logf("held: %v", err)
		return
	}
	c := out.Consumers[0]
	if c.State.AckFloor.Stream > out.Info.State.LastSeq {
		t.Errorf("stream ends at %d, its consumer is captured as acknowledged up to %d", out.Info.State.LastSeq, c.State.AckFloor.Stream)
	}
}
