package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
)

const (
	// maxReply bounds what is read of an answer, in bytes.
	maxReply = 64 << 10
	// maxSaid bounds what is shown of what a command or server said.
	maxSaid = 300
	// killWait is how long a command that was killed may keep its output open.
	killWait = time.Second
	redacted = "[redacted]"
)

// A Dialer connects to a target.
type Dialer func(ctx context.Context, target string) (*natsconn.Conn, error)

// A Caller reaches what hooks and notifications call.
type Caller struct {
	Control *natsconn.Conn
	Dial    Dialer
	HTTP    *http.Client // nil for one with the defaults
}

// ask calls and returns the answer.
func (c *Caller) ask(ctx context.Context, to *config.Call, target string, kind string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, to.Timeout)
	defer cancel()
	var reply []byte
	var err error
	switch {
	case to.Subject != "":
		reply, err = c.request(ctx, to, target, body)
	case to.URL != "":
		reply, err = c.post(ctx, to, "application/json", kind, body)
	default:
		reply, err = run(ctx, to.Command, kind, body)
	}
	if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil, fmt.Errorf("no answer within %s", to.Timeout)
	}
	return reply, err
}

// conn returns a connection to the account of a call.
func (c *Caller) conn(ctx context.Context, to *config.Call, target string) (*natsconn.Conn, func(), error) {
	if to.Account == config.AccountControl || target == "" {
		return c.Control, func() {}, nil
	}
	conn, err := c.Dial(ctx, target)
	if err != nil {
		return nil, nil, err
	}
	return conn, conn.Close, nil
}

// refusal makes ctx end if the server refuses to publish on a subject, which it
// tells by the way.
func refusal(ctx context.Context, conn *natsconn.Conn, subject string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := conn.API.Violations().Watch(func(p *jsapi.PermissionError) bool { return p.Op == jsapi.OpPublish && p.Subject == subject },
		func(p *jsapi.PermissionError) { cancel(p) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

func (c *Caller) request(ctx context.Context, to *config.Call, target string, body []byte) ([]byte, error) {
	conn, done, err := c.conn(ctx, to, target)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := refusal(ctx, conn, to.Subject)
	defer cancel()
	m, err := conn.NC.RequestWithContext(ctx, to.Subject, body)
	if p := new(jsapi.PermissionError); errors.As(context.Cause(ctx), &p) {
		return nil, p
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("nobody answers on subject %s", to.Subject)
	}
	if err != nil {
		return nil, fmt.Errorf("request on subject %s: %w", to.Subject, err)
	}
	if text := m.Header.Get(micro.ErrorHeader); text != "" || m.Header.Get(micro.ErrorCodeHeader) != "" {
		return nil, fmt.Errorf("the service on subject %s answers: %s %s", to.Subject, m.Header.Get(micro.ErrorCodeHeader), clip(text))
	}
	if len(m.Data) > maxReply {
		return nil, fmt.Errorf("the answer has more than %d bytes", maxReply)
	}
	return m.Data, nil
}

// publish sends a message that nobody answers, and waits until the server has
// it. What is published again within a stream's window of duplicates is not
// kept twice, by its id. It has a connection of its own, whose last error is that
// of the message: one that others use, or that has refused the subject before,
// would not tell whether this message was refused.
func (c *Caller) publish(ctx context.Context, to *config.Call, target, subject, contentType, kind, id string, body []byte) error {
	conn, err := c.own(ctx, to, target)
	if err != nil {
		return err
	}
	defer conn.Close()
	m := nats.NewMsg(subject)
	m.Data = body
	m.Header.Set("Content-Type", contentType)
	m.Header.Set("Jetkeep-Type", kind)
	m.Header.Set(nats.MsgIdHdr, id)
	if err := conn.NC.PublishMsg(m); err != nil {
		return fmt.Errorf("publish on subject %s: %w", subject, err)
	}
	if err := conn.NC.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("publish on subject %s: %w", subject, err)
	}
	if p, refused := jsapi.ParseViolation(conn.NC.LastError()); refused {
		return p
	}
	return nil
}

// own dials a connection to the account of a call.
func (c *Caller) own(ctx context.Context, to *config.Call, target string) (*natsconn.Conn, error) {
	if to.Account == config.AccountControl || target == "" {
		return c.Control.Another(ctx, "jetkeep notification")
	}
	return c.Dial(ctx, target)
}

// post sends a body to the URL, which no error shows.
func (c *Caller) post(ctx context.Context, to *config.Call, contentType, kind string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL.Reveal(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the url cannot be used")
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", api.Service)
	r.Header.Set("Jetkeep-Type", kind)
	for name, value := range to.Headers {
		r.Header.Set(name, value.Reveal())
	}
	if to.Authorization != "" {
		r.Header.Set("Authorization", to.Authorization.Reveal())
	}
	client := c.HTTP
	if client == nil {
		client = httpClient
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("POST to %s: %w", r.URL.Host, withoutURL(err))
	}
	defer answer.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(answer.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("answer of %s: %w", r.URL.Host, err)
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		said := strings.TrimSuffix(answer.Status+": "+strings.TrimSpace(string(reply)), ": ")
		return nil, fmt.Errorf("%s answers %s", r.URL.Host, clip(redact(said, r, to)))
	case len(reply) > maxReply:
		return nil, fmt.Errorf("the answer of %s has more than %d bytes", r.URL.Host, maxReply)
	}
	return reply, nil
}

// httpClient follows no redirection: it would take the secret elsewhere, and make
// a GET of a POST.
var httpClient = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// redact removes what is secret of a request from an answer to it: many servers
// name the path that they do not know, or the key that they refuse.
func redact(text string, r *http.Request, to *config.Call) string {
	secrets := []string{r.URL.RequestURI(), r.URL.EscapedPath(), r.URL.Path, r.URL.RawQuery, to.Authorization.Reveal()}
	secrets = append(secrets, strings.Fields(to.Authorization.Reveal())...) // a server may name it without its scheme
	for _, value := range to.Headers {
		secrets = append(secrets, strings.TrimSpace(value.Reveal()))
	}
	for _, values := range r.URL.Query() {
		secrets = append(secrets, values...)
	}
	// The longest first: another may be a part of it.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, secret := range secrets {
		if len(secret) > 1 {
			pairs = append(pairs, secret, redacted)
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// passed are the variables of the environment that a command sees. What the
// service itself was given, such as keys of a store, is not among them.
var passed = []string{"PATH", "HOME", "LANG", "TZ", "TMPDIR"}

// run runs a command with the body as its input. The command is killed when the
// time is over, with what it started.
func run(ctx context.Context, command []string, kind string, body []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(body)
	out, said := &head{most: maxReply + 1}, &head{most: maxSaid + 1}
	cmd.Stdout, cmd.Stderr = out, said
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, environment(kind, body)...)
	killAll(cmd)
	cmd.WaitDelay = killWait
	// Of a command that ends well and leaves something running, which holds its
	// output open, the answer is what was said until then.
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if text := strings.TrimSpace(said.kept.String()); text != "" {
			return nil, fmt.Errorf("%s: %w: %s", command[0], err, clip(text))
		}
		return nil, fmt.Errorf("%s: %w", command[0], err)
	}
	if out.kept.Len() > maxReply {
		return nil, fmt.Errorf("%s prints more than %d bytes", command[0], maxReply)
	}
	return out.kept.Bytes(), nil
}

// environment returns what is in a request for programs that read no JSON.
func environment(kind string, body []byte) []string {
	var q api.HookRequest
	_ = json.Unmarshal(body, &q) // we made it
	return []string{
		"JETKEEP_TYPE=" + kind, "JETKEEP_HOOK=" + q.Hook, "JETKEEP_WHEN=" + q.When, "JETKEEP_OF=" + q.Of,
		"JETKEEP_SESSION=" + q.Session, "JETKEEP_KIND=" + string(q.Kind), "JETKEEP_STATE=" + string(q.State),
		"JETKEEP_TARGET=" + q.Target, "JETKEEP_REPOSITORY=" + q.Repository,
		"JETKEEP_TASK=" + q.Task, "JETKEEP_STREAM=" + q.Stream,
	}
}

// head keeps the beginning of what is written. The buffer is not embedded: by its
// ReadFrom all of the output would come in.
type head struct {
	kept bytes.Buffer
	most int
}

func (h *head) Write(p []byte) (int, error) {
	h.kept.Write(p[:min(len(p), h.most-h.kept.Len())])
	return len(p), nil
}

func clip(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxSaid {
		return strings.ToValidUTF8(s[:maxSaid], "") + "…"
	}
	return s
}
