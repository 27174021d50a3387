package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"jetkeep/service/api"
)

// A Call is a way to reach something outside: Subject, URL or Command.
type Call struct {
	// Subject is of a NATS request, or of a message for a notification.
	Subject string `conf:"subject"`
	// Account says whose connection is used: AccountTarget or AccountControl.
	Account string `conf:"account"`
	// URL is sent a POST. It may be a secret, as those of chat services are.
	URL Secret `conf:"url"`
	// Authorization is the header of that name.
	Authorization Secret `conf:"authorization"`
	// Headers may be secrets, too, as those are that services call X-Api-Key.
	Headers map[string]Secret `conf:"headers"`
	// Command is a program and its arguments. No shell is asked.
	Command []string      `conf:"command"`
	Timeout time.Duration `conf:"timeout"`
}

// Accounts of a call.
const (
	AccountTarget  = "target"
	AccountControl = "control"
)

// A Hook is called before or after sessions or tasks.
type Hook struct {
	Name string
	Call
	When string `conf:"when"` // api.HookBefore or api.HookAfter
	Of   string `conf:"of"`   // api.HookSession or api.HookTask
	// Policy says after what a hook of api.HookAfter is called: PolicyAlways,
	// PolicySuccess or PolicyFailure.
	Policy string `conf:"policy"`
	// OnError says what becomes of the work if a hook before it fails:
	// OnErrorAbort or OnErrorContinue.
	OnError string `conf:"on_error"`
	// Kinds of sessions, by default backups only. The others are patterns, each
	// by default everything.
	Kinds     []string `conf:"kinds"`
	Targets   []string `conf:"targets"`
	Schedules []string `conf:"schedules"`
	Streams   []string `conf:"streams"` // of tasks
}

// Policies of hooks.
const (
	PolicyAlways    = "always"
	PolicySuccess   = "success"
	PolicyFailure   = "failure"
	OnErrorAbort    = "abort"
	OnErrorContinue = "continue"
)

// A Notification tells somebody of events.
type Notification struct {
	Name string
	Call
	// Events by their names, by default those with which sessions end.
	Events    []string `conf:"events"`
	Kinds     []string `conf:"kinds"` // by default all
	Targets   []string `conf:"targets"`
	Schedules []string `conf:"schedules"`
	// Body is a template over the event, by default the event as JSON. Subject
	// is one, too.
	Body        string `conf:"body"`
	ContentType string `conf:"content_type"`
}

// Bounds of calls.
const (
	DefaultCallTimeout = 30 * time.Second
	maxCallTimeout     = 10 * time.Minute
	maxCalls           = 64
)

func (c *Call) setDefaults() {
	setDefault(&c.Timeout, DefaultCallTimeout)
	if c.Subject != "" {
		setDefault(&c.Account, AccountTarget)
	}
}

func (h *Hook) setDefaults() {
	h.Call.setDefaults()
	setDefault(&h.Of, api.HookSession)
	if h.When == api.HookAfter {
		setDefault(&h.Policy, PolicyAlways)
	} else {
		setDefault(&h.OnError, OnErrorAbort)
	}
	if len(h.Kinds) == 0 {
		h.Kinds = []string{string(api.KindBackup)}
	}
}

func (n *Notification) setDefaults() {
	if n.Subject != "" {
		setDefault(&n.Account, AccountControl)
	}
	n.Call.setDefaults()
	if len(n.Events) == 0 {
		n.Events = []string{string(api.EventCompleted), string(api.EventFailed), string(api.EventCancelled)}
	}
	if n.ContentType == "" {
		n.ContentType = "application/json"
		if n.Body != "" {
			n.ContentType = "text/plain; charset=utf-8"
		}
	}
}

func (c *Config) validateCalls() error {
	seen := map[string]bool{}
	for i := range c.Hooks {
		at := fmt.Sprintf("hooks[%d]", i)
		if err := unique(at, c.Hooks[i].Name, seen); err != nil {
			return err
		}
		if err := cmp.Or(c.Hooks[i].validate(), c.checkTargets(c.Hooks[i].Targets)); err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
	}
	seen = map[string]bool{}
	for i := range c.Notifications {
		at := fmt.Sprintf("notifications[%d]", i)
		if err := unique(at, c.Notifications[i].Name, seen); err != nil {
			return err
		}
		if err := cmp.Or(c.Notifications[i].validate(), c.checkTargets(c.Notifications[i].Targets)); err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
	}
	switch {
	case len(c.Hooks) > maxCalls:
		return fmt.Errorf("hooks: %d are too many, at most %d", len(c.Hooks), maxCalls)
	case len(c.Notifications) > maxCalls:
		return fmt.Errorf("notifications: %d are too many, at most %d", len(c.Notifications), maxCalls)
	}
	return nil
}

// validate returns errors that begin with the field and show no secret.
func (c *Call) validate(commands bool) error {
	ways := 0
	for _, set := range []bool{c.Subject != "", c.URL != "", len(c.Command) > 0} {
		if set {
			ways++
		}
	}
	of := "subject, url and command"
	if !commands {
		of = "subject and url"
	}
	switch {
	case len(c.Command) > 0 && !commands:
		return errors.New("command: a notification runs none; a hook does")
	case ways != 1:
		return fmt.Errorf("subject: give exactly one of %s", of)
	case c.Timeout < 0 || c.Timeout > maxCallTimeout:
		return fmt.Errorf("timeout: must be at most %s", maxCallTimeout)
	case len(c.Command) > 0 && !filepath.IsAbs(c.Command[0]):
		return fmt.Errorf("command: %q is no absolute path of a program", c.Command[0])
	case c.URL == "" && (c.Authorization != "" || len(c.Headers) > 0):
		return errors.New("headers: only requests to a url have some")
	case c.Subject == "" && c.Account != "":
		return errors.New("account: only a subject has one")
	case c.Subject != "" && c.Account != AccountTarget && c.Account != AccountControl:
		return fmt.Errorf("account: %q is neither %s nor %s", c.Account, AccountTarget, AccountControl)
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL.Reveal())
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("url: is no URL, give one like https://HOST/PATH")
		}
		if u.User != nil {
			return errors.New("url: must hold no user or password; authorization has them")
		}
	}
	return c.validateHeaders()
}

// validateHeaders refuses what cannot be sent, or would be sent otherwise.
func (c *Call) validateHeaders() error {
	for name, value := range c.Headers {
		if !headerName.MatchString(name) || !printable(value.Reveal()) {
			return fmt.Errorf("headers: %q is no header", name)
		}
		switch strings.ToLower(name) {
		case "authorization":
			return fmt.Errorf("headers: %s has a field of its own, authorization", name)
		case "host", "content-length", "transfer-encoding", "trailer", "connection":
			return fmt.Errorf("headers: %s is made of the request and cannot be set", name)
		}
	}
	if !printable(c.Authorization.Reveal()) {
		return errors.New("authorization: has a character that no header may have")
	}
	return nil
}

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// printable tells whether a header may have such a value.
func printable(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

func oneOf(field, value string, of ...string) error {
	if !slices.Contains(of, value) {
		return fmt.Errorf("%s: %q is none of %s", field, value, strings.Join(of, ", "))
	}
	return nil
}

func (h *Hook) validate() error {
	if err := h.Call.validate(true); err != nil {
		return err
	}
	if h.Subject != "" {
		if err := CheckSubject(h.Subject); err != nil {
			return fmt.Errorf("subject: %w", err)
		}
	}
	if err := oneOf("when", h.When, api.HookBefore, api.HookAfter); err != nil {
		return err
	}
	if err := oneOf("of", h.Of, api.HookSession, api.HookTask); err != nil {
		return err
	}
	switch {
	case h.When == api.HookBefore && h.Policy != "":
		return errors.New("policy: only a hook that is called after has one")
	case h.When == api.HookAfter && h.OnError != "":
		return errors.New("on_error: only a hook that is called before has it; one after the work never undoes it")
	case h.Of == api.HookSession && len(h.Streams) > 0:
		return fmt.Errorf("streams: only a hook of a %s has them", api.HookTask)
	}
	if h.When == api.HookAfter {
		if err := oneOf("policy", h.Policy, PolicyAlways, PolicySuccess, PolicyFailure); err != nil {
			return err
		}
	} else if err := oneOf("on_error", h.OnError, OnErrorAbort, OnErrorContinue); err != nil {
		return err
	}
	if err := checkKinds(h.Kinds); err != nil {
		return err
	}
	return checkPatterns(map[string][]string{"targets": h.Targets, "schedules": h.Schedules, "streams": h.Streams})
}

func (n *Notification) validate() error {
	if err := n.Call.validate(false); err != nil {
		return err
	}
	for _, e := range n.Events {
		if e == string(api.EventProgress) || !slices.Contains(api.EventNames(), api.EventName(e)) {
			return fmt.Errorf("events: %q is none of %s, %s, %s, %s, %s", e,
				api.EventStarted, api.EventTaskCompleted, api.EventCompleted, api.EventFailed, api.EventCancelled)
		}
	}
	if !printable(n.ContentType) {
		return errors.New("content_type: has a character that no header may have")
	}
	if err := checkKinds(n.Kinds); err != nil {
		return err
	}
	if err := checkPatterns(map[string][]string{"targets": n.Targets, "schedules": n.Schedules}); err != nil {
		return err
	}
	return n.try()
}

// try fills in the templates with events of every sort that is sent on.
func (n *Notification) try() error {
	for _, e := range n.examples() {
		if _, err := Render("body", n.Body, e); err != nil {
			if strings.Contains(err.Error(), "nil pointer") || strings.Contains(err.Error(), "nil *") {
				return fmt.Errorf("body: it is missing from some events; put it into a with, such as {{with .Error}}{{.Description}}{{end}}: %w", err)
			}
			return fmt.Errorf("body: %w", err)
		}
		if n.Subject == "" {
			continue
		}
		subject, err := Render("subject", n.Subject, e)
		if err == nil {
			err = CheckSubject(string(subject))
		}
		if err != nil {
			return fmt.Errorf("subject: %w, of the event %s of %s sessions", err, e.Event, e.Kind)
		}
	}
	return nil
}

func checkKinds(kinds []string) error {
	for _, k := range kinds {
		if !slices.Contains(api.Kinds(), api.Kind(k)) {
			return fmt.Errorf("kinds: %q is no kind of session", k)
		}
	}
	return nil
}

// checkTargets refuses the name of a target that there is not: what is meant for it
// would never be called. A pattern may match none.
func (c *Config) checkTargets(names []string) error {
	for _, name := range names {
		is := func(t Target) bool { return t.Name == name }
		if !strings.ContainsAny(name, `*?[\`) && !slices.ContainsFunc(c.Targets, is) {
			return fmt.Errorf("targets: there is no target %q", name)
		}
	}
	return nil
}

func checkPatterns(fields map[string][]string) error {
	for name, list := range fields {
		for _, p := range list {
			if _, err := path.Match(p, ""); err != nil || p == "" {
				return fmt.Errorf("%s: %q is no pattern; * and ? stand for anything", name, p)
			}
		}
	}
	return nil
}

// CheckSubject refuses what cannot be published to.
func CheckSubject(s string) error {
	for _, token := range strings.Split(s, ".") {
		if token == "" || strings.ContainsAny(token, " \t\r\n*>") {
			return fmt.Errorf("%q is no subject to publish to", s)
		}
	}
	if strings.HasPrefix(s, "$") {
		return fmt.Errorf("%q belongs to the server", s)
	}
	return nil
}

// MaxRendered bounds what a template makes, in bytes.
const MaxRendered = 256 << 10

// Render fills in a template. An empty one makes the event's JSON.
func Render(name, text string, e *api.Event) ([]byte, error) {
	if text == "" {
		return json.Marshal(e)
	}
	t, err := template.New(name).Option("missingkey=zero").Funcs(template.FuncMap{
		"json":  func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"upper": strings.ToUpper,
		"lower": strings.ToLower,
	}).Parse(text)
	if err != nil {
		return nil, err // names the template and what is wrong
	}
	w := &bounded{}
	if err := t.Execute(w, e); err != nil {
		return nil, err // as above
	}
	return w.Bytes(), nil
}

type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxRendered {
		return 0, fmt.Errorf("it makes more than %d bytes", MaxRendered)
	}
	return b.Buffer.Write(p)
}

// states are those that an event of a name may have.
var states = map[api.EventName][]api.State{
	api.EventStarted:       {api.StateRunning},
	api.EventTaskCompleted: {api.StateSucceeded, api.StateFailed, api.StateCancelled},
	api.EventCompleted:     {api.StateSucceeded, api.StatePartial, api.StateSkipped},
	api.EventFailed:        {api.StateFailed},
	api.EventCancelled:     {api.StateCancelled},
}

// examples are events to try templates with: of each sort that the notification
// sends one in which everything is there, and others in which something is not
// that may be missing.
func (n *Notification) examples() []*api.Event {
	kinds := n.Kinds
	if len(kinds) == 0 {
		for _, k := range api.Kinds() {
			kinds = append(kinds, string(k))
		}
	}
	var out []*api.Event
	for _, kind := range kinds {
		for _, name := range n.Events {
			for _, state := range states[api.EventName(name)] {
				for missing := range 1 << 3 {
					out = append(out, example(api.Kind(kind), api.EventName(name), state, missing))
				}
			}
		}
	}
	return out
}

// example makes an event that lacks its tags, error or the rest, by the bits of
// missing.
func example(kind api.Kind, name api.EventName, state api.State, missing int) *api.Event {
	at := time.Unix(1767225600, 0).UTC()
	e := api.Event{
		Type: name.Type(), ID: "20260101T000000Z-00000000." + string(name), Timestamp: at,
		Event: name, Session: "20260101T000000Z-00000000", Kind: kind, State: state, Repository: "main", Instance: "a",
	}
	if kind == api.KindBackup || kind == api.KindRestore { // the others concern a repository alone
		e.Target = "prod"
	}
	if missing&1 == 0 {
		e.Tags = map[string]string{api.ScheduleTag: "nightly"}
	}
	if missing&2 == 0 {
		e.Error = api.Errorf(api.CodeInternal, "an example")
	}
	whole := missing&4 == 0
	switch {
	case name == api.EventTaskCompleted:
		e.Task = &api.TaskView{State: state}
		if whole {
			*e.Task = api.TaskView{
				Task: "20260101T000000Z-00000000.0001", Stream: "ORDERS", State: state, RestorePoint: "20260101T000000Z-00000000.0001", Attempts: 1,
				Instance: "a", Started: &at, Ended: &at, Verified: true, Digest: "d", Notes: []string{"a note"},
				Drilled: &api.Drilled{}, Verification: &api.Verification{}, Pruned: &api.Pruned{}, Error: e.Error,
			}
		}
	case whole:
		e.Tasks = &api.TaskCounts{Total: 1}
		if name != api.EventStarted {
			e.Progress = &api.Progress{}
		}
	}
	return &e
}
