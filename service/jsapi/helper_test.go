package jsapi_test

import (
	"testing"

	"go.uber.org/goleak"

	"jetkeep/service/natsconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t *testing.T, o natsconn.Options) *natsconn.Conn {
	t.Helper()
	c, err := natsconn.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
