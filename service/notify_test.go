package service_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// Notifications are sent once by one of several instances, are tried again until
// they are taken, and survive the instance that was to send them.
func TestNotifications(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	shop(t, nc)
	var mu sync.Mutex
	got, refused, taken := map[string]int{}, 0, false
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if !taken {
			refused++
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		got[r.URL.Path+" "+r.Header.Get("Content-Type")+" "+string(b)]++
	}))
	t.Cleanup(web.Close)
	alerts, err := nc.SubscribeSync("ops.>")
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	c := setup(t, server)
	c.Notifications = []config.Notification{
		{Name: "chat", Call: config.Call{URL: config.Secret(web.URL + "/hook/secret")}, Targets: []string{"def*"}},
		{Name: "bus", Call: config.Call{Subject: "ops.{{.Kind}}.{{.Event}}"}, Events: []string{"started", "task_completed", "completed", "started"}, Kinds: []string{"backup"}},
		{Name: "elsewhere", Call: config.Call{Subject: "ops.wrong"}, Targets: []string{"other*"}},
		{Name: "scheduled", Call: config.Call{Subject: "ops.wrong"}, Schedules: []string{"*"}},
	}
	c.Notifications[0].Body = `{{.Kind}} of {{.Repository}} {{.State}}{{with .Error}}: {{.Description}}{{end}}`
	var all []*instance
	for i := range 3 {
		own := c
		own.Instance = fmt.Sprintf("i%d", i)
		own.Staging.Dir = t.TempDir()
		all = append(all, run(t, own, service.Deps{}))
	}
	cl := connect(t, server)
	a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, a.Session, api.StateSucceeded)
	subjects := map[string]int{}
	for range 4 {
		m, err := alerts.NextMsg(testenv.Hang)
		if err != nil {
			t.Fatal(err, subjects)
		}
		subjects[m.Subject]++
		var e api.Event
		if err := json.Unmarshal(m.Data, &e); err != nil || e.Session != a.Session || m.Header.Get(nats.MsgIdHdr) != e.ID || m.Header.Get("Jetkeep-Type") != e.Type {
			t.Errorf("%s: %v %s", m.Header, err, m.Data)
		}
	}
	if subjects["ops.backup.started"] != 1 || subjects["ops.backup.task_completed"] != 2 || subjects["ops.backup.completed"] != 1 {
		t.Errorf("published: %v", subjects)
	}
	// Refused, it is sent after the instances were stopped and one began anew.
	eventually(t, "the chat has refused", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return refused > 0
	})
	settled(t, nc, "bus") // or the last of what was published might be published again
	for _, i := range all {
		i.end()
	}
	mu.Lock()
	taken = true
	mu.Unlock()
	one := c
	one.Staging.Dir = t.TempDir()
	run(t, one, service.Deps{})
	want := "/hook/secret text/plain; charset=utf-8 backup of default succeeded"
	eventually(t, "the chat was told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return got[want] > 0
	})
	for _, n := range c.Notifications {
		settled(t, nc, n.Name)
	}
	if again := received(t, nc, alerts); len(again) > 0 {
		t.Errorf("published again or though it does not match: %s", again)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 1 || got[want] != 1 {
		t.Errorf("the chat was told %v", got)
	}
}

// A message that the server refuses is no message that was sent, and one that it
// takes later is sent once.
func TestNotificationRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	users := filepath.Join(dir, "users.conf")
	permit := func(deny string) {
		t.Helper()
		text := fmt.Sprintf("authorization { users: [{user: jetkeep, password: p, permissions: {publish: {deny: %q}}}, {user: ops, password: p}] }", deny)
		if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	permit("ops.>")
	server := natstest.StartEmbedded(t, natstest.Config(fmt.Sprintf("include '../%s/users.conf'", filepath.Base(dir)))) // beside its own directory
	nc := server.Connect(nats.UserInfo("ops", "p"))
	shop(t, nc)
	alerts, err := nc.SubscribeSync("ops.>")
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	c := setup(t, server)
	c.Control.User, c.Control.Password = "jetkeep", "p"
	c.Notifications = []config.Notification{{Name: "bus", Call: config.Call{Subject: "ops.{{.Kind}}"}}}
	log := new(lockedBuffer)
	run(t, c, service.Deps{Log: slog.New(slog.NewTextHandler(log, nil))})
	cl := clientOf(t, nc)
	a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cl, a.Session, api.StateSucceeded)
	eventually(t, "the refusal is in the log", func() bool {
		return strings.Contains(log.String(), `no permission to publish to \"ops.backup\"`)
	})
	if all := received(t, nc, alerts); len(all) > 0 {
		t.Fatalf("published though it is refused: %s", all)
	}
	permit("else.>")
	if err := server.Embedded().Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := alerts.NextMsg(testenv.Hang); err != nil {
		t.Fatal(err)
	}
	settled(t, nc, "bus")
	if again := received(t, nc, alerts); len(again) > 0 {
		t.Errorf("published again: %s", again)
	}
}

// received returns what has come of all that the server was given until now.
func received(t *testing.T, nc *nats.Conn, sub *nats.Subscription) (out []string) {
	t.Helper()
	if err := nc.FlushTimeout(testenv.Hang); err != nil {
		t.Fatal(err)
	}
	n, _, err := sub.Pending()
	for ; err == nil && n > 0; n-- {
		var m *nats.Msg
		if m, err = sub.NextMsg(testenv.Hang); err == nil {
			out = append(out, m.Subject+" "+string(m.Data))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What cannot be called is refused when the configuration is read, not at night.
func TestWrongCalls(t *testing.T) {
	t.Parallel()
	ok := config.Call{Subject: "a.b"}
	for want, change := range map[string]func(*config.Config){
		"hooks[0].subject: give exactly one of": func(c *config.Config) { c.Hooks = []config.Hook{{Name: "h", When: "before"}} },
		`hooks[0].when: "" is none of`:          func(c *config.Config) { c.Hooks = []config.Hook{{Name: "h", Call: ok}} },
		"hooks[0].policy: only": func(c *config.Config) {
			c.Hooks = []config.Hook{{Name: "h", Call: ok, When: "before", Policy: "always"}}
		},
		"hooks[0].command: \"rm\" is no absolute": func(c *config.Config) {
			c.Hooks = []config.Hook{{Name: "h", When: "before", Call: config.Call{Command: []string{"rm", "-rf"}}}}
		},
		"hooks[0].subject: \"a.*\" is no subject": func(c *config.Config) {
			c.Hooks = []config.Hook{{Name: "h", When: "before", Call: config.Call{Subject: "a.*"}}}
		},
		"hooks[0].kinds: \"backups\"": func(c *config.Config) {
			c.Hooks = []config.Hook{{Name: "h", Call: ok, When: "after", Kinds: []string{"backups"}}}
		},
		"hooks[1].name: \"h\" is there": func(c *config.Config) {
			c.Hooks = []config.Hook{{Name: "h", Call: ok, When: "after"}, {Name: "h", Call: ok, When: "after"}}
		},
		"notifications[0].body: template": func(c *config.Config) {
			c.Notifications = []config.Notification{{Name: "n", Call: ok, Body: "{{.Nothing}}"}}
		},
		"notifications[0].body: it is missing from some events": func(c *config.Config) {
			c.Notifications = []config.Notification{{Name: "n", Call: ok, Body: "{{.Error.Description}}"}}
		},
		"notifications[0].events: \"progress\"": func(c *config.Config) {
			c.Notifications = []config.Notification{{Name: "n", Call: ok, Events: []string{"progress"}}}
		},
		"notifications[0].headers: Authorization has a field of its own": func(c *config.Config) {
			c.Notifications = []config.Notification{{Name: "n", Call: config.Call{URL: "http://x/y", Headers: map[string]config.Secret{"Authorization": "x"}}}}
		},
		"notifications[0].subject: \"$SYS.x\" belongs": func(c *config.Config) {
			c.Notifications = []config.Notification{{Name: "n", Call: config.Call{Subject: "$SYS.x"}}}
		},
	} {
		c := config.Config{Repositories: []config.Repository{{Name: "r", Path: "/r"}}, Staging: config.Staging{Dir: "/s"}}
		change(&c)
		c.SetDefaults()
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, should have: %s", err, want)
		}
	}
}
