package store

import (
	"testing"

	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

// FuzzKeyFiles reads whatever whoever can write to a store seals for the
// repository key: it is a writer key in its one form, or refused.
func FuzzKeyFiles(f *testing.F) {
	id, err := seal.Generate(seal.Classic)
	if err != nil {
		f.Fatal(err)
	}
	m := newMarker(id.Recipient().String())
	s, err := seal.New(m.Recipient)
	if err != nil {
		f.Fatal(err)
	}
	r := &Repository{marker: m, sealer: s}
	name := writerPrefix + writerID(id.Recipient()) + sealedSuffix
	good := writerHead + m.ID + "\n" + id.Secret() + "\n" + writerSignature + sign.None + "\n"
	if key, err := parseWriterKey(r, name, good); err != nil || key != id.Secret() {
		f.Fatalf("a good one: %v", err)
	}
	for _, seed := range []string{good, "", good[:40], good + "\n", id.Secret() + "\n", good[len(writerHead):]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseWriterKey(r, name, text); err == nil && text != good {
			t.Errorf("two forms of one key: %q", text)
		}
	})
}
