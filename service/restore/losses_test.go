package restore

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// TestLossExplained: one new message explains one lost message at most.
func TestLossExplained(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	create(t, nc, `{"name":"KV_B","subjects":["$KV.B.>"],"storage":"file","num_replicas":1,"max_msgs_per_subject":1}`)
	for i := range 100 {
		publish(t, nc, fmt.Sprintf("$KV.B.k%d", i), 1)
	}
	k := newKept()
	p := k.capture(t, dial(t, s.URL()), "KV_B")
	drop(t, nc, "KV_B")
	fired := false
	c := dial(t, s.URL())
	r, err := Execute(t.Context(), Job{Conn: c, Repo: k, Point: p, ReadBack: func(ctx context.Context, conn *natsconn.Conn, stream string, first, last uint64, fn func(*record.Record) error) error {
		if !fired {
			fired = true
			for seq := 10; seq < 60; seq++ { // stands for what a restore lost
				natstest.MustRequest(t, nc, "STREAM.MSG.DELETE.KV_B", fmt.Sprintf(`{"seq":%d}`, seq), nil)
			}
			publish(t, nc, "$KV.B.other", 1) // one new key, replaces nothing
		}
		return ReadMessages(ctx, conn, stream, first, last, fn)
	}})
	t.Logf("verified %v, err %v, %v", r.Verified, err, r.Warnings)
	if err == nil && r.Verified {
		t.Error("50 of 100 keys are missing, one new key came, and the restore is verified")
	}
}

// A restored consumer ahead of its stream's end.
func TestConsumerAheadRestored(t *testing.T) {
	t.Parallel()
	for _, storage := range []string{"file", "memory"} {
		s := natstest.Start(t)
		nc := s.Connect()
		create(t, nc, fmt.Sprintf(`{"name":"A","subjects":["a"],"storage":%q,"num_replicas":1}`, storage))
		publish(t, nc, "a", 100)
		consumer(t, nc, "A", `{"durable_name":"C","ack_policy":"explicit"}`)
		k := newKept()
		p := k.capture(t, dial(t, s.URL()), "A")
		cons := k.consumers[p.ID]
		cons[0].State.Delivered = archive.SequencePair{Consumer: 120, Stream: 120}
		cons[0].State.AckFloor = cons[0].State.Delivered
		drop(t, nc, "A")
		r, err := execute(t, s.URL(), k, p)
		t.Logf("%s: verified %v %v", storage, r.Verified, err)
		publish(t, nc, "a", 30)
		sub, _ := nc.SubscribeSync(nats.NewInbox())
		_ = nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.A.C", sub.Subject, []byte(`{"batch":30,"expires":600000000000}`))
		got := 0
		for got < 30 {
			m, err := sub.NextMsg(testenv.Hang)
			if err != nil || m.Header.Get("Status") != "" {
				break
			}
			got++
		}
		if got != 30 {
			t.Errorf("%s: of 30 messages published after the restore the consumer gets %d", storage, got)
		}
	}
}
