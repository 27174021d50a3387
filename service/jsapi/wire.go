package jsapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// A wire is a second connection of the same user that speaks NATS's protocol
// without the client library, which takes headers apart and cannot give their
// bytes back, and spends most of its time on that. It is used by one goroutine,
// and slows the server down when that one is slow.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
	idle time.Duration // longest silence

	names, body []byte // of the last message
}

const (
	wireBuffer    = 256 << 10
	wireHandshake = 10 * time.Second
)

// A delivery is one message as it came; valid until the next one.
type delivery struct {
	subject, reply []byte
	header, data   []byte
}

// errNoWire means that the connection is of a kind that wire does not speak.
var errNoWire = errors.New("connection is not plain NATS")

// dialWire connects to the server that nc is connected to, as the same user.
func dialWire(ctx context.Context, nc *nats.Conn) (*wire, error) {
	u, err := url.Parse(nc.ConnectedUrl())
	if err != nil || u.Host == "" {
		return nil, ErrConnectionLost
	}
	if strings.HasPrefix(u.Scheme, "ws") {
		return nil, errNoWire
	}
	conn, err := dialSocket(ctx, nc, u.Host)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", u.Host, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(wireHandshake)) // a closed connection shows below
	w := &wire{conn: conn}
	if err := w.handshake(nc, u); err != nil {
		_ = w.conn.Close()
		return nil, fmt.Errorf("log in to %s: %w", u.Host, err)
	}
	_ = w.conn.SetDeadline(time.Time{})
	return w, nil
}

func dialSocket(ctx context.Context, nc *nats.Conn, host string) (net.Conn, error) {
	switch {
	case nc.Opts.InProcessServer != nil:
		return nc.Opts.InProcessServer.InProcessConn()
	case nc.Opts.CustomDialer != nil:
		return nc.Opts.CustomDialer.Dial("tcp", host)
	}
	d := net.Dialer{Timeout: wireHandshake}
	return d.DialContext(ctx, "tcp", host)
}

// handshake logs in and returns once the server has accepted it.
func (w *wire) handshake(nc *nats.Conn, u *url.URL) error {
	w.in = bufio.NewReaderSize(w.conn, wireBuffer)
	_, noTLS := nc.TLSConnectionState()
	if noTLS == nil && nc.Opts.TLSHandshakeFirst {
		if err := w.secure(nc); err != nil {
			return err
		}
	}
	line, err := w.line()
	if err != nil {
		return err
	}
	greeting, ok := bytes.CutPrefix(line, []byte("INFO "))
	if !ok {
		return fmt.Errorf("%w: greeting %.40q", ErrInvalidReply, line)
	}
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(greeting, &info); err != nil {
		return fmt.Errorf("%w: greeting: %v", ErrInvalidReply, err)
	}
	if noTLS == nil && !nc.Opts.TLSHandshakeFirst {
		if err := w.secure(nc); err != nil {
			return err
		}
	}
	login, err := loginLine(&nc.Opts, u, info.Nonce)
	if err != nil {
		return err
	}
	w.out = append(append(w.out, login...), "PING\r\n"...)
	if err := w.flush(); err != nil {
		return err
	}
	return w.pong()
}

// secure starts TLS with what the first connection ended up with.
func (w *wire) secure(nc *nats.Conn) error {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if nc.Opts.TLSConfig != nil {
		cfg = nc.Opts.TLSConfig.Clone()
	}
	if nc.Opts.TLSCertCB != nil {
		cert, err := nc.Opts.TLSCertCB()
		if err != nil {
			return err
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	if nc.Opts.RootCAsCB != nil {
		roots, err := nc.Opts.RootCAsCB()
		if err != nil {
			return err
		}
		cfg.RootCAs = roots
	}
	state, err := nc.TLSConnectionState()
	if err != nil {
		return err
	}
	if cfg.ServerName == "" {
		cfg.ServerName = state.ServerName
	}
	if cfg.ServerName == "" {
		// An address instead of a name is not sent in the handshake.
		if cfg.ServerName, _, err = net.SplitHostPort(nc.ConnectedAddr()); err != nil {
			return err
		}
	}
	conn := tls.Client(w.conn, cfg)
	if err := conn.Handshake(); err != nil {
		return err
	}
	w.conn, w.in = conn, bufio.NewReaderSize(conn, wireBuffer)
	return nil
}

// loginLine builds the CONNECT line for the user of the first connection.
func loginLine(o *nats.Options, u *url.URL, nonce string) ([]byte, error) {
	c := map[string]any{
		"verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1,
		"lang": "go", "version": nats.Version, "name": o.Name, "tls_required": o.Secure,
	}
	set := func(key, value string) {
		if value != "" {
			c[key] = value
		}
	}
	if u.User != nil {
		if pass, ok := u.User.Password(); ok {
			set("user", u.User.Username())
			set("pass", pass)
		} else {
			set("auth_token", u.User.Username())
		}
	} else {
		set("user", o.User)
		set("pass", o.Password)
		set("auth_token", o.Token)
		set("nkey", o.Nkey)
		if o.UserInfo != nil {
			user, pass := o.UserInfo()
			set("user", user)
			set("pass", pass)
		}
	}
	if o.TokenHandler != nil {
		set("auth_token", o.TokenHandler())
	}
	if o.UserJWT != nil {
		jwt, err := o.UserJWT()
		if err != nil {
			return nil, fmt.Errorf("read user's JWT: %w", err)
		}
		set("jwt", jwt)
	}
	if o.SignatureCB != nil && (c["nkey"] != nil || c["jwt"] != nil) {
		sig, err := o.SignatureCB([]byte(nonce))
		if err != nil {
			return nil, fmt.Errorf("sign nonce: %w", err)
		}
		set("sig", base64.RawURLEncoding.EncodeToString(sig))
	}
	b, err := json.Marshal(c)
	return append(append([]byte("CONNECT "), b...), "\r\n"...), err
}

func (w *wire) close() { _ = w.conn.Close() }

// subscribe asks for a subject and returns when the server has agreed.
func (w *wire) subscribe(subject string) error {
	w.out = append(w.out, "SUB "+subject+" 1\r\nPING\r\n"...)
	if err := w.flush(); err != nil {
		return err
	}
	return w.pong()
}

// publish sends an empty message.
func (w *wire) publish(subject []byte) error {
	w.out = append(append(append(w.out, "PUB "...), subject...), " 0\r\n\r\n"...)
	return w.flush()
}

func (w *wire) flush() error {
	_ = w.conn.SetWriteDeadline(time.Now().Add(wireHandshake)) // a closed connection shows below
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	return err
}

// pong waits for the answer to PING; what comes before it says whether the
// server refused something.
func (w *wire) pong() error {
	for {
		line, err := w.line()
		if err != nil {
			return err
		}
		switch {
		case bytes.Equal(line, []byte("PONG")):
			return nil
		case bytes.HasPrefix(line, []byte("-ERR")):
			return wireError(line)
		}
	}
}

// wireError makes an error of the server's -ERR line.
func wireError(line []byte) error {
	text := strings.Trim(strings.TrimPrefix(string(line), "-ERR"), " '")
	if p, ok := ParseViolation(fmt.Errorf("%w: %s", nats.ErrPermissionViolation, text)); ok {
		return p
	}
	if strings.Contains(strings.ToLower(text), "authorization") {
		return fmt.Errorf("%w: %s", nats.ErrAuthorization, text)
	}
	return fmt.Errorf("%w: %s", ErrConnectionLost, text)
}

// line reads one control line; it is valid until the next read.
func (w *wire) line() ([]byte, error) {
	line, err := w.in.ReadSlice('\n')
	if err == nil {
		return bytes.TrimRight(line, "\r\n"), nil
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: control line without end", ErrInvalidReply)
	}
	return nil, err
}

// next returns the next message of the subscription.
func (w *wire) next() (*delivery, error) {
	for {
		if w.in.Buffered() == 0 {
			_ = w.conn.SetReadDeadline(time.Now().Add(w.idle)) // a closed connection shows below
		}
		line, err := w.line()
		if err != nil {
			return nil, err
		}
		switch {
		case bytes.HasPrefix(line, []byte("HMSG ")):
			return w.message(line[5:], true)
		case bytes.HasPrefix(line, []byte("MSG ")):
			return w.message(line[4:], false)
		case bytes.Equal(line, []byte("PING")):
			w.out = append(w.out, "PONG\r\n"...)
			if err := w.flush(); err != nil {
				return nil, err
			}
		case bytes.HasPrefix(line, []byte("-ERR")):
			return nil, wireError(line)
		}
	}
}

// fields splits a control line as servers do: at spaces and tabs. Subjects may
// hold every other white space there is.
func fields(args []byte) [][]byte {
	return bytes.FieldsFunc(args, func(r rune) bool { return r == ' ' || r == '\t' })
}

// message reads what follows "MSG " or "HMSG ": subject, subscription, the
// reply subject if there is one, the length of the header if so, all.
func (w *wire) message(args []byte, header bool) (*delivery, error) {
	f := fields(args)
	sizes := 1
	if header {
		sizes = 2
	}
	if len(f) < 2+sizes || len(f) > 3+sizes {
		return nil, fmt.Errorf("%w: control line %.100q", ErrInvalidReply, args)
	}
	total, _, err := number(f[len(f)-1], 0)
	var head uint64
	if err == nil && header {
		head, _, err = number(f[len(f)-2], 0)
	}
	if err != nil || total > MaxReply || head > total {
		return nil, fmt.Errorf("%w: control line %.100q", ErrInvalidReply, args)
	}
	// The line lies in the buffer that the body is read into.
	w.names = append(w.names[:0], f[0]...)
	subject := len(w.names)
	if len(f) == 3+sizes {
		w.names = append(w.names, f[2]...)
	}
	if n := int(total) + 2; cap(w.body) < n {
		w.body = make([]byte, n, n+min(n/4, wireBuffer))
	}
	w.body = w.body[:total+2]
	_ = w.conn.SetReadDeadline(time.Now().Add(w.idle)) // a closed connection shows below
	if _, err := io.ReadFull(w.in, w.body); err != nil {
		return nil, err
	}
	return &delivery{
		subject: w.names[:subject], reply: w.names[subject:],
		header: w.body[:head], data: w.body[head:total],
	}, nil
}
