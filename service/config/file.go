package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/conf"
)

// MaxFile bounds a configuration file in bytes.
const MaxFile = 1 << 20

// A File is a configuration file that was read, in the language of
// nats-server.conf.
type File struct {
	Config Config

	name  string
	lines map[string]place // of fields, by their path

	exposed []error
}

// Exposed returns an error for each file of its own that holds a secret and that
// others may read.
func (f *File) Exposed() []error { return f.exposed }

// A FieldError says which field of a configuration file cannot be accepted.
type FieldError struct {
	File  string
	Line  int    // 0 if it is not known
	Field string // such as repositories.main.bucket; empty if it is the whole
	Err   error
}

func (e *FieldError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap returns what is wrong with the field.
func (e *FieldError) Unwrap() error { return e.Err }

// ErrUnknownField means that a field is not one of the configuration.
var ErrUnknownField = errors.New("unknown field")

// ErrRepeated means that a field is in a block twice.
var ErrRepeated = errors.New("is there twice")

// ReadFile reads a configuration, sets defaults and validates all of it. A
// field that does not exist or is there twice, one with a value of another type, or one that
// makes no sense is a *FieldError; several are joined. No error shows a value
// that might be a secret.
//
// Includes and variables work as in nats-server: $NAME is a field read before
// or an environment variable. For each secret NAME there is a NAME_file, which
// holds the secret alone. Of several targets or repositories the default is
// the one that says `default: true`, else the first of the file.
func ReadFile(name string) (*File, error) {
	f, err := parseFile(name)
	if err != nil {
		return nil, err
	}
	f.Config.SetDefaults()
	if err := f.Config.Validate(); err != nil {
		return nil, f.Locate(err)
	}
	return f, nil
}

func parseFile(name string) (*File, error) {
	info, err := os.Stat(name)
	if err == nil && info.Size() > MaxFile {
		err = fmt.Errorf("has %d bytes, at most %d are read", info.Size(), MaxFile)
	}
	if err != nil {
		return nil, &FieldError{File: name, Err: withoutPath(err)}
	}
	tree, err := conf.ParseFileWithChecks(name)
	if err != nil {
		return nil, parseError(name, err)
	}
	f := &File{name: name, lines: map[string]place{}}
	d := &decoder{main: name, file: f, env: map[string][]byte{}}
	d.top(tree)
	d.checkRepeated()
	if err := d.checkVariables(); err != nil {
		d.errs = append(d.errs, err)
	}
	slices.SortStableFunc(d.errs, func(a, b *FieldError) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	var all []error
	for _, e := range d.errs {
		all = append(all, e)
	}
	return f, errors.Join(all...)
}

// withoutPath removes the operation and name that errors of files have.
func withoutPath(err error) error {
	if path := new(os.PathError); errors.As(err, &path) {
		return path.Err
	}
	return err
}

var (
	parseLine = regexp.MustCompile(`(?i)(?:line |:)(\d+)`)
	valueOf   = regexp.MustCompile(`(?i)(expected [a-z ]+|integer|float),? (?:but got )?'.*`)
	lexical   = regexp.MustCompile(`(?s)Parse error on line \d+: '(.+)'$`)
	charOf    = regexp.MustCompile(`'[^']{2,}'`)
)

// parseError makes an error of the parser's. The parser quotes values, which
// may be secrets.
func parseError(name string, err error) error {
	text := err.Error()
	out := &FieldError{File: name}
	if m := parseLine.FindStringSubmatch(text); m != nil {
		_, _ = fmt.Sscan(m[1], &out.Line)
	}
	switch {
	case strings.Contains(text, "could not be parsed"):
		at := strings.Index(text, " on line")
		out.Err = fmt.Errorf("%s cannot be read: put the variable's value in double quotes", text[:max(at, 0)])
	case strings.Contains(text, "can not be found"):
		at := strings.Index(text, " on line")
		out.Err = fmt.Errorf("%s: there is neither a field nor an environment variable of that name", text[:max(at, 0)])
	case valueOf.MatchString(text):
		out.Err = errors.New("a number is out of range or malformed; a text that begins with a digit belongs in quotes")
	case strings.Contains(text, "include file"):
		out.Err = errors.New(text)
	default:
		if m := lexical.FindStringSubmatch(text); m != nil {
			text = m[1]
		}
		out.Err = errors.New(charOf.ReplaceAllString(strings.ToLower(text[:1])+text[1:], "(a text)"))
	}
	return out
}

// Locate says where in the file the field is that an error of validation
// begins with, such as in "repositories[0].bucket: is required".
func (f *File) Locate(err error) error {
	if err == nil {
		return nil
	}
	path, rest, ok := strings.Cut(err.Error(), ": ")
	if !ok || strings.Contains(path, " ") {
		return &FieldError{File: f.name, Err: err}
	}
	out := &FieldError{File: f.name, Field: f.named(path), Err: &located{rest, err}}
	for p := path; p != ""; {
		if at, ok := f.lines[p]; ok {
			out.File, out.Line = at.file, at.line
			break
		}
		p = p[:max(strings.LastIndexAny(p, ".["), 0)]
	}
	return out
}

// located is an error without the path that it began with.
type located struct {
	text string
	err  error
}

func (e *located) Error() string { return e.text }

// Unwrap returns the whole error.
func (e *located) Unwrap() error { return e.err }

var indexed = regexp.MustCompile(`^(targets|repositories|hooks|notifications)\[(\d+)\]`)

// named replaces the index of a target or repository by its name.
func (f *File) named(path string) string {
	return indexed.ReplaceAllStringFunc(path, func(s string) string {
		m := indexed.FindStringSubmatch(s)
		var i int
		_, _ = fmt.Sscan(m[2], &i)
		switch {
		case m[1] == "targets" && i < len(f.Config.Targets):
			return m[1] + "." + f.Config.Targets[i].Name
		case m[1] == "repositories" && i < len(f.Config.Repositories):
			return m[1] + "." + f.Config.Repositories[i].Name
		case m[1] == "hooks" && i < len(f.Config.Hooks):
			return m[1] + "." + f.Config.Hooks[i].Name
		case m[1] == "notifications" && i < len(f.Config.Notifications):
			return m[1] + "." + f.Config.Notifications[i].Name
		}
		return s
	})
}

// top reads the file's fields.
func (d *decoder) top(tree map[string]any) {
	root := node{value: tree, at: place{file: d.main}}
	c := &d.file.Config
	special := map[string]func(node){
		"targets":      func(n node) { c.Targets = named(d, n, "targets", d.target) },
		"repositories": func(n node) { c.Repositories = named(d, n, "repositories", d.repository) },
		"hooks": func(n node) {
			c.Hooks = named(d, n, "hooks", func(name string, n node, at string) (Hook, bool) {
				h := Hook{Name: name}
				d.block(n, "hooks."+name, at, nil, &h)
				return h, false
			})
		},
		"notifications": func(n node) {
			c.Notifications = named(d, n, "notifications", func(name string, n node, at string) (Notification, bool) {
				t := Notification{Name: name}
				d.block(n, "notifications."+name, at, nil, &t)
				return t, false
			})
		},
	}
	d.block(root, "", "", special, c)
}

// named reads a block of named blocks, and puts the default one first.
func named[T any](d *decoder, n node, path string, read func(name string, n node, at string) (T, bool)) []T {
	var out []T
	first := place{}
	for _, k := range d.children(n, path) {
		if d.isVariable(k.node) {
			continue
		}
		i := len(out)
		at := fmt.Sprintf("%s[%d]", path, i)
		d.file.lines[at] = k.at
		v, isDefault := read(k.name, k.node, at)
		out = append(out, v)
		switch {
		case !isDefault:
		case first != place{}:
			d.fail(k.at, path+"."+k.name+".default", fmt.Errorf("another one is the default already, in line %d", first.line))
		default:
			first = k.at
			d.toFront(path, i)
			out = append([]T{v}, slices.Delete(out, i, i+1)...)
		}
	}
	return out
}

// toFront moves the lines of the element i of a list to the front.
func (d *decoder) toFront(path string, i int) {
	moved := map[string]place{}
	for p, at := range d.file.lines {
		rest, ok := strings.CutPrefix(p, path+"[")
		if !ok {
			continue
		}
		number, rest, _ := strings.Cut(rest, "]")
		n, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		delete(d.file.lines, p)
		switch {
		case n == i:
			n = 0
		case n < i:
			n++
		}
		moved[fmt.Sprintf("%s[%d]%s", path, n, rest)] = at
	}
	maps.Copy(d.file.lines, moved)
}

// preferred is the field that says which is the default.
type preferred struct {
	Default bool `conf:"default"`
}

func (d *decoder) target(name string, n node, at string) (Target, bool) {
	t, p := Target{Name: name}, preferred{}
	d.block(n, "targets."+name, at, nil, &t, &p)
	return t, p.Default
}

func (d *decoder) repository(name string, n node, at string) (Repository, bool) {
	r, p := Repository{Name: name}, preferred{}
	if m, ok := n.value.(map[string]any); ok {
		if k, ok := open(m["kind"], n.at).value.(string); ok {
			r.Kind = k
		}
	}
	into := []any{&r, &p}
	for kind, fields := range r.kinds() {
		if kind == r.Kind {
			into = append(into, fields)
		}
	}
	d.block(n, "repositories."+name, at, nil, into...)
	return r, p.Default
}

// kinds returns the fields of each kind that has some of its own.
func (r *Repository) kinds() map[string]any {
	return map[string]any{KindS3: &r.S3, KindSwift: &r.Swift}
}

// kindOf says which kind of repository has a field, empty if none.
func kindOf(field string) string {
	var r Repository
	for _, kind := range Kinds() {
		if target, ok := r.kinds()[kind]; ok {
			if _, ok := fieldsOf(target)[field]; ok {
				return kind
			}
		}
	}
	return ""
}

var variable = regexp.MustCompile(`\$([A-Za-z_][A-Za-z0-9_]*)`)

// checkVariables refuses environment variables whose value the language would
// cut: half of a secret is not easily found to be one.
func (d *decoder) checkVariables() *FieldError {
	for _, file := range slices.Sorted(maps.Keys(d.env)) {
		for i, line := range strings.Split(string(d.env[file]), "\n") {
			if text := strings.TrimSpace(line); strings.HasPrefix(text, "#") || strings.HasPrefix(text, "//") {
				continue
			}
			for _, m := range variable.FindAllStringSubmatch(line, -1) {
				value, ok := os.LookupEnv(m[1])
				if !ok {
					continue
				}
				tree, err := conf.Parse("pk=" + value)
				text, isText := tree["pk"].(string)
				if err != nil || isText && text != value && !quoted(value) || len(tree) != 1 {
					return &FieldError{File: file, Line: i + 1, Err: fmt.Errorf("the value of the environment variable %s is not read whole: put double quotes around it, inside of the variable", m[1])}
				}
			}
		}
	}
	return nil
}

func quoted(s string) bool {
	return len(s) > 1 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0]
}

// checkRepeated refuses fields that are there twice.
func (d *decoder) checkRepeated() {
	for _, file := range slices.Sorted(maps.Keys(d.env)) {
		for _, r := range findRepeated(string(d.env[file])) {
			d.fail(place{file: file, line: r.line}, r.path, fmt.Errorf("%w, first in line %d", ErrRepeated, r.first))
		}
	}
}

// remember keeps the text of each file that a field came from.
func (d *decoder) remember(file string) {
	if _, ok := d.env[file]; ok || file == "" {
		return
	}
	d.env[file], _ = os.ReadFile(filepath.Clean(file)) // it was read before
}
