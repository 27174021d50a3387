package main

import (
	"strings"
	"testing"
)

func TestForbidden(t *testing.T) {
	for _, c := range []struct{ from, to, why string }{
		{"cmd/jetkeep", "jetkeep/service/client", ""},
		{"service", "jetkeep/service/worker", ""},
		{"service/worker", "jetkeep/service/backup", ""},
		{"service/worker", "jetkeep/store", ""},
		{"service/queue", "jetkeep/service/session", ""},
		{"service/natsconn", "github.com/nats-io/nats.go", ""},
		{"service/natstest", "testing", ""},
		{"contrib/bench", "jetkeep/service", ""},
		{"store/record", "github.com/minio/highwayhash", ""},
		{"store/seal", "filippo.io/age", ""},

		{"service", "jetkeep/cmd/jetkeep/internal/term", "must not know cmd"},
		{"store", "jetkeep/service/api", "must not know service"},
		{"store/object", "jetkeep/schedule", "must not know schedule"},
		{"schedule", "jetkeep/store", "must not know store"},
		{"service/backup", "jetkeep/service/worker", "no lower layer"},
		{"service/backup", "jetkeep/service/restore", "no lower layer"},
		{"service/worker", "jetkeep/service", "no lower layer"},
		{"service/jsapi", "jetkeep/service/natsconn", "no lower layer"},
		{"service/api", "github.com/nats-io/nats.go", "only the standard library"},
		{"service/api", "jetkeep/store/record", "only the standard library"},
		{"store/seqset", "jetkeep/store/record", "nothing of this module"},
		{"service", "jetkeep/service/natstest", "only tests"},
		{"store", "jetkeep/store/object/faulty", "only tests"},
		{"service", "testing", "only tests"},
		{"pkg/util", "jetkeep/store", "no folder of the design"},
		{"cmd/jetkeep", "jetkeep/contrib/bench", "must not know contrib"},
	} {
		why := forbidden(c.from, c.to)
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s imports %s: %q, want %q", c.from, c.to, why, c.why)
		}
	}
}

func TestCheck(t *testing.T) {
	faults := check([]pkg{
		{ImportPath: "jetkeep/service/unheard"},
		{ImportPath: "jetkeep/store", Imports: []string{"jetkeep/service"}, TestImports: []string{"jetkeep/schedule"}, XTestImports: []string{"jetkeep/service/natstest"}},
		{ImportPath: "jetkeep/service", TestImports: []string{"testing", "jetkeep/service/natstest"}},
	})
	if len(faults) != 4 {
		t.Errorf("faults are:\n%s", strings.Join(faults, "\n"))
	}
	if len(check(nil)) != 1 {
		t.Error("no packages, and no fault")
	}
}
