package api

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

var timeType = reflect.TypeFor[time.Time]()

func indirect(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// fieldTypes returns the fields of a struct by their names in JSON, those of
// embedded structs included; nil if t is no struct.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	if t == nil {
		return nil
	}
	t = indirect(t)
	if t.Kind() != reflect.Struct || t == timeType {
		return nil
	}
	out := map[string]reflect.Type{}
	for _, f := range jsonFields(t) {
		out[f.name] = f.typ
	}
	return out
}

type jsonField struct {
	name     string
	typ      reflect.Type
	doc      string
	optional bool
}

// jsonFields returns the fields in the order of the type.
func jsonFields(t reflect.Type) []jsonField {
	var out []jsonField
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			out = append(out, jsonFields(indirect(f.Type))...)
		case name == "" || name == "-":
		default:
			out = append(out, jsonField{name, f.Type, f.Tag.Get("doc"), strings.Contains(options, "omitempty")})
		}
	}
	return out
}

func sortedNames(fields map[string]reflect.Type) []string {
	return slices.Sorted(maps.Keys(fields))
}

// SchemaID returns the id of the schema of a request, answer or event, given
// a zero value of its type.
func SchemaID(v any) string {
	return "urn:jetkeep:schema:v1:" + schemaName(reflect.TypeOf(v))
}

// SchemaFile returns the name of the file that holds the schema.
func SchemaFile(v any) string { return schemaName(reflect.TypeOf(v)) + ".json" }

// schemaName makes backup_create_request of BackupCreateRequest.
func schemaName(t reflect.Type) string {
	var b strings.Builder
	for i, r := range t.Name() {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// GenerateSchema makes the JSON Schema (2020-12) of a type from a zero value.
// Requests are closed: what a schema does not name is refused. Answers and
// events are open, so that fields can be added.
func GenerateSchema(v any) ([]byte, error) {
	t := reflect.TypeOf(v)
	g := &generator{closed: strings.HasSuffix(t.Name(), "Request"), defs: map[string]any{}}
	s := g.object(t)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = SchemaID(v)
	if len(g.defs) > 0 {
		s["$defs"] = g.defs
	}
	out, err := json.MarshalIndent(s, "", "  ")
	return append(out, '\n'), err
}

type generator struct {
	closed bool
	defs   map[string]any
}

func (g *generator) object(t reflect.Type) map[string]any {
	props := map[string]any{}
	required := []string{}
	for _, f := range jsonFields(t) {
		p := g.schema(f.typ)
		if f.doc != "" {
			p["description"] = f.doc
		}
		if f.name == "limit" {
			p["minimum"], p["maximum"] = 0, MaxLimit
		}
		props[f.name] = p
		if !f.optional {
			required = append(required, f.name)
		}
	}
	s := map[string]any{"type": "object", "title": t.Name(), "properties": props}
	if len(required) > 0 {
		s["required"] = required
	}
	if g.closed {
		s["additionalProperties"] = false
	}
	return s
}

func (g *generator) schema(t reflect.Type) map[string]any {
	t = indirect(t)
	if values := enum(t); values != nil {
		return map[string]any{"type": "string", "enum": values}
	}
	switch {
	case t == timeType:
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Struct:
		name := schemaName(t)
		if _, ok := g.defs[name]; !ok {
			g.defs[name] = nil // ends recursion
			g.defs[name] = g.object(t)
		}
		return map[string]any{"$ref": "#/$defs/" + name}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": g.schema(t.Elem())}
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.schema(t.Elem())}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.String:
		return map[string]any{"type": "string"}
	case t.Kind() == reflect.Float64:
		return map[string]any{"type": "number"}
	case t.Kind() == reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	}
	return map[string]any{"type": "integer"}
}

// enum returns the values of the string types that have a fixed set of them.
func enum(t reflect.Type) any {
	switch t {
	case reflect.TypeFor[Kind]():
		return Kinds()
	case reflect.TypeFor[State]():
		return States()
	case reflect.TypeFor[Level]():
		return Levels()
	case reflect.TypeFor[EventName]():
		return EventNames()
	case reflect.TypeFor[ErrCode]():
		codes := []ErrCode{}
		for _, e := range ErrorTable() {
			codes = append(codes, e.ErrCode)
		}
		return codes
	}
	return nil
}

// FieldNames returns the names of a type's fields as they are in JSON, given a
// zero value of it.
func FieldNames(v any) []string {
	var out []string
	for _, f := range jsonFields(reflect.TypeOf(v)) {
		out = append(out, f.name)
	}
	return out
}
