package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"filippo.io/age"
)

func mustGenerate(t testing.TB, kind Kind) Identity {
	t.Helper()
	id, err := Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// keys returns sealers of one repository: with no secret, with the writer key,
// with the repository key, with both.
func keys(t testing.TB, kind Kind) (public, writer, reader, both *Sealer) {
	t.Helper()
	r, w := mustGenerate(t, kind), mustGenerate(t, kind)
	public, err := New(r.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	if writer, err = public.WithWriter(w.Secret()); err != nil {
		t.Fatal(err)
	}
	if reader, err = public.WithIdentity(r.Secret()); err != nil {
		t.Fatal(err)
	}
	if both, err = writer.WithIdentity(r.Secret()); err != nil {
		t.Fatal(err)
	}
	return public, writer, reader, both
}

func sealPack(t testing.TB, s *Sealer, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := s.PackWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	for len(plain) > 0 { // in pieces, as a packer writes
		n := min(len(plain), 50_001)
		if _, err := w.Write(plain[:n]); err != nil {
			t.Fatal(err)
		}
		plain = plain[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhoReadsWhat(t *testing.T) {
	for _, kind := range []Kind{Hybrid, Classic} {
		t.Run(string(kind), func(t *testing.T) {
			public, writer, reader, both := keys(t, kind)
			for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
				plain := make([]byte, size)
				rand.Read(plain)
				pack := sealPack(t, public, plain)
				meta, err := writer.SealMeta(plain)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range []struct {
					name       string
					s          *Sealer
					pack, meta error
				}{
					{"public", public, ErrLocked, ErrLocked},
					{"writer", writer, ErrLocked, nil},
					{"reader", reader, nil, nil},
					{"both", both, nil, nil},
				} {
					got, err := c.s.OpenPack(bytes.Clone(pack))
					if !errors.Is(err, c.pack) || err == nil && !bytes.Equal(got, plain) {
						t.Errorf("%s, %d bytes: pack: %v", c.name, size, err)
					}
					got, err = c.s.OpenMeta(bytes.Clone(meta))
					if !errors.Is(err, c.meta) || err == nil && !bytes.Equal(got, plain) {
						t.Errorf("%s, %d bytes: metadata: %v", c.name, size, err)
					}
				}
				if _, err := writer.OpenMeta(bytes.Clone(pack)); !errors.Is(err, ErrWrongIdentity) {
					t.Errorf("the writer key opens packs: %v", err)
				}
			}
			if _, err := public.SealMeta(nil); !errors.Is(err, ErrNoWriterKey) {
				t.Errorf("metadata without a writer key: %v", err)
			}
			if public.Unlocked() || writer.Unlocked() || !reader.Unlocked() || public.CanOpenMeta() || !writer.CanOpenMeta() || reader.HasWriter() || !both.HasWriter() {
				t.Error("sealers say they can do what they cannot")
			}
			if _, err := writer.Secret(); !errors.Is(err, ErrLocked) {
				t.Errorf("secret of a locked sealer: %v", err)
			}
		})
	}
}

// TestStandardFile holds the files to what the age library alone reads.
func TestStandardFile(t *testing.T) {
	public, writer, reader, both := keys(t, Hybrid)
	meta, err := writer.SealMeta([]byte("tables"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := reader.Secret()
	if err != nil {
		t.Fatal(err)
	}
	for stored, want := range map[string]string{
		string(sealPack(t, public, []byte("records"))): "records",
		string(meta): "tables",
	} {
		ids, err := age.ParseIdentities(strings.NewReader(id.Secret() + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := age.Decrypt(strings.NewReader(stored), ids...)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	again, err := both.SealMeta([]byte("tables"))
	if err != nil || bytes.Equal(meta, again) {
		t.Error("sealing twice gives the same")
	}
}

func TestDamage(t *testing.T) {
	_, writer, reader, _ := keys(t, Classic)
	plain := bytes.Repeat([]byte("0123456789abcdef"), 9000) // three chunks
	stored, err := writer.SealMeta(plain)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(stored); at += 1 + at/40 {
		bad := bytes.Clone(stored)
		bad[at] ^= 1 << (at % 8)
		if got, err := reader.OpenMeta(bad); err == nil {
			t.Fatalf("bit of byte %d flipped: %d bytes and no error", at, len(got))
		}
		if got, err := reader.OpenMeta(bytes.Clone(stored[:at])); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d: %d bytes, %v", at, len(got), err)
		}
	}
	if _, err := reader.OpenMeta(append(bytes.Clone(stored), 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
	_, _, stranger, _ := keys(t, Classic)
	if _, err := stranger.OpenMeta(bytes.Clone(stored)); !errors.Is(err, ErrWrongIdentity) {
		t.Errorf("another repository's key: %v", err)
	}
}

func TestKeysThatDoNotFit(t *testing.T) {
	public, _, _, _ := keys(t, Hybrid)
	if _, err := public.WithIdentity(mustGenerate(t, Hybrid).Secret()); !errors.Is(err, ErrWrongIdentity) {
		t.Errorf("another identity: %v", err)
	}
	if _, err := public.WithWriter(mustGenerate(t, Classic).Secret()); !errors.Is(err, ErrKind) {
		t.Errorf("a classic writer key: %v", err)
	}
	id := mustGenerate(t, Classic)
	for _, text := range []string{"", "age1", "age1pq1", "age1pq1qqqq", id.Recipient().String() + "q", strings.ToUpper(id.Recipient().String()),
		" " + id.Recipient().String(), id.Secret(), strings.ToLower(id.Secret()), "ssh-ed25519 AAAA"} {
		_, err := ParseRecipient(text)
		if !errors.Is(err, ErrKey) {
			t.Errorf("recipient %q: %v", text, err)
		}
		if text != "" && len(text) > 20 && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats %q: %v", text, err)
		}
	}
	for _, text := range []string{"", id.Recipient().String(), id.Secret()[:40], id.Secret() + "Q", "AGE-SECRET-KEY-PQ-1QQ"} {
		if _, err := ParseIdentity(text); !errors.Is(err, ErrKey) {
			t.Errorf("identity %q: %v", text, err)
		}
	}
}

func TestFiles(t *testing.T) {
	a, b := mustGenerate(t, Hybrid), mustGenerate(t, Classic)
	ids, err := ParseIdentities("# created: today\n# public key: x\n" + a.Secret() + "\r\n\n  " + b.Secret())
	if err != nil || len(ids) != 2 || ids[1].Secret() != b.Secret() {
		t.Errorf("identities %v, %v", ids, err)
	}
	rs, err := ParseRecipients(a.Recipient().String() + "\n# laptop\n" + b.Recipient().String() + "\n")
	if err != nil || len(rs) != 2 || rs[0].Kind() != Hybrid || rs[1].Kind() != Classic {
		t.Errorf("recipients %v, %v", rs, err)
	}
	if _, err := ParseRecipients("# nobody\n"); !errors.Is(err, ErrKey) {
		t.Errorf("file of nobody: %v", err)
	}
	if _, err := ParseRecipients("\n" + a.Secret()); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a secret among recipients: %v", err)
	}
}

func TestPin(t *testing.T) {
	r := mustGenerate(t, Classic).Recipient()
	other := mustGenerate(t, Classic)
	for _, pin := range []string{r.String(), r.Fingerprint()} {
		if err := CheckPin(pin); err != nil || !r.Matches(pin) || other.Recipient().Matches(pin) {
			t.Errorf("%s: %v", pin, err)
		}
	}
	for _, pin := range []string{"", "sha256:", r.Fingerprint() + "0", strings.ToUpper(r.Fingerprint()), other.Secret()} {
		if err := CheckPin(pin); !errors.Is(err, ErrKey) || r.Matches(pin) {
			t.Errorf("%s: %v", pin, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	id := mustGenerate(t, Classic)
	_, _, _, both := keys(t, Classic)
	secret, err := both.Secret()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "identity", id, "sealer", both)
	wrapped := struct{ inner Identity }{id}
	out := fmt.Sprintf("%v %+v %#v %s %q %v %+v %#v %v %+v %#v", id, id, id, id, id, wrapped, wrapped, wrapped, both, both, both) + log.String()
	for _, s := range []string{id.Secret(), secret.Secret(), "AGE-SECRET"} {
		if strings.Contains(out, s) {
			t.Errorf("prints the secret: %s", out)
		}
	}
	if !strings.Contains(out, id.Recipient().Fingerprint()) {
		t.Errorf("does not say which key: %s", out)
	}
}

func TestMAC(t *testing.T) {
	public, writer, _, _ := keys(t, Classic)
	if public.MAC("a") != nil {
		t.Error("a MAC without a key")
	}
	again, err := public.WithWriter(writer.writer.Secret())
	if err != nil || !bytes.Equal(again.MAC("a", "b"), writer.MAC("a", "b")) {
		t.Error("the same key gives another MAC")
	}
	_, other, _, _ := keys(t, Classic)
	seen := map[string]bool{string(other.MAC("a", "b")): true}
	for _, parts := range [][]string{{"a", "b"}, {"ab"}, {"a", "b", ""}, {"", "a", "b"}, {"b", "a"}, {"a\x01b"}} {
		m := writer.MAC(parts...)
		if len(m) != 32 || seen[string(m)] {
			t.Errorf("%q: the MAC of others", parts)
		}
		seen[string(m)] = true
	}
}

// TestOneRecipient seals for an operator.
func TestOneRecipient(t *testing.T) {
	for _, kind := range []Kind{Hybrid, Classic} {
		op := mustGenerate(t, kind)
		stored, err := To([]byte("repository key"), op.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Open(bytes.Clone(stored), op); err != nil || string(got) != "repository key" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := Open(stored, mustGenerate(t, kind)); !errors.Is(err, ErrWrongIdentity) {
			t.Errorf("another operator: %v", err)
		}
	}
}

func BenchmarkOpenPack(b *testing.B) {
	_, _, _, both := keys(b, Hybrid)
	pack := sealPack(b, both, make([]byte, 16<<20))
	buf := make([]byte, len(pack))
	b.SetBytes(int64(len(pack)))
	for b.Loop() {
		copy(buf, pack)
		if _, err := both.OpenPack(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealMeta(b *testing.B) {
	for _, kind := range []Kind{Hybrid, Classic} {
		b.Run(string(kind), func(b *testing.B) {
			_, _, _, both := keys(b, kind)
			for b.Loop() {
				if _, err := both.SealMeta(make([]byte, 1000)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzKeys looks for a second spelling of a key that is accepted.
func FuzzKeys(f *testing.F) {
	for _, kind := range []Kind{Hybrid, Classic} {
		id := mustGenerate(f, kind)
		f.Add(id.Secret())
		f.Add(id.Recipient().String())
		f.Add(strings.ToUpper(id.Recipient().String()))
		f.Add(strings.ToLower(id.Secret()))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := ParseRecipient(text); err == nil && r.String() != text {
			t.Errorf("recipient %q was read as %q", text, r)
		}
		if id, err := ParseIdentity(text); err == nil && id.Secret() != text {
			t.Errorf("a secret key was read as another")
		}
	})
}
