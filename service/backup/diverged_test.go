package backup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"jetkeep/service/natstest"
)

// TestRecreatedStream: a stream of the same name that was made anew is another
// one, however much it looks like the first.
func TestRecreatedStream(t *testing.T) {
	t.Parallel()
	for _, version := range versions(true) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			nc := srv.Connect()
			v := newVault(t)
			var points []made
			for n := range uint64(2) {
				plainStream(t, nc)
				write(t, nc, "s", 1000, size, n)
				points = append(points, v.backup(srv.URL(), "S"))
				natstest.MustRequest(t, nc, "STREAM.DELETE.S", nil, nil)
			}
			v.newLineage(points[0], points[1], points[0].ID, "created")
			v.restore(points...)
		})
	}
}

// TestRestoredOverStream restores an older point of a stream, which keeps its
// created time, and lets it live another life from there on.
func TestRestoredOverStream(t *testing.T) {
	t.Parallel()
	const before, between = 3000, 500
	for name, c := range map[string]struct {
		after int // messages of the other life
		words []string
		all   bool // on all versions
	}{
		"and further than before":         {after: between + 300, all: true, words: []string{fmt.Sprintf("message %d ", before+1)}},
		"and as far as before":            {after: between, words: []string{fmt.Sprintf("message %d ", before+1)}},
		"and not as far as before":        {after: between - 100, words: []string{"ends at"}},
		"and nothing new":                 {after: 0, words: []string{"ends at"}},
		"and differs in its last message": {after: 1, all: true, words: []string{"message"}},
	} {
		for _, version := range versions(c.all) {
			t.Run(name+"/"+version, func(t *testing.T) {
				t.Parallel()
				srv := natstest.StartVersion(t, version)
				nc := srv.Connect()
				plainStream(t, nc)
				write(t, nc, "s", before, size, 1)
				v := newVault(t)
				old := v.backup(srv.URL(), "S")
				lost := between
				if c.after == 1 {
					lost = 1 // then only the last message is another one
				}
				write(t, nc, "s", lost, size, 2)
				was := v.backup(srv.URL(), "S")
				v.increment(old, was, 0.3)
				natstest.MustRequest(t, nc, "STREAM.DELETE.S", nil, nil)
				v.restoreTo(srv.URL(), old)
				if !natstest.Info(t, nc, "S").Created.Equal(old.Created) {
					t.Fatal("the restore did not keep the created time: the test shows nothing")
				}
				if c.after > 0 {
					write(t, nc, "s", c.after, size, 3)
				}
				now := v.backup(srv.URL(), "S")
				v.newLineage(was, now, append(c.words, was.ID)...)
				write(t, nc, "s", 10, size, 4)
				next := v.backup(srv.URL(), "S")
				v.increment(now, next, 0.05)
				v.restore(was, now)
			})
		}
	}
}

// TestServerThatLostItsEnd sets a server's disk back to an earlier state, as a
// crash or a snapshot of its volume does: the same sequences are given to other
// messages, and the stream's created time is the same.
func TestServerThatLostItsEnd(t *testing.T) {
	t.Parallel()
	for _, version := range versions(true) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			dir, copied := t.TempDir(), filepath.Join(t.TempDir(), "copy")
			srv := natstest.StartVersion(t, version, natstest.Dir(dir))
			plainStream(t, srv.Connect())
			write(t, srv.Connect(), "s", 3000, size, 1)
			srv.Stop()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			srv.Start()
			write(t, srv.Connect(), "s", 400, size, 2)
			v := newVault(t)
			was := v.backup(srv.URL(), "S")
			srv.Kill()
			if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir, os.DirFS(copied)); err != nil {
				t.Fatal(err)
			}
			srv.Start()
			write(t, srv.Connect(), "s", 500, size, 3)
			now := v.backup(srv.URL(), "S")
			v.newLineage(was, now, was.ID, "message 3001 ")
			v.restore(was, now)
		})
	}
}

// TestRepeatedTaskKeepsItsLineage: what a task found out it finds out again
// after a crash, under the same name.
func TestRepeatedTaskKeepsItsLineage(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	v := newVault(t)
	for n := range uint64(2) {
		plainStream(t, nc)
		write(t, nc, "s", 1000, size, n)
		if n == 0 {
			v.backup(srv.URL(), "S")
			natstest.MustRequest(t, nc, "STREAM.DELETE.S", nil, nil)
		}
	}
	dead := v.job(srv.URL(), "S")
	dead.Fence = func(context.Context) error { return fmt.Errorf("the instance dies before it commits") }
	if _, err := dead.Run(t.Context()); err == nil {
		t.Fatal("committed without its fence")
	}
	v.n-- // the same task again
	one := v.backup(srv.URL(), "S")
	again, err := dead.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again.Lineage != one.Lineage || again.ID != one.ID {
		t.Errorf("the task made %s of lineage %s, and %s of %s", one.ID, one.Lineage, again.ID, again.Lineage)
	}
}
