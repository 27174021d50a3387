package main

import (
	"testing"

	"jetkeep/service/natsconn"
)

func TestServerNameShowsNoSecrets(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]natsconn.Options{
		"nats://127.0.0.1:4222":      {},
		"nats://a:4222,tls://b:4222": {URL: "nats://user:p@ss@a:4222,tls://token@b:4222"},
		"nats://host:4222":           {URL: "user:pass@host:4222"},
		"context prod":               {Context: "prod"},
		"nats://x":                   {Context: "prod", URL: "nats://x"},
	} {
		if got := serverName(o); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
