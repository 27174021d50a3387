package restore

import (
	"encoding/json"
	"testing"

	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// commit stores what is kept of a point in a repository.
func commit(t *testing.T, repo *store.Repository, k *kept, p store.Point, task string) store.Point {
	t.Helper()
	area, err := staging.Open(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = area.Close() })
	w, err := repo.NewWriter(t.Context(), store.WriterOptions{Staging: area, Task: task, Target: p.Target, Stream: p.Stream})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for i := range k.records[p.ID] {
		if err := w.Append(&k.records[p.ID][i]); err != nil {
			t.Fatal(err)
		}
	}
	content, err := w.Finish(t.Context(), new(seqset.Set))
	if err != nil {
		t.Fatal(err)
	}
	if content.Digest != p.Content.Digest {
		t.Fatalf("repository's digest is %s, want %s", content.Digest, p.Content.Digest)
	}
	list, err := k.Consumers(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]json.RawMessage, len(list))
	for i := range list {
		if raw[i], err = json.Marshal(list[i]); err != nil {
			t.Fatal(err)
		}
	}
	if p.Consumers, err = repo.PutConsumers(t.Context(), content, raw); err != nil {
		t.Fatal(err)
	}
	p.ID, p.Task, p.Backup, p.Content = task, task, "20260101T000000Z-aaaaaaaa", content
	if err := repo.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// From a repository, into an empty server and beside what is there: the plan
// names each stream, and following it brings all of them.
func TestFromRepository(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	conn := dial(t, s.URL())
	repo, err := store.Init(t.Context(), object.NewBucket(mem.New()), store.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	makeOrders(t, nc, `{"name":"ORDERS","subjects":["orders.*"],"storage":"memory","num_replicas":1}`)
	create(t, nc, `{"name":"COPY","storage":"file","num_replicas":1,"mirror":{"name":"ORDERS"}}`)
	awaitMessages(t, nc, "COPY", 55)
	k := newKept()
	want := map[string][]record.Record{}
	var points []store.Point
	for i, name := range []string{"COPY", "ORDERS"} {
		p := k.capture(t, conn, name)
		want[name] = k.records[p.ID]
		points = append(points, commit(t, repo, k, p, "20260101T000000Z-aaaaaaaa.000"+string(rune('0'+i))))
	}
	plan, err := Prepare(t.Context(), conn, FromRepository(repo), Request{}, points)
	if err != nil {
		t.Fatal(err)
	}
	if !plan.Refused() || len(plan.Streams) != 2 || plan.Streams[0].Problems[0].Code != CodeExists {
		t.Errorf("plan over existing streams: %+v", plan)
	}
	drop(t, nc, "COPY", "ORDERS")
	create(t, nc, `{"name":"OTHER","subjects":["other"],"storage":"file","num_replicas":1}`)
	if plan, err = Prepare(t.Context(), conn, FromRepository(repo), Request{}, points); err != nil {
		t.Fatal(err)
	}
	if plan.Refused() || plan.Streams[0].Stream != "ORDERS" || plan.Streams[1].After[0] != "ORDERS" || plan.Streams[0].Consumers != 1 {
		t.Errorf("plan: %+v", plan)
	}
	if _, err := json.Marshal(plan); err != nil {
		t.Error(err)
	}
	for _, st := range plan.Streams {
		for _, p := range points {
			if p.ID != st.Point {
				continue
			}
			c := dial(t, s.URL())
			r, err := Execute(t.Context(), Job{Conn: c, Repo: FromRepository(repo), Point: p})
			if err != nil || !r.Verified || r.Digest != p.Content.Digest {
				t.Errorf("result %+v, %v", r, err)
			}
			wantRecords(t, nc, p.Stream, want[p.Stream])
		}
	}
}

// What the account is limited to is seen by the plan.
func TestAccountLimits(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Config(`accounts { A { jetstream { max_file: 1MB, max_mem: 1MB, max_streams: 1, max_consumers: 1 }, users: [{user: a, password: a}] } }
		no_auth_user: a`))
	nc := s.Connect()
	conn := dial(t, s.URL())
	create(t, nc, `{"name":"ONE","subjects":["one"],"storage":"file","num_replicas":1,"max_bytes":10000}`)
	target, err := Survey(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	l := target.Limits
	if l.MaxStorage != 1<<20 || l.MaxMemory != 1<<20 || l.MaxStreams != 1 || l.MaxConsumers != 1 || l.Streams != 1 || target.Clustered {
		t.Errorf("target %+v", target)
	}
	in := point("TWO", `"subjects":["two"],"max_bytes":2000000`)
	plan := BuildPlan(Request{}, []Input{in}, target)
	if got := codes(plan.Streams[0].Problems); len(got) != 2 || got[0] != CodeStorage || got[1] != CodeStreams {
		t.Errorf("problems %v, want %s and %s", plan.Streams[0].Problems, CodeStorage, CodeStreams)
	}
}
