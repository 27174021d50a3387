package local

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/testenv"
)

// Only regular files are objects: what else has a name holds nobody up and
// makes nobody read for ever.
func TestOnlyRegularFilesAreObjects(t *testing.T) {
	dir := t.TempDir()
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Mkdir(at("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x/pipe", "pipes"} {
		if err := syscall.Mkfifo(at(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"x/device": "/dev/zero", "x/outside": "/etc/hostname", "x/loop": "loop", "x/to-pipe": "pipe"} {
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir) // the name of a socket is short
	socket, err := net.Listen("unix", "x/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	b := object.NewBucket(d)
	done := make(chan bool)
	go func() {
		defer close(done)
		for _, name := range []string{"x/pipe", "x/device", "x/outside", "x/loop", "x/to-pipe", "x/socket", "pipes", "pipes/one"} {
			if _, err := b.ReadAll(t.Context(), name, 10); !errors.Is(err, object.ErrNotExist) {
				t.Errorf("read of %s: %v", name, err)
			}
			if _, err := b.Stat(t.Context(), name); !errors.Is(err, object.ErrNotExist) {
				t.Errorf("stat of %s: %v", name, err)
			}
		}
		for _, prefix := range []string{"", "x/", "pipes/"} {
			for info, err := range b.List(t.Context(), prefix) {
				t.Errorf("list of %q: %s, %v", prefix, info.Name, err)
			}
		}
	}()
	testenv.Receive(t, "end of all that", done)
}

// A pipe where temporary files are to be holds nobody up either.
func TestOpenBesideAPipe(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, tempDir), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		if d, err := Open(dir); err == nil {
			_ = d.Close()
		}
	}()
	testenv.Receive(t, "end of all that", done)
}
