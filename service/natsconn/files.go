package natsconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// CheckFiles reads the files that the options name, and says of the first that
// cannot be used which field names it. Of a context it is read whether it is
// there; the files that it names are read by Dial.
func (o *Options) CheckFiles() error {
	if o.Context != "" {
		if _, err := o.context(); err != nil {
			return fmt.Errorf("context: %w", err)
		}
	}
	if o.Creds != "" {
		if err := checkCreds(o.Creds); err != nil {
			return fmt.Errorf("creds: %w", err)
		}
	}
	if o.NKeySeedFile != "" {
		if _, err := nats.NkeyOptionFromSeed(o.NKeySeedFile); err != nil {
			return fmt.Errorf("nkey: read seed %s: %w", o.NKeySeedFile, err)
		}
	}
	if o.TLS.CA != "" {
		b, err := os.ReadFile(o.TLS.CA)
		if err != nil {
			return fmt.Errorf("tls.ca: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(b) {
			return fmt.Errorf("tls.ca: %s holds no certificate in PEM", o.TLS.CA)
		}
	}
	if o.TLS.Cert != "" {
		for field, name := range map[string]string{"tls.cert": o.TLS.Cert, "tls.key": o.TLS.Key} {
			if _, err := os.Stat(name); err != nil {
				return fmt.Errorf("%s: %w", field, err)
			}
		}
		if _, err := tls.LoadX509KeyPair(o.TLS.Cert, o.TLS.Key); err != nil {
			return fmt.Errorf("tls.cert: with tls.key: %w", err)
		}
	}
	return nil
}

func checkCreds(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read credentials: %w", err)
	}
	defer clear(b)
	if _, err := nkeys.ParseDecoratedJWT(b); err != nil {
		return fmt.Errorf("%s holds no user's JWT: %w", name, err)
	}
	key, err := nkeys.ParseDecoratedUserNKey(b)
	if err != nil {
		return fmt.Errorf("%s holds no user's seed: %w", name, err)
	}
	key.Wipe()
	return nil
}

// ErrExposed means that every user of the machine may read a secret.
var ErrExposed = errors.New("every user of this machine can read it")

// Exposed returns an error for each file of a secret that others may read. It
// knows nothing of Windows, whose files have no such mode.
func (o *Options) Exposed() []error {
	var out []error
	for _, f := range []struct{ field, name string }{{"creds", o.Creds}, {"nkey", o.NKeySeedFile}, {"tls.key", o.TLS.Key}} {
		if f.name == "" {
			continue
		}
		if err := ExposedFile(f.name); err != nil {
			out = append(out, fmt.Errorf("%s: %w", f.field, err))
		}
	}
	return out
}

// ExposedFile returns an error if others may read a file.
func ExposedFile(name string) error {
	info, err := os.Stat(name)
	if err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&0o007 == 0 {
		return nil //nolint:nilerr // who reads it says so
	}
	return fmt.Errorf("%s has the mode %04o: %w; chmod o= %s", name, info.Mode().Perm(), ErrExposed, name)
}
