package natstest

import (
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/store/testenv"
)

// TestGateHolds: what is more than may pass waits until the gate is opened, and then
// all of it comes, in order.
func TestGateHolds(t *testing.T) {
	t.Parallel()
	s := Start(t)
	g := NewGate(t)
	through, direct := Connect(t, g.Before(s)), s.Connect()
	sub, err := through.SubscribeSync("a")
	if err != nil || through.Flush() != nil {
		t.Fatal(err)
	}
	const all = 1000
	g.Hold(Downstream, all*1000/2)
	for i := range all {
		if err := direct.PublishMsg(&nats.Msg{Subject: "a", Data: append(make([]byte, 998), byte(i>>8), byte(i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := direct.FlushTimeout(testenv.Hang); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		m, err := sub.NextMsg(testenv.Hang)
		if err != nil || int(m.Data[998])<<8+int(m.Data[999]) != i {
			t.Fatalf("message %d: %v", i, err)
		}
		if n, _, err := sub.Pending(); err != nil || i+n > all/2 && i < all/4 {
			t.Fatalf("%d messages have come through, %v", i+n, err)
		}
		if i == all/4 {
			g.Open()
		}
	}
}
