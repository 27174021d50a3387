package backup_test

import (
	"context"
	"errors"
	"testing"

	"jetkeep/service/natstest"
)

// TestRoom: a large stream is backed up only where there is room, and gives its
// place back whatever happens; a small one does not ask.
func TestRoom(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	v := newVault(t)
	entered, inside := 0, 0
	room := func(j *job) {
		j.Room = func(context.Context) (func(), error) {
			entered++
			inside++
			return func() { inside-- }, nil
		}
	}
	plainStream(t, nc)
	write(t, nc, "s", 100, size, 1)
	v.backup(srv.URL(), "S", room)
	if entered != 0 {
		t.Error("a small stream waits for room")
	}
	write(t, nc, "s", 2000, size, 2)
	v.backup(srv.URL(), "S", room, func(j *job) {
		j.Fence = func(context.Context) error {
			if inside != 1 {
				t.Errorf("%d places are taken while a large stream is backed up", inside)
			}
			return nil
		}
	})
	failing := v.job(srv.URL(), "S")
	room(failing)
	failing.Fence = func(context.Context) error { return errors.New("too late") }
	if _, err := failing.Run(t.Context()); err == nil {
		t.Error("committed without its fence")
	}
	if entered != 2 || inside != 0 {
		t.Errorf("%d entered, %d are inside still", entered, inside)
	}
	full := errors.New("no room")
	refused := v.job(srv.URL(), "S")
	refused.Room = func(context.Context) (func(), error) { return nil, full }
	if _, err := refused.Run(t.Context()); !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
}
