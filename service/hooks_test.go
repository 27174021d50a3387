package service_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// calls records the requests of hooks.
type calls struct {
	mu  sync.Mutex
	all []api.HookRequest
}

func (c *calls) add(t *testing.T, body []byte) api.HookRequest {
	var q api.HookRequest
	if err := json.Unmarshal(body, &q); err != nil {
		t.Errorf("request of a hook: %v: %s", err, body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, q)
	return q
}

// list returns them in short, in their order.
func (c *calls) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, q := range c.all {
		out = append(out, strings.Join(strings.Fields(fmt.Sprint(q.Hook, " ", q.When, " ", q.Of, " ", q.Stream, " ", q.State)), " "))
	}
	return out
}

// answer answers requests on a subject.
func (c *calls) answer(t *testing.T, nc *nats.Conn, subject, reply string) {
	t.Helper()
	_, err := nc.Subscribe(subject, func(m *nats.Msg) {
		c.add(t, m.Data)
		_ = m.Respond([]byte(reply))
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func hook(name, when, of string, call config.Call) config.Hook {
	if call.Timeout == 0 {
		call.Timeout = testenv.Hang
	}
	return config.Hook{Name: name, When: when, Of: of, Call: call}
}

// shop makes two streams of 20 messages.
func shop(t *testing.T, nc *nats.Conn) {
	t.Helper()
	for _, name := range []string{"A", "B"} {
		natstest.MakeStream(t, nc, fmt.Sprintf(`{"name":%q,"subjects":["%s.>"],"storage":"file","retention":"limits","num_replicas":1}`, name, strings.ToLower(name)))
		natstest.PublishTo(t, nc, strings.ToLower(name)+".x", 20, 100)
	}
}

// Hooks by subject, URL and command are called around the session and around
// each task, in that order, with what they must know.
func TestHooks(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	shop(t, nc)
	c := setup(t, server)
	c.Concurrency = 1
	var seen calls
	seen.answer(t, nc, "pause.a", `{"note":"paused for 3 clients"}`)
	seen.answer(t, nc, "resume.a", "")
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen.add(t, b)
		if r.Header.Get("Authorization") != "Bearer let-me-in" || r.Header.Get("X-Team") != "data" || r.Header.Get("Jetkeep-Type") == "" {
			t.Errorf("headers: %v", r.Header)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(web.Close)
	file := filepath.Join(t.TempDir(), "said")
	call := func(subject string) config.Call { return config.Call{Subject: subject} }
	c.Hooks = []config.Hook{
		hook("pause", "before", "task", call("pause.a")),
		hook("web", "before", "session", config.Call{URL: config.Secret(web.URL + "/x?secret"), Authorization: "Bearer let-me-in", Headers: map[string]config.Secret{"X-Team": "data"}}),
		hook("web-after", "after", "session", config.Call{URL: config.Secret(web.URL), Authorization: "Bearer let-me-in", Headers: map[string]config.Secret{"X-Team": "data"}}),
		hook("resume", "after", "task", call("resume.a")),
		hook("write", "after", "session", config.Call{Command: []string{"/bin/sh", "-c", `cat > "$0"; echo "$JETKEEP_KIND $JETKEEP_STATE $SECRET_OF_SERVICE." >> "$0"`, file}}),
		hook("not-of-restores", "before", "session", call("nobody.there")),
	}
	c.Hooks[0].Streams = []string{"A*"}
	c.Hooks[3].Streams = []string{"?"}
	c.Hooks[3].Policy = config.PolicySuccess
	c.Hooks[5].Kinds = []string{string(api.KindRestore)}
	run(t, c, service.Deps{})
	cl := connect(t, server)
	a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Tags: map[string]string{"k": "v"}})
	if err != nil || a.Tasks != 2 {
		t.Fatal(a, err)
	}
	r := wait(t, cl, a.Session, api.StateSucceeded)
	got := seen.list()
	want := []string{
		"web before session running",
		"pause before task A running", "resume after task A succeeded", "resume after task B succeeded",
		"web-after after session succeeded",
	}
	slices.Sort(want[1:4])
	slices.Sort(got[min(1, len(got)):min(4, len(got))])
	if !slices.Equal(got, want) {
		t.Errorf("hooks were called so:\n%s\nnot so:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if q := seen.all[0]; q.Type != "io.jetkeep.hook.v1.before_session" || q.Session != a.Session || q.Tags["k"] != "v" || q.Tasks == nil ||
		q.Tasks.Total != 2 || !slices.Equal(q.Streams, []string{"A", "B"}) || q.Target != "default" || q.Backup != a.Backup || !q.Deadline.After(q.Timestamp) {
		t.Errorf("the first request is %+v", q)
	}
	if r.Tasks.Total != 2 || r.Tasks.Succeeded != 2 || len(r.TaskList) != 4 {
		t.Errorf("%+v", r)
	}
	for _, x := range r.TaskList {
		if x.Stream == "A" && !slices.Contains(x.Notes, "hook pause: paused for 3 clients") {
			t.Errorf("notes of A: %q", x.Notes)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	body, end, _ := strings.Cut(string(b), "\n")
	if !strings.HasSuffix(body, "backup succeeded .") {
		t.Errorf("the command was told %s %s", body, end)
	}
}

// A hook before can keep the work from being done, and then nothing is touched.
func TestHooksAbort(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	shop(t, nc)
	for _, x := range []struct {
		name      string
		hook      config.Hook
		state     api.State
		code      api.ErrCode
		says      string
		continued bool
	}{
		{"asks for it", hook("h", "before", "session", config.Call{Subject: "abort"}), api.StateFailed, api.CodeHookAborted, "hook h: the month is being closed", false},
		{"of one task", hook("h", "before", "task", config.Call{Subject: "abort"}), api.StatePartial, api.CodeHookAborted, "the month is being closed", false},
		{"nobody", hook("h", "before", "session", config.Call{Subject: "nobody"}), api.StateFailed, api.CodeHookFailed, "nobody answers on subject nobody", false},
		{"silence", hook("h", "before", "session", config.Call{Subject: "silent", Timeout: time.Second}), api.StateFailed, api.CodeHookFailed, "no answer within 1s", false},
		{"micro error", hook("h", "before", "session", config.Call{Subject: "broken"}), api.StateFailed, api.CodeHookFailed, "503 overloaded", false},
		{"half an answer", hook("h", "before", "session", config.Call{Subject: "half"}), api.StateFailed, api.CodeHookFailed, "no JSON", false},
		{"status", hook("h", "before", "session", config.Call{URL: "URL"}), api.StateFailed, api.CodeHookFailed, "answers 409 Conflict: come back later", false},
		{"exit", hook("h", "before", "session", config.Call{Command: []string{"/bin/sh", "-c", "echo no disk >&2; exit 3"}}), api.StateFailed, api.CodeHookFailed, "exit status 3: no disk", false},
		{"hangs", hook("h", "before", "session", config.Call{Command: []string{"/bin/sh", "-c", "sleep 1000 & sleep 1000"}, Timeout: time.Second}), api.StateFailed, api.CodeHookFailed, "no answer within 1s", false},
		{"leaves something", hook("h", "before", "session", config.Call{Command: []string{"/bin/sh", "-c", "sleep 4 & exit 0"}}), api.StateSucceeded, "", "", false},
		{"continues", hook("h", "before", "session", config.Call{Subject: "nobody"}), api.StateSucceeded, "", "", true},
		{"aborts all the same", hook("h", "before", "session", config.Call{Subject: "abort"}), api.StateFailed, api.CodeHookAborted, "closed", true},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			c := setup(t, server)
			c.Prefix = "jetkeep.v1"
			own := natstest.Start(t)
			c.Control.URL = own.URL()
			c.Targets = []config.Target{{Name: "shop"}}
			c.Targets[0].URL = server.URL()
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "come back later", http.StatusConflict) }))
			t.Cleanup(web.Close)
			var seen calls
			conn := server.Connect()
			if strings.HasPrefix(x.hook.Subject, "abort") {
				x.hook.Subject += "." + strings.ReplaceAll(x.name, " ", "-")
				seen.answer(t, conn, x.hook.Subject, `{"abort":true,"reason":"the month is being closed"}`)
			}
			if x.hook.Subject == "broken" || x.hook.Subject == "half" {
				_, err := conn.Subscribe(x.hook.Subject, func(m *nats.Msg) {
					r := nats.NewMsg(m.Reply)
					if m.Subject == "broken" {
						r.Header.Set("Nats-Service-Error-Code", "503")
						r.Header.Set("Nats-Service-Error", "overloaded")
					} else {
						r.Data = []byte(`{"abort":tr`)
					}
					_ = m.RespondMsg(r)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if x.hook.Subject == "silent" {
				if _, err := conn.SubscribeSync("silent"); err != nil {
					t.Fatal(err)
				}
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			if x.hook.URL != "" {
				x.hook.URL = config.Secret(web.URL + "/very-secret")
			}
			if x.hook.Of == api.HookTask {
				x.hook.Streams = []string{"B"}
			}
			if x.continued {
				x.hook.OnError = config.OnErrorContinue
			}
			var after calls
			after.answer(t, conn, "after."+strings.ReplaceAll(x.name, " ", "-"), "")
			undo := hook("undo", "after", "session", config.Call{Subject: "after." + strings.ReplaceAll(x.name, " ", "-")})
			undo.Policy = config.PolicyFailure
			c.Hooks = []config.Hook{x.hook, undo}
			run(t, c, service.Deps{})
			cl := connect(t, own)
			a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
			if err != nil {
				t.Fatal(err)
			}
			r := wait(t, cl, a.Session, x.state) // which ends before the commands that sleep
			if x.code == "" {
				if len(after.list()) != 0 {
					t.Errorf("the hook after failures was called: %v", after.list())
				}
				return
			}
			if r.Error == nil || r.Error.ErrCode != x.code || !strings.Contains(r.Error.Description, x.says) || strings.Contains(r.Error.Description, "secret") {
				t.Errorf("the session's error is %+v", r.Error)
			}
			if len(after.list()) != 1 {
				t.Errorf("the hook after failures was called: %v", after.list())
			}
			l, err := cl.BackupList(t.Context(), api.BackupListRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if n := map[api.State]int{api.StatePartial: 1}[x.state]; len(l.Backups) != n {
				t.Errorf("there are the backups %+v", l.Backups)
			}
		})
	}
}

// Who cancels during the hook before gets an end at once, and the hook after is
// called; one that fails changes nothing about the backup.
func TestHooksAfter(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	shop(t, nc)
	c := setup(t, server)
	called, err := nc.SubscribeSync("slow")
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	var seen calls
	seen.answer(t, nc, "after", "")
	slow := hook("slow", "before", "session", config.Call{Subject: "slow", Timeout: testenv.Hang})
	slow.Kinds = []string{string(api.KindVerify)}
	after := hook("after", "after", "session", config.Call{Subject: "after"})
	after.Kinds = slow.Kinds
	c.Hooks = []config.Hook{slow, after, hook("gone", "after", "session", config.Call{Subject: "nobody"}), hook("gone-task", "after", "task", config.Call{Subject: "nobody"})}
	run(t, c, service.Deps{})
	cl := connect(t, server)
	a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r := wait(t, cl, a.Session, api.StateSucceeded)
	last := r.TaskList[len(r.TaskList)-1]
	if last.Hook != "after" || last.State != api.StateFailed || last.Error == nil || last.Error.ErrCode != api.CodeHookFailed {
		t.Errorf("the task of the hooks is %+v", last)
	}
	if n := r.TaskList[0].Notes; len(n) != 1 || !strings.Contains(n[0], "gone-task: nobody answers") {
		t.Errorf("notes: %q", n)
	}
	v, err := cl.BackupVerify(t.Context(), api.BackupVerifyRequest{Backup: a.Backup})
	if err != nil {
		t.Fatal(err)
	}
	answerBy := deadline(t, called)
	if _, err := cl.SessionCancel(t.Context(), api.SessionCancelRequest{Session: v.Session, Reason: "enough"}); err != nil {
		t.Fatal(err)
	}
	wait(t, cl, v.Session, api.StateCancelled)
	if !time.Now().Before(answerBy) {
		t.Error("the cancellation waited for the hook's answer")
	}
	if got := seen.list(); !slices.Equal(got, []string{"after after session cancelled"}) {
		t.Errorf("%q", got)
	}
}

// A hook after that fails is called again, one before is not: a backup can be asked
// for again, but nobody else undoes what the hook before it did.
func TestHookAfterAgain(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	shop(t, nc)
	var mu sync.Mutex
	asked := map[string]int{}
	if _, err := nc.Subscribe("flaky.*", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		asked[m.Subject]++
		if asked[m.Subject] == 1 {
			_ = m.Respond([]byte(`{"error":{"description":"not now"}}`))
			return
		}
		_ = m.Respond(nil)
	}); err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	c := setup(t, server)
	before := hook("before", "before", "session", config.Call{Subject: "flaky.before"})
	before.OnError = config.OnErrorContinue
	c.Hooks = []config.Hook{
		before, hook("after", "after", "session", config.Call{Subject: "flaky.after"}), hook("task", "after", "task", config.Call{Subject: "flaky.task"}),
	}
	c.Hooks[2].Streams = []string{"A"}
	run(t, c, service.Deps{})
	cl := connect(t, server)
	a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r := wait(t, cl, a.Session, api.StateSucceeded)
	for _, x := range r.TaskList {
		if x.State != api.StateSucceeded || x.Error != nil || x.Hook != api.HookBefore && len(x.Notes) > 0 {
			t.Errorf("%+v", x)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := map[string]int{"flaky.before": 1, "flaky.after": 2, "flaky.task": 2}; !maps.Equal(asked, want) {
		t.Errorf("called %v, want %v", asked, want)
	}
}

// A service that stops does not wait for a hook for ever, and gives the task back.
func TestHooksAtTheEnd(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	shop(t, nc)
	called, err := nc.SubscribeSync("silent")
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	c := setup(t, server)
	c.Hooks = []config.Hook{hook("silent", "after", "task", config.Call{Subject: "silent", Timeout: testenv.Hang})}
	c.Hooks[0].Streams = []string{"A"}
	first := run(t, c, service.Deps{})
	cl := connect(t, server)
	a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	answerBy := deadline(t, called)
	first.end()
	if !time.Now().Before(answerBy) {
		t.Error("the service waited for the hook's answer")
	}
	c.Hooks, c.Instance = nil, "second"
	run(t, c, service.Deps{})
	wait(t, cl, a.Session, api.StateSucceeded)
}

// deadline waits until a hook is called, and returns until when it may answer,
// which it never does.
func deadline(t *testing.T, called *nats.Subscription) time.Time {
	t.Helper()
	m, err := called.NextMsg(testenv.Hang)
	if err != nil {
		t.Fatal(err)
	}
	var q api.HookRequest
	decode(t, m.Data, &q)
	if q.Deadline.IsZero() {
		t.Fatalf("the request has no deadline: %s", m.Data)
	}
	return q.Deadline
}
