package service_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// TestAccountsWithLittleRoom: the service starts and works in accounts that want
// a bound of every stream, have little room or small streams only, and on a
// server that has little; where it cannot, it says what is missing.
func TestAccountsWithLittleRoom(t *testing.T) {
	t.Parallel()
	account := func(limits string) natstest.Option {
		return natstest.Config(`accounts { A { users: [{user: a, password: a}], jetstream: {` + limits + `} } }`)
	}
	dir := t.TempDir() // which a block of JetStream's settings must name, for it replaces the other
	for name, c := range map[string]struct {
		option natstest.Option
		events int64 // configured
		says   string
	}{
		"bounds are demanded":             {option: account("max_bytes_required: true")},
		"little room, bounds demanded":    {option: account("max_file: 16M, max_bytes_required: true")},
		"little room":                     {option: account("max_file: 16M")},
		"small streams":                   {option: account("max_file: 1G, disk_max_stream_bytes: 2M, max_bytes_required: true")},
		"small streams and little memory": {option: account("max_mem: 1K, max_file: 64M, disk_max_stream_bytes: 4M")},
		"a small server":                  {option: natstest.Config("jetstream { store_dir: '" + dir + "', max_file_store: 40MB }\n accounts { A { users: [{user: a, password: a}], jetstream: enabled } }")},
		"what is asked for fits":          {option: account("max_file: 64M"), events: 20 << 20},
		"no room at all":                  {option: account("max_file: 1M, max_bytes_required: true"), says: "may ask for fewer or more"},
		"what is asked for does not fit":  {option: account("max_file: 64M"), events: 100 << 20, says: "storage.events"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := natstest.Start(t, c.option)
			cfg := setup(t, server)
			cfg.Control.User, cfg.Control.Password = "a", natsconn.Secret("a")
			cfg.Storage.Events = c.events
			if c.says != "" {
				_, err := service.New(t.Context(), cfg, service.Deps{})
				if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "replicas") {
					t.Fatalf("%v", err)
				}
				return
			}
			nc := server.Connect(nats.UserInfo("a", "a"))
			natstest.MakeStream(t, nc, map[string]any{"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": "file", "max_bytes": 1 << 20})
			natstest.PublishTo(t, nc, "orders.new", 100, 300)
			run(t, cfg, service.Deps{})
			backUp(t, clientOf(t, nc))
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			var sizes []string
			for _, name := range []string{"KV_JETKEEP_STATE", "KV_JETKEEP_SCHEDULES", "KV_JETKEEP_SESSIONS", "JETKEEP_TASKS", api.StreamEvents} {
				s, err := js.Stream(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				sizes = append(sizes, fmt.Sprintf("%s %.1f MiB", name, float64(s.CachedInfo().Config.MaxBytes)/(1<<20)))
				if name == api.StreamEvents && c.events > 0 && s.CachedInfo().Config.MaxBytes != c.events {
					t.Errorf("%s has %d bytes, %d were asked for", name, s.CachedInfo().Config.MaxBytes, c.events)
				}
			}
			t.Log(strings.Join(sizes, ", "))
		})
	}
}
