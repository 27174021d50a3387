package scheduler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"jetkeep/service/api"
)

// A Merge is what somebody gives of a schedule, by its fields in JSON. What is not
// given stays.
type Merge struct {
	given   map[string]any
	reset   []string
	replace bool
}

// ReadMerge reads the body of a request that was found to be one. A null is not
// given, as in all requests.
func ReadMerge(body []byte, q *api.SchedulePutRequest) (*Merge, error) {
	m := &Merge{given: map[string]any{}, reset: q.Reset, replace: q.Replace}
	if len(bytes.TrimSpace(body)) > 0 {
		var err error
		if m.given, err = fieldsOf(body); err != nil {
			return nil, err
		}
	}
	dropNull(m.given)
	for name := range m.given {
		if !slices.Contains(api.FieldNames(api.Schedule{}), name) {
			delete(m.given, name) // it says how to change, and is no field of a schedule
		}
	}
	for i, path := range m.reset {
		if err := checkReset(path); err != nil {
			return nil, wrong(fmt.Sprintf("reset[%d]", i), "%v", err)
		}
	}
	return m, nil
}

// checkReset refuses what is no field, or is one that nothing can be without.
func checkReset(path string) error {
	top, rest, nested := strings.Cut(path, ".")
	known := func(v any, name string) bool { return slices.Contains(api.FieldNames(v), name) }
	switch {
	case top == "name":
		return fmt.Errorf("a schedule keeps its name")
	case !known(api.Schedule{}, top):
		return fmt.Errorf("%.40q is no field of a schedule", path)
	case !nested:
		return nil
	case top == "keep" && known(api.Keep{}, rest), top == "retry" && known(api.ScheduleRetry{}, rest), top == "tags" && rest != "":
		return nil
	}
	return fmt.Errorf("%.40q is no field of %s", rest, top)
}

// Apply makes of a schedule, nil if there is none, what it is to be. Whether it
// makes sense is for Parse to say.
func (m *Merge) Apply(old *api.Schedule) (*api.Schedule, error) {
	base := map[string]any{}
	var err error
	switch {
	case old == nil:
	case m.replace: // whoever paused it did not do that by what others put
		base["paused"] = old.Paused
	default:
		if base, err = plain(old); err != nil {
			return nil, err
		}
	}
	for _, path := range m.reset {
		unset(base, strings.Split(path, "."))
	}
	merge(base, m.given)
	b, err := json.Marshal(base)
	if err != nil {
		return nil, fmt.Errorf("encode schedule: %w", err)
	}
	v := new(api.Schedule)
	return v, api.Decode(b, v)
}

func unset(in map[string]any, path []string) {
	if len(path) == 1 {
		delete(in, path[0])
		return
	}
	name := strings.Join(path[1:], ".") // a tag's may have dots
	if inner, ok := in[path[0]].(map[string]any); ok {
		delete(inner, name)
		if len(inner) == 0 {
			delete(in, path[0])
		}
	}
}

// merge sets what is given, objects field by field.
func merge(into, given map[string]any) {
	for name, v := range given {
		fresh, isObject := v.(map[string]any)
		there, wasObject := into[name].(map[string]any)
		if isObject && wasObject {
			merge(there, fresh)
			continue
		}
		into[name] = v
	}
}

func dropNull(in map[string]any) {
	for name, v := range in {
		if v == nil {
			delete(in, name)
		}
		if inner, ok := v.(map[string]any); ok {
			dropNull(inner)
		}
	}
}

// plain returns the fields of a schedule that are set.
func plain(v *api.Schedule) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode schedule: %w", err)
	}
	return fieldsOf(b)
}

func fieldsOf(object []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	out := map[string]any{}
	if err := d.Decode(&out); err != nil {
		return nil, fmt.Errorf("decode schedule: %w", err)
	}
	return out, nil
}

// Changes tells what is different between a schedule, nil if there was none, and
// what it became.
func Changes(old, now *api.Schedule) ([]api.ScheduleChange, error) {
	before, after := map[string]string{}, map[string]string{}
	for _, x := range []struct {
		of   *api.Schedule
		into map[string]string
	}{{old, before}, {now, after}} {
		if x.of == nil {
			continue
		}
		fields, err := plain(x.of)
		if err == nil {
			err = flatten(x.into, "", fields)
		}
		if err != nil {
			return nil, err
		}
	}
	both := maps.Clone(before)
	maps.Copy(both, after)
	delete(both, "name")
	out := []api.ScheduleChange{}
	for path := range both {
		if before[path] != after[path] {
			out = append(out, api.ScheduleChange{Field: path, From: before[path], To: after[path]})
		}
	}
	order := api.FieldNames(api.Schedule{})
	place := func(c api.ScheduleChange) int {
		top, _, _ := strings.Cut(c.Field, ".")
		return slices.Index(order, top)
	}
	slices.SortFunc(out, func(a, b api.ScheduleChange) int {
		if d := place(a) - place(b); d != 0 {
			return d
		}
		return strings.Compare(a.Field, b.Field)
	})
	return out, nil
}

// flatten writes each field as text, those of objects by their path.
func flatten(into map[string]string, path string, fields map[string]any) error {
	for name, v := range fields {
		at := name
		if path != "" {
			at = path + "." + name
		}
		switch x := v.(type) {
		case map[string]any:
			if err := flatten(into, at, x); err != nil {
				return err
			}
		case string:
			into[at] = x
		default:
			b, err := json.Marshal(x)
			if err != nil {
				return fmt.Errorf("encode schedule: %w", err)
			}
			into[at] = string(b)
		}
	}
	return nil
}
