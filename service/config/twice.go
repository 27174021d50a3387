package config

import (
	"strings"
)

// A repeated field is in a block twice. The parser keeps the last one and says
// nothing, so that a repository could vanish behind another of its name.
type repeated struct {
	path        string
	line, first int
}

// findRepeated looks for repeated fields in a file that the parser accepts. It
// reads no values; where it loses its way it finds nothing.
func findRepeated(text string) []repeated {
	s := &scanner{text: text, line: 1}
	s.block("", true)
	if s.lost || s.pos < len(s.text) {
		return nil
	}
	return s.found
}

type scanner struct {
	text  string
	pos   int
	line  int
	depth int
	lost  bool
	found []repeated
}

// maxDepth is far beyond what a configuration has.
const maxDepth = 64

func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *scanner) next() {
	if s.peek() == '\n' {
		s.line++
	}
	s.pos++
}

// space skips white space, comments and what separates values.
func (s *scanner) space() {
	for s.pos < len(s.text) {
		switch c := s.peek(); {
		case c == '#' || strings.HasPrefix(s.text[s.pos:], "//"):
			for s.pos < len(s.text) && s.peek() != '\n' {
				s.next()
			}
		case strings.IndexByte(" \t\r\n,;", c) >= 0:
			s.next()
		default:
			return
		}
	}
}

// word reads a text in quotes, or one that ends before any of stop.
func (s *scanner) word(stop string) string {
	if q := s.peek(); q == '"' || q == '\'' {
		s.next()
		begin := s.pos
		for s.pos < len(s.text) && s.peek() != q {
			if s.peek() == '\\' && q == '"' {
				s.next()
			}
			s.next()
		}
		if s.pos >= len(s.text) {
			s.lost = true
			return ""
		}
		text := s.text[begin:s.pos]
		s.next()
		return text
	}
	begin := s.pos
	for s.pos < len(s.text) && strings.IndexByte(stop, s.peek()) < 0 {
		s.next()
	}
	s.lost = s.lost || s.pos == begin
	return s.text[begin:s.pos]
}

// block reads the fields of a block to its end, or the whole file.
func (s *scanner) block(path string, top bool) {
	if s.depth++; s.depth > maxDepth {
		s.lost = true
	}
	defer func() { s.depth-- }()
	seen := map[string]int{}
	for !s.lost {
		s.space()
		switch {
		case s.pos >= len(s.text):
			s.lost = !top
			return
		case s.peek() == '}' || top && s.peek() == '{':
			// A file may have braces around all of it.
			s.next()
			if !top {
				return
			}
			continue
		}
		line := s.line
		name := s.word(" \t\r\n=:{}[],;")
		if s.lost {
			return
		}
		if first := seen[name]; first > 0 && name != "include" {
			s.found = append(s.found, repeated{dotted(path, name), line, first})
		}
		seen[name] = line
		s.space()
		if c := s.peek(); c == ':' || c == '=' {
			s.next()
			s.space()
		}
		s.value(dotted(path, name))
	}
}

func (s *scanner) value(path string) {
	switch s.peek() {
	case '{':
		s.next()
		s.block(path, false)
	case '[':
		s.next()
		s.list(path)
	case '(':
		s.lost = true // a text over several lines
	default:
		s.word(" \t\r\n,;]}")
	}
}

func (s *scanner) list(path string) {
	if s.depth++; s.depth > maxDepth {
		s.lost = true
	}
	defer func() { s.depth-- }()
	for !s.lost {
		s.space()
		switch {
		case s.pos >= len(s.text):
			s.lost = true
		case s.peek() == ']':
			s.next()
			return
		default:
			s.value(path)
		}
	}
}
