package service

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"jetkeep/service/api"
)

// TestProtocolDocument compares the tables and headings of PROTOCOL.md with
// the code.
func TestProtocolDocument(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)

	var rows []api.ErrorInfo
	_, table, _ := strings.Cut(doc, "## 4. Errors")
	table, _, _ = strings.Cut(table, "## 5. Events")
	row := regexp.MustCompile(`(?m)^\| ([a-z_]+) \| (\d+) \| (.*?) \| (.*?)\s*\|$`)
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		code, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, api.ErrorInfo{ErrCode: api.ErrCode(m[1]), Code: code, Meaning: m[3], Hint: m[4]})
	}
	if want := api.ErrorTable(); !slices.Equal(rows, want) {
		for i, w := range want {
			if i >= len(rows) || rows[i] != w {
				t.Errorf("the table of errors should have the row | %s | %d | %s | %s |", w.ErrCode, w.Code, w.Meaning, w.Hint)
			}
		}
		if len(rows) > len(want) {
			t.Errorf("the table of errors has %d rows, the code %d", len(rows), len(want))
		}
	}
	_, endpoints, _ := strings.Cut(doc, "## 3. Endpoints")
	endpoints, _, _ = strings.Cut(endpoints, "## 4. Errors")
	var headings string
	for _, m := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllString(endpoints, -1) {
		headings += m + "\n"
	}
	for _, e := range api.Endpoints() {
		if !strings.Contains(headings, e.Name) {
			t.Errorf("endpoint %s has no heading", e.Name)
		}
	}
	for _, e := range api.EventNames() {
		if !strings.Contains(doc, "| "+string(e)+" | "+e.Type()+" |") {
			t.Errorf("the table of events lacks %s", e)
		}
	}
	for _, s := range api.States() {
		if !strings.Contains(doc, "\n| "+string(s)+" | ") {
			t.Errorf("the table of states lacks %s", s)
		}
	}
	// Each field of a request is explained somewhere.
	for _, e := range api.Endpoints() {
		for _, name := range api.FieldNames(e.Request) {
			if !strings.Contains(endpoints, "`"+name+"`") {
				t.Errorf("field %s of %s is not explained", name, e.Name)
			}
		}
	}
}
