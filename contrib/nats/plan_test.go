package nats_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
)

// TestPlanSaysWhatMayNotBeRestored: a user who may only back up cannot restore, which the
// plan says before anything is done; and asking changes nothing.
func TestPlanSaysWhatMayNotBeRestored(t *testing.T) {
	server := start(t)
	shop := server.Connect(nats.UserInfo("shop", "shop-secret"))
	for _, name := range []string{"A", "B"} {
		natstest.MakeStream(t, shop, fmt.Sprintf(`{"name":%q,"subjects":[%q],"storage":"file","retention":"limits","num_replicas":1}`, name, name))
		natstest.PublishTo(t, shop, name, 10, 10)
	}
	c, _ := serve(t, server)
	accepted, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{Target: "backup"})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, c, accepted.Session)
	for _, name := range []string{"A", "B"} {
		natstest.MustRequest(t, shop, "STREAM.DELETE."+name, nil, nil)
	}
	q := api.RestoreRequest{Target: "backup", Backup: accepted.Backup}
	plan, err := c.RestorePlan(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if !plan.Refused || len(plan.Streams) != 2 {
		t.Errorf("plan: %+v", plan)
	}
	for _, s := range plan.Streams {
		if len(s.Problems) != 1 || s.Problems[0].ErrCode != "permission_denied" ||
			!strings.Contains(s.Problems[0].Description, "$JS.API.STREAM.RESTORE."+s.Stream) || !strings.Contains(s.Problems[0].Hint, "$JS.SNAPSHOT.RESTORE.>") {
			t.Errorf("%s: %+v", s.Stream, s.Problems)
		}
	}
	if _, err := c.RestoreCreate(t.Context(), q); !api.HasCode(err, api.CodePermission) {
		t.Errorf("a restore by the user for backups: %v", err)
	}
	q.Target = "restore"
	if plan, err = c.RestorePlan(t.Context(), q); err != nil || plan.Refused {
		t.Errorf("the plan of the user for restores: %+v, %v", plan, err)
	}
	var names struct{ Streams []string }
	natstest.MustRequest(t, shop, "STREAM.NAMES", nil, &names)
	if len(names.Streams) != 0 {
		t.Errorf("the plans made %v", names.Streams)
	}
}
