package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"jetkeep/store/object"
	"jetkeep/store/object/httpclient"
)

const (
	// signings bounds how often one request is signed and sent.
	signings = 3
	// maxSkew bounds by how much the store's clock is believed to be right and
	// that of this machine wrong. Beyond it, whatever else this machine dates,
	// such as backups, would be wrong, too.
	maxSkew = 24 * time.Hour
	// smallSkew is what no store minds.
	smallSkew = time.Minute
	// maxRefusal bounds what is read of a refusal, maxRepeated a body that is
	// kept to be sent again.
	maxRefusal  = 64 << 10
	maxRepeated = 8 << 20
)

// renewAfter are the pauses before each look for credentials in place of expired
// ones: who provides them may be a little late.
var renewAfter = []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second}

// A signing transport signs each request itself, so that it may
//
//   - put the endpoint's path before the request's, which the signature covers;
//   - sign again with credentials that were fetched anew, if the ones that were
//     used are refused, and the new ones are others;
//   - sign again with the store's time, if the store refuses ours.
type signing struct {
	next     http.RoundTripper
	creds    *credentials.Credentials
	chain    *chain
	endpoint *url.URL
	payer    bool         // have the requester pay
	ahead    atomic.Int64 // how far the store's clock is before ours, in nanoseconds
}

// now is the time as the store has it.
func (s *signing) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

// RoundTrip implements http.RoundTripper.
func (s *signing) RoundTrip(req *http.Request) (*http.Response, error) {
	region, service, ok := scopeOf(req)
	if !ok {
		return nil, fmt.Errorf("%s %s: the request cannot be signed", req.Method, req.URL.Path)
	}
	body, err := bodies(req)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		value, err := s.value(req.Context())
		if err != nil {
			return nil, err
		}
		out := s.prepare(req)
		out.Body = body()
		sign(out, value, region, service, s.now())
		resp, err := s.next.RoundTrip(out)
		if err != nil || try == signings {
			return resp, err
		}
		again, err := s.mends(req, resp, value)
		if err != nil {
			_ = resp.Body.Close()
			return nil, err
		}
		if !again {
			return resp, nil
		}
		_ = resp.Body.Close()
	}
}

// value returns the credentials as they are now.
func (s *signing) value(ctx context.Context) (credentials.Value, error) {
	return s.creds.GetWithContext(&credentials.CredContext{Context: ctx})
}

// prepare returns the request as it is sent, unsigned.
func (s *signing) prepare(req *http.Request) *http.Request {
	out := req.Clone(req.Context())
	if at := s.endpoint; at.Path != "" {
		out.URL.Path, out.URL.RawPath = at.Path+req.URL.Path, at.EscapedPath()+req.URL.EscapedPath()
	}
	if s.payer {
		out.Header.Set(payerHeader, "requester")
	}
	return out
}

// bodies returns what gives the request's body, from its beginning each time.
func bodies(req *http.Request) (func() io.ReadCloser, error) {
	switch again := httpclient.BodyOf(req.Context()); {
	case req.Body == nil || req.Body == http.NoBody:
		return func() io.ReadCloser { return req.Body }, nil
	case again != nil:
		return func() io.ReadCloser { return io.NopCloser(again.Again()) }, nil
	case req.ContentLength < 0 || req.ContentLength > maxRepeated:
		return nil, fmt.Errorf("%s %s: a body of %d bytes cannot be sent twice", req.Method, req.URL.Path, req.ContentLength)
	}
	all, err := io.ReadAll(io.LimitReader(req.Body, req.ContentLength))
	_ = req.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return func() io.ReadCloser { return io.NopCloser(bytes.NewReader(all)) }, nil
}

// mends says whether a request that was refused is worth to be signed again, and
// sees to what has changed.
func (s *signing) mends(req *http.Request, resp *http.Response, used credentials.Value) (bool, error) {
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
	default:
		return false, nil
	}
	code := codeOf(resp)
	switch {
	case isSkewed(code):
		return s.adjust(resp), nil
	case code == "" && req.Method == http.MethodHead: // whose answer has no reason in it
		ahead, ok := aheadOf(resp.Header)
		return ok && (ahead-time.Duration(s.ahead.Load())).Abs() > 4*smallSkew && s.adjust(resp), nil
	case isOfCredentials(code):
		return s.renew(req.Context(), used, isExpired(code))
	}
	return false, nil
}

// adjust takes over the time that an answer has.
func (s *signing) adjust(resp *http.Response) bool {
	ahead, ok := aheadOf(resp.Header)
	switch {
	case !ok:
		return true // the clock may have been set since
	case ahead.Abs() > maxSkew:
		return false
	case ahead.Abs() < smallSkew:
		ahead = 0
	}
	s.ahead.Store(int64(ahead))
	return true
}

// aheadOf returns how far a store's clock is before ours, by its answer.
func aheadOf(h http.Header) (time.Duration, bool) {
	at, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0, false
	}
	return time.Until(at), true
}

// renew fetches credentials anew and says whether they are others than those
// that were refused. It waits for some in place of expired ones.
func (s *signing) renew(ctx context.Context, used credentials.Value, expired bool) (bool, error) {
	for _, pause := range renewAfter {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false, ctx.Err()
		}
		value, err := s.value(ctx)
		if err == nil && same(value, used) {
			s.chain.refuse(used)
			s.creds.Expire()
			value, err = s.value(ctx)
		}
		switch {
		case errors.As(err, new(*object.PermissionError)):
			return false, nil // what the store said is as good
		case err != nil:
			return false, err
		case !same(value, used):
			return true, nil
		case !expired || !s.chain.rotates():
			return false, nil
		}
	}
	return false, nil
}

func same(a, b credentials.Value) bool {
	return a.AccessKeyID == b.AccessKeyID && a.SecretAccessKey == b.SecretAccessKey && a.SessionToken == b.SessionToken
}

var codePattern = regexp.MustCompile(`<Code>\s*([A-Za-z.]+)\s*</Code>`)

// codeOf returns the code of a refusal, whose body can be read again.
func codeOf(resp *http.Response) string {
	begin, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = failed{err}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(begin), rest), resp.Body}
	if m := codePattern.FindSubmatch(begin); m != nil {
		return string(m[1])
	}
	return resp.Header.Get("X-Minio-Error-Code") // which others send, too
}

// A failed reader is the rest of what could not be read.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// isSkewed says whether a code is that the time of a request is refused.
func isSkewed(code string) bool {
	switch code {
	case "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		return true
	}
	return false
}

// isExpired says whether a code is that credentials were good until now.
func isExpired(code string) bool {
	switch code {
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return true
	}
	return false
}

// isOfCredentials says whether a code is that others are needed.
func isOfCredentials(code string) bool {
	switch code {
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidTokenId", "InvalidClientTokenId", "InvalidSecurity",
		"UnrecognizedClientException":
		return true
	}
	return isExpired(code)
}
