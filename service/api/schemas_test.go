package api

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the schemas anew")

// TestSchemasCurrent compares the shipped schemas with the types.
// go test ./service/api -update writes them anew.
func TestSchemasCurrent(t *testing.T) {
	want := map[string]bool{}
	for _, v := range SchemaTypes() {
		s, err := GenerateSchema(v)
		if err != nil {
			t.Fatal(err)
		}
		want[SchemaFile(v)] = true
		if *update {
			if err := os.WriteFile(filepath.Join("schemas", SchemaFile(v)), s, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		shipped, err := Schema(v)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(shipped, s) {
			t.Errorf("%s is out of date, run go test ./service/api -update", SchemaFile(v))
		}
	}
	files, err := filepath.Glob("schemas/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !want[filepath.Base(f)] {
			t.Errorf("%s is of no type", f)
		}
	}
}
