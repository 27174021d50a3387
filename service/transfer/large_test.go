package transfer_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"jetkeep/service/archive"
	"jetkeep/service/restore"
	"jetkeep/service/transfer"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// pointOf makes a restore point of no messages and such consumers.
func pointOf(t *testing.T, repo *store.Repository, consumers []archive.Consumer) store.Point {
	t.Helper()
	area, err := staging.Open(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer area.Close()
	const id = "20260101T000000Z-aaaaaaaa.0001"
	w, err := repo.NewWriter(t.Context(), store.WriterOptions{Staging: area, Task: id, Target: "t", Stream: "S"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	p := store.Point{
		ID: id, Task: id, Backup: "20260101T000000Z-aaaaaaaa", Target: "t", Stream: "S", Created: time.Unix(1, 0), Time: time.Unix(2, 0),
		Config: json.RawMessage(`{"name":"S","subjects":["s"],"storage":"file"}`), State: store.State{FirstSeq: 1, Consumers: len(consumers)},
	}
	if p.Content, err = w.Finish(t.Context(), new(seqset.Set)); err != nil {
		t.Fatal(err)
	}
	list := make([]json.RawMessage, len(consumers))
	for i := range list {
		if list[i], err = json.Marshal(&consumers[i]); err != nil {
			t.Fatal(err)
		}
	}
	if p.Consumers, err = repo.PutConsumers(t.Context(), p.Content, list); err != nil {
		t.Fatal(err)
	}
	if err := repo.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if p, err = repo.Point(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return p
}

// bulky makes consumers that take so many MiB of memory.
func bulky(count int) []archive.Consumer {
	out := make([]archive.Consumer, count)
	config := json.RawMessage(`{"description":"` + strings.Repeat("x", 1<<20) + `"}`)
	for i := range out {
		out[i] = archive.Consumer{Name: "c" + strconv.Itoa(i), Config: config}
	}
	return out
}

// Consumers that take more memory than a restore has are no damage, and an export
// has them.
func TestLargeConsumersAreNoDamage(t *testing.T) {
	repo, err := store.Init(t.Context(), object.NewBucket(mem.New()), store.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := pointOf(t, repo, bulky(archive.MaxConsumersMemory>>20))
	_, err = restore.FromRepository(repo).Consumers(t.Context(), p)
	if !errors.Is(err, archive.ErrTooLarge) || errors.As(err, new(*store.DamageError)) {
		t.Errorf("restore: %v", err)
	}
	if _, err := restore.ReadInput(t.Context(), restore.FromRepository(repo), p); !errors.Is(err, restore.ErrRefused) {
		t.Errorf("plan: %v", err)
	}
	if _, err := transfer.Export(t.Context(), repo, []store.Point{p}, filepath.Join(t.TempDir(), "out"), transfer.V1, false); err != nil {
		t.Errorf("export: %v", err)
	}
	if rep, err := repo.Verify(t.Context(), store.VerifyOptions{Level: store.VerifyRecords}); err != nil || !rep.OK() {
		t.Errorf("verify: %v, %+v", err, rep)
	}
}

// A consumer whose encoding is long is counted without being kept, and is no damage.
func TestLongConsumerIsNoDamage(t *testing.T) {
	repo, err := store.Init(t.Context(), object.NewBucket(mem.New()), store.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := archive.Consumer{Name: "c", Config: json.RawMessage(`{}`), State: archive.ConsumerState{Pending: make([]archive.Pending, 600_000)}}
	for i := range c.State.Pending {
		c.State.Pending[i] = archive.Pending{Stream: uint64(i) + 1, Consumer: uint64(i) + 1, Time: 1_700_000_000_000_000_000}
	}
	p := pointOf(t, repo, []archive.Consumer{c})
	if got, err := restore.FromRepository(repo).Consumers(t.Context(), p); err != nil || len(got) != 1 {
		t.Errorf("restore: %v", err)
	}
	if rep, err := repo.Verify(t.Context(), store.VerifyOptions{Level: store.VerifyRecords}); err != nil || !rep.OK() {
		t.Errorf("verify: %v, %+v", err, rep)
	}
}

// What nobody could restore is not imported, be the archive large enough or not.
func TestImportTakesOnlyWhatCanBeRestored(t *testing.T) {
	for count, want := range map[int]error{archive.MaxConsumersMemory >> 20: archive.ErrTooLarge, archive.MaxConsumersMemory>>20 - 1: nil} {
		repo, err := store.Init(t.Context(), object.NewBucket(mem.New()), store.InitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := transfer.Export(t.Context(), repo, []store.Point{pointOf(t, repo, bulky(count))}, dir, transfer.V1, false); err != nil {
			t.Fatal(err)
		}
		if err := importFrom(t, dir); !errors.Is(err, want) {
			t.Errorf("%d consumers: %v", count, err)
		}
	}
}
