package service_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// TestStrangeNames: whatever name a server accepts for a stream, the stream can
// be named in requests, backed up and restored like any other, and so do the
// subjects of its messages hold whatever a server accepts.
func TestStrangeNames(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	var names []string
	odd := []string{"\u0085", "\u00a0", "\u2028", "\u3000", "\ufeff", "é", "\u202e", "[x]", "a,b", "a;b", "$", "~"}
	for c := rune(1); c < ' '; c++ {
		odd = append(odd, string(c))
	}
	for i, c := range append(odd, "\x7f") {
		if strings.ContainsAny(c, " \t\r\n\f") {
			continue // which end a subject
		}
		name := "N" + c + "M"
		config, err := json.Marshal(map[string]any{"name": name, "subjects": []string{fmt.Sprintf("odd.%d.>", i)}, "storage": "file", "num_replicas": 1})
		if err != nil {
			t.Fatal(err)
		}
		if natstest.Request(nc, "STREAM.CREATE."+name, string(config), nil) == nil {
			for range 3 { // without acknowledgements, in which servers write such names as no JSON has them
				if err := nc.Publish(fmt.Sprintf("odd.%d.a%sb.%s", i, c, c), []byte("something")); err != nil {
					t.Fatal(err)
				}
			}
			testenv.True(t, "the messages of "+name, func() bool { return natstest.Info(t, nc, name).State.Messages == 3 })
			names = append(names, name)
		}
	}
	if len(names) < 30 {
		t.Fatalf("the server accepted %q only", names)
	}
	before := map[string][]record.Record{}
	for _, name := range names {
		before[name] = natstest.Records(t, nc, name)
	}
	run(t, setup(t, server), service.Deps{})
	c := connect(t, server)
	accepted, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Streams: names})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c, accepted.Session, api.StateSucceeded)
	for _, name := range names {
		natstest.MustRequest(t, nc, "STREAM.DELETE."+name, nil, nil)
	}
	bringBack(t, c, api.RestoreRequest{Backup: accepted.Backup, Streams: names})
	for _, name := range names {
		if d := natstest.Diff(before[name], natstest.Records(t, nc, name)); d != "" {
			t.Errorf("%q came back different: %s", name, d)
		}
	}
}
