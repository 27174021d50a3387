package main

import (
	"regexp"
	"strings"
)

// sessionID is what session and backup ids look like.
var sessionID = regexp.MustCompile(`\d{8}T\d{6}Z-[0-9a-z]{8}`)

// masks replaces what differs from run to run.
var masks = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{sessionID, "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "TIME"},
	{regexp.MustCompile(`\b\d+ objects deleted\b`), "OBJECTS deleted"},
	// Where packs end depends on the times of the messages.
	{regexp.MustCompile(`\b(\d+) objects, (\d+) of them read\b`), "OBJECTS read"},
	{regexp.MustCompile(`\b[0-9a-z]{26}\b`), "REPOSITORY"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`\b\d+(\.\d+)? ([KMGT]i?)?B\b`), "SIZE"},
	{regexp.MustCompile(`\b\d+m\d\ds\b|\b\d+(\.\d+)?(ns|µs|ms|s)\b`), "DURATION"},
	{regexp.MustCompile(`"(id|instance|digest|server_id)":\s*"[^"]*"`), `"$1":"X"`},
	{regexp.MustCompile(`"([a-z_]*(bytes|seconds|second|ms|storage|memory))":\s*[0-9.e+-]+`), `"$1":0`},
	{regexp.MustCompile(`(?m)^(jetkeep_[a-z_]+_seconds\{.*\}) [0-9.e+-]+$`), "$1 0"},
	{regexp.MustCompile(`[─━]+`), "─"},
	{regexp.MustCompile(`[ \t]+`), " "},
}

// masked returns the lines of an output in a form that two runs share.
func masked(output string) []string {
	var lines []string
	for line := range strings.Lines(output) {
		for _, m := range masks {
			line = m.pattern.ReplaceAllString(line, m.with)
		}
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}
