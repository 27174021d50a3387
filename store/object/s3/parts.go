package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
	"jetkeep/store/object/httpclient"
)

// putParts puts a large object in parts. Whatever goes wrong before the last
// request leaves nothing, not even parts. With sums the store is sent its
// checksums.
func (d *Driver) putParts(ctx context.Context, name string, body io.ReaderAt, size int64, conditional, sums bool) (err error) {
	partSize := max(d.opt.PartSize, (size+maxParts-1)/maxParts)
	whole, hashes, err := hashesOf(ctx, body, size, partSize)
	if err != nil {
		return err
	}
	ctx = httpclient.Hear(ctx)
	o := d.putOptions(false, d.signing.now())
	o.UserMetadata[contentSum] = hex.EncodeToString(whole)
	if sums {
		o.UserMetadata["X-Amz-Checksum-Algorithm"] = "SHA256"
	}
	upload, err := d.beginUpload(ctx, name, o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.abort(ctx, name, upload))
		}
	}()
	parts := make([]minio.CompletePart, len(hashes))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(d.opt.Parallel)
	for i := range parts {
		g.Go(func() (err error) {
			off := int64(i) * partSize
			parts[i], err = d.putPart(gctx, name, upload, i+1, hashes[i], sums, body, off, min(partSize, size-off))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	conditional = conditional && !d.loose.Load()
	err = d.complete(ctx, name, upload, parts, conditional)
	if conditional && d.opt.ConditionalWrites != ConditionalYes && isUnknown(err) {
		// It knows the header for whole objects alone. That a large one is not there
		// was looked for.
		if err = d.complete(ctx, name, upload, parts, false); err == nil {
			d.loose.Store(true)
		}
	}
	return err
}

// complete ends an upload in parts.
func (d *Driver) complete(ctx context.Context, name, upload string, parts []minio.CompletePart, conditional bool) error {
	o := minio.PutObjectOptions{}
	if d.opt.Encryption == EncryptionCustomer {
		o.ServerSideEncryption = d.sse // the checksums of the parts are encrypted as well
	}
	if conditional {
		o.SetMatchETagExcept("*")
	}
	there, err := d.core.CompleteMultipartUpload(ctx, d.opt.Bucket, d.key(name), upload, parts, o)
	if err == nil && there.ETag == "" {
		err = errNoStore
	}
	if err != nil {
		answer := minio.ToErrorResponse(err)
		err = d.typed(ctx, actionPut, err)
		// Somebody aborted it, or it was completed by a request whose answer
		// was lost on the way to the client's library.
		if answer.Code == "NoSuchUpload" || answer.StatusCode == http.StatusNotFound {
			err = fmt.Errorf("%w: %w", object.ErrUnavailable, err)
		}
		return err
	}
	return nil
}

// beginUpload begins an upload in parts. The request goes on when it is cancelled,
// or a store might begin what nobody knows and nobody gives up.
func (d *Driver) beginUpload(ctx context.Context, name string, o minio.PutObjectOptions) (upload string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	until, cancel := context.WithTimeout(context.WithoutCancel(ctx), beginTimeout)
	defer cancel()
	upload, err = d.core.NewMultipartUpload(until, d.opt.Bucket, d.key(name), o)
	return upload, d.typed(ctx, actionPut, err)
}

// hashesOf returns the SHA-256 of the whole and of each part.
func hashesOf(ctx context.Context, body io.ReaderAt, size, partSize int64) (whole []byte, parts [][]byte, err error) {
	h := sha256.New()
	for off := int64(0); off < size; off += partSize {
		part := sha256.New()
		if err := httpclient.Copy(ctx, io.MultiWriter(h, part), body, off, min(partSize, size-off)); err != nil {
			return nil, nil, err
		}
		parts = append(parts, part.Sum(nil))
	}
	return h.Sum(nil), parts, nil
}

// putPart puts one part, whose SHA-256 is sum, again if that may help.
func (d *Driver) putPart(ctx context.Context, name, upload string, number int, sum []byte, sums bool, body io.ReaderAt, off, size int64) (minio.CompletePart, error) {
	o := minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sum), DisableContentSha256: true, CustomHeader: http.Header{}}
	if d.opt.Encryption == EncryptionCustomer {
		o.SSE = d.sse
	}
	if sums {
		o.CustomHeader.Set(checksumHeader, base64.StdEncoding.EncodeToString(sum))
	}
	part := minio.CompletePart{PartNumber: number}
	if sums {
		part.ChecksumSHA256 = base64.StdEncoding.EncodeToString(sum)
	}
	err := d.opt.Retry.Do(ctx, "put part", name, func(ctx context.Context) error {
		ctx = httpclient.Hear(ctx)
		from := httpclient.NewBody(ctx, body, off, size)
		there, err := d.core.PutObjectPart(httpclient.WithBody(ctx, from), d.opt.Bucket, d.key(name), upload, number, from, size, o)
		if err == nil && there.ETag == "" {
			err = errNoStore
		}
		part.ETag = there.ETag
		return from.Or(d.typed(ctx, actionPut, err))
	})
	return part, err
}

// abort gives up an upload, also when the request for it was cancelled. Parts
// that a store is taking in meanwhile may outlive that or bring the upload back,
// so it is asked again until it knows of none, which some never say.
func (d *Driver) abort(ctx context.Context, name, upload string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	for _, pause := range abortAfter {
		time.Sleep(pause) // short of abortTimeout, and to be cancelled by nobody
		gone, err := d.abortOnce(ctx, name, upload)
		if err != nil {
			return fmt.Errorf("abort upload %s: %w", upload, errors.New(err.Error())) // what went wrong before says whether to try again
		}
		if gone {
			break
		}
	}
	return nil
}

// abortOnce asks to give up an upload, and tells whether there was none.
func (d *Driver) abortOnce(ctx context.Context, name, upload string) (gone bool, err error) {
	err = d.opt.Retry.Do(ctx, "abort", name, func(ctx context.Context) error {
		ctx = httpclient.Hear(ctx)
		err := d.core.AbortMultipartUpload(ctx, d.opt.Bucket, d.key(name), upload)
		if gone = minio.ToErrorResponse(err).Code == "NoSuchUpload"; gone {
			return nil
		}
		return d.typed(ctx, "s3:AbortMultipartUpload", err)
	})
	return gone, err
}
