package jsapi_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service/natsconn"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial connects. Calls end by themselves only if the server hangs, unless the options
// say how soon they do.
func dial(t *testing.T, o natsconn.Options) *natsconn.Conn {
	t.Helper()
	o.Timeout = testenv.Hang
	if o.RequestTimeout == 0 {
		o.RequestTimeout = testenv.Hang
	}
	var c *natsconn.Conn
	testenv.Until(t, "a connection", func() (err error) {
		c, err = natsconn.Dial(t.Context(), o)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
			t.Fatal(err)
		}
		return err
	})
	t.Cleanup(c.Close)
	return c
}
