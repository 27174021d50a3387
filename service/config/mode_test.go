package config

import (
	"io/fs"
	"runtime"
	"strings"
	"testing"
)

// A mode that would shut the service out, let anybody write or have files
// executed is refused, as is one where there are no files.
func TestFileMode(t *testing.T) {
	for text, want := range map[string]fs.FileMode{"": 0, "0600": 0o600, "600": 0o600, "0640": 0o640, "0660": 0o660, "0644": 0o644, "0664": 0o664} {
		r := Repository{Kind: KindLocal, Path: "/x", Mode: text}
		got, err := r.FileMode()
		if runtime.GOOS == "windows" && text != "" {
			if err == nil || !strings.Contains(err.Error(), "mode: ") {
				t.Error(err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %o, %v", text, got, err)
		}
		at, err := ParseLocation("file:///x?mode="+text, func(string) string { return "" })
		if err != nil || at.Mode != text {
			t.Errorf("%q: %q, %v", text, at.Mode, err)
		}
	}
	for _, text := range []string{"0666", "0662", "0700", "0770", "0440", "0060", "2660", "0620", "x", "0888", "-1", "rw-rw----", "99999999999"} {
		r := Repository{Kind: KindLocal, Path: "/x", Mode: text}
		if _, _, err := r.place(); err == nil || !strings.HasPrefix(err.Error(), "mode: ") {
			t.Errorf("%q: %v", text, err)
		}
		if _, err := ParseLocation("file:///x?mode="+text, func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "mode: ") {
			t.Errorf("%q in a URL: %v", text, err)
		}
	}
	r := Repository{Kind: KindS3, Mode: "0660"}
	r.S3.Bucket = "bucket"
	if _, _, err := r.place(); err == nil || !strings.HasPrefix(err.Error(), "mode: ") {
		t.Error("a bucket with a mode:", err)
	}
}

// The field is read from a file. Without quotes it would be a number, and be
// refused.
func TestModeInFile(t *testing.T) {
	read := func(text string) (*File, error) {
		return ReadFile(write(t, t.TempDir(), "x.conf", strings.Replace(minimal, "path:", text+", path:", 1)))
	}
	_, err := read("mode: 0660")
	if err == nil || !strings.Contains(err.Error(), "repositories.r.mode: must be a text; put it in quotes") {
		t.Error(err)
	}
	f, err := read(`mode: "0660"`)
	if runtime.GOOS == "windows" {
		if err == nil || !strings.Contains(err.Error(), "repositories.r.mode: ") {
			t.Error(err)
		}
		return
	}
	if err != nil || f.Config.Repositories[0].Mode != "0660" {
		t.Error(f, err)
	}
}
