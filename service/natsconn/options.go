package natsconn

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jsm.go/natscontext"
	"github.com/nats-io/nats.go"
)

// Secret is a string that does not show itself in logs, errors or JSON.
type Secret string

const redacted = "[redacted]"

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// Format hides the secret from every verb, also from those that strings do not
// have: of them fmt would show the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides the secret from every encoder.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a secret from a configuration.
func (s *Secret) UnmarshalText(b []byte) error {
	*s = Secret(b)
	return nil
}

// LogValue hides the secret from the log.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Reveal returns what is hidden.
func (s Secret) Reveal() string { return string(s) }

// TLS names the files that a connection's TLS needs.
type TLS struct {
	CA    string `json:"ca,omitempty"`
	Cert  string `json:"cert,omitempty"`
	Key   string `json:"key,omitempty"`
	First bool   `json:"first,omitempty"` // TLS before the server's greeting
}

// Options say where and as whom to connect. Where a context is named, what is
// set here overrides it.
type Options struct {
	URL     string `json:"url,omitempty"`     // one or more, separated by commas
	Context string `json:"context,omitempty"` // name or file of a context of the nats command line

	Creds        string `json:"creds,omitempty"` // file with a user's JWT and seed
	NKeySeedFile string `json:"nkey,omitempty"`
	User         string `json:"user,omitempty"`
	Password     Secret `json:"password,omitempty"`
	Token        Secret `json:"token,omitempty"`
	TLS          TLS    `json:"tls,omitempty"`

	Domain      string `json:"domain,omitempty"`     // JetStream domain
	APIPrefix   string `json:"api_prefix,omitempty"` // prefix of the JetStream API instead of $JS.API
	InboxPrefix string `json:"inbox_prefix,omitempty"`

	Name string `json:"name,omitempty"` // shown by the server
	// Timeout bounds the connecting, DefaultTimeout if zero.
	Timeout time.Duration `json:"-" conf:"timeout"`
	// RequestTimeout bounds one call of the JetStream API.
	RequestTimeout time.Duration `json:"-" conf:"request_timeout"`
	// Reconnect lets a lost connection come back, for as long as it takes. A
	// connection that carries transfers must not: what was sent meanwhile is
	// gone without a sign.
	Reconnect bool `json:"-"`
	// InProcess connects to an embedded server without the network.
	InProcess nats.InProcessConnProvider `json:"-"`
	Log       *slog.Logger               `json:"-"`
}

// ErrInvalidOptions means that the options cannot be those of a connection.
var ErrInvalidOptions = errors.New("invalid connection options")

// Validate refuses options that contradict each other, and names the field.
func (o *Options) Validate() error {
	auth := 0
	for _, set := range []bool{o.Creds != "", o.NKeySeedFile != "", o.User != "", o.Token != ""} {
		if set {
			auth++
		}
	}
	switch {
	case auth > 1:
		return fmt.Errorf("%w: more than one of creds, nkey, user and token", ErrInvalidOptions)
	case o.Password != "" && o.User == "":
		return fmt.Errorf("%w: password without user", ErrInvalidOptions)
	case (o.TLS.Cert == "") != (o.TLS.Key == ""):
		return fmt.Errorf("%w: tls.cert and tls.key go together", ErrInvalidOptions)
	case o.Domain != "" && o.APIPrefix != "":
		return fmt.Errorf("%w: domain and api_prefix exclude each other", ErrInvalidOptions)
	case strings.ContainsAny(o.Domain, " .*>\t\r\n"):
		return fmt.Errorf("%w: domain %q", ErrInvalidOptions, o.Domain)
	case strings.ContainsAny(o.APIPrefix, " *>\t\r\n"):
		return fmt.Errorf("%w: api_prefix %q", ErrInvalidOptions, o.APIPrefix)
	case strings.ContainsAny(o.InboxPrefix, " *>\t\r\n") || strings.HasSuffix(o.InboxPrefix, "."):
		return fmt.Errorf("%w: inbox_prefix %q", ErrInvalidOptions, o.InboxPrefix)
	}
	return checkAddresses(o.URL)
}

// checkAddresses refuses addresses of servers that cannot be read. What nats.go says
// of them repeats them, with the password that may be the cause.
func checkAddresses(urls string) error {
	for i, p := range strings.Split(urls, ",") {
		if p = strings.TrimSpace(p); p == "" {
			continue // as nats.go does
		}
		if !strings.Contains(p, "://") {
			p = "nats://" + p
		}
		u, err := url.Parse(p)
		switch {
		case err != nil || u.Host == "":
			return fmt.Errorf("%w: url: address %d cannot be read, give one like nats://HOST:4222; in a login in it all but letters and digits must be written as %%XX",
				ErrInvalidOptions, i+1)
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			return fmt.Errorf("%w: url: address %d begins with %s://, which is none of nats, tls, ws, wss", ErrInvalidOptions, i+1, u.Scheme)
		}
	}
	return nil
}

// settings is what Options and their context come down to.
type settings struct {
	url, domain, prefix string
	opts                []nats.Option
}

func (o *Options) settings() (*settings, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := o.CheckFiles(); err != nil {
		return nil, err
	}
	s := &settings{url: o.URL, domain: o.Domain, prefix: o.APIPrefix}
	if o.Context != "" {
		if err := s.fromContext(o); err != nil {
			return nil, err
		}
	}
	if s.url == "" {
		s.url = nats.DefaultURL
	}
	if err := s.auth(o); err != nil {
		return nil, err
	}
	if o.TLS.CA != "" {
		s.opts = append(s.opts, nats.RootCAs(o.TLS.CA))
	}
	if o.TLS.Cert != "" {
		s.opts = append(s.opts, nats.ClientCert(o.TLS.Cert, o.TLS.Key))
	}
	if o.TLS.First {
		s.opts = append(s.opts, nats.TLSHandshakeFirst())
	}
	if o.InboxPrefix != "" {
		s.opts = append(s.opts, nats.CustomInboxPrefix(o.InboxPrefix))
	}
	if o.InProcess != nil {
		s.opts = append(s.opts, nats.InProcessServer(o.InProcess))
	}
	return s, nil
}

// fromContext takes over a context. Its login counts only if the options have
// none, for a connection that had both would be refused.
func (s *settings) fromContext(o *Options) error {
	nctx, err := o.context()
	if err != nil {
		return err
	}
	s.opts, err = nctx.NATSOptions()
	if err != nil {
		return fmt.Errorf("read context %s: %w", o.Context, err)
	}
	if o.Creds != "" || o.NKeySeedFile != "" || o.User != "" || o.Token != "" {
		s.opts = append(s.opts, noLogin)
	}
	if s.url == "" {
		s.url = nctx.ServerURL()
		if err := checkAddresses(s.url); err != nil {
			return fmt.Errorf("read context %s: %w", o.Context, err)
		}
	}
	if o.Domain == "" && o.APIPrefix == "" {
		s.domain, s.prefix = nctx.JSDomain(), nctx.JSAPIPrefix()
	}
	return nil
}

// SelectedContext returns the context that is selected in the nats command line, empty
// if none is. Options do not use it by themselves.
func SelectedContext() string { return natscontext.SelectedContext() }

// context reads the context, by its name or file.
func (o *Options) context() (*natscontext.Context, error) {
	var nctx *natscontext.Context
	var err error
	if strings.ContainsRune(o.Context, os.PathSeparator) || strings.HasSuffix(o.Context, ".json") {
		nctx, err = natscontext.NewFromFile(o.Context)
	} else {
		nctx, err = natscontext.New(o.Context, true)
	}
	if err != nil {
		return nil, fmt.Errorf("read context %s: %w", o.Context, err)
	}
	return nctx, nil
}

func noLogin(o *nats.Options) error {
	o.User, o.Password, o.Token, o.Nkey = "", "", "", ""
	o.UserJWT, o.SignatureCB = nil, nil
	return nil
}

func (s *settings) auth(o *Options) error {
	switch {
	case o.Creds != "":
		s.opts = append(s.opts, nats.UserCredentials(o.Creds))
	case o.NKeySeedFile != "":
		opt, err := nats.NkeyOptionFromSeed(o.NKeySeedFile)
		if err != nil {
			return fmt.Errorf("nkey: read seed %s: %w", o.NKeySeedFile, err)
		}
		s.opts = append(s.opts, opt)
	case o.User != "":
		s.opts = append(s.opts, nats.UserInfo(o.User, o.Password.Reveal()))
	case o.Token != "":
		s.opts = append(s.opts, nats.Token(o.Token.Reveal()))
	}
	return nil
}

// WithoutLogin returns the addresses of servers, separated by commas, without
// users, passwords and tokens.
func WithoutLogin(urls string) string {
	parts := strings.Split(urls, ",")
	for i, p := range parts {
		p = strings.TrimSpace(p)
		if !strings.Contains(p, "://") {
			p = "nats://" + p
		}
		u, err := url.Parse(p)
		if err != nil {
			parts[i] = "(unreadable address)"
			continue
		}
		u.User = nil
		parts[i] = u.String()
	}
	return strings.Join(parts, ",")
}
