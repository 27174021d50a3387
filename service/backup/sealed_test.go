package backup_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/service/restore"
	"jetkeep/store"
	"jetkeep/store/object/mem"
	"jetkeep/store/sign"
)

// TestSealedIncrements goes on from restore points whose messages nobody who
// takes part can read.
func TestSealedIncrements(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	plainStream(t, nc)
	write(t, nc, "s", messages/2, size, 1)
	v := sealedVault(t, mem.New())
	first := v.backup(srv.URL(), "S")
	write(t, nc, "s", messages/200, size, 2)
	purge(t, nc, messages/200)
	deleteSome(t, nc, 100, messages/100, messages/2)
	second := v.backup(srv.URL(), "S")
	v.increment(first, second, 0.03)
	v.restore(first, second)
	natstest.MustRequest(t, nc, "STREAM.DELETE.S", nil, nil)
	v.restoreTo(srv.URL(), first)
	write(t, nc, "s", messages/200, size, 3)
	third := v.backup(srv.URL(), "S")
	v.newLineage(second, third, second.ID)

	// An instance that lost the writer key makes another and begins anew.
	v.options.WriterKey = v.newWriterKey()
	fourth := v.backup(srv.URL(), "S")
	if len(fourth.Notes) > 0 || fourth.uploaded < first.uploaded/2 || fourth.Lineage == first.Lineage {
		t.Errorf("%d bytes are uploaded with a new writer key, notes %q", fourth.uploaded, fourth.Notes)
	}
	write(t, nc, "s", 5, size, 4)
	v.increment(fourth, v.backup(srv.URL(), "S"), 0.03)
	v.restore(third, fourth)
}

// TestLockedRestore: without the key the restore says so and does nothing.
func TestLockedRestore(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	plainStream(t, nc)
	write(t, nc, "s", 10, size, 1)
	v := sealedVault(t, mem.New())
	p := v.backup(srv.URL(), "S")
	natstest.MustRequest(t, nc, "STREAM.DELETE.S", nil, nil)
	conn, err := natsconn.Dial(t.Context(), natsconn.Options{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = restore.Execute(t.Context(), restore.Job{Conn: conn, Repo: restore.FromRepository(v.open()), Point: p.Point})
	if !errors.Is(err, store.ErrLocked) {
		t.Errorf("error %v, want %v", err, store.ErrLocked)
	}
	if names := natstest.Streams(t, nc); slices.Contains(names, "S") {
		t.Error("the stream is there")
	}
}

// TestIncrementOnUntrustedPoint: what nobody signed who is trusted is no base.
func TestIncrementOnUntrustedPoint(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	plainStream(t, nc)
	write(t, nc, "s", messages/4, size, 1)
	v := sealedVault(t, mem.New()) // where a pack that is stored again is another one
	unsigned := v.backup(srv.URL(), "S")
	seed, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.ParseSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := sign.NewTrust([]string{signer.Public()})
	if err != nil {
		t.Fatal(err)
	}
	v.points = nil // is refused from now on
	v.options.Signer, v.options.Trust = signer, trust
	first := v.backup(srv.URL(), "S")
	if first.Content.NewBytes < unsigned.Content.NewBytes/2 {
		t.Errorf("gone on from a restore point that is not trusted: %d of %d bytes are new", first.Content.NewBytes, unsigned.Content.NewBytes)
	}
	write(t, nc, "s", 10, size, 2)
	v.increment(unsigned, v.backup(srv.URL(), "S"), 0.02)
	if _, err := v.open().Point(t.Context(), unsigned.ID); !errors.Is(err, store.ErrUntrusted) || !strings.Contains(err.Error(), unsigned.ID) {
		t.Errorf("error %v", err)
	}
}
