package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"jetkeep/service/natsconn"
)

// Write writes the configuration in the language of a file, with defaults and
// without secrets: "[redacted]" stands where one is, and the addresses of
// servers are shown without logins.
func (c *Config) Write(w io.Writer) error {
	p := &printer{}
	p.fields(reflect.ValueOf(c).Elem())
	for _, t := range c.Targets {
		p.named("targets", t.Name, reflect.ValueOf(&t).Elem())
	}
	for _, r := range c.Repositories {
		of := []reflect.Value{reflect.ValueOf(&r).Elem()}
		if own := r.kinds()[r.Kind]; own != nil {
			of = append(of, reflect.ValueOf(own).Elem())
		}
		p.named("repositories", r.Name, of...)
	}
	for _, h := range c.Hooks {
		p.named("hooks", h.Name, reflect.ValueOf(&h).Elem())
	}
	for _, n := range c.Notifications {
		p.named("notifications", n.Name, reflect.ValueOf(&n).Elem())
	}
	p.open("")
	_, err := io.WriteString(w, p.b.String())
	return err // the writer's own
}

type printer struct {
	b     strings.Builder
	depth int
	block string // the block of named blocks that is open
}

func (p *printer) line(format string, args ...any) {
	p.b.WriteString(strings.Repeat("  ", p.depth))
	fmt.Fprintf(&p.b, format+"\n", args...)
}

// open opens a block of named blocks and closes the one before.
func (p *printer) open(block string) {
	if p.block == block {
		return
	}
	if p.block != "" {
		p.depth--
		p.line("}")
	}
	if p.block = block; block != "" {
		p.line("%s {", block)
		p.depth++
	}
}

func (p *printer) named(block, name string, of ...reflect.Value) {
	p.open(block)
	p.line("%s {", name)
	p.depth++
	for _, v := range of {
		p.fields(v)
	}
	p.depth--
	p.line("}")
}

func (p *printer) fields(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			p.fields(v.Field(i))
			continue
		}
		name := confName(f)
		named := p.depth == 0 && slices.Contains([]string{"targets", "repositories", "hooks", "notifications"}, name)
		if name == "" || v.Field(i).IsZero() || named {
			continue
		}
		p.field(name, v.Field(i))
	}
}

func (p *printer) field(name string, v reflect.Value) {
	switch x := v.Interface().(type) {
	case Secret:
		p.line("%s: %q", name, x.String())
		return
	case time.Duration:
		p.line("%s: %q", name, x.String())
		return
	case Prune:
		if x.Off {
			p.line("%s: off", name)
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		p.field(name, v.Elem())
	case reflect.Struct:
		p.line("%s {", name)
		p.depth++
		p.fields(v)
		p.depth--
		p.line("}")
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		p.line("%s {", name)
		for _, k := range keys {
			p.line("  %q: %q", k.String(), fmt.Sprint(v.MapIndex(k).Interface()))
		}
		p.line("}")
	case reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, fmt.Sprintf("%q", v.Index(i).String()))
		}
		p.line("%s: [%s]", name, strings.Join(parts, ", "))
	case reflect.String:
		text := v.String()
		if name == "endpoint" || strings.HasSuffix(name, "url") {
			text = natsconn.WithoutLogin(text)
		}
		p.line("%s: %q", name, text)
	default:
		p.line("%s: %v", name, v.Interface())
	}
}
