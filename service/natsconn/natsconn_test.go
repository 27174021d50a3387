package natsconn_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

// Dial ends in time whatever is at the other end, and leaves nothing running.
func TestDialEnds(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx   context.Context
		limit time.Duration // of the context
		o     natsconn.Options
		want  error
	}{
		"nobody there":    {t.Context(), testenv.Hang, natsconn.Options{URL: "nats://127.0.0.1:1"}, nats.ErrNoServers},
		"silent":          {t.Context(), testenv.Hang, natsconn.Options{URL: "nats://" + mute.Addr().String(), Timeout: 300 * time.Millisecond}, nil},
		"silent, context": {t.Context(), 200 * time.Millisecond, natsconn.Options{URL: "nats://" + mute.Addr().String(), Timeout: testenv.Hang}, context.DeadlineExceeded},
		"over before":     {cancelled, testenv.Hang, natsconn.Options{URL: "nats://" + mute.Addr().String()}, context.Canceled},
	} {
		// What ends none of them in time ends after 20 s. A machine may be slow, but
		// not each time.
		testenv.Until(t, "the end of a connection: "+name, func() error {
			ctx, cancel := context.WithTimeout(tc.ctx, tc.limit)
			defer cancel()
			start := time.Now()
			c, err := natsconn.Dial(ctx, tc.o)
			if err == nil {
				c.Close()
				t.Fatalf("%s: connected", name)
			}
			if d := time.Since(start); d > 10*time.Second {
				return fmt.Errorf("%s: ended after %s", name, d)
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%s: %v", name, err)
			}
			return nil
		})
	}
}

// try dials, again while that lasts longer than it may.
func try(t *testing.T, o natsconn.Options) (c *natsconn.Conn, err error) {
	t.Helper()
	o.Timeout = testenv.Hang
	testenv.True(t, "the end of a connection", func() bool {
		c, err = natsconn.Dial(t.Context(), o)
		return !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout)
	})
	return c, err
}

func TestLogin(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, natstest.Config(`authorization { timeout: 60, users: [ {user: u, password: s3cret} ] }`))
	ctx := t.Context()
	_, err := try(t, natsconn.Options{URL: srv.URL(), User: "u", Password: "wr0ng"})
	if !natsconn.IsAuthorization(err) || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("wrong password: %v", err)
	}
	host := strings.TrimPrefix(srv.URL(), "nats://")
	_, err = try(t, natsconn.Options{URL: "nats://u:wr0ng@" + host})
	if !natsconn.IsAuthorization(err) || strings.Contains(err.Error(), "wr0ng") || !strings.Contains(err.Error(), host) {
		t.Errorf("wrong password in address: %v", err)
	}
	c, err := try(t, natsconn.Options{URL: srv.URL(), User: "u", Password: "s3cret", Name: "first", RequestTimeout: testenv.Hang})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.ServerVersion() != natstest.Latest {
		t.Errorf("version %s", c.ServerVersion())
	}
	other, err := c.Another(ctx, "second")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if other.NC == c.NC || other.NC.Opts.Name != "second" {
		t.Error("not another connection")
	}
	if _, err := other.API.AccountInfo(ctx); err != nil {
		t.Error(err)
	}
}

// A connection for transfers is closed when it breaks; one that may reconnect
// comes back.
func TestReconnect(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	once, err := try(t, natsconn.Options{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer once.Close()
	again, err := try(t, natsconn.Options{URL: srv.URL(), Reconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	srv.Restart()
	testenv.Until(t, "the end of one connection and the return of the other", func() error {
		if !once.NC.IsClosed() {
			return errors.New("not closed")
		}
		_, err := again.API.AccountInfo(t.Context())
		return err
	})
	if _, err := once.API.AccountInfo(t.Context()); !errors.Is(err, jsapi.ErrConnectionLost) {
		t.Error(err)
	}
}

// Contexts of the nats command line give address, login, domain and inbox;
// what the options have comes first.
func TestContext(t *testing.T) {
	srv := natstest.Start(t, natstest.Domain("HUB"),
		natstest.Config(`authorization { timeout: 60, users: [ {user: u, password: s3cret}, {user: v, password: other} ] }`))
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	dir := filepath.Join(home, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"url":%q,"user":"u","password":"s3cret","jetstream_domain":"HUB","inbox_prefix":"_IN.u"}`, srv.URL())
	file := filepath.Join(dir, "prod.json")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"prod", file} {
		c, err := try(t, natsconn.Options{Context: name, RequestTimeout: testenv.Hang})
		if err != nil {
			t.Fatal(err)
		}
		if s := c.API.Subject("INFO"); s != "$JS.HUB.API.INFO" {
			t.Errorf("subject %s", s)
		}
		if s := c.NC.NewInbox(); !strings.HasPrefix(s, "_IN.u.") {
			t.Errorf("inbox %s", s)
		}
		if _, err := c.API.AccountInfo(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	c, err := try(t, natsconn.Options{Context: "prod", User: "v", Password: "other", APIPrefix: "my.js."})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s := c.API.Subject("INFO"); s != "my.js.INFO" {
		t.Errorf("subject %s", s)
	}
	if _, err := natsconn.Dial(t.Context(), natsconn.Options{Context: "nowhere"}); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("unknown context: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for field, o := range map[string]natsconn.Options{
		"creds, nkey": {User: "u", Token: "t"},
		"password":    {Password: "p"},
		"tls.cert":    {TLS: natsconn.TLS{Cert: "c"}},
		"api_prefix":  {APIPrefix: "a b"},
		"domain and":  {Domain: "D", APIPrefix: "x"},
		"domain \"":   {Domain: "a.b"},
		"inbox":       {InboxPrefix: "a.>"},
	} {
		if err := o.Validate(); !errors.Is(err, natsconn.ErrInvalidOptions) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := (&natsconn.Options{URL: "nats://h", User: "u", Password: "p", Domain: "D"}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestSecret(t *testing.T) {
	o := natsconn.Options{User: "u", Password: "s3cret", Token: "t0ken"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "password", o.Password, "options", o)
	j, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{log.String(), string(j), fmt.Sprint(o), fmt.Sprintf("%+v %#v %s %v", o, o, o.Password, &o)} {
		if strings.Contains(shown, "s3cret") || strings.Contains(shown, "t0ken") {
			t.Errorf("secret shows in %s", shown)
		}
	}
	var back natsconn.Options
	if err := json.Unmarshal([]byte(`{"password":"s3cret"}`), &back); err != nil || back.Password.Reveal() != "s3cret" {
		t.Errorf("%v, %v", back, err)
	}
}

// TLS with a client certificate, for both the client library's connection and
// the raw one that reads streams.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := natstest.Certificates(t, dir)
	for name, extra := range map[string]string{"after greeting": "", "first": `handshake_first: "1500ms"`} {
		conf := fmt.Sprintf("tls { timeout: 60, cert_file: %q, key_file: %q, ca_file: %q, verify: true\n%s }", cert, key, ca, extra)
		port := natstest.Start(t, natstest.Config(conf)).Port()
		files := natsconn.TLS{CA: ca, Cert: cert, Key: key, First: extra != ""}
		var c *natsconn.Conn
		// Who is late by 1.5 s gets a greeting where he wants none.
		testenv.Until(t, "a connection, "+name, func() (err error) {
			c, err = natsconn.Dial(t.Context(), natsconn.Options{URL: fmt.Sprintf("nats://localhost:%d", port), TLS: files})
			return err
		})
		natstest.MakeStream(t, c.NC, `{"name":"S","subjects":["s"]}`)
		natstest.PublishTo(t, c.NC, "s", 10, 10)
		n := 0
		testenv.Until(t, "a stream, "+name, func() error {
			n = 0
			return c.API.ReadStream(t.Context(), "S", 1, 10, func(*record.Record) error { n++; return nil })
		})
		if n != 10 {
			t.Errorf("%s: %d messages", name, n)
		}
		c.Close()
		if c, err := natsconn.Dial(t.Context(), natsconn.Options{URL: fmt.Sprintf("nats://localhost:%d", port), TLS: natsconn.TLS{CA: ca, First: extra != ""}}); err == nil {
			c.Close()
			t.Errorf("%s: connected without a certificate", name)
		}
	}
}
