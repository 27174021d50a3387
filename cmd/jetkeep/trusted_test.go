package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/local"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/sign"
	"jetkeep/store/staging"
)

// signedPoint makes a repository with a restore point that a new key signed, and
// returns the public key.
func signedPoint(t *testing.T, dir string) string {
	t.Helper()
	seed, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.ParseSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	d, err := local.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := object.NewBucket(d)
	if _, err := store.Init(t.Context(), b, store.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	repo, err := store.Open(t.Context(), b, store.OpenOptions{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	area, err := staging.Open(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer area.Close()
	task := "20260101T000000Z-aaaaaaaa.0001"
	w, err := repo.NewWriter(t.Context(), store.WriterOptions{Staging: area, Task: task, Target: "default", Stream: "S"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(&record.Record{Sequence: 1, Time: 1, Subject: []byte("s"), Data: []byte("one")}); err != nil {
		t.Fatal(err)
	}
	content, err := w.Finish(t.Context(), new(seqset.Set))
	if err != nil {
		t.Fatal(err)
	}
	err = repo.Commit(t.Context(), store.Point{
		ID: task, Task: task, Backup: "20260101T000000Z-aaaaaaaa", Target: "default", Stream: "S", Time: time.Now().UTC(), Config: []byte(`{"name":"S"}`), Content: content,
	})
	if err != nil {
		t.Fatal(err)
	}
	return signer.Public()
}

// Whoever verifies without a service can say whom to trust.
func TestVerifyHereWithTrustedKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repository")
	ours := signedPoint(t, dir)
	another := signedPoint(t, filepath.Join(t.TempDir(), "other"))
	for name, c := range map[string]struct {
		keys []string
		ok   bool
		says string
	}{
		"nobody":       {nil, true, "1 restore point verified"},
		"the signer":   {[]string{ours}, true, "1 restore point verified"},
		"both":         {[]string{another, ours}, true, "1 restore point verified"},
		"another":      {[]string{another}, false, "problem: "},
		"what is none": {[]string{"AAAA"}, false, ""},
	} {
		var out bytes.Buffer
		v := &verify{path: dir, level: "records", trusted: c.keys}
		err := v.run(t.Context(), stdio{out: &out, err: &out})
		if (err == nil) != c.ok || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
	v := &verify{level: "data", trusted: []string{ours}}
	if err := v.run(t.Context(), stdio{}); !errors.As(err, new(*usageError)) {
		t.Errorf("with a service: %v", err)
	}
}
