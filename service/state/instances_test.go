package state

import (
	"testing"
	"time"
)

// How long an instance has been silent is told by the server's clock alone.
func TestInstances(t *testing.T) {
	s := open(t)()
	a := Beat{Instance: "a host.name", Process: "1", Started: time.Now().Add(-48 * time.Hour)}
	again, begun := a, time.Now()
	again.Process = "2"
	for _, b := range []Beat{a, a} {
		if err := s.Beat(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(1200 * time.Millisecond)
	if err := s.Beat(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	seen, err := s.Instances(t.Context())
	if err != nil || len(seen) != 2 {
		t.Fatalf("%+v, %v", seen, err)
	}
	if seen[0].Process != "1" || seen[0].Silent < time.Second || seen[0].Silent > time.Since(begun) || seen[1].Silent != 0 {
		t.Errorf("%+v", seen)
	}
	if err := s.Leave(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if seen, err = s.Instances(t.Context()); err != nil || len(seen) != 1 || seen[0].Process != "2" {
		t.Errorf("%+v, %v", seen, err)
	}
}
