package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"jetkeep/service/natsconn"
)

// maxSecretFile bounds a file that holds a secret.
const maxSecretFile = 64 << 10

// place is where something stands in a file.
type place struct {
	file string
	line int
	pos  int
}

// A node is a value of a file.
type node struct {
	value any
	at    place
	// used says that a variable took the value from here.
	used bool
}

type child struct {
	name string
	node
}

// token is what the parser wraps values in.
type token interface {
	Value() any
	Line() int
	Position() int
	SourceFile() string
	IsUsedVariable() bool
}

// open unwraps a value. What came from the environment is not wrapped and
// stands where its parent does.
func open(v any, parent place) node {
	t, ok := v.(token)
	if !ok {
		return node{value: v, at: parent}
	}
	n := node{value: t.Value(), at: place{t.SourceFile(), t.Line(), t.Position()}, used: t.IsUsedVariable()}
	if n.at.file == "" {
		n.at.file = parent.file
	}
	return n
}

// A decoder fills in a configuration and collects what is wrong.
type decoder struct {
	main string
	file *File
	env  map[string][]byte // text of the files
	errs []*FieldError
}

func (d *decoder) fail(at place, field string, err error) {
	d.errs = append(d.errs, &FieldError{File: at.file, Line: at.line, Field: field, Err: err})
}

// children returns a block's fields in the order of the file.
func (d *decoder) children(n node, path string) []child {
	m, ok := n.value.(map[string]any)
	if !ok {
		d.fail(n.at, path, errors.New("must be a block { … }"))
		return nil
	}
	var out []child
	for name, v := range m {
		c := child{name, open(v, n.at)}
		d.remember(c.at.file)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b child) int {
		mine := func(c child) int { // the main file comes before what it includes
			if c.at.file == d.main {
				return 0
			}
			return 1
		}
		return cmp.Or(mine(a)-mine(b), strings.Compare(a.at.file, b.at.file), a.at.line-b.at.line, a.at.pos-b.at.pos, strings.Compare(a.name, b.name))
	})
	return out
}

// isVariable says whether a field stands there only to be referred to.
func (d *decoder) isVariable(n node) bool {
	_, isBlock := n.value.(map[string]any)
	return n.used && !isBlock
}

// block fills structs with a block's fields. shown is the path for people, at
// that of validation; special reads fields that need more.
func (d *decoder) block(n node, shown, at string, special map[string]func(node), into ...any) {
	fields := map[string]reflect.Value{}
	for _, target := range into {
		for name, f := range fieldsOf(target) {
			fields[name] = f
		}
	}
	seen := map[string]bool{}
	for _, c := range d.children(n, shown) {
		path := dotted(shown, c.name)
		d.file.lines[dotted(at, c.name)] = c.at
		if read := special[c.name]; read != nil {
			read(c.node)
			continue
		}
		f, ok := fields[c.name]
		base, isFile := strings.CutSuffix(c.name, "_file")
		if s, there := fields[base]; !ok && isFile && there && s.Type() == reflect.TypeFor[Secret]() {
			if seen[base] {
				d.fail(c.at, path, fmt.Errorf("%s is given as well", base))
				continue
			}
			d.secretFile(c.node, path, s)
			seen[base] = true
			continue
		}
		if !ok {
			if !c.used {
				d.fail(c.at, path, unknown(c.name, fields))
			}
			continue
		}
		if seen[c.name] {
			d.fail(c.at, path, fmt.Errorf("%s_file is given as well", c.name))
			continue
		}
		seen[c.name] = true
		d.set(c.node, path, dotted(at, c.name), f)
	}
}

func dotted(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fieldsOf returns the fields of a struct by their names in a file.
func fieldsOf(target any) map[string]reflect.Value {
	out := map[string]reflect.Value{}
	v := reflect.ValueOf(target).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			for name, inner := range fieldsOf(v.Field(i).Addr().Interface()) {
				out[name] = inner
			}
			continue
		}
		if name := confName(f); name != "" {
			out[name] = v.Field(i)
		}
	}
	return out
}

// confName is what a field is called in a file: its tag conf, else that of
// JSON; empty if it is none of a file's.
func confName(f reflect.StructField) string {
	name, ok := f.Tag.Lookup("conf")
	if !ok {
		name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	}
	if name == "-" {
		return ""
	}
	return name
}

func (d *decoder) secretFile(n node, path string, into reflect.Value) {
	file, ok := n.value.(string)
	if !ok {
		d.fail(n.at, path, errors.New("must be the name of a file, in quotes"))
		return
	}
	secret, err := readSecret(file)
	if err != nil {
		d.fail(n.at, path, err)
		return
	}
	if err := natsconn.ExposedFile(file); err != nil {
		d.file.exposed = append(d.file.exposed, &FieldError{File: n.at.file, Line: n.at.line, Field: path, Err: err})
	}
	into.SetString(secret)
}

// readSecret reads a file that holds a secret and nothing else; a newline at
// its end does not count.
func readSecret(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, withoutPath(err))
	}
	if info.Size() > maxSecretFile {
		return "", fmt.Errorf("read %s: it is too large for a secret", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, withoutPath(err))
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("read %s: it is empty", file)
	}
	return secret, nil
}

// set sets a field. Errors do not show the value.
func (d *decoder) set(n node, path, at string, f reflect.Value) {
	var err error
	switch f.Interface().(type) {
	case Secret:
		s, ok := n.value.(string)
		if !ok {
			err = errors.New("must be a text; put it in quotes")
		}
		f.SetString(s)
	case time.Duration:
		s, _ := n.value.(string)
		v, perr := time.ParseDuration(s)
		if perr != nil || v < 0 {
			err = errors.New(`must be a duration in quotes, such as "20s" or "10m"`)
		}
		f.SetInt(int64(v))
	case Prune:
		on, isBool := n.value.(bool)
		_, isBlock := n.value.(map[string]any)
		switch {
		case isBool:
			f.Set(reflect.ValueOf(Prune{Off: !on}))
		case isBlock:
			err = d.setKind(n, path, at, f)
		default:
			err = errors.New("must be a block { cron, zone }, or off")
		}
	default:
		err = d.setKind(n, path, at, f)
	}
	if err != nil {
		d.fail(n.at, path, err)
	}
}

func (d *decoder) setKind(n node, path, at string, f reflect.Value) error {
	switch f.Kind() {
	case reflect.String:
		s, ok := n.value.(string)
		if list, isList := n.value.([]any); isList && listed(path) {
			var parts []string
			for _, v := range list {
				part, isText := open(v, n.at).value.(string)
				ok = isText && (ok || len(parts) == 0)
				parts = append(parts, part)
			}
			s = strings.Join(parts, ",")
		}
		if yes, isBool := n.value.(bool); isBool && strings.HasSuffix(path, ".conditional_writes") {
			s, ok = map[bool]string{true: "yes", false: "no"}[yes], true
		}
		if !ok {
			return errors.New("must be a text; put it in quotes")
		}
		f.SetString(s)
	case reflect.Bool:
		v, ok := n.value.(bool)
		if !ok {
			return errors.New("must be true or false")
		}
		f.SetBool(v)
	case reflect.Int, reflect.Int64:
		v, ok := n.value.(int64)
		if !ok || f.OverflowInt(v) {
			return errors.New("must be a whole number, without quotes; k, M, G or KB, MB, GB may follow it")
		}
		f.SetInt(v)
	case reflect.Pointer:
		p := reflect.New(f.Type().Elem())
		f.Set(p)
		d.set(n, path, at, p.Elem())
	case reflect.Struct:
		d.block(n, path, at, nil, f.Addr().Interface())
	case reflect.Slice:
		return d.setList(n, path, f)
	case reflect.Map:
		return d.setMap(n, path, f)
	default:
		return fmt.Errorf("cannot be set by a file (%s)", f.Type())
	}
	return nil
}

// listed says whether a text may be given as a list.
func listed(path string) bool { return strings.HasSuffix(path, ".url") }

// setList sets a list of texts; one alone needs no brackets.
func (d *decoder) setList(n node, path string, f reflect.Value) error {
	list, ok := n.value.([]any)
	if !ok {
		list = []any{n.value}
	}
	out := []string{}
	for _, v := range list {
		s, ok := open(v, n.at).value.(string)
		if !ok {
			return errors.New("must be a list of texts [ … ]")
		}
		out = append(out, s)
	}
	f.Set(reflect.ValueOf(out))
	return nil
}

func (d *decoder) setMap(n node, path string, f reflect.Value) error {
	out := reflect.MakeMap(f.Type())
	for _, c := range d.children(n, path) {
		switch v := c.value.(type) {
		case string, int64, bool:
			out.SetMapIndex(reflect.ValueOf(c.name), reflect.ValueOf(fmt.Sprint(v)).Convert(f.Type().Elem()))
		default:
			return fmt.Errorf("%s: must be a text; put it in quotes", c.name)
		}
	}
	f.Set(out)
	return nil
}

// unknown says what may have been meant by a field that does not exist.
func unknown(name string, fields map[string]reflect.Value) error {
	if near := nearest(name, fields); near != "" {
		return fmt.Errorf("%w, did you mean %s?", ErrUnknownField, near)
	}
	if kind := kindOf(name); kind != "" {
		return fmt.Errorf("%w, repositories of kind %s have it", ErrUnknownField, kind)
	}
	return fmt.Errorf("%w, there are %s", ErrUnknownField, strings.Join(sortedNames(fields), ", "))
}

func sortedNames(fields map[string]reflect.Value) []string {
	var out []string
	for name := range fields {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// nearest returns the field whose name is likest, empty if none is like it.
func nearest(name string, fields map[string]reflect.Value) string {
	best, at := "", 1+max(1, len(name)/3)
	plain := strings.ToLower(strings.NewReplacer("-", "_", ".", "_").Replace(name))
	for _, known := range sortedNames(fields) {
		n := min(distance(plain, known), distance(strings.ReplaceAll(plain, "_", ""), strings.ReplaceAll(known, "_", "")))
		if n < at {
			best, at = known, n
		}
	}
	return best
}

// distance is how many letters must be changed, added or taken away.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
