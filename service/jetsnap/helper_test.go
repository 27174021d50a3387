package jetsnap_test

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

// client connects with the options of a transfer.
func client(t *testing.T, o natsconn.Options) (*jetsnap.Client, *natsconn.Conn) {
	t.Helper()
	c, err := natsconn.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return jetsnap.New(c.API), c
}

// fill makes a stream of n messages of size bytes that hardly compress.
func fill(t *testing.T, nc *nats.Conn, config string, subject string, n, size int) {
	t.Helper()
	natstest.MakeStream(t, nc, config)
	r := rand.New(rand.NewSource(1))
	natstest.Publish(t, nc, n, func(i int) *nats.Msg {
		m := nats.NewMsg(subject)
		m.Header.Set("Number", fmt.Sprint(i))
		m.Data = make([]byte, size)
		r.Read(m.Data)
		return m
	})
}

const streamS = `{"name":"S","subjects":["s.>"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"discard":"old","storage":"file","num_replicas":1}`

// take drains a whole snapshot.
func take(t *testing.T, c *jetsnap.Client, stream string, o jetsnap.SnapshotOptions) (*jetsnap.Snapshot, []byte) {
	t.Helper()
	s, err := c.Snapshot(t.Context(), stream, o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return s, b
}

// gone checks that the server has no such stream, waiting a little.
func gone(t *testing.T, c *natsconn.Conn, stream string) {
	t.Helper()
	err := natstest.Eventually(2*time.Minute, func() error {
		_, err := c.API.StreamInfo(context.Background(), stream, jsapi.InfoOptions{})
		if err == nil {
			return fmt.Errorf("stream %s is there", stream)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
