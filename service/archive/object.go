package archive

import (
	"bytes"
	"encoding/json"
	"io"
)

// A field is a member of a JSON object, its value as it was written.
type field struct {
	key string
	raw json.RawMessage
}

// An object is a JSON object that keeps what it does not know: the order of its
// members, their numbers, and names that came twice.
type object []field

func parseObject(b []byte) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, corrupt("metadata is no JSON object")
	}
	o := object{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, corrupt("metadata: %v", err)
		}
		key, ok := t.(string)
		if !ok {
			return nil, corrupt("metadata: %v is no name", t)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, corrupt("metadata: %v", err)
		}
		o = append(o, field{key, raw})
	}
	if _, err := dec.Token(); err != nil {
		return nil, corrupt("metadata: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, corrupt("data after the metadata")
	}
	return o, nil
}

// get decodes the last member of exactly that name, if there is one.
func (o object) get(key string, into any) (bool, error) {
	for i := len(o) - 1; i >= 0; i-- {
		if o[i].key == key {
			if err := json.Unmarshal(o[i].raw, into); err != nil {
				return false, corrupt("metadata field %s: %v", key, err)
			}
			return true, nil
		}
	}
	return false, nil
}

// without returns the object less the members of that name.
func (o object) without(key string) object {
	out := make(object, 0, len(o))
	for _, f := range o {
		if f.key != key {
			out = append(out, f)
		}
	}
	return out
}

// with returns the object with the first member of that name replaced and the
// others gone, or with a new first member.
func (o object) with(key string, value any) (object, error) {
	raw, err := encodeJSON(value)
	if err != nil {
		return nil, err
	}
	out := make(object, 0, len(o)+1)
	done := false
	for _, f := range o {
		switch {
		case f.key != key:
			out = append(out, f)
		case !done:
			out, done = append(out, field{key, raw}), true
		}
	}
	if !done {
		out = append(object{{key, raw}}, out...)
	}
	return out, nil
}

func (o object) encode() (json.RawMessage, error) {
	b := []byte{'{'}
	for i, f := range o {
		if i > 0 {
			b = append(b, ',')
		}
		key, err := encodeJSON(f.key)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, key...), ':'), f.raw...)
	}
	return append(b, '}'), nil
}

// encodeJSON is json.Marshal without the escapes that are meant for HTML.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
