package restore

import (
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store"
)

const usersForRestores = `
accounts { A {
  jetstream: enabled
  users: [
    { user: all, password: p }
    { user: backup, password: p, permissions { publish: ["$JS.API.INFO"], subscribe: ["_INBOX.>"] } }
    { user: nodata, password: p, permissions { publish: ["$JS.API.STREAM.RESTORE.*"], subscribe: ["_INBOX.>"] } }
    { user: some, password: p, permissions { publish: ["$JS.API.STREAM.RESTORE.ONE", "$JS.SNAPSHOT.RESTORE.ONE.*"], subscribe: ["_INBOX.>"] } }
  ]
} }`

// TestRefusals: what a server refuses is known before a restore, and what cannot be told
// is taken as allowed.
func TestRefusals(t *testing.T) {
	server := natstest.StartEmbedded(t, natstest.Config(usersForRestores))
	points := []store.Point{{Stream: "ONE"}, {Stream: "TWO"}}
	ask := func(user string, target Target) map[string]string {
		t.Helper()
		conn, err := natsconn.Dial(t.Context(), natsconn.Options{URL: server.URL(), User: user, Password: "p"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return refusals(t.Context(), conn, target, points)
	}
	for user, want := range map[string][]string{
		"all": nil, "backup": {"ONE", "TWO"}, "nodata": {"ONE", "TWO"}, "some": {"TWO"},
	} {
		got := ask(user, Target{})
		if len(got) != len(want) {
			t.Errorf("%s: refused is %v", user, got)
		}
		for _, stream := range want {
			if got[stream] == "" {
				t.Errorf("%s: %s is not refused: %v", user, stream, got)
			}
		}
	}
	if got := ask("backup", Target{Streams: []Existing{{Name: "ALL", Subjects: []string{"$JS.>"}}}}); len(got) != 0 {
		t.Errorf("a target whose stream would keep the requests was asked: %v", got)
	}
	// Somebody who hears everything and answers nothing.
	all := server.Connect(nats.UserInfo("all", "p"))
	heard := make(chan *nats.Msg, 64)
	if _, err := all.ChanSubscribe(">", heard); err != nil {
		t.Fatal(err)
	}
	if err := all.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := ask("all", Target{}); len(got) != 0 {
		t.Errorf("without an answer %v", got)
	}
	if got := ask("nodata", Target{}); len(got) != 2 {
		t.Errorf("with somebody who hears everything only %v is refused", got)
	}
	var names struct{ Streams []string }
	natstest.MustRequest(t, all, "STREAM.NAMES", nil, &names)
	if len(names.Streams) != 0 {
		t.Errorf("asking made %v", names.Streams)
	}
}
