package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"jetkeep/store/object"
)

// tryConditional creates an object twice. The second time must fail, and be it
// because the object was there before.
func (d *Driver) tryConditional(ctx context.Context) (bool, error) {
	for range 2 {
		err := d.putWhole(ctx, conditionalName, strings.NewReader(conditionalText), int64(len(conditionalText)), true)
		var answer minio.ErrorResponse
		switch {
		case errors.Is(err, object.ErrExist):
			return true, nil
		case errors.As(err, &answer) && mayBeUnknown(answer):
			// It does not know the header, if it takes the same without.
			return false, d.putWhole(ctx, conditionalName, strings.NewReader(conditionalText), int64(len(conditionalText)), false)
		case err != nil:
			return false, err
		}
	}
	return false, nil // it knows nothing of it
}

// errUnknown means that a store does not know what it is asked for.
var errUnknown = errors.New("the store does not know a header of the request, or the request; checksum: none and conditional_writes: no have it sent without")

// mayBeUnknown says whether an answer may be for a header that the store does not
// know.
func mayBeUnknown(answer minio.ErrorResponse) bool {
	return answer.StatusCode == http.StatusNotImplemented || answer.StatusCode == http.StatusBadRequest
}

// unknown marks an answer that means nothing else.
func unknown(answer minio.ErrorResponse, err error) error {
	if mayBeUnknown(answer) && !noLock(answer.Message) {
		return fmt.Errorf("%w: %w: %w", object.ErrUnexpected, errUnknown, err)
	}
	return err
}

// isUnknown says whether the same may be taken without a header.
func isUnknown(err error) bool { return errors.Is(err, errUnknown) }

// withChecksum calls put with the store's checksums if they are to be sent. A
// store that refuses what it is sent, and takes the same without, is sent none any
// more: some refuse headers that they do not know.
func (d *Driver) withChecksum(put func(sums bool) error) error {
	sums := d.opt.Checksum == ChecksumSHA256 || d.opt.Checksum != ChecksumNone && !d.plain.Load()
	err := put(sums)
	if !sums || d.opt.Checksum == ChecksumSHA256 || !isUnknown(err) {
		return err
	}
	again := put(false)
	switch {
	case again == nil:
		d.plain.Store(true)
	case errors.Is(again, object.ErrExist): // which proves nothing, but says what the object's maker is to know
		return fmt.Errorf("%w; before: %v", again, err)
	}
	return again
}
