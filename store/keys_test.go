package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

// identity makes a key of an operator.
func identity(t testing.TB, kind seal.Kind) seal.Identity {
	t.Helper()
	id, err := seal.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func signer(t testing.TB) *sign.Signer {
	t.Helper()
	seed, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.ParseSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func trust(t testing.TB, signers ...*sign.Signer) *sign.Trust {
	t.Helper()
	var keys []string
	for _, s := range signers {
		keys = append(keys, s.Public())
	}
	tr, err := sign.NewTrust(keys)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// newSealedRepo makes an encrypted repository in memory: as a service has it,
// able to write and unable to read messages, and unlocked.
func newSealedRepo(t testing.TB) (service, unlocked *Repository, d *mem.Driver, operator seal.Identity) {
	t.Helper()
	d, operator = mem.New(), identity(t, seal.Hybrid)
	made, err := Init(t.Context(), object.NewBucket(d), InitOptions{Recipients: []string{operator.Recipient().String()}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := made.NewWriterKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	opt := OpenOptions{WriterKey: w, Recipient: made.Marker().Recipient}
	if service, err = Open(t.Context(), object.NewBucket(d), opt); err != nil {
		t.Fatal(err)
	}
	if unlocked, err = service.Unlock(t.Context(), []string{operator.Secret()}); err != nil {
		t.Fatal(err)
	}
	return service, unlocked, d, operator
}

func TestInitEncrypted(t *testing.T) {
	for _, kind := range []seal.Kind{seal.Hybrid, seal.Classic} {
		t.Run(string(kind), func(t *testing.T) {
			ctx := t.Context()
			b := object.NewBucket(mem.New())
			ops := []seal.Identity{identity(t, kind), identity(t, kind)}
			var recipients []string
			for _, op := range ops {
				recipients = append(recipients, op.Recipient().String(), op.Recipient().String())
			}
			made, err := Init(ctx, b, InitOptions{Recipients: recipients, Classic: kind == seal.Classic})
			if err != nil {
				t.Fatal(err)
			}
			if !made.Encrypted() || !made.Readable() || made.Marker().Recipient == "" {
				t.Errorf("made %+v", made.Marker())
			}
			locked, err := Open(ctx, b, OpenOptions{})
			if err != nil || !locked.Encrypted() || locked.Readable() {
				t.Fatalf("open without keys: %v", err)
			}
			for _, op := range ops {
				r, err := Open(ctx, b, OpenOptions{Identities: []string{identity(t, kind).Secret(), op.Secret()}})
				if err != nil || !r.Readable() {
					t.Errorf("operator: %v", err)
				}
			}
			own, err := made.secret()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := locked.Unlock(ctx, []string{own.Secret()}); err != nil {
				t.Errorf("the repository's own key: %v", err)
			}
			if _, err := locked.Unlock(ctx, []string{identity(t, kind).Secret()}); !errors.Is(err, ErrWrongIdentity) {
				t.Errorf("a stranger: %v", err)
			}
			got, err := locked.Operators(ctx)
			want := slices.Compact(slices.Sorted(slices.Values(recipients)))
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("operators %q, %v", got, err)
			}
		})
	}
}

func TestInitRefusesMixedKeys(t *testing.T) {
	hybrid, classic := identity(t, seal.Hybrid).Recipient().String(), identity(t, seal.Classic).Recipient().String()
	for _, c := range []struct {
		opt  InitOptions
		want error
	}{
		{InitOptions{Recipients: []string{classic}}, seal.ErrKind},
		{InitOptions{Recipients: []string{hybrid, classic}}, seal.ErrKind},
		{InitOptions{Recipients: []string{hybrid}, Classic: true}, seal.ErrKind},
		{InitOptions{Recipients: []string{"age1nonsense"}}, seal.ErrKey},
		{InitOptions{Classic: true}, nil},
	} {
		d := mem.New()
		_, err := Init(t.Context(), object.NewBucket(d), c.opt)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.opt, err, c.want)
		}
		if n := objects(t, d, ""); len(n) != 0 {
			t.Errorf("%+v left %v", c.opt, n)
		}
	}
}

// TestInitBrokenOff fails each write in turn: what is left is no repository
// until it is a whole one, and no hindrance to the next Init.
func TestInitBrokenOff(t *testing.T) {
	op := identity(t, seal.Classic)
	opt := InitOptions{Recipients: []string{op.Recipient().String()}, Classic: true}
	for _, kind := range []faulty.Kind{faulty.Refuse, faulty.LoseReply} {
		for n := range 4 {
			d := mem.New()
			f := faulty.New(t, d, faulty.Fault{Op: faulty.Put, Skip: n, Kind: kind})
			if _, err := Init(t.Context(), object.NewBucket(f), opt); !errors.Is(err, faulty.ErrInjected) {
				t.Fatalf("write %d: %v", n, err)
			}
			_, err := Open(t.Context(), object.NewBucket(d), OpenOptions{})
			if n == 3 && kind == faulty.LoseReply {
				if err != nil {
					t.Errorf("marker written: %v", err)
				}
			} else {
				if !errors.Is(err, ErrNotARepository) {
					t.Errorf("write %d: %v", n, err)
				}
				if _, err := Init(t.Context(), object.NewBucket(d), opt); err != nil {
					t.Errorf("write %d, again: %v", n, err)
				}
			}
			r, err := Open(t.Context(), object.NewBucket(d), OpenOptions{Identities: []string{op.Secret()}})
			if err != nil || !r.Readable() {
				t.Errorf("write %d: opened %v", n, err)
			}
			if ops, err := r.Operators(t.Context()); err != nil || len(ops) != 1 {
				t.Errorf("write %d: operators %v, %v", n, ops, err)
			}
		}
	}
}

// TestInitAtOnce makes one repository from several places: one of them has it,
// with operators that can unlock it, and the others are told.
func TestInitAtOnce(t *testing.T) {
	for range 10 {
		b := object.NewBucket(mem.New())
		ops := []seal.Identity{identity(t, seal.Classic), identity(t, seal.Classic), identity(t, seal.Classic)}
		made := make([]*Repository, len(ops))
		errs := make([]error, len(ops))
		var wg sync.WaitGroup
		for i, op := range ops {
			wg.Go(func() {
				made[i], errs[i] = Init(t.Context(), b, InitOptions{Recipients: []string{op.Recipient().String()}, Classic: true})
			})
		}
		wg.Wait()
		winners := 0
		for i, err := range errs {
			switch {
			case err == nil:
				winners++
				if _, err := Open(t.Context(), b, OpenOptions{Identities: []string{ops[i].Secret()}}); err != nil {
					t.Errorf("who made it cannot unlock it: %v", err)
				}
				if list, err := made[i].Operators(t.Context()); err != nil || !slices.Equal(list, []string{ops[i].Recipient().String()}) {
					t.Errorf("operators %v, %v", list, err)
				}
			case !errors.Is(err, ErrIsRepository):
				t.Errorf("who did not make it: %v", err)
			}
		}
		if winners != 1 {
			t.Errorf("%d made it", winners)
		}
	}
}

func TestPin(t *testing.T) {
	_, unlocked, d, op := newSealedRepo(t)
	b := object.NewBucket(d)
	key := unlocked.sealer.Recipient()
	for _, pin := range []string{key.String(), key.Fingerprint()} {
		if _, err := Open(t.Context(), b, OpenOptions{Recipient: pin}); err != nil {
			t.Errorf("pinned to %.20s: %v", pin, err)
		}
	}
	for _, pin := range []string{op.Recipient().String(), op.Recipient().Fingerprint(), "nonsense"} {
		if _, err := Open(t.Context(), b, OpenOptions{Recipient: pin}); !errors.Is(err, ErrKeyMismatch) {
			t.Errorf("pinned to %.20s: %v", pin, err)
		}
	}
	// Whoever can write to the store makes it look unencrypted.
	d.Corrupt(markerName, func([]byte) []byte { return newMarker("").encode() })
	for _, opt := range []OpenOptions{{Recipient: key.Fingerprint()}, {WriterKey: identity(t, seal.Hybrid).Secret()}} {
		if _, err := Open(t.Context(), b, opt); !errors.Is(err, ErrKeyMismatch) {
			t.Errorf("encryption stripped: %v", err)
		}
	}
}

func TestOperators(t *testing.T) {
	ctx := t.Context()
	service, unlocked, d, first := newSealedRepo(t)
	second := identity(t, seal.Hybrid)
	name := second.Recipient().String()
	if err := service.AddOperator(ctx, name); !errors.Is(err, ErrLocked) {
		t.Errorf("add without an identity: %v", err)
	}
	if err := unlocked.AddOperator(ctx, identity(t, seal.Classic).Recipient().String()); !errors.Is(err, seal.ErrKind) {
		t.Errorf("add a classic one: %v", err)
	}
	before := objects(t, d, "")
	if err := unlocked.AddOperator(ctx, name); err != nil {
		t.Fatal(err)
	}
	if added := len(objects(t, d, "")) - len(before); added != 2 {
		t.Errorf("%d objects were added", added)
	}
	if err := unlocked.AddOperator(ctx, name); !errors.Is(err, ErrOperatorExists) {
		t.Errorf("add again: %v", err)
	}
	byNew, err := service.Unlock(ctx, []string{second.Secret()})
	if err != nil {
		t.Fatal(err)
	}
	if err := service.RemoveOperator(ctx, identity(t, seal.Hybrid).Recipient().String()); !errors.Is(err, ErrNoOperator) {
		t.Errorf("remove a stranger: %v", err)
	}
	if err := service.RemoveOperator(ctx, first.Recipient().String()); err != nil {
		t.Fatal(err)
	}
	if _, err := service.Unlock(ctx, []string{first.Secret()}); !errors.Is(err, ErrWrongIdentity) {
		t.Errorf("a removed operator: %v", err)
	}
	if err := byNew.RemoveOperator(ctx, name); !errors.Is(err, ErrLastOperator) {
		t.Errorf("remove the last: %v", err)
	}
	if ops, err := service.Operators(ctx); err != nil || !slices.Equal(ops, []string{name}) {
		t.Errorf("operators %v, %v", ops, err)
	}
	if err := unlocked.AddOperator(ctx, first.Recipient().String()); err != nil {
		t.Errorf("add a removed one: %v", err)
	}
	if _, err := service.Unlock(ctx, []string{first.Secret()}); err != nil {
		t.Errorf("added again: %v", err)
	}
}

func TestKeyObjectsAreChecked(t *testing.T) {
	ctx := t.Context()
	service, unlocked, d, op := newSealedRepo(t)
	_, other, _, _ := newSealedRepo(t)
	foreign, err := other.secret()
	if err != nil {
		t.Fatal(err)
	}
	own := keyPrefix + operatorID(service.marker, op.Recipient()) + sealedSuffix
	swapped, err := seal.To([]byte(foreign.Secret()+"\n"), op.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	d.Corrupt(own, func([]byte) []byte { return swapped })
	if _, err := service.Unlock(ctx, []string{op.Secret()}); !isTyped(err) {
		t.Errorf("the key of another repository: %v", err)
	}
	d.Corrupt(own, func(b []byte) []byte { return b[:len(b)-1] })
	if _, err := service.Unlock(ctx, []string{op.Secret()}); !isTyped(err) {
		t.Errorf("a key cut short: %v", err)
	}
	writer := objects(t, d, writerPrefix)[0]
	d.Corrupt(writer, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	good, err := service.NewWriterKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := unlocked.WriterKeys(ctx)
	if !isTyped(err) || !slices.Equal(keys, []string{good}) {
		t.Errorf("a damaged writer key: %v, %v", keys, err)
	}
}

func TestWriterKeys(t *testing.T) {
	ctx := t.Context()
	service, unlocked, d, _ := newSealedRepo(t)
	if _, err := service.WriterKeys(ctx); !errors.Is(err, ErrLocked) {
		t.Errorf("list without an identity: %v", err)
	}
	keys, err := unlocked.WriterKeys(ctx)
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	again, err := Open(ctx, object.NewBucket(d), OpenOptions{WriterKey: keys[0]})
	if err != nil || !bytes.Equal(again.sealer.MAC("x"), service.sealer.MAC("x")) {
		t.Errorf("the copy is another key: %v", err)
	}
	bare, err := Open(ctx, object.NewBucket(d), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bare.NewWriter(ctx, WriterOptions{Staging: newStaging(t, 1<<20), Task: "b.0001", Target: "default", Stream: "ORDERS"}); !errors.Is(err, ErrNoWriterKey) {
		t.Errorf("store without a writer key: %v", err)
	}
	if _, err := bare.WithWriterKey(identity(t, seal.Classic).Secret()); !errors.Is(err, seal.ErrKind) {
		t.Errorf("a classic writer key: %v", err)
	}

	// With a trust, only what a trusted key signed counts: anybody can seal
	// a writer key of their own.
	us, them := signer(t), signer(t)
	open := func(s *sign.Signer, tr *sign.Trust) *Repository {
		own, err := unlocked.secret()
		if err != nil {
			t.Fatal(err)
		}
		r, err := Open(ctx, object.NewBucket(d), OpenOptions{Signer: s, Trust: tr, Identities: []string{own.Secret()}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	signed, err := open(us, nil).NewWriterKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(them, nil).NewWriterKey(ctx); err != nil {
		t.Fatal(err)
	}
	keys, err = open(nil, trust(t, us)).WriterKeys(ctx)
	if !errors.Is(err, ErrUntrusted) || !slices.Equal(keys, []string{signed}) {
		t.Errorf("trusted keys %v, %v", keys, err)
	}
	if keys, err = open(nil, nil).WriterKeys(ctx); err != nil || len(keys) != 3 {
		t.Errorf("without trust %d keys, %v", len(keys), err)
	}
}

func TestKeysOfPlaintext(t *testing.T) {
	ctx := context.Background()
	r, d := newRepo(t)
	if r.Encrypted() || !r.Readable() {
		t.Error("says it is encrypted")
	}
	if same, err := r.Unlock(ctx, []string{"nonsense"}); err != nil || same != r {
		t.Errorf("unlock: %v", err)
	}
	op := identity(t, seal.Classic)
	for what, err := range map[string]error{
		"operators": func() error { _, err := r.Operators(ctx); return err }(),
		"writers":   func() error { _, err := r.WriterKeys(ctx); return err }(),
		"make":      func() error { _, err := r.NewWriterKey(ctx); return err }(),
		"take":      func() error { _, err := r.WithWriterKey(op.Secret()); return err }(),
		"add":       r.AddOperator(ctx, op.Recipient().String()),
		"remove":    r.RemoveOperator(ctx, op.Recipient().String()),
	} {
		if !errors.Is(err, ErrNotEncrypted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := objects(t, d, keyPrefix); len(n) != 0 {
		t.Errorf("keys %v", n)
	}
}

func TestFormat1IsNotWritten(t *testing.T) {
	r, err := Open(t.Context(), object.NewBucket(golden(t, golden1)), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.NewWriter(t.Context(), WriterOptions{Staging: newStaging(t, 1<<20), Task: "b.0001", Target: "default", Stream: "ORDERS"}); !errors.Is(err, ErrOldFormat) {
		t.Errorf("got %v", err)
	}
}

func TestMarker(t *testing.T) {
	key := identity(t, seal.Hybrid).Recipient().String()
	remake := func(change func(*Marker)) []byte {
		m := newMarker(key)
		change(&m)
		m.Check = m.check()
		return m.encode()
	}
	if m, err := decodeMarker(remake(func(*Marker) {})); err != nil || m.Recipient != key {
		t.Fatalf("%+v, %v", m, err)
	}
	for name, data := range map[string][]byte{
		"no recipient":         remake(func(m *Marker) { m.Recipient = "" }),
		"recipient, no age":    remake(func(m *Marker) { m.Features = []string{} }),
		"age twice":            remake(func(m *Marker) { m.Features = []string{"age", "age"} }),
		"other recipient":      remake(func(m *Marker) { m.Recipient = key[:40] }),
		"recipient as feature": remake(func(m *Marker) { m.Features, m.Recipient = []string{"recipient: " + key}, "" }),
		"format 1 with age":    remake(func(m *Marker) { m.Format = 1 }),
		"unchecked": bytes.Replace(remake(func(*Marker) {}), []byte(key),
			[]byte(identity(t, seal.Hybrid).Recipient().String()), 1),
	} {
		if _, err := decodeMarker(data); !isTyped(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadme(t *testing.T) {
	b := object.NewBucket(mem.New())
	if _, err := Init(t.Context(), b, InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if text, err := b.ReadAll(t.Context(), readmeName, maxReadme); err != nil || string(text) != readme {
		t.Errorf("readme: %v", err)
	}
	foreign := object.NewBucket(mem.New())
	if err := foreign.PutBytes(t.Context(), readmeName, []byte("# My holidays\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), foreign, InitOptions{}); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), readmeName) {
		t.Errorf("somebody else's readme: %v", err)
	}
}

// An AddOperator that broke off between its two objects can be called again,
// and what it leaves is sound.
func TestAddOperatorBrokenOff(t *testing.T) {
	_, unlocked, d, operator := newSealedRepo(t)
	second := identity(t, seal.Hybrid).Recipient().String()
	opt := OpenOptions{Identities: []string{operator.Secret()}}
	f := faulty.New(t, d, faulty.Fault{Op: faulty.Put, Skip: 1})
	broken, err := Open(t.Context(), object.NewBucket(f), opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.AddOperator(t.Context(), second); !errors.Is(err, faulty.ErrInjected) {
		t.Fatal(err)
	}
	rep, err := unlocked.Verify(t.Context(), VerifyOptions{})
	if err != nil || len(rep.Problems) != 1 || !strings.HasSuffix(rep.Problems[0].Object, sealedSuffix) || rep.Problems[0].Problem != "missing" {
		t.Errorf("broken off: %v, %+v", err, rep)
	}
	if err := unlocked.AddOperator(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if rep, err := unlocked.Verify(t.Context(), VerifyOptions{}); err != nil || !rep.OK() {
		t.Errorf("again: %v, %+v", err, rep)
	}
	if err := unlocked.AddOperator(t.Context(), second); !errors.Is(err, ErrOperatorExists) {
		t.Errorf("once more: %v", err)
	}
}
