package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/archive"
	"jetkeep/service/jsapi"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

func numbered(from, to uint64, change ...func(*record.Record)) []record.Record {
	var out []record.Record
	for seq := from; seq <= to; seq++ {
		r := record.Record{Sequence: seq, Time: time.Now().UnixNano(), Subject: []byte("s")}
		for _, c := range change {
			c(&r)
		}
		out = append(out, r)
	}
	return out
}

// What is missing is explained by what the stream's configuration and the
// state afterwards allow, and by nothing else.
func TestExplanations(t *testing.T) { synctest.Test(t, testExplanations) }

func testExplanations(t *testing.T) {
	old := func(r *record.Record) { r.Time -= int64(time.Hour) }
	header := func(h string) func(*record.Record) {
		return func(r *record.Record) { r.Header = []byte("NATS/1.0\r\n" + h + "\r\n\r\n") }
	}
	for name, test := range map[string]struct {
		gone []record.Record
		e    explainer
		want map[string]string
	}{
		"nothing":             {numbered(1, 5), explainer{}, map[string]string{unexplained: "1-5"}},
		"age":                 {append(numbered(1, 3, old), numbered(4, 5)...), explainer{cfg: streamConfig{MaxAge: time.Minute}}, map[string]string{expired: "1-3", unexplained: "4-5"}},
		"age without limit":   {numbered(1, 3, old), explainer{}, map[string]string{unexplained: "1-3"}},
		"clock ahead":         {numbered(1, 3), explainer{cfg: streamConfig{MaxAge: time.Minute}, ahead: time.Hour}, map[string]string{expired: "1-3"}},
		"ttl":                 {numbered(1, 3, old, header("Nats-TTL: 10m")), explainer{cfg: streamConfig{AllowMsgTTL: true}}, map[string]string{ttlOver: "1-3"}},
		"ttl in seconds":      {numbered(1, 3, old, header("Nats-TTL: 600")), explainer{cfg: streamConfig{AllowMsgTTL: true}}, map[string]string{ttlOver: "1-3"}},
		"ttl not over":        {numbered(1, 3, old, header("Nats-TTL: 2h")), explainer{cfg: streamConfig{AllowMsgTTL: true}}, map[string]string{unexplained: "1-3"}},
		"ttl never":           {numbered(1, 3, old, header("Nats-TTL: never")), explainer{cfg: streamConfig{AllowMsgTTL: true}}, map[string]string{unexplained: "1-3"}},
		"ttl not allowed":     {numbered(1, 3, old, header("Nats-TTL: 10m")), explainer{}, map[string]string{unexplained: "1-3"}},
		"schedule":            {numbered(1, 1, header("Nats-Schedule: @at 2020-01-01T00:00:00Z")), explainer{cfg: streamConfig{Schedules: true}}, map[string]string{fired: "1"}},
		"queue":               {numbered(1, 9), explainer{cfg: streamConfig{Retention: "workqueue"}, delivered: 6}, map[string]string{consumed: "1-6", unexplained: "7-9"}},
		"limits are no queue": {numbered(1, 9), explainer{cfg: streamConfig{Retention: "limits"}, delivered: 6}, map[string]string{unexplained: "1-9"}},
		"no interest":         {numbered(1, 9), explainer{cfg: streamConfig{Retention: "interest"}, idle: true}, map[string]string{consumed: "1-9"}},
		"rolled":              {numbered(1, 9), explainer{cfg: streamConfig{MaxMsgs: 9}, grown: 4, first: 5}, map[string]string{rolled: "1-4", unexplained: "5-9"}},
		"not grown":           {numbered(1, 9), explainer{cfg: streamConfig{MaxMsgs: 9}, first: 5}, map[string]string{unexplained: "1-9"}},
		"by subject":          {numbered(1, 9), explainer{cfg: streamConfig{MaxMsgsPer: 1}, grown: 9}, map[string]string{rolled: "1-9"}},
		"more than came":      {numbered(1, 9), explainer{cfg: streamConfig{MaxMsgsPer: 1}, grown: 8}, map[string]string{unexplained: "1-9"}},
	} {
		e := test.e
		m := &merge{
			reader: &keptReader{k: newKept(), records: test.gone}, missing: map[string]*seqset.Set{},
			differing: new(seqset.Set), extra: new(seqset.Set), explain: &e,
		}
		if err := m.advance(); err != nil {
			t.Fatal(err)
		}
		if err := m.rest(); err != nil {
			t.Fatal(err)
		}
		m.explainRest()
		for _, why := range []string{unexplained, expired, ttlOver, consumed, rolled, fired} {
			if got := describe(m.set(why)); got != test.want[why] {
				t.Errorf("%s: %q explains %q, want %q", name, why, got, test.want[why])
			}
		}
	}
}

// Without a read-back, the server's own count is held against the restore
// point, and a consumer that is not as far as it was is found.
func TestStateIsChecked(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	k, p := big(t, s, dial(t, s.URL()), "file", 50)
	p.Content.Messages++
	if _, err := execute(t, s.URL(), k, p, func(j *Job) { j.SkipVerify = true }); !errors.Is(err, ErrState) {
		t.Errorf("error %v, want %v", err, ErrState)
	}
	c := archive.Consumer{Name: "C", Config: json.RawMessage(`{"durable_name":"C"}`)}
	c.State.Delivered.Stream, c.State.AckFloor.Stream = 9, 5
	is := func(delivered, floor uint64) []*jsapi.ConsumerInfo {
		return []*jsapi.ConsumerInfo{{Name: "C", Delivered: jsapi.SequencePair{Stream: delivered}, AckFloor: jsapi.SequencePair{Stream: floor}}}
	}
	for _, test := range []struct {
		got []*jsapi.ConsumerInfo
		ok  bool
	}{{is(9, 5), true}, {is(12, 12), true}, {is(8, 5), false}, {is(9, 4), false}, {nil, false}} {
		if diff, _ := compareConsumers([]archive.Consumer{c}, test.got); (diff == "") != test.ok {
			t.Errorf("%+v: difference %q", test.got, diff)
		}
	}
	c.Config = json.RawMessage(`{"name":"C"}`)
	if diff, gone := compareConsumers([]archive.Consumer{c}, nil); diff != "" || len(gone) != 1 {
		t.Errorf("ephemeral consumer: difference %q, gone %v", diff, gone)
	}
}

// Publishers that are at work while a stream comes back do no harm to the
// verdict, also where each new message removes an old one.
func TestPublishersDuringRestore(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	for _, storage := range []string{"file", "memory"} {
		for _, limits := range []string{`"max_msgs":-1`, `"max_msgs":500`, `"max_msgs_per_subject":100`} {
			create(t, nc, fmt.Sprintf(`{"name":"LIVE","subjects":["live.*"],"storage":%q,"num_replicas":1,%s}`, storage, limits))
			for i := range 5 {
				publish(t, nc, fmt.Sprintf("live.%d", i), 100)
			}
			k := newKept()
			p := k.capture(t, conn, "LIVE")
			drop(t, nc, "LIVE")
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { publishUntil(nc, stop) })
			slow := 0
			k.hook = func(int) {
				if slow++; slow%100 == 0 {
					time.Sleep(5 * time.Millisecond)
				}
			}
			r, err := execute(t, s.URL(), k, p)
			close(stop)
			wg.Wait()
			if err != nil || !r.Verified {
				t.Errorf("%s, %s: result %+v, %v", storage, limits, r, err)
			}
			drop(t, nc, "LIVE")
		}
	}
}

func publishUntil(nc *nats.Conn, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(200 * time.Microsecond):
			_ = nc.Publish("live.1", []byte("new"))
		}
	}
}
