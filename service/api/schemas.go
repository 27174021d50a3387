package api

import (
	"embed"
	"fmt"
	"reflect"
)

//go:embed schemas/*.json
var schemaFiles embed.FS

// Schema returns the shipped JSON Schema of a request, answer or event, given
// a zero value of its type.
func Schema(v any) ([]byte, error) {
	b, err := schemaFiles.ReadFile("schemas/" + SchemaFile(v))
	if err != nil {
		return nil, fmt.Errorf("read schema of %s: %w", reflect.TypeOf(v).Name(), err)
	}
	return b, nil
}

// SchemaTypes returns a zero value of every type that has a schema.
func SchemaTypes() []any {
	var out []any
	seen := map[reflect.Type]bool{}
	add := func(v any) {
		if t := reflect.TypeOf(v); !seen[t] {
			seen[t] = true
			out = append(out, v)
		}
	}
	for _, e := range Endpoints() {
		add(e.Request)
		add(e.Response)
	}
	add(ErrorResponse{})
	add(Event{})
	return out
}
