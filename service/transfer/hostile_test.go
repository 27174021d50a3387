package transfer_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/s2"

	"jetkeep/service/archive"
	"jetkeep/service/transfer"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/staging"
	"jetkeep/store/testenv"
)

const importable = `{"config":{"name":"S","subjects":["s"],"storage":"file"},"state":{"messages":0,"first_seq":1,"last_seq":0,"consumer_count":1}}`

// importFrom imports a directory into a new repository, in as long as that takes.
func importFrom(t *testing.T, dir string) error {
	t.Helper()
	repo, err := store.Init(t.Context(), object.NewBucket(mem.New()), store.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	area, err := staging.Open(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer area.Close()
	done := make(chan error, 1)
	go func() {
		_, err := transfer.Import(t.Context(), repo, dir, transfer.ImportOptions{Target: "t", Staging: area})
		done <- err
	}()
	return testenv.Receive(t, "end of the import", done)
}

func put(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What is no regular file is not read: a device has no end, and a pipe that
// nobody writes into no beginning.
func TestImportOfSpecialFiles(t *testing.T) {
	link := func(to string) func(string) error { return func(name string) error { return os.Symlink(to, name) } }
	pipe := func(name string) error { return syscall.Mkfifo(name, 0o600) }
	for about, special := range map[string]struct {
		name string
		make func(string) error
	}{
		"metadata that is a device": {"backup.json", link("/dev/zero")},
		"metadata that is a pipe":   {"backup.json", pipe},
		"archive that is a device":  {"stream.tar.s2", link("/dev/zero")},
		"archive that is a pipe":    {"stream.tar.s2", pipe},
		"second archive, a pipe":    {"stream.arc.s2", pipe},
	} {
		t.Run(about, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, "backup.json", []byte(importable))
			put(t, dir, "stream.tar.s2", nil)
			name := filepath.Join(dir, special.name)
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if err := special.make(name); err != nil {
				t.Fatal(err)
			}
			if err := importFrom(t, dir); !errors.Is(err, transfer.ErrNotABackup) {
				t.Errorf("%v", err)
			}
		})
	}
	dir := t.TempDir()
	put(t, dir, "backup.json", []byte(importable+strings.Repeat(" ", 9<<20)))
	if err := importFrom(t, dir); !errors.Is(err, transfer.ErrNotABackup) {
		t.Errorf("metadata of 9 MiB: %v", err)
	}
}

// packed makes a V2 archive whose consumers are a piece so many times each.
func packed(t *testing.T, consumers int, begin, piece string, times int, end string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := s2.NewWriter(&out, s2.WriterBestCompression(), s2.WriterConcurrency(1))
	entry := func(name, data string) {
		r := record.Record{Subject: []byte(name), Data: []byte(data)}
		if _, err := w.Write(record.Append(nil, &r)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write([]byte(record.Magic)); err != nil {
		t.Fatal(err)
	}
	entry("state.json", `{"messages":0,"first_seq":1,"last_seq":0,"consumer_count":`+itoa(consumers)+`}`)
	for i := range consumers {
		entry("consumers/c"+itoa(i), begin+strings.Repeat(piece, times)+end)
	}
	if _, err := w.Write(record.AppendEnd(nil)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func itoa(n int) string { return strconv.Itoa(n) }

// A few bytes that unpack to consumers of any size are refused before that takes
// any memory to speak of.
func TestImportOfHugeConsumers(t *testing.T) {
	state := `{"config":{},"state":{"delivered":{},"ack_floor":{},"pending":{"1":{}`
	for about, arc := range map[string][]byte{
		"pending messages": packed(t, 1, state, `,"1":{}`, 12<<20, `}}}`),
		"configuration":    packed(t, 1, `{"config":{"x":"`, "a", 100<<20, `"},"state":{}}`),
		"many":             packed(t, 400, `{"config":{"x":"`, "a", 1<<20, `"},"state":{}}`),
	} {
		t.Run(about, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, "backup.json", []byte(importable))
			put(t, dir, "stream.arc.s2", arc)
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := importFrom(t, dir)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, archive.ErrTooLarge) {
				t.Errorf("%v", err)
			}
			allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
			t.Logf("archive of %d KiB: %d MiB allocated in all", len(arc)>>10, allocated)
			if allocated > 512 {
				t.Errorf("%d MiB were allocated", allocated)
			}
		})
	}
}
