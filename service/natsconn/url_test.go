package natsconn_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"jetkeep/service/natsconn"
)

// An address that cannot be read may hold a password, and no error shows it.
func TestMalformedURLShowsNoSecret(t *testing.T) {
	t.Parallel()
	context := filepath.Join(t.TempDir(), "c.json")
	if err := os.WriteFile(context, []byte(`{"url":"nats://user:pass#secret@host:4222"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []natsconn.Options{
		{URL: "nats://user:se%zzcret@host:4222"}, {URL: "nats://user:pass#secret@host:4222"}, {URL: "user:pass secret@host"},
		{URL: "nats://fine:4222, nats://user:pass/secret@host"}, {URL: "nats://user:secret@host:99999"}, {URL: "http://user:secret@127.0.0.1:1"}, {Context: context},
	} {
		_, err := natsconn.Dial(t.Context(), o)
		if err == nil {
			t.Errorf("%s: connected", o.URL)
			continue
		}
		t.Log(err)
		for _, secret := range []string{"secret", "cret@", "pass", "zz"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", o.URL, err)
			}
		}
	}
}

// A comma too many does no harm, as everywhere else.
func TestEmptyAddresses(t *testing.T) {
	t.Parallel()
	for _, urls := range []string{"", "nats://a:4222,", "a, ,b", " "} {
		if err := (&natsconn.Options{URL: urls}).Validate(); err != nil {
			t.Errorf("%q: %v", urls, err)
		}
	}
}
