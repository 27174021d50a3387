package service_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// TestTotalsAreKnownBeforeTheWorkBegins: a session says how much there is to do when
// none of its tasks has begun, also of a stream that is empty.
func TestTotalsAreKnownBeforeTheWorkBegins(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	shop(t, nc)
	natstest.MakeStream(t, nc, `{"name":"EMPTY","subjects":["empty"],"storage":"file","retention":"limits","num_replicas":1}`)
	c := setup(t, server)
	hold := hook("hold", "before", "session", config.Call{Subject: "hold"})
	hold.Kinds = []string{"backup", "restore", "drill"}
	c.Hooks = []config.Hook{hold}
	held := make(chan *nats.Msg, 8)
	if _, err := nc.ChanSubscribe("hold", held); err != nil {
		t.Fatal(err)
	}
	run(t, c, service.Deps{})
	cl := connect(t, server)
	pending := func(session string, streams int) {
		t.Helper()
		call := testenv.Receive(t, "the hook before the session", held)
		info, err := cl.SessionInfo(t.Context(), api.SessionInfoRequest{Session: session})
		if err != nil {
			t.Fatal(err)
		}
		if p := info.Progress; !p.TotalKnown || p.TotalMessages != 40 || p.TotalBytes == 0 {
			t.Errorf("%s: before anything is done: %+v", info.Kind, p)
		}
		if info.Tasks.Pending != streams {
			t.Errorf("%s: %d of %d tasks are pending", info.Kind, info.Tasks.Pending, streams)
		}
		if err := call.Respond(nil); err != nil {
			t.Fatal(err)
		}
		info = wait(t, cl, session, api.StateSucceeded)
		if p := info.Progress; !p.TotalKnown || p.TotalBytes != p.Bytes {
			t.Errorf("%s: at the end: %+v", info.Kind, p)
		}
	}
	b, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	pending(b.Session, 3)
	for _, name := range []string{"A", "B", "EMPTY"} {
		if _, err := nc.Request("$JS.API.STREAM.DELETE."+name, nil, patience); err != nil {
			t.Fatal(err)
		}
	}
	r, err := cl.RestoreCreate(t.Context(), api.RestoreRequest{Backup: b.Backup})
	if err != nil {
		t.Fatal(err)
	}
	pending(r.Session, 3)
	d, err := cl.BackupDrill(t.Context(), api.BackupDrillRequest{Backup: b.Backup})
	if err != nil {
		t.Fatal(err)
	}
	pending(d.Session, 3)
}
