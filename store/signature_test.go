package store

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/sign"
)

// signedRepo makes a repository with two restore points of one stream and one
// of another, signed by us, and opens it for who trusts us.
func signedRepo(t *testing.T, us *sign.Signer) (writer, reader *Repository, d *mem.Driver) {
	t.Helper()
	_, d = newRepo(t)
	writer = openAs(t, d, us, nil)
	for i, stream := range []string{"ORDERS", "ORDERS", "EVENTS"} {
		commitOf(t, writer, fmt.Sprintf("b.000%d", i+1), stream, 10+i)
	}
	return writer, openAs(t, d, us, trust(t, us)), d
}

func openAs(t *testing.T, d *mem.Driver, s *sign.Signer, tr *sign.Trust) *Repository {
	t.Helper()
	r, err := Open(t.Context(), object.NewBucket(d), OpenOptions{Signer: s, Trust: tr})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// commitOf stores n records of a stream and commits them.
func commitOf(t *testing.T, r *Repository, task, stream string, n int) Point {
	t.Helper()
	w, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 4<<20), Task: task, Target: "default", Stream: stream})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range rising(n, 20) {
		if err := w.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.Finish(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := makePoint(task, c)
	p.Stream, p.Target = stream, "default"
	if err := r.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// storedBytes returns an object's bytes.
func storedBytes(t *testing.T, d *mem.Driver, name string) []byte {
	t.Helper()
	data, err := object.NewBucket(d).ReadAll(t.Context(), name, maxBlob)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// resigned decodes an entry, changes it and encodes it anew, with right sizes
// and hashes: what a forger can do without a key. The signature is the old one
// unless the forger has a key.
func resigned(t *testing.T, data []byte, change func(*entry), forger *sign.Signer) []byte {
	t.Helper()
	e, err := parseEntry(bytes.Clone(data))
	if err != nil {
		t.Fatal(err)
	}
	change(e)
	if forger != nil {
		if e.signature, err = forger.Sign(e.head()); err != nil {
			t.Fatal(err)
		}
	}
	return e.encode()
}

func TestSignedAndTrusted(t *testing.T) {
	us := signer(t)
	_, reader, _ := signedRepo(t, us)
	for _, id := range []string{"b.0001", "b.0002", "b.0003"} {
		p, err := reader.Point(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := load(t.Context(), reader, p); err != nil {
			t.Error(err)
		}
	}
	if p, err := reader.Latest(t.Context(), "default", "ORDERS"); err != nil || p.ID != "b.0002" {
		t.Errorf("newest %s, %v", p.ID, err)
	}
	// Another key that is trusted, too, goes on from there.
	both := trust(t, us, signer(t))
	reader.trust = both
	if _, err := reader.Point(t.Context(), "b.0001"); err != nil {
		t.Error(err)
	}
}

// TestForgedCommits puts what was not signed by us where our commits are, by
// name and in the log.
func TestForgedCommits(t *testing.T) {
	us, stranger := signer(t), signer(t)
	messages := func(e *entry) {
		e.body = bytes.Replace(e.body, []byte(`"tags"`), []byte(`"TAGS"`), 1)
		e.body = bytes.Replace(e.body, []byte(`"stream":"ORDERS"`), []byte(`"stream":"FORGED"`), 1)
	}
	same := func(*entry) {}
	for name, c := range map[string]struct {
		change func(*entry)
		forger *sign.Signer
		want   error
		open   error // without any trust
	}{
		"signed by a stranger":        {same, stranger, sign.ErrUntrusted, nil},
		"forged by a stranger":        {messages, stranger, sign.ErrUntrusted, nil},
		"signature removed":           {func(e *entry) { e.signature = none }, nil, sign.ErrUnsigned, nil},
		"altered, signature removed":  {func(e *entry) { messages(e); e.signature = none }, nil, sign.ErrUnsigned, nil},
		"altered, signature kept":     {messages, nil, sign.ErrBadSignature, sign.ErrBadSignature},
		"other time, signature kept":  {func(e *entry) { e.time = e.time.Add(1) }, nil, sign.ErrBadSignature, sign.ErrBadSignature},
		"other epoch, signature kept": {func(e *entry) { e.epoch = 1 }, nil, sign.ErrBadSignature, sign.ErrBadSignature},
		"signature of the one before": {func(e *entry) { e.signature = "before" }, nil, sign.ErrBadSignature, sign.ErrBadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			_, reader, d := signedRepo(t, us)
			chain, err := reader.Chain("default", "ORDERS")
			if err != nil {
				t.Fatal(err)
			}
			before, err := parseEntry(storedBytes(t, d, commitName("b.0001")))
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range []string{commitName("b.0002"), entryName(chain, 2)} {
				d.Corrupt(object, func(b []byte) []byte {
					return resigned(t, b, func(e *entry) {
						c.change(e)
						if e.signature == "before" {
							e.signature = before.signature
						}
					}, c.forger)
				})
			}
			if _, err := reader.Point(t.Context(), "b.0002"); !errors.Is(err, c.want) {
				t.Errorf("read: %v, want %v", err, c.want)
			}
			if list, err := reader.Points(t.Context()); err != nil || len(list) != 3 || !errors.Is(list[1].Err, c.want) || list[0].Err != nil || list[2].Err != nil {
				t.Errorf("list: %+v, %v", list, err)
			}
			// Nothing is built on it, and a backup can still be made.
			if p, err := reader.Latest(t.Context(), "default", "ORDERS"); err != nil || p.ID != "b.0001" {
				t.Errorf("newest: %s, %v", p.ID, err)
			}
			anybody := openAs(t, d, nil, nil)
			if _, err := anybody.Point(t.Context(), "b.0002"); !errors.Is(err, c.open) || (err == nil) != (c.open == nil) {
				t.Errorf("without trust: %v, want %v", err, c.open)
			}
		})
	}
}

// TestReplayedCommits puts good commits, whole and signed, where they do not
// belong.
func TestReplayedCommits(t *testing.T) {
	us := signer(t)
	_, reader, d := signedRepo(t, us)
	orders, err := reader.Chain("default", "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	events, err := reader.Chain("default", "EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	ctx, b := t.Context(), object.NewBucket(d)
	first, second := storedBytes(t, d, entryName(orders, 1)), storedBytes(t, d, entryName(orders, 2))

	// Under another name.
	if err := b.PutBytes(ctx, commitName("b.0004"), second); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Point(ctx, "b.0004"); !isTyped(err) || !strings.Contains(err.Error(), "b.0002") {
		t.Errorf("under another name: %v", err)
	}
	d.Corrupt(commitName("b.0002"), func([]byte) []byte { return first })
	if _, err := reader.Point(ctx, "b.0002"); !isTyped(err) {
		t.Errorf("an older one in the place of a newer one: %v", err)
	}

	// In another repository that trusts the same key.
	_, other := newRepo(t)
	reads := openAs(t, other, us, trust(t, us))
	for _, name := range []string{commitName("b.0001"), entryName(orders, 1)} {
		if err := reads.Bucket().PutBytes(ctx, name, first); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := reads.Point(ctx, "b.0001"); !isTyped(err) || !strings.Contains(err.Error(), reader.Marker().ID) {
		t.Errorf("in another repository: %v", err)
	}

	// In the log of another stream, at its own number and at another.
	d.Corrupt(entryName(events, 1), func([]byte) []byte { return first })
	if p, err := reader.Latest(ctx, "default", "EVENTS"); !isTyped(err) {
		t.Errorf("in another chain: %s, %v", p.ID, err)
	}
	if err := b.PutBytes(ctx, entryName(orders, 3), second); err != nil {
		t.Fatal(err)
	}
	fresh := openAs(t, d, us, trust(t, us))
	if p, err := fresh.Latest(ctx, "default", "ORDERS"); !isTyped(err) {
		t.Errorf("at another number: %s, %v", p.ID, err)
	}
	d.Corrupt(entryName(orders, 3), func([]byte) []byte {
		return resigned(t, second, func(e *entry) { e.number = 3 }, nil)
	})
	if p, err := openAs(t, d, us, trust(t, us)).Latest(ctx, "default", "ORDERS"); err == nil && p.ID != "b.0002" {
		t.Errorf("at another number, adapted: %s", p.ID)
	}
}

// TestUnsigned has a repository that nobody signed: it works as long as nobody
// asks for signatures, and is refused then.
func TestUnsigned(t *testing.T) {
	r, d := newRepo(t)
	commitOf(t, r, "b.0001", "ORDERS", 10)
	if _, err := openAs(t, d, nil, nil).Point(t.Context(), "b.0001"); err != nil {
		t.Errorf("without trust: %v", err)
	}
	us := signer(t)
	strict := openAs(t, d, us, trust(t, us))
	if _, err := strict.Point(t.Context(), "b.0001"); !errors.Is(err, sign.ErrUnsigned) {
		t.Errorf("with trust: %v", err)
	}
	if _, err := strict.Latest(t.Context(), "default", "ORDERS"); !errors.Is(err, ErrNoPoint) {
		t.Errorf("nothing to build on: %v", err)
	}
	// Signing begins with the next backup.
	commitOf(t, strict, "b.0002", "ORDERS", 12)
	if p, err := strict.Latest(t.Context(), "default", "ORDERS"); err != nil || p.ID != "b.0002" {
		t.Errorf("newest %s, %v", p.ID, err)
	}
}

// TestEveryFlipOfASignedCommit flips each bit of a commit record.
func TestEveryFlipOfASignedCommit(t *testing.T) {
	t.Parallel()
	_, reader, d := signedRepo(t, signer(t))
	name := commitName("b.0001")
	n := len(storedBytes(t, d, name)) * 8
	for i := range n {
		flip := func(b []byte) []byte { b[i/8] ^= 1 << (i % 8); return b }
		d.Corrupt(name, flip)
		if _, err := reader.Point(t.Context(), "b.0001"); !isTyped(err) && !errors.Is(err, ErrUntrusted) {
			t.Errorf("bit %d: %v", i, err)
		}
		d.Corrupt(name, flip)
	}
	if _, err := reader.Point(t.Context(), "b.0001"); err != nil || n < 4000 {
		t.Errorf("%d bits, afterwards %v", n, err)
	}
}
