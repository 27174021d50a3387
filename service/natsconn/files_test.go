package natsconn_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
)

// TestFiles: each file that cannot be used is refused with its field, by the check
// and by Dial, and none that can.
func TestFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	ca, cert, key := natstest.Certificates(t, dir)
	_, _, other := natstest.Certificates(t, t.TempDir())
	user := must(nkeys.CreateUser())(t)
	seed, public := must(user.Seed())(t), must(user.PublicKey())(t)
	account := must(nkeys.CreateAccount())(t)
	token := must(jwt.NewUserClaims(public).Encode(account))(t)
	whole := file("whole.creds", string(must(jwt.FormatUserConfig(token, seed))(t)))
	none, empty := filepath.Join(dir, "none"), file("empty", "")
	for name, tc := range map[string]struct {
		o    natsconn.Options
		want string // what the error begins with
	}{
		"no creds":              {natsconn.Options{Creds: none}, "creds: read credentials: "},
		"empty creds":           {natsconn.Options{Creds: empty}, "creds: " + empty + " holds no user's "},
		"creds without seed":    {natsconn.Options{Creds: file("jwt", token)}, "creds: " + filepath.Join(dir, "jwt") + " holds no user's seed"},
		"creds":                 {natsconn.Options{Creds: whole}, ""},
		"no nkey":               {natsconn.Options{NKeySeedFile: none}, "nkey: "},
		"nkey of an account":    {natsconn.Options{NKeySeedFile: file("a.nk", string(must(account.Seed())(t)))}, "nkey: "},
		"nkey":                  {natsconn.Options{NKeySeedFile: file("u.nk", string(seed))}, ""},
		"no ca":                 {natsconn.Options{TLS: natsconn.TLS{CA: none}}, "tls.ca: "},
		"ca without one":        {natsconn.Options{TLS: natsconn.TLS{CA: empty}}, "tls.ca: " + empty + " holds no certificate"},
		"ca":                    {natsconn.Options{TLS: natsconn.TLS{CA: ca}}, ""},
		"no cert":               {natsconn.Options{TLS: natsconn.TLS{Cert: none, Key: key}}, "tls.cert: "},
		"no key":                {natsconn.Options{TLS: natsconn.TLS{Cert: cert, Key: none}}, "tls.key: "},
		"key of another":        {natsconn.Options{TLS: natsconn.TLS{Cert: cert, Key: other}}, "tls.cert: with tls.key: "},
		"certificate with key":  {natsconn.Options{TLS: natsconn.TLS{Cert: cert, Key: key}}, ""},
		"nothing to be checked": {natsconn.Options{URL: "nats://127.0.0.1:1"}, ""},
	} {
		err := tc.o.CheckFiles()
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %s", name, err, tc.want)
		}
		if c, derr := natsconn.Dial(t.Context(), tc.o); derr == nil || err != nil && derr.Error() != err.Error() {
			t.Errorf("%s: Dial says %v, the check %v", name, derr, err)
			if derr == nil {
				c.Close()
			}
		}
	}
}

// TestExposed: secrets are those that others can read, and no other files.
func TestExposed(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[string]natsconn.Options{
		"creds": {Creds: name}, "nkey": {NKeySeedFile: name}, "tls.key": {TLS: natsconn.TLS{Cert: name, Key: name}},
	}
	for mode, exposed := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o602: true} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		for field, o := range all {
			errs := o.Exposed()
			if len(errs) > 0 != exposed {
				t.Errorf("%s with mode %04o: %v", field, mode, errs)
			}
			if exposed && (!errors.Is(errs[0], natsconn.ErrExposed) || !strings.HasPrefix(errs[0].Error(), field+": ")) {
				t.Errorf("%s with mode %04o: %v", field, mode, errs)
			}
		}
	}
	ca := natsconn.Options{TLS: natsconn.TLS{CA: name}}
	if errs := ca.Exposed(); len(errs) > 0 {
		t.Errorf("a certificate is no secret: %v", errs)
	}
}
