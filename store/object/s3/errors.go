package s3

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"jetkeep/store/object"
	"jetkeep/store/object/httpclient"
)

// What requests need the permission for.
const (
	actionGet    = "s3:GetObject"
	actionPut    = "s3:PutObject"
	actionList   = "s3:ListBucket"
	actionDelete = "s3:DeleteObject"
)

// errNoStore means that an answer is not one of S3: something between, such as a
// proxy that wants to be logged in at, answers that all is well.
var errNoStore = fmt.Errorf("%w: the answer is not that of a store of S3", object.ErrUnavailable)

// noPages takes no web page for an answer. The client's library would read one as
// a listing of nothing.
type noPages struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (n noPages) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := n.next.RoundTrip(req)
	if err != nil || resp.StatusCode/100 != 2 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		return resp, err
	}
	_ = resp.Body.Close()
	return nil, errNoStore
}

// typed returns what an error means, in the words of package object. action is
// what the request needs the permission for.
func (d *Driver) typed(ctx context.Context, action string, err error) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		if errors.Is(err, cerr) {
			return err
		}
		return fmt.Errorf("%w: %w", cerr, err)
	}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		if errors.As(err, new(*object.PermissionError)) {
			return err // of the credentials, which look like a fault of the connection here
		}
		return httpclient.Broken(ctx, err)
	}
	if kind := byCode(answer); kind != nil {
		if errors.Is(kind, object.ErrPermission) {
			return d.refused(ctx, action, answer, err)
		}
		return fmt.Errorf("%w: %w", kind, err)
	}
	if e := httpclient.Status(answer.StatusCode, httpclient.Heard(ctx), err); e != nil {
		return e
	}
	return unknown(answer, err)
}

// byCode returns what a store's own code means, nil if the status says it.
func byCode(answer minio.ErrorResponse) error {
	switch answer.Code {
	case "NoSuchKey":
		return object.ErrNotExist
	case "NoSuchBucket":
		return errors.New("the bucket is gone") // which is not the absence of an object
	case "PreconditionFailed":
		return object.ErrExist
	case "ConditionalRequestConflict", "OperationAborted":
		return object.ErrUnavailable // another request is at it; the next try sees how it ended
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "BandwidthLimitExceeded":
		return object.ErrThrottled
	case "RequestTimeout", "IncompleteBody", "InternalError", "ServiceUnavailable":
		return object.ErrUnavailable
	case "BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest", "XAmzContentChecksumMismatch", "XMinioContentChecksumMismatch":
		return fmt.Errorf("%w: %w", object.ErrUnavailable, object.ErrChecksum) // the next try may come whole
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity", "EntityTooLarge":
		return object.ErrNoSpace
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "AuthorizationHeaderMalformed", "PermanentRedirect":
		return object.ErrPermission
	}
	if isSkewed(answer.Code) || isOfCredentials(answer.Code) {
		return object.ErrPermission
	}
	switch answer.StatusCode {
	case http.StatusPreconditionFailed:
		return object.ErrExist
	case http.StatusForbidden, http.StatusUnauthorized:
		return object.ErrPermission
	}
	return nil
}

// refused names what is not allowed, or what is wrong with the credentials.
func (d *Driver) refused(ctx context.Context, action string, answer minio.ErrorResponse, err error) error {
	kind := object.ErrPermission
	if action != actionGet && action != actionList {
		kind = object.ErrNotWritable
	}
	what := action
	switch code := answer.Code; {
	case isOfCredentials(code):
		what, kind = theCredentials, object.ErrPermission
		d.creds.Expire() // where they come from there may be others by now
	case isSkewed(code):
		what, kind = theClock(ctx), object.ErrPermission
	case code == "AuthorizationHeaderMalformed", code == "PermanentRedirect":
		what, kind = "the region, which may be another one", object.ErrPermission
	}
	return &object.PermissionError{Action: what, Kind: kind, Err: err}
}

// theClock says what is wrong with the time, by the last answer.
func theClock(ctx context.Context) string {
	const clock = "the clock of this machine, which "
	ahead, ok := aheadOf(httpclient.Heard(ctx))
	switch {
	case !ok:
		return clock + "differs from the store's"
	case ahead.Abs() < smallSkew:
		return clock + "agrees with the time of the store's answer; the store's own clocks may differ, or requests take long to get there"
	case ahead < 0:
		return clock + "is " + ahead.Abs().Round(time.Second).String() + " ahead of the store's: set it"
	}
	return clock + "is " + ahead.Round(time.Second).String() + " behind the store's: set it"
}

// An objectReader reads an object's content and, if it is read whole, compares
// it with its checksum.
type objectReader struct {
	ctx  context.Context // of the request that it is the answer of
	body io.ReadCloser
	hash hash.Hash // nil if there is nothing to compare with
	want []byte
}

func (r *objectReader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if r.hash != nil {
		r.hash.Write(p[:n])
		if errors.Is(err, io.EOF) && string(r.hash.Sum(nil)) != string(r.want) {
			return n, fmt.Errorf("%w: content is not what was stored", object.ErrChecksum)
		}
	}
	if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return n, err
	}
	if cerr := r.ctx.Err(); cerr != nil {
		return n, cerr
	}
	return n, httpclient.Broken(r.ctx, err)
}

func (r *objectReader) Close() error { return r.body.Close() }
