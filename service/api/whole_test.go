package api

import (
	"fmt"
	"testing"
)

// TestNumbersAreWhole: half a restore point cannot be meant.
func TestNumbersAreWhole(t *testing.T) {
	for _, c := range []struct {
		body string
		into any
	}{
		{`{"limit":%s}`, &BackupListRequest{}},
		{`{"percent":%s}`, &RepositoryVerifyRequest{}},
		{`{"keep":{"last":%s}}`, &RepositoryPruneRequest{}},
		{`{"keep":{"last":1,"floor":%s}}`, &RepositoryPruneRequest{}},
		{`{"name":"n","cron":"@daily","history":%s}`, &Schedule{}},
		{`{"name":"n","cron":"@daily","retry":{"count":%s}}`, &Schedule{}},
	} {
		for _, number := range []string{"2.5", "1e1", "99999999999999999999", `"2"`} {
			body := fmt.Sprintf(c.body, number)
			if err := Decode([]byte(body), c.into); !HasCode(err, CodeInvalidRequest) {
				t.Errorf("%s: %v", body, err)
			}
		}
		if err := Decode(fmt.Appendf(nil, c.body, "2"), c.into); err != nil {
			t.Errorf("%s: %v", c.body, err)
		}
	}
}
