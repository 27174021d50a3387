package api

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		body, field string
		code        ErrCode
	}{
		{"", "", ""},
		{" \n\t", "", ""},
		{"{}", "", ""},
		{`{"streams":["A","B_*","?"],"exclude":null,"tags":{"a.b":"c"},"target":"x"}`, "", ""},
		{"null", "", CodeInvalidJSON},
		{"[]", "", CodeInvalidJSON},
		{`"x"`, "", CodeInvalidJSON},
		{"{", "", CodeInvalidJSON},
		{`{"streams":["A"]`, "", CodeInvalidJSON},
		{`{"streams":["A"}`, "", CodeInvalidJSON},
		{`{}{}`, "", CodeInvalidJSON},
		{`{} x`, "", CodeInvalidJSON},
		{`{"nope":1}`, "nope", CodeUnknownField},
		{`{"STREAMS":[]}`, "STREAMS", CodeUnknownField},
		{`{"target":"a","target":"a"}`, "target", CodeInvalidRequest},
		{`{"tags":{"a":"1","a":"2"}}`, "tags.a", CodeInvalidRequest},
		{`{"streams":[1]}`, "streams", CodeInvalidRequest},
		{`{"streams":{"a":{}}}`, "streams", CodeInvalidRequest},
		{`{"tags":{"a":1}}`, "tags", CodeInvalidRequest},
		{`{"target":"a b"}`, "target", CodeInvalidRequest},
		{`{"streams":[""]}`, "streams[0]", CodeInvalidStream},
		{`{"streams":["A","b c"]}`, "streams[1]", CodeInvalidStream},
		{`{"exclude":["a.>"]}`, "exclude[0]", CodeInvalidStream},
		{`{"streams":["` + strings.Repeat("x", 256) + `"]}`, "streams[0]", CodeInvalidStream},
		{`{"tags":` + strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 101), "", CodeInvalidJSON},
	} {
		var q BackupCreateRequest
		err := Decode([]byte(c.body), &q)
		var e *Error
		errors.As(err, &e)
		switch {
		case c.code == "" && err != nil:
			t.Errorf("%s: %v", c.body, err)
		case c.code != "" && (e == nil || e.ErrCode != c.code || !strings.HasPrefix(e.Field, c.field)):
			t.Errorf("%.80s: %+v, want %s at %q", c.body, e, c.code, c.field)
		}
	}
	big := `{"target":"` + strings.Repeat("x", MaxBody) + `"}`
	if err := Decode([]byte(big), new(BackupCreateRequest)); !HasCode(err, CodeBodyTooLarge) {
		t.Errorf("large body: %v", err)
	}
}

func TestUnknownFieldHelps(t *testing.T) {
	var e *Error
	errors.As(Decode([]byte(`{"Verify":true}`), new(RestoreRequest)), &e)
	if !strings.Contains(e.Hint, `"verify"`) {
		t.Errorf("wrong case: %+v", e)
	}
	errors.As(Decode([]byte(`{"x":true}`), new(TargetListRequest)), &e)
	if !strings.Contains(e.Hint, "no fields") {
		t.Errorf("empty request: %+v", e)
	}
}

func TestWrongTimeNamesItsField(t *testing.T) {
	for body, q := range map[string]any{
		`{"at":"yesterday"}`: new(RestoreRequest), `{"start":"2026-02-30T00:00:00Z"}`: new(Schedule), `{"end":""}`: new(Schedule),
	} {
		var e *Error
		errors.As(Decode([]byte(body), q), &e)
		if e == nil || e.ErrCode != CodeInvalidRequest || !strings.Contains(body, `"`+e.Field+`"`) || e.Field == "" || !strings.Contains(e.Description, "RFC 3339") {
			t.Errorf("%s: %+v", body, e)
		}
	}
}

// What a schedule could never do is refused when it is put, and nothing else has
// the tag by which hooks know what a schedule started.
func TestScheduleIsChecked(t *testing.T) {
	for body, code := range map[string]ErrCode{
		`{"streams":["ORDERS","KV_*","JETKEEP_*"],"tags":{"a":"b"}}`: "",
		`{"streams":["ORDERS","KV_JETKEEP_STATE"]}`:                  CodeReservedStream,
		`{"tags":{"schedule":"other"}}`:                              CodeInvalidRequest,
	} {
		if err := Decode([]byte(body), new(Schedule)); code == "" && err != nil || code != "" && !HasCode(err, code) {
			t.Errorf("%s: %v, want %s", body, err, code)
		}
	}
	if err := Decode([]byte(`{"tags":{"schedule":"nightly"}}`), new(BackupCreateRequest)); !HasCode(err, CodeInvalidRequest) {
		t.Errorf("a backup has the tag of a schedule: %v", err)
	}
}

// TestAnswersAreNotEchoes keeps a request from making an error as large as
// itself.
func TestAnswersAreNotEchoes(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, body := range []string{
		`{"` + long + `":1}`, `{"target":"` + long + `"}`, `{"streams":["` + long + `."]}`, `{"tags":{"` + long + `":"a"}}`,
	} {
		var e *Error
		errors.As(Decode([]byte(body), new(BackupCreateRequest)), &e)
		if b, err := json.Marshal(e); err != nil || len(b) > 1000 {
			t.Errorf("error has %d bytes", len(b))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"streams":["A"],"tags":{"a":"b"}}`))
	f.Add([]byte(`{"backup":"x","verify":false,"at":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, v := range []any{new(BackupCreateRequest), new(RestoreRequest), new(SessionListRequest)} {
			err := Decode(body, v)
			var e *Error
			if err != nil && !errors.As(err, &e) {
				t.Fatalf("error without a code: %v", err)
			}
			if err != nil {
				continue
			}
			// What is accepted survives a round trip.
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			again := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := Decode(b, again); err != nil {
				t.Fatalf("%s became %s: %v", body, b, err)
			}
		}
	})
}

func TestErrorTable(t *testing.T) {
	seen := map[ErrCode]bool{}
	for _, e := range ErrorTable() {
		if seen[e.ErrCode] || e.Meaning == "" || e.Code < 400 || e.Code > 599 {
			t.Errorf("row %+v", e)
		}
		seen[e.ErrCode] = true
	}
	// Every constant is in the table.
	src, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	n := strings.Count(string(src), "ErrCode = \"")
	if n != len(seen) {
		t.Errorf("%d codes, %d rows", n, len(seen))
	}
	if i := ErrCode("nonsense").Info(); i.ErrCode != CodeInternal {
		t.Errorf("unknown code: %+v", i)
	}
	if e := Errorf(CodeBusy, "x"); !errors.Is(e, &Error{ErrCode: CodeBusy}) || errors.Is(e, &Error{ErrCode: CodeInternal}) {
		t.Error("errors do not match by their code")
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[string]bool{
		"ORDERS": true, "KV_a-b": true, "ü": true, "": false, "a.b": false, "a b": false, "*": false, "a>": false,
		"a/b": false, `a\b`: false, "a\x01": true, "a\x7f": true, "a\v": true, "a\u3000b": true, "\xff": false, "a?": false,
	} {
		if ValidStreamName(s) != want {
			t.Errorf("stream name %q", s)
		}
	}
	if !ValidPattern("KV_*") || !ValidPattern("?") || ValidPattern("a.*") || ValidPattern("") {
		t.Error("patterns")
	}
	for s, want := range map[string]bool{
		"JETKEEP_TASKS": true, "KV_JETKEEP_SESSIONS": true, "OBJ_JETKEEP_X": true, "KV_orders": false, "MY_JETKEEP_X": false,
	} {
		if Reserved(s) != want {
			t.Errorf("reserved %q", s)
		}
	}
	for _, bad := range []string{"a..b", "a.*", ".a", "a b", ">"} {
		if _, err := NewSubjects(bad); err == nil {
			t.Errorf("prefix %q was accepted", bad)
		}
	}
	s, err := NewSubjects("")
	if err != nil || s.Event(KindBackup, "S", EventProgress) != "jetkeep.v1.event.backup.S.progress" ||
		s.Endpoint(BackupCreate) != "jetkeep.v1.backup.create" || s.Task(KindRestore, "S.0001") != "jetkeep.v1.task.restore.S.0001" {
		t.Errorf("subjects: %v", err)
	}
}
