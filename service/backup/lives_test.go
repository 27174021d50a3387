package backup

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

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

// The stream is deleted and made again between the last STREAM.INFO and the read of the tail.
func TestRecreatedBeforeTail(t *testing.T) {
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "A", nil)
	for i := range 100 {
		_ = nc.Publish("a", fmt.Appendf(nil, "old %d", i+1))
	}
	_ = nc.Flush()
	time.Sleep(100 * time.Millisecond)
	b := &between{Target: OfConn(dial(t, srv.URL()))}
	b.onInfo = func(n int) {
		if n == 2 { // complete's: a tail of 10 messages came during the snapshot
			for i := range 10 {
				_, _ = nc.Request("a", fmt.Appendf(nil, "old %d", 101+i), time.Second)
			}
		}
	}
	b.hook = func() {
		request(t, nc, "STREAM.DELETE.A", nil)
		createStream(t, srv, "A", nil)
		for i := range 120 {
			_, _ = nc.Request("a", fmt.Appendf(nil, "new %d", i+1), time.Second)
		}
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
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "A", nil)
	for i := range 100 {
		_, _ = nc.Request("a", fmt.Appendf(nil, "old %d", i+1), time.Second)
	}
	info := natstest.Info(t, nc, "A")
	_ = info
	b := &between{Target: OfConn(dial(t, srv.URL()))}
	forked := &forkAfter{Target: b}
	b.onInfo = func(n int) {
		if n == 2 {
			forked.on = true // 91..100 are other messages from here on
			for i := range 10 {
				_, _ = nc.Request("a", fmt.Appendf(nil, "tail %d", 101+i), time.Second)
			}
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
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "A", nil)
	for i := range 100 {
		_, _ = nc.Request("a", fmt.Appendf(nil, "old %d", i+1), time.Second)
	}
	mk := func() {
		request(t, nc, "CONSUMER.DURABLE.CREATE.A.C", object{"stream_name": "A", "config": object{"durable_name": "C", "ack_policy": "explicit", "deliver_policy": "all"}})
	}
	mk()
	sub, err := nc.SubscribeSync("pulled")
	if err != nil {
		t.Fatal(err)
	}
	_ = nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.A.C", "pulled", []byte(`{"batch":100}`))
	for range 100 {
		m, err := sub.NextMsg(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_ = m.Ack()
	}
	_ = nc.Flush()
	time.Sleep(200 * time.Millisecond)
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
	srv := natstest.Start(t)
	nc := srv.Connect()
	createStream(t, srv, "A", nil)
	for i := range 100 {
		_, _ = nc.Request("a", fmt.Appendf(nil, "old %d", i+1), time.Second)
	}
	b := &between{Target: OfConn(dial(t, srv.URL()))}
	b.onList = func() {
		for i := range 20 {
			_, _ = nc.Request("a", fmt.Appendf(nil, "old %d", 101+i), time.Second)
		}
		request(t, nc, "CONSUMER.DURABLE.CREATE.A.C", object{"stream_name": "A", "config": object{"durable_name": "C", "ack_policy": "explicit", "deliver_policy": "all"}})
		sub, _ := nc.SubscribeSync("pulled")
		_ = nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.A.C", "pulled", []byte(`{"batch":120}`))
		for range 120 {
			m, err := sub.NextMsg(time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			_ = m.Ack()
		}
		_ = nc.Flush()
		time.Sleep(200 * time.Millisecond)
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
