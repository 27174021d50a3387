package natsconn

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// advise adds to an error of connecting the field that is to blame, and what to do
// with it, where the error tells.
func (o *Options) advise(err error) error {
	var unknown x509.UnknownAuthorityError
	text := err.Error()
	switch {
	case IsAuthorization(err):
		return fmt.Errorf("%w (%s)", err, o.loginAdvice())
	case errors.As(err, &unknown):
		return fmt.Errorf("%w (%s: name the file of the authority that signed the server's certificate)", err, o.field("tls.ca"))
	case strings.Contains(text, "tls: certificate required"), strings.Contains(text, "tls: bad certificate"),
		strings.Contains(text, "after TLS handshake"): // with TLS 1.3 the refusal may be overtaken by the end of the connection
		return fmt.Errorf("%w (%s: name a certificate that the server accepts, and its key)", err, o.field("tls.cert, tls.key"))
	case (o.TLS.CA != "" || o.Context != "") && o.TLS.Cert == "" &&
		(errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)):
		return fmt.Errorf("%w (%s: the server closed the connection, as one does that demands a certificate; name one that it accepts, and its key)",
			err, o.field("tls.cert, tls.key"))
	}
	return err
}

// field says where a field is looked for, which may be a context.
func (o *Options) field(name string) string {
	if o.Context != "" {
		return fmt.Sprintf("%s, or those of context %s", name, o.Context)
	}
	return name
}

func (o *Options) loginAdvice() string {
	switch {
	case o.Creds != "":
		return "creds: the server does not accept the user in this file, have a new one made or name another"
	case o.NKeySeedFile != "":
		return "nkey: the server does not know the key in this file, add it there or name another"
	case o.User != "":
		return "user, password: the server does not accept them, compare them with its configuration"
	case o.Token != "":
		return "token: the server does not accept it, compare it with its configuration"
	case o.Context != "":
		return fmt.Sprintf("context: the server does not accept the login of context %s, correct it there", o.Context)
	case strings.Contains(o.URL, "@"):
		return "url: the server does not accept the login in it, compare it with its configuration"
	}
	return "the server demands a login: set user and password, token, nkey or creds"
}
