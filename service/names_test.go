package service_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// The server shows connections by the names that the configuration gives them.
func TestConnectionNames(t *testing.T) {
	t.Parallel()
	s := natstest.StartEmbedded(t)
	c := setup(t, s)
	c.Control.Name = "keeper"
	c.Targets = []config.Target{
		{Name: "named", Options: natsconn.Options{URL: s.URL(), Name: "shop"}}, {Name: "plain", Options: natsconn.Options{URL: s.URL()}},
	}
	run(t, c, service.Deps{})
	cl := connect(t, s)
	for _, target := range []string{"named", "plain"} {
		if _, err := cl.TargetInfo(t.Context(), api.TargetInfoRequest{Target: target}); err != nil {
			t.Fatal(err)
		}
	}
	z, err := s.Embedded().Connz(&server.ConnzOptions{State: server.ConnAll})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, conn := range z.Conns {
		seen[conn.Name] = true
	}
	if !seen["keeper"] || !seen["shop"] || !seen["jetkeep target plain"] || seen["jetkeep test"] {
		t.Errorf("the server shows %v", seen)
	}
}
