package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
)

// maxDepth bounds how deep a body is nested; no request needs more than 3.
const maxDepth = 16

// Decode reads a request's body into v, a pointer to its type, and validates
// it. Every error is an *Error. A body of white space only is an empty request.
func Decode(body []byte, v any) error {
	if len(body) > MaxBody {
		return Errorf(CodeBodyTooLarge, "the body has %d bytes, at most %d are accepted", len(body), MaxBody)
	}
	if len(bytes.TrimSpace(body)) > 0 {
		if err := checkShape(body, reflect.TypeOf(v).Elem()); err != nil {
			return err
		}
		if err := json.Unmarshal(body, v); err != nil {
			return decodeError(err)
		}
	}
	if r, ok := v.(interface{ Validate() error }); ok {
		return r.Validate()
	}
	return nil
}

func decodeError(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return Errorf(CodeInvalidRequest, "field %s: a JSON %s does not fit", wrong.Field, wrong.Value).WithField(wrong.Field)
	}
	return Errorf(CodeInvalidJSON, "the body is not valid JSON: %v", err)
}

// checkShape walks the body along the type. encoding/json alone would take
// names in any case, the last of two equal names, and would not say where an
// unknown one is.
func checkShape(body []byte, t reflect.Type) error {
	w := &walker{dec: json.NewDecoder(bytes.NewReader(body))}
	w.dec.UseNumber()
	tok, err := w.dec.Token()
	if err != nil {
		return notJSON(err)
	}
	if tok != json.Delim('{') {
		return Errorf(CodeInvalidJSON, "the body is a JSON value, but not an object")
	}
	if err := w.object(t, "", 1); err != nil {
		return err
	}
	if _, err := w.dec.Token(); !errors.Is(err, io.EOF) {
		return Errorf(CodeInvalidJSON, "something follows the JSON object")
	}
	return nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Errorf(CodeInvalidJSON, "the body ends in the middle of the JSON object")
	}
	return Errorf(CodeInvalidJSON, "the body is not valid JSON: %v", err)
}

type walker struct{ dec *json.Decoder }

// value consumes one value of type t, or of any type if t is nil.
func (w *walker) value(t reflect.Type, path string, depth int) error {
	tok, err := w.dec.Token()
	if err != nil {
		return notJSON(err)
	}
	if depth > maxDepth {
		return Errorf(CodeInvalidJSON, "field %s is nested deeper than %d levels", path, maxDepth)
	}
	switch tok {
	case json.Delim('{'):
		return w.object(t, path, depth)
	case json.Delim('['):
		return w.array(t, path, depth)
	}
	if text, ok := tok.(string); ok && t != nil && indirect(t) == reflect.TypeFor[time.Time]() {
		if new(time.Time).UnmarshalText([]byte(text)) != nil { // encoding/json does not say where
			return Errorf(CodeInvalidRequest, "field %s: %q is no RFC 3339 time such as 2026-01-02T15:04:05Z", path, clip(text)).WithField(path)
		}
	}
	return nil
}

func (w *walker) object(t reflect.Type, path string, depth int) error {
	fields := fieldTypes(t)
	seen := map[string]bool{}
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return notJSON(err)
		}
		name, _ := tok.(string)
		at := join(path, name)
		if seen[name] {
			return Errorf(CodeInvalidRequest, "field %s is given twice", clip(at)).WithField(clip(at))
		}
		seen[name] = true
		var ft reflect.Type
		if fields != nil {
			var ok bool
			if ft, ok = fields[name]; !ok {
				return unknown(at, fields)
			}
		}
		if err := w.value(ft, at, depth+1); err != nil {
			return err
		}
	}
	if _, err := w.dec.Token(); err != nil {
		return notJSON(err)
	}
	return nil
}

func (w *walker) array(t reflect.Type, path string, depth int) error {
	var et reflect.Type
	if t != nil && indirect(t).Kind() == reflect.Slice {
		et = indirect(t).Elem()
	}
	for i := 0; w.dec.More(); i++ {
		if err := w.value(et, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return err
		}
	}
	if _, err := w.dec.Token(); err != nil {
		return notJSON(err)
	}
	return nil
}

func unknown(at string, fields map[string]reflect.Type) error {
	e := Errorf(CodeUnknownField, "unknown field %q", clip(at)).WithField(clip(at))
	if i := strings.LastIndexByte(at, '.'); i >= 0 {
		at = at[i+1:]
	}
	for name := range fields {
		if strings.EqualFold(name, at) {
			return e.WithHint("The field is called %q.", name)
		}
	}
	if len(fields) == 0 {
		return e.WithHint("This request has no fields.")
	}
	return e.WithHint("Its fields are %s.", strings.Join(sortedNames(fields), ", "))
}

// clip bounds what an answer repeats of the request.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
