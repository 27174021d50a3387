package swift

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/ncw/swift/v2"

	"jetkeep/store/object"
	"jetkeep/store/object/httpclient"
)

// What requests need to be allowed by the container's access control list.
const (
	accessRead  = "X-Container-Read"
	accessList  = "X-Container-Read with .rlistings"
	accessWrite = "X-Container-Write"
)

// typed returns what an error means, in the words of package object. access is
// what the request needs to be allowed.
func typed(ctx context.Context, access string, err error) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		if errors.Is(err, cerr) {
			return err
		}
		return fmt.Errorf("%w: %w", cerr, err)
	}
	var refused *object.PermissionError
	if errors.As(err, &refused) {
		return err
	}
	var answer *swift.Error
	if !errors.As(err, &answer) {
		return httpclient.Broken(ctx, err)
	}
	switch answer.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", object.ErrNotExist, err)
	case http.StatusPreconditionFailed:
		return fmt.Errorf("%w: %w", object.ErrExist, err)
	case http.StatusUnprocessableEntity:
		// What arrived is not what was sent; the next try may come whole.
		return fmt.Errorf("%w: %w: %w", object.ErrUnavailable, object.ErrChecksum, err)
	case http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %w", object.ErrNoSpace, err) // a quota: nothing that is put is too large
	case swift.RateLimit.StatusCode:
		return fmt.Errorf("%w: %w", object.ErrThrottled, err)
	case http.StatusUnauthorized:
		return &object.PermissionError{Action: "the credentials", Kind: object.ErrPermission, Err: err}
	case http.StatusForbidden:
		kind := object.ErrNotWritable
		if access == accessRead || access == accessList {
			kind = object.ErrPermission
		}
		return &object.PermissionError{Action: access, Kind: kind, Err: err}
	}
	if e := httpclient.Status(answer.StatusCode, httpclient.Heard(ctx), err); e != nil {
		return e
	}
	return err
}
