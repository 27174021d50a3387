package backup_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// TestSourcesAreKept: how far a stream has come with its sources is part of its
// restore point, since no message may be left to tell.
func TestSourcesAreKept(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	plainStream(t, nc)
	natstest.MakeStream(t, nc, `{"name":"ALL","storage":"file","retention":"limits","num_replicas":1,"sources":[{"name":"S"}]}`)
	write(t, nc, "s", 20, 100, 1)
	testenv.Until(t, "the messages to be sourced", func() error {
		if n := natstest.Info(t, nc, "ALL").State.Messages; n < 20 {
			return fmt.Errorf("%d are there", n)
		}
		return nil
	})
	natstest.MustRequest(t, nc, "STREAM.PURGE.ALL", nil, nil)
	v := newVault(t)
	p := v.backup(srv.URL(), "ALL")
	var sources []struct {
		Name string `json:"name"`
		Seq  uint64 `json:"seq"`
	}
	if err := json.Unmarshal(p.Sources, &sources); err != nil || len(sources) != 1 || sources[0].Name != "S" || sources[0].Seq != 20 {
		t.Errorf("sources %s, %v", p.Sources, err)
	}
	if p := v.backup(srv.URL(), "S"); p.Sources != nil {
		t.Errorf("sources %s of a stream that has none", p.Sources)
	}
}
