package restore

import (
	"context"
	"errors"
	"testing"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/record"
)

// withExtra makes a restore point whose digest is over a message more than it
// has: one that was captured and deleted before the moment.
func withExtra(k *kept, p store.Point) store.Point {
	deleted := record.Record{Sequence: 7, Time: 1, Subject: []byte("a"), Data: []byte("deleted meanwhile")}
	p.Content.Digest = natstest.Sum(append([]record.Record{deleted}, k.records[p.ID]...)).String()
	p.Content.Extra.Count = 1
	return p
}

// TestDigestOverExtra restores a point whose own digest is not that of its
// messages.
func TestDigestOverExtra(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	create(t, nc, `{"name":"A","subjects":["a"],"storage":"file","num_replicas":1}`)
	publish(t, nc, "a", 50)
	natstest.Delete(t, nc, "A", 7)
	k := newKept()
	p := withExtra(k, k.capture(t, dial(t, s.URL()), "A"))
	drop(t, nc, "A")
	var stages []string
	note := func(j *Job) {
		j.Progress = func(p Progress) { stages = append(stages, p.Stage) }
	}
	r := mustExecute(t, s.URL(), k, p, note)
	if want := natstest.Sum(k.records[p.ID]); !r.Verified || r.Digest != want.String() {
		t.Errorf("result %+v, want digest %s", r, want)
	}
	for _, stage := range stages {
		if stage == StageCompare {
			t.Error("compared message by message, as if something were different")
		}
	}
	// A repetition takes the stream up without reading the point first.
	stages = nil
	again := func(j *Job) { note(j); j.Repeated = true }
	if r := mustExecute(t, s.URL(), k, p, again); !r.Verified {
		t.Errorf("repeated: %+v", r)
	}
	if last := stages[len(stages)-1]; last != StageCompare {
		t.Errorf("the repetition ended with stage %s", last)
	}
	// What is really different is found, either way.
	natstest.Delete(t, nc, "A", 9)
	if _, err := execute(t, s.URL(), k, p, again); !errors.Is(err, ErrState) {
		t.Errorf("repeated over a stream that lost a message: %v", err)
	}
	drop(t, nc, "A")
	_, err := execute(t, s.URL(), k, p, func(j *Job) {
		j.ReadBack = func(ctx context.Context, conn *natsconn.Conn, stream string, first, last uint64, fn func(*record.Record) error) error {
			return ReadMessages(ctx, conn, stream, first, last, func(r *record.Record) error {
				if r.Sequence == 20 {
					r.Data = append([]byte("not "), r.Data...)
				}
				return fn(r)
			})
		}
	})
	if mismatch := new(MismatchError); !errors.As(err, &mismatch) || !mismatch.Differing.Contains(20) {
		t.Errorf("a message came back different: %v", err)
	}
}

// TestLockedRepository: without the key nothing is asked of the server.
func TestLockedRepository(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	create(t, nc, `{"name":"A","subjects":["a"],"storage":"file","num_replicas":1}`)
	publish(t, nc, "a", 5)
	k := newKept()
	p := k.capture(t, dial(t, s.URL()), "A")
	drop(t, nc, "A")
	k.locked = true
	fenced := false
	_, err := execute(t, s.URL(), k, p, func(j *Job) {
		j.Fence = func(context.Context) error { fenced = true; return nil }
	})
	if !errors.Is(err, store.ErrLocked) || fenced {
		t.Errorf("fenced %v, error %v", fenced, err)
	}
	if names := natstest.Streams(t, nc); len(names) != 0 {
		t.Errorf("streams %v", names)
	}
}
