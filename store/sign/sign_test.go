package sign

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

func mustSigner(t *testing.T) *Signer {
	t.Helper()
	seed, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSeed(seed + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v %s", s, s, s, s), seed) {
		t.Fatal("the signer prints its seed")
	}
	return s
}

func mustSign(t *testing.T, s *Signer, head string) string {
	t.Helper()
	sig, err := s.Sign([]byte(head))
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestTrust(t *testing.T) {
	a, b, stranger := mustSigner(t), mustSigner(t), mustSigner(t)
	trust, err := NewTrust([]string{a.Public(), b.Public()})
	if err != nil {
		t.Fatal(err)
	}
	const head = "jetkeep-commit 2\nchain: 1\n"
	for _, c := range []struct {
		name, head, signature string
		trusted, anybody      error
	}{
		{"a", head, mustSign(t, a, head), nil, nil},
		{"b", head, mustSign(t, b, head), nil, nil},
		{"nobody", head, mustSign(t, nil, head), ErrUnsigned, nil},
		{"stranger", head, mustSign(t, stranger, head), ErrUntrusted, nil},
		{"other bytes", head + "x", mustSign(t, a, head), ErrBadSignature, ErrBadSignature},
		{"other name", head, "nkey " + b.Public() + mustSign(t, a, head)[5+56:], ErrBadSignature, ErrBadSignature},
		{"empty", head, "", ErrBadSignature, ErrBadSignature},
		{"other scheme", head, "gpg" + mustSign(t, a, head)[4:], ErrBadSignature, ErrBadSignature},
	} {
		if err := trust.Check([]byte(c.head), c.signature); !errors.Is(err, c.trusted) || (err == nil) != (c.trusted == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.trusted)
		} else if err != nil && !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: %v is not ErrUntrusted", c.name, err)
		}
		var nobody *Trust
		if err := nobody.Check([]byte(c.head), c.signature); !errors.Is(err, c.anybody) || (err == nil) != (c.anybody == nil) {
			t.Errorf("%s, without trust: %v, want %v", c.name, err, c.anybody)
		}
	}
	if SignedBy(mustSign(t, a, head)) != a.Public() || SignedBy(None) != "" {
		t.Error("names another signer")
	}
}

// TestOneSpelling alters every character of a signature in every way.
func TestOneSpelling(t *testing.T) {
	a := mustSigner(t)
	trust, err := NewTrust([]string{a.Public()})
	if err != nil {
		t.Fatal(err)
	}
	good := mustSign(t, a, "head")
	for i := range good {
		for c := range 256 {
			if byte(c) == good[i] {
				continue
			}
			bad := good[:i] + string([]byte{byte(c)}) + good[i+1:]
			if err := trust.Check([]byte("head"), bad); err == nil {
				t.Fatalf("accepted %q for %q", bad, good)
			}
		}
		for _, more := range []string{"\n", "\r", " ", "="} {
			if err := trust.Check([]byte("head"), good[:i]+more+good[i:]); err == nil {
				t.Fatalf("accepted %q at %d", more, i)
			}
		}
	}
	if err := trust.Check([]byte("head"), good+"\n"); err == nil {
		t.Error("accepted a line break at the end")
	}
}

func TestKeys(t *testing.T) {
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	curveSeed, _ := curve.Seed()
	curvePublic, _ := curve.PublicKey()
	seed, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	a := mustSigner(t)
	for _, s := range []string{"", "SUA", a.Public(), string(curveSeed), seed[:40]} {
		if _, err := ParseSeed(s); !errors.Is(err, ErrKey) {
			t.Errorf("seed %q: %v", s, err)
		}
	}
	for _, s := range [][]string{nil, {""}, {a.Public(), seed}, {curvePublic}, {a.Public() + "\n"}, {strings.ToLower(a.Public())}} {
		_, err := NewTrust(s)
		if !errors.Is(err, ErrKey) {
			t.Errorf("trust in %q: %v", s, err)
		}
		if err != nil && strings.Contains(err.Error(), seed) {
			t.Errorf("the error repeats the seed: %v", err)
		}
	}
	for _, make := range []func() (nkeys.KeyPair, error){nkeys.CreateUser, nkeys.CreateAccount, nkeys.CreateOperator, nkeys.CreateServer} {
		key, err := make()
		if err != nil {
			t.Fatal(err)
		}
		s, _ := key.Seed()
		if _, err := ParseSeed(string(s)); err != nil {
			t.Error(err)
		}
	}
}

// FuzzCheck looks for a second spelling of a signature that is accepted.
func FuzzCheck(f *testing.F) {
	s, err := ParseSeed("SAAGBQ3LP4RJNKSLQSJ7CBANTLMNROGP7VHFU2H5V73MYKKZTY56BFIUNE")
	if err != nil {
		f.Fatal(err)
	}
	good, err := s.Sign([]byte("head"))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, None, "", "nkey ", good[:100], good + "="} {
		f.Add(seed)
	}
	trust, err := NewTrust([]string{s.Public()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, signature string) {
		if trust.Check([]byte("head"), signature) == nil && signature != good {
			t.Errorf("accepted %q as well as %q", signature, good)
		}
	})
}
