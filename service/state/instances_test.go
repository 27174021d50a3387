package state

import (
	"testing"
	"time"

	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// How long an instance has been silent is told by the server's clock alone.
func TestInstances(t *testing.T) {
	t.Parallel()
	s := open(t)()
	a := Beat{Instance: "a host.name", Process: "1", Started: time.Now().Add(-48 * time.Hour)}
	again, begun := a, time.Now()
	again.Process = "2"
	for _, b := range []Beat{a, a} {
		if err := s.Beat(natstest.Context(t), b); err != nil {
			t.Fatal(err)
		}
	}
	var seen []Seen
	var err error
	testenv.True(t, "an instance that is silent for 1 s", func() bool {
		if err := s.Beat(natstest.Context(t), again); err != nil {
			t.Fatal(err)
		}
		seen, err = s.Instances(natstest.Context(t))
		if err != nil || len(seen) != 2 {
			t.Fatalf("%+v, %v", seen, err)
		}
		if seen[0].Process != "1" || seen[0].Silent > time.Since(begun) || seen[1].Silent != 0 {
			t.Fatalf("%+v", seen)
		}
		return seen[0].Silent > time.Second
	})
	if err := s.Leave(natstest.Context(t), a); err != nil {
		t.Fatal(err)
	}
	if seen, err = s.Instances(natstest.Context(t)); err != nil || len(seen) != 1 || seen[0].Process != "2" {
		t.Errorf("%+v, %v", seen, err)
	}
}
