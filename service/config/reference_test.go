package config

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestReference: CONFIG.md has every field, marks every secret, and names
// nothing that is none.
func TestReference(t *testing.T) {
	b, err := os.ReadFile("CONFIG.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	known := map[string]bool{"default": true}
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := confName(f)
			if name == "" {
				walk(f.Type) // embedded, or of a kind of repository
				continue
			}
			known[name] = true
			if !regexp.MustCompile("`[^`\n]*\\b" + name + "\\b[^`\n]*`").MatchString(text) {
				t.Errorf("CONFIG.md lacks %s", name)
			}
			if f.Type == reflect.TypeFor[Secret]() && !strings.Contains(text, "`"+name+"` ●") {
				t.Errorf("CONFIG.md does not mark the secret %s", name)
			}
			walk(f.Type)
		}
	}
	walk(reflect.TypeFor[Config]())
	if len(known) < 80 {
		t.Fatalf("only %d fields were found", len(known))
	}
	for _, line := range strings.Split(text, "\n") {
		cell, ok := strings.CutPrefix(line, "| `")
		if !ok {
			continue
		}
		cell, _, _ = strings.Cut(cell, " | ")
		for _, name := range regexp.MustCompile(`[a-z_]+`).FindAllString(strings.NewReplacer(" or ", " ", " with ", " ", "NAME", "", "VALUE", "").Replace(cell), -1) {
			if !known[name] {
				t.Errorf("CONFIG.md tells of %s, which is no field", name)
			}
		}
	}
}

// TestExamples: the hooks and notifications that documents show are accepted.
func TestExamples(t *testing.T) {
	secret := write(t, t.TempDir(), "chat-url", "https://chat.example.net/secret")
	found := 0
	for _, document := range []string{"CONFIG.md", "../../README.md"} {
		b, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?s)```\n(hooks \\{.*?)```").FindAllStringSubmatch(string(b), -1) {
			found++
			text := minimal + strings.ReplaceAll(m[1], "/etc/jetkeep/chat-url", secret)
			f, err := ReadFile(write(t, t.TempDir(), "x.conf", text))
			if err != nil {
				t.Errorf("%s: %v", document, err)
				continue
			}
			if len(f.Config.Hooks) < 2 || len(f.Config.Notifications) < 1 {
				t.Errorf("%s: %+v", document, f.Config)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d examples were found", found)
	}
}
