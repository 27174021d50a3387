package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
)

// The read-back names what differs, and tells apart what the stream's own
// limits removed.
func TestVerification(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	k, p := big(t, s, conn, "file", 500)
	doctor := func(change func(seq uint64, r *record.Record) bool) func(*Job) {
		return func(j *Job) {
			j.ReadBack = func(ctx context.Context, conn *natsconn.Conn, stream string, first, last uint64, fn func(*record.Record) error) error {
				return ReadMessages(ctx, conn, stream, first, last, func(r *record.Record) error {
					if !change(r.Sequence, r) {
						return nil
					}
					return fn(r)
				})
			}
		}
	}
	for name, test := range map[string]struct {
		change func(seq uint64, r *record.Record) bool
		want   string
	}{
		"missing": {func(seq uint64, _ *record.Record) bool { return seq != 7 && seq < 499 }, "3 messages missing (7, 499-500)"},
		"data":    {func(seq uint64, r *record.Record) bool { r.Data[0] ^= b2b(seq == 9); return true }, "1 messages different (9)"},
		"header": {func(seq uint64, r *record.Record) bool {
			r.Header = append(r.Header, make([]byte, b2b(seq == 3))...)
			return true
		}, "1 messages different (3)"},
		"time":      {func(seq uint64, r *record.Record) bool { r.Time += int64(b2b(seq == 500)); return true }, "1 messages different (500)"},
		"all three": {func(seq uint64, r *record.Record) bool { r.Data[5] ^= b2b(seq > 250); return seq > 10 }, "10 messages missing (1-10), 250 messages different (251-500)"},
	} {
		_, err := execute(t, s.URL(), k, p, doctor(test.change))
		var mismatch *MismatchError
		if !errors.As(err, &mismatch) || !errors.Is(err, ErrState) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %s", name, err, test.want)
		}
		drop(t, nc, "BIG")
	}
	if r := mustExecute(t, s.URL(), k, p, func(j *Job) {
		j.SkipVerify = true
		j.ReadBack = func(context.Context, *natsconn.Conn, string, uint64, uint64, func(*record.Record) error) error {
			t.Error("stream is read back")
			return nil
		}
	}); r.Verified {
		t.Errorf("result %+v says verified", r)
	}
}

func b2b(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// Messages that max_age and TTLs remove at once are counted and no error.
func TestExpiry(t *testing.T) {
	t.Parallel()
	var seen uint64
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	for _, storage := range []string{"file", "memory"} {
		create(t, nc, fmt.Sprintf(`{"name":"OLD","subjects":["old"],"storage":%q,"num_replicas":1,"max_age":3600000000000,"allow_msg_ttl":true}`, storage))
		publish(t, nc, "old", 30)
		k := newKept()
		p := k.capture(t, conn, "OLD")
		drop(t, nc, "OLD")
		records := k.records[p.ID]
		for i := range records {
			if i < 10 {
				records[i].Time -= int64(2 * time.Hour)
			}
			if i == 15 {
				records[i].Header = []byte("NATS/1.0\r\nNats-TTL: 10m\r\n\r\n")
				records[i].Time -= int64(30 * time.Minute)
			}
		}
		p.State.FirstTime = time.Unix(0, records[0].Time)
		p = k.put(p, records, nil)
		r := mustExecute(t, s.URL(), k, p)
		// The server removes them at once or within seconds.
		if r.Expired > 11 || !r.Verified || !hasFinding(r.Warnings, CodeExpire) || !hasFinding(r.Warnings, CodeTTL) {
			t.Errorf("%s: result %+v, want up to 11 expired", storage, r)
		}
		seen = max(seen, r.Expired)
		awaitMessages(t, nc, "OLD", 19)
		wantRecords(t, nc, "OLD", append(append([]record.Record{}, records[10:15]...), records[16:]...))
		drop(t, nc, "OLD")
	}
	if seen < 10 {
		t.Errorf("%d messages were expired at the read-back, want 10 at least", seen)
	}
}

// A work queue comes back with what was not acknowledged.
func TestWorkQueue(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	for _, storage := range []string{"file", "memory"} {
		create(t, nc, fmt.Sprintf(`{"name":"QUEUE","subjects":["q"],"storage":%q,"num_replicas":1,"retention":"workqueue"}`, storage))
		publish(t, nc, "q", 20)
		consumer(t, nc, "QUEUE", `{"durable_name":"WORK","ack_policy":"explicit","ack_wait":3600000000000}`)
		pull(t, nc, "QUEUE", "WORK", 10, func(i int) bool { return i%2 == 0 })
		awaitMessages(t, nc, "QUEUE", 15)
		k := newKept()
		p := k.capture(t, conn, "QUEUE")
		drop(t, nc, "QUEUE")
		if r := mustExecute(t, s.URL(), k, p); !r.Verified || r.Expired != 0 {
			t.Errorf("%s: result %+v", storage, r)
		}
		wantRecords(t, nc, "QUEUE", k.records[p.ID])
		drop(t, nc, "QUEUE")
	}
}
