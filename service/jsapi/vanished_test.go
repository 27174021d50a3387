package jsapi_test

import (
	"context"
	"testing"
	"time"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// TestReadStreamOfVanishedMessages: messages that the consumer was to bring go
// away before it brings the first. The reader must end all the same.
func TestReadStreamOfVanishedMessages(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Connect()
	c := dial(t, natsconn.Options{URL: s.URL()})
	natstest.MustRequest(t, nc, "STREAM.CREATE.A", `{"name":"A","subjects":["a"],"storage":"memory","num_replicas":1}`, nil)
	for try := range 60 {
		natstest.PublishTo(t, nc, "a", 30, 1)
		last := natstest.Info(t, nc, "A").State.LastSeq
		ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
		done := make(chan error, 1)
		n := 0
		go func() {
			done <- c.API.ReadStream(ctx, "A", last-29, last, func(*record.Record) error { n++; return nil })
		}()
		time.Sleep(time.Duration(try*17) * time.Microsecond * 3)
		_ = nc.Publish("$JS.API.STREAM.PURGE.A", nil)
		_ = nc.Flush()
		err := <-done
		late := ctx.Err() != nil
		cancel()
		if late {
			t.Fatalf("try %d: ReadStream never ended: %d messages, %v\n%s", try, n, err, testenv.Report())
		}
	}
}
