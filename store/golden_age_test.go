package store

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/local"
	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

// The encrypted and signed golden repository, with the key of its operator and
// the public key of who signed it beside it. The key was made for this and
// opens nothing else.
const (
	goldenAge       = "testdata/format2-age"
	goldenAgeKey    = goldenAge + ".key"
	goldenAgeSigner = goldenAge + ".signer"
)

const goldenConsumer = `{"name":"worker","created":"2026-11-22T20:00:00Z","config":{"durable_name":"worker","ack_policy":"explicit"},` +
	`"state":{"delivered":{"consumer_seq":9,"stream_seq":9},"ack_floor":{"consumer_seq":7,"stream_seq":7},` +
	`"pending":[{"stream_seq":8,"consumer_seq":8,"time":1700000000000000000}],"redelivered":[{"stream_seq":8,"count":1}]}}`

func makeGoldenAge(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	op, s := identity(t, seal.Hybrid), signer(t)
	for name, text := range map[string]string{
		goldenAgeKey:    "# public key: " + op.Recipient().String() + "\n" + op.Secret() + "\n",
		goldenAgeSigner: s.Public() + "\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := local.Create(goldenAge)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	made, err := Init(ctx, object.NewBucket(d), InitOptions{Recipients: []string{op.Recipient().String()}})
	if err != nil {
		t.Fatal(err)
	}
	made.signer = s
	w, err := made.NewWriterKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(ctx, object.NewBucket(d), OpenOptions{WriterKey: w, Signer: s})
	if err != nil {
		t.Fatal(err)
	}
	recs, dead := goldenRecords()
	p := mustSave(t, r, "20261122T210000Z-golden00.0001", steps(recs), dead)
	p.ID, p.Task = "20261122T210000Z-golden00.0002", "20261122T210000Z-golden00.0002"
	spread(t, r, &p, []byte("["+goldenConsumer+"]"))
	if err := r.Commit(ctx, p); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(goldenAge, ".tmp")); err != nil {
		t.Fatal(err)
	}
}

func TestGoldenAge(t *testing.T) {
	if flag.Lookup("make-golden").Value.String() == "true" {
		makeGoldenAge(t)
	}
	ctx := t.Context()
	key, err := os.ReadFile(goldenAgeKey)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := seal.ParseIdentities(string(key))
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(goldenAgeSigner)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := sign.NewTrust([]string{strings.TrimSpace(string(public))})
	if err != nil {
		t.Fatal(err)
	}
	b := object.NewBucket(golden(t, goldenAge))
	r, err := Open(ctx, b, OpenOptions{Identities: []string{ids[0].Secret()}, Trust: tr})
	if err != nil {
		t.Fatal(err)
	}
	points, err := r.Points(ctx)
	if err != nil || len(points) != 2 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	recs, dead := goldenRecords()
	for _, l := range points {
		if l.Err != nil {
			t.Fatal(l.Err)
		}
		wantRecords(t, r, l.Point, without(recs, dead.Contains))
	}
	if c, err := consumersIn(ctx, r, points[1].Point); err != nil || len(c) != 1 || string(c[0]) != goldenConsumer {
		t.Errorf("consumers %s, %v", c, err)
	}

	// The writer key that it keeps lists, and continues, and reads no message.
	writers, err := r.WriterKeys(ctx)
	if err != nil || len(writers) != 1 {
		t.Fatalf("writer keys %d, %v", len(writers), err)
	}
	service, err := Open(ctx, b, OpenOptions{WriterKey: writers[0], Trust: tr})
	if err != nil {
		t.Fatal(err)
	}
	p, err := service.Latest(ctx, "default", "ORDERS")
	if err != nil || p.ID != points[1].ID {
		t.Fatalf("newest %s, %v", p.ID, err)
	}
	if _, err := service.NewReader(ctx, p); !errors.Is(err, ErrLocked) {
		t.Errorf("the service reads messages: %v", err)
	}
	// Nobody without a key sees more than numbers.
	bare, err := Open(ctx, b, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := bare.Point(ctx, points[0].ID); !errors.Is(err, ErrLocked) || p.Content.Messages == 0 || p.Stream != "" {
		t.Errorf("without a key: %+v, %v", p, err)
	}
}
