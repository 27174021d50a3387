package config

import (
	"bytes"
	"strings"
	"testing"
)

// TestTemplates: what an event could make a template fail with is known when the
// file is read, also of events that are rare.
func TestTemplates(t *testing.T) {
	for body, want := range map[string]string{
		`events: [task_completed], body: '{{.Task.Stream}}'`:                                  "",
		`events: [task_completed, completed], body: '{{.Task.Stream}}'`:                       "notifications.n.body: it is missing from some events",
		`events: [task_completed], body: '{{with .Task.Started}}{{.Format "15:04"}}{{end}}'`:  "",
		`events: [task_completed], body: '{{.Task.Started.Format "15:04"}}'`:                  "notifications.n.body: it is missing from some events",
		`events: [task_completed], body: '{{with .Task.Started}}{{.Fromat "15:04"}}{{end}}'`:  "notifications.n.body: template",
		`events: [failed, cancelled], body: '{{if eq .Event "cancelled"}}{{.Reason}}{{end}}'`: "notifications.n.body: template",
		`body: '{{if eq .State "partial"}}{{.Tasks.Filed}}{{end}}'`:                           "notifications.n.body: template",
		`body: '{{if .Tasks}}{{.Error.Description}}{{end}}'`:                                  "notifications.n.body: it is missing from some events",
		`body: '{{if eq .Kind "drill"}}{{.Drilled}}{{end}}'`:                                  "notifications.n.body: template",
		`body: '{{with .Progress}}{{.Bytes}}{{end}} {{.Tags.schedule}}'`:                      "",
		`subject: "ops.{{.Target}}"`:                                                          `notifications.n.subject: "ops." is no subject to publish to, of the event completed of verify sessions`,
		`subject: "ops.{{.Target}}", kinds: [backup, restore]`:                                "",
		`subject: "ops.{{or .Target \"none\"}}.{{.Event}}"`:                                   "",
		`subject: "ops.{{.Tags.schedule}}"`:                                                   `"ops." is no subject`,
	} {
		if !strings.Contains(body, "subject") {
			body += `, url: "http://x/y"`
		}
		_, err := ReadFile(write(t, t.TempDir(), "x.conf", minimal+"notifications { n { "+body+" } }"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: says %v, want %q", body, err, want)
		}
	}
}

// TestHeaders: what would not be sent so is refused, and the value not shown.
func TestHeaders(t *testing.T) {
	for headers, want := range map[string]string{
		`"X-Api-Key": hidden`:  "",
		`"X(Y": hidden`:        `:3: hooks.h.headers: "X(Y" is no header`,
		`"X-Y": "hid\nden"`:    `:3: hooks.h.headers: "X-Y" is no header`,
		`Host: hidden`:         ":3: hooks.h.headers: Host is made of the request",
		`Content-Length: 3`:    ":3: hooks.h.headers: Content-Length is made of the request",
		`authorization: basic`: ":3: hooks.h.headers: authorization has a field of its own",
	} {
		_, err := ReadFile(write(t, t.TempDir(), "x.conf", minimal+`hooks { h { when: before, url: "http://x/y", headers { `+headers+` } } }`))
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hid")) {
			t.Errorf("%s: says %v, want %q", headers, err, want)
		}
	}
}

// TestTextIsShownAsItIs: an address in a text is no list of servers.
func TestTextIsShownAsItIs(t *testing.T) {
	body := `see https://wiki.example.net/{{.Target}}, please`
	f, err := ReadFile(write(t, t.TempDir(), "x.conf", minimal+`notifications { n { url: "http://x/y", body: "`+body+`" } }`))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := f.Config.Write(&out); err != nil || !strings.Contains(out.String(), `body: "`+body+`"`) {
		t.Errorf("%v: %s", err, out.String())
	}
}

// A hook or notification for a target that there is not would never be called.
func TestCallsNameTargets(t *testing.T) {
	for block, want := range map[string]string{
		`hooks { n { when: before, subject: "x", targets: [shop, "pro*"] } }`: "",
		`hooks { n { when: before, subject: "x", targets: [shop, shpo] } }`:   `hooks.n.targets: there is no target "shpo"`,
		`notifications { n { subject: "x", targets: [default] } }`:            `notifications.n.targets: there is no target "default"`,
		`notifications { n { subject: "x", targets: [shop] } }`:               "",
	} {
		_, err := ReadFile(write(t, t.TempDir(), "x.conf", minimal+"targets { shop { url: \"nats://127.0.0.1:4222\" } }\n"+block))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: says %v, want %q", block, err, want)
		}
	}
}
