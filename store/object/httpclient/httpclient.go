// Package httpclient is what the drivers of stores that speak HTTP share: a
// transport with deadlines, and what answers and broken connections mean in the
// words of package object.
package httpclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"jetkeep/store/object"
)

// Options say how to reach a store.
type Options struct {
	// CAFile has certificates in PEM of authorities to trust besides the
	// system's.
	CAFile string
	// Connections bounds those to one host; 0 means 64.
	Connections int
	// AnswerTimeout bounds the wait for an answer once a request is sent; 0
	// means 60 s.
	AnswerTimeout time.Duration
	// UploadRate and DownloadRate bound bytes a second over all connections;
	// 0 is no bound.
	UploadRate, DownloadRate int64
}

// New returns a transport. It sends nothing that was not asked for: no
// compression, so that sizes are those of what is stored.
func New(o Options) (*http.Transport, error) {
	if o.Connections == 0 {
		o.Connections = 64
	}
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = time.Minute
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer(o),
		MaxIdleConns:          o.Connections,
		MaxIdleConnsPerHost:   o.Connections,
		MaxConnsPerHost:       o.Connections,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		ResponseHeaderTimeout: o.AnswerTimeout,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		DisableCompression:    true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if o.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificates: %s holds none in PEM", o.CAFile)
	}
	t.TLSClientConfig.RootCAs = roots
	return t, nil
}

// Status returns err with what an answer's status means; nil for what only the
// store's own words can tell (400, 403, 404, 409, 412 and the like).
func Status(status int, header http.Header, err error) error {
	var kind error
	passes := true
	switch status {
	case http.StatusTooManyRequests:
		kind = object.ErrThrottled
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		kind = object.ErrUnavailable
	case http.StatusInsufficientStorage, http.StatusRequestEntityTooLarge:
		kind, passes = object.ErrNoSpace, false
	default:
		return nil
	}
	err = fmt.Errorf("%w: %w", kind, err)
	if after := RetryAfter(header.Get("Retry-After"), time.Now()); after > 0 && passes {
		err = &object.WaitError{After: after, Err: err}
	}
	return err
}

// RetryAfter reads the header of that name: seconds, or a date. What makes no
// sense is 0.
func RetryAfter(header string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(header); err == nil && n > 0 && n < 1<<31 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// Broken returns err as object.ErrUnavailable if it is a connection that could
// not be made or that broke, and unchanged otherwise: the end of ctx is no
// fault of the store, and certificates do not get better by waiting.
func Broken(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, object.ErrUnavailable) || errors.Is(err, object.ErrThrottled) {
		return err
	}
	var (
		unknown  x509.UnknownAuthorityError
		host     x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		netErr   net.Error
		urlErr   *url.Error
		noRecord tls.RecordHeaderError
		file     *fs.PathError // a file of this machine, whose errors look like those of the network
	)
	if errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &verify) || errors.As(err, &noRecord) ||
		errors.As(err, &file) {
		return err
	}
	switch {
	case errors.As(err, &netErr), errors.As(err, &urlErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return fmt.Errorf("%w: %w", object.ErrUnavailable, err)
	}
	return err
}
