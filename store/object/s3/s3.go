// Package s3 keeps objects in a bucket of S3, or of a store that speaks like it.
//
// An object is named <prefix>/<name>. What is put carries the SHA-256 of its
// content: in the signature and as the checksum that the store keeps, so that a
// store refuses what was damaged on the way, and in metadata of its own, which
// every store keeps: what is read whole, and not in ranges, is compared with it.
// Objects larger than two parts go up in parts, each of which is tried
// again by itself; an upload that fails or is cancelled is aborted, and shows
// nothing. Parts are left, which no listing shows, only by a process that was
// killed or if the store's answer to the beginning of an upload was lost; a rule
// of the bucket clears those up.
//
// Nothing is ever overwritten: objects are created with If-None-Match: *.
// Whether a store honours that is tried once, before the first write, with an
// object of its own (<prefix>/.jetkeep/conditional, which stays). Where it does
// not, AtomicCreate says so, and a Put looks first. A store that honours it for
// objects in one request only is asked with it for those; the larger ones, which
// nothing but their content names, a Put looks for first on any store.
//
// Credentials that a store refuses are fetched anew, and used if they are others;
// a clock that differs from the store's by less than a day is corrected, and what
// is sent is signed again. A store that refuses its own checksums, as some do, and
// takes the same without is sent none any more.
//
// With a retention, objects are put locked, and Retain prolongs it. In a bucket
// with versions Delete leaves a marker unless all versions are to go.
//
// What it needs of a bucket's permissions: s3:ListBucket and s3:GetObject to
// read, s3:PutObject and s3:AbortMultipartUpload to write, s3:DeleteObject to
// prune; with tags s3:PutObjectTagging; with retention s3:PutObjectRetention and
// s3:GetObjectRetention; to delete versions s3:ListBucketVersions and
// s3:DeleteObjectVersion.
package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"jetkeep/store/object"
	"jetkeep/store/object/httpclient"
)

const (
	// openTimeout bounds the look whether the bucket is there.
	openTimeout = 30 * time.Second
	// beginTimeout bounds beginning an upload in parts, which nobody cancels.
	beginTimeout = time.Minute
	// abortTimeout bounds giving up an upload in parts.
	abortTimeout = 15 * time.Second

	hidden          = ".jetkeep/"
	conditionalName = hidden + "conditional"
	conditionalText = "Whether this store creates objects only if they are not there was tried with this one.\n"
)

// abortAfter are the pauses before each request to give an upload up.
var abortAfter = []time.Duration{0, 250 * time.Millisecond, 500 * time.Millisecond}

// A Driver keeps objects in a bucket.
type Driver struct {
	opt       Options
	core      *minio.Core
	creds     *credentials.Credentials
	transport *http.Transport
	signing   *signing
	sse       encrypt.ServerSide // nil for none
	prefix    string             // of every key, with its slash

	mu          sync.Mutex  // held while it is tried
	conditional *bool       // nil until it has been tried
	plain       atomic.Bool // the store refused checksums, and took the same without
	loose       atomic.Bool // the store knows conditions for whole objects, and for none in parts
}

// Open opens a bucket. That there is none is object.ErrNotExist. It needs the
// permission to list, and none to write.
func Open(ctx context.Context, o Options) (*Driver, error) {
	d, err := newDriver(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := d.look(httpclient.Hear(ctx)); err != nil {
		d.transport.CloseIdleConnections()
		return nil, fmt.Errorf("open %s: %w", d.opt, err)
	}
	return d, nil
}

// look lists an object, if there is one. Whether the bucket exists could be asked
// as well, but the answer to that would not say what is wrong.
func (d *Driver) look(ctx context.Context) error {
	for info := range d.core.ListObjectsIter(ctx, d.opt.Bucket, minio.ListObjectsOptions{Prefix: d.prefix, MaxKeys: 1}) {
		if minio.ToErrorResponse(info.Err).Code == "NoSuchBucket" {
			return fmt.Errorf("%w: there is no bucket %s", object.ErrNotExist, d.opt.Bucket)
		}
		return d.typed(ctx, actionList, info.Err)
	}
	return ctx.Err() // the iteration may end so without a word
}

// Create makes the bucket, unless it is there, and opens it. With a retention
// it is made with object lock.
func Create(ctx context.Context, o Options) (*Driver, error) {
	d, err := Open(ctx, o)
	if !errors.Is(err, object.ErrNotExist) {
		return d, err
	}
	if d, err = newDriver(o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	ctx = httpclient.Hear(ctx)
	err = d.core.MakeBucket(ctx, d.opt.Bucket, minio.MakeBucketOptions{Region: d.opt.Region, ObjectLocking: d.opt.RetainMode != ""})
	if code := minio.ToErrorResponse(err).Code; err != nil && code != "BucketAlreadyOwnedByYou" {
		d.transport.CloseIdleConnections()
		return nil, fmt.Errorf("create %s: %w", d.opt, d.typed(ctx, "s3:CreateBucket", err))
	}
	return d, nil
}

func newDriver(o Options) (*Driver, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.setDefaults()
	d := &Driver{opt: o}
	if o.Prefix != "" {
		d.prefix = o.Prefix + "/"
	}
	var err error
	if d.sse, err = o.serverSide(); err != nil {
		return nil, err
	}
	if d.transport, err = httpclient.New(httpclient.Options{CAFile: o.CAFile, UploadRate: o.UploadRate, DownloadRate: o.DownloadRate}); err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.RawPath, "/")
	from := o.chain(d.transport)
	d.creds = credentials.New(from)
	d.signing = &signing{
		next:  &httpclient.Listener{Next: noPages{d.transport}},
		creds: d.creds, chain: from, endpoint: u, payer: o.RequesterPays,
	}
	lookup := map[string]minio.BucketLookupType{AddressingPath: minio.BucketLookupPath, AddressingVirtual: minio.BucketLookupDNS}[o.Addressing]
	d.core, err = minio.NewCore(u.Host, &minio.Options{
		Creds: d.creds, Secure: u.Scheme == "https", Region: o.Region, BucketLookup: lookup, MaxRetries: 1,
		Transport: d.signing,
	})
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	return d, nil
}

// Close lets go of connections.
func (d *Driver) Close() error {
	d.transport.CloseIdleConnections()
	return nil
}

func (d *Driver) key(name string) string { return d.prefix + name }

// Traces returns the names of what the driver keeps for itself and no listing
// shows. They are no object's names, but the driver deletes them.
func Traces() []string { return []string{conditionalName} }

// AtomicCreate says whether the store honours If-None-Match for objects in one
// request, which is tried once.
func (d *Driver) AtomicCreate(ctx context.Context) (bool, error) {
	switch d.opt.ConditionalWrites {
	case ConditionalYes:
		return true, nil
	case ConditionalNo:
		return false, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conditional != nil {
		return *d.conditional, nil
	}
	var honoured bool
	err := d.opt.Retry.Do(ctx, "put", conditionalName, func(ctx context.Context) (err error) {
		honoured, err = d.tryConditional(ctx)
		return err
	})
	if err != nil {
		return false, err
	}
	d.conditional = &honoured
	return honoured, nil
}

// Put implements object.Driver.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	conditional, err := d.AtomicCreate(ctx)
	if err != nil {
		return err
	}
	large := size > 2*d.opt.PartSize
	if !conditional || large { // spares a large upload
		_, err := d.Stat(ctx, name)
		if err == nil {
			return object.ErrExist
		}
		if !errors.Is(err, object.ErrNotExist) {
			return err
		}
	}
	if large {
		err = d.withChecksum(func(sums bool) error { return d.putParts(ctx, name, body, size, conditional, sums) })
	} else {
		err = d.putWhole(ctx, name, body, size, conditional)
	}
	if !errors.Is(err, object.ErrExist) {
		return err
	}
	// Some servers mean an object that was deleted, and whose versions are there.
	if _, serr := d.Stat(ctx, name); errors.Is(serr, object.ErrNotExist) {
		return fmt.Errorf("a deleted version of %s is in the way of a new one, give delete_versions: %s", name, err.Error())
	}
	return err
}

// putOptions are those of a new object.
func (d *Driver) putOptions(conditional bool, now time.Time) minio.PutObjectOptions {
	o := minio.PutObjectOptions{
		UserMetadata: map[string]string{}, UserTags: d.opt.Tags, StorageClass: d.opt.StorageClass,
		ServerSideEncryption: d.sse, DisableContentSha256: true, DisableMultipart: true,
	}
	if conditional {
		o.SetMatchETagExcept("*")
	}
	if d.opt.RetainMode != "" {
		o.Mode, o.RetainUntilDate = d.mode(), now.Add(d.opt.RetainFor+object.RetainLead(d.opt.RetainFor)).UTC()
	}
	return o
}

func (d *Driver) mode() minio.RetentionMode {
	if d.opt.RetainMode == RetainCompliance {
		return minio.Compliance
	}
	return minio.Governance
}

const (
	checksumHeader = "X-Amz-Checksum-Sha256"
	// contentSum is the metadata that holds the SHA-256 of the whole content in
	// hex. The store's own is one of its parts if there are several.
	contentSum = "Sha256"
)

// putWhole puts an object in one request.
func (d *Driver) putWhole(ctx context.Context, name string, body io.ReaderAt, size int64, conditional bool) error {
	sum, err := hashOf(ctx, body, 0, size)
	if err != nil {
		return err
	}
	return d.withChecksum(func(sums bool) error { return d.putOnce(ctx, name, body, size, sum, conditional, sums) })
}

// putOnce puts an object whose SHA-256 is sum, with the store's checksum or
// without.
func (d *Driver) putOnce(ctx context.Context, name string, body io.ReaderAt, size int64, sum []byte, conditional, sums bool) error {
	o := d.putOptions(conditional, d.signing.now())
	o.UserMetadata[contentSum] = hex.EncodeToString(sum)
	if sums {
		o.UserMetadata[checksumHeader] = base64.StdEncoding.EncodeToString(sum)
	}
	ctx = httpclient.Hear(ctx)
	from := httpclient.NewBody(ctx, body, 0, size)
	there, err := d.core.PutObject(httpclient.WithBody(ctx, from), d.opt.Bucket, d.key(name), from, size, "", hex.EncodeToString(sum), o)
	if err == nil && there.ETag == "" {
		err = errNoStore
	}
	return from.Or(d.typed(ctx, actionPut, err))
}

// hashOf reads size bytes at off, no fewer.
func hashOf(ctx context.Context, body io.ReaderAt, off, size int64) ([]byte, error) {
	h := sha256.New()
	err := httpclient.Copy(ctx, h, body, off, size)
	return h.Sum(nil), err
}

// Stat implements object.Driver.
func (d *Driver) Stat(ctx context.Context, name string) (object.Info, error) {
	ctx = httpclient.Hear(ctx)
	info, err := d.core.StatObject(ctx, d.opt.Bucket, d.key(name), d.getOptions())
	switch minio.ToErrorResponse(err).StatusCode {
	case http.StatusForbidden, http.StatusUnauthorized, http.StatusBadRequest:
		if err = d.reason(ctx, name, err); err == nil { // it was mended
			info, err = d.core.StatObject(ctx, d.opt.Bucket, d.key(name), d.getOptions())
		}
	}
	if err != nil {
		return object.Info{}, d.typed(ctx, actionGet, err)
	}
	return object.Info{Name: name, Size: info.Size, Modified: info.LastModified}, nil
}

// reason returns why an object's description is refused, which only the answer
// to a request for its content says; nil if that is answered, as it is with
// credentials that were fetched anew.
func (d *Driver) reason(ctx context.Context, name string, refused error) error {
	o := d.getOptions()
	o.Set("Range", "bytes=0-0")
	body, _, _, err := d.core.GetObject(ctx, d.opt.Bucket, d.key(name), o)
	switch {
	case minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return nil // it is empty
	case err == nil:
		_ = body.Close()
	case minio.ToErrorResponse(err).StatusCode == 0:
		return fmt.Errorf("%w; before: %v", err, refused)
	}
	return err
}

func (d *Driver) getOptions() minio.GetObjectOptions {
	o := minio.GetObjectOptions{}
	if d.opt.Encryption == EncryptionCustomer {
		o.ServerSideEncryption = d.sse
	}
	return o
}

// Get implements object.Driver.
func (d *Driver) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		_, err := d.Stat(ctx, name) // no range is that short
		return io.NopCloser(bytes.NewReader(nil)), err
	}
	o := d.getOptions()
	whole := offset == 0 && length < 0
	if !whole {
		end := int64(0)
		if length > 0 {
			end = offset + length - 1
		}
		if err := setRange(&o, offset, end, length < 0); err != nil {
			return nil, err
		}
	}
	ctx = httpclient.Hear(ctx)
	body, _, header, err := d.core.GetObject(ctx, d.opt.Bucket, d.key(name), o)
	if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if err != nil {
		return nil, d.typed(ctx, actionGet, err)
	}
	r := &objectReader{ctx: ctx, body: body}
	if sum, err := hex.DecodeString(header.Get("X-Amz-Meta-" + contentSum)); whole && err == nil && len(sum) == sha256.Size {
		r.hash, r.want = sha256.New(), sum
	}
	return r, nil
}

func setRange(o *minio.GetObjectOptions, from, to int64, toEnd bool) error {
	if toEnd {
		o.Set("Range", fmt.Sprintf("bytes=%d-", from))
		return nil
	}
	if from == 0 && to == 0 { // which SetRange takes for everything
		o.Set("Range", "bytes=0-0")
		return nil
	}
	return o.SetRange(from, to)
}

// List implements object.Driver.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) ([]object.Info, bool, error) {
	o := minio.ListObjectsOptions{Prefix: d.key(prefix), Recursive: true, MaxKeys: limit}
	if after != "" {
		o.StartAfter = d.key(after)
	}
	ctx = httpclient.Hear(ctx)
	var page []object.Info
	for info := range d.core.ListObjectsIter(ctx, d.opt.Bucket, o) {
		if info.Err != nil {
			return nil, false, d.typed(ctx, actionList, info.Err)
		}
		name, ok := strings.CutPrefix(info.Key, d.prefix)
		if !ok || object.CheckName(name) != nil {
			continue // not ours, or hidden
		}
		page = append(page, object.Info{Name: name, Size: info.Size, Modified: info.LastModified})
		if len(page) == limit {
			return page, true, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, false, err // the iteration may end so without a word
	}
	return page, false, nil
}

// Delete implements object.Driver.
func (d *Driver) Delete(ctx context.Context, name string) error {
	if d.opt.DeleteVersions {
		return d.deleteVersions(ctx, name)
	}
	return d.remove(ctx, name, "")
}

func (d *Driver) remove(ctx context.Context, name, version string) error {
	action := actionDelete
	if version != "" {
		action = "s3:DeleteObjectVersion"
	}
	ctx = httpclient.Hear(ctx)
	err := d.core.RemoveObject(ctx, d.opt.Bucket, d.key(name), minio.RemoveObjectOptions{VersionID: version})
	if err == nil {
		return nil
	}
	locked := strings.Contains(minio.ToErrorResponse(err).Message, "object lock") // AWS's own words
	err = d.typed(ctx, action, err)
	if errors.Is(err, object.ErrNotExist) {
		return nil
	}
	if d.opt.RetainMode != "" && ctx.Err() == nil {
		if until, rerr := d.retention(ctx, name, version); rerr == nil && until.After(d.signing.now()) {
			return fmt.Errorf("%w until %s: %w", object.ErrRetained, until.UTC().Format(time.RFC3339), err)
		}
	}
	if locked {
		return fmt.Errorf("%w: %w", object.ErrRetained, err)
	}
	return err
}

// deleteVersions deletes what an object is and was, and its markers.
func (d *Driver) deleteVersions(ctx context.Context, name string) error {
	ctx = httpclient.Hear(ctx)
	var errs []error
	found := false
	for v := range d.core.ListObjectsIter(ctx, d.opt.Bucket, minio.ListObjectsOptions{Prefix: d.key(name), Recursive: true, WithVersions: true}) {
		if v.Err != nil {
			return d.typed(ctx, "s3:ListBucketVersions", v.Err)
		}
		if v.Key != d.key(name) {
			if v.Key > d.key(name) {
				break
			}
			continue
		}
		found = true
		if err := d.remove(ctx, name, v.VersionID); err != nil {
			errs = append(errs, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if found {
		return errors.Join(errs...)
	}
	// There is nothing to delete. Who may not is told so, as by any other store.
	err := d.remove(ctx, name, "null")
	if errors.As(err, new(*object.PermissionError)) {
		return err
	}
	return nil
}

// DeleteMany implements object.BulkDeleter, where one version is all there is.
func (d *Driver) DeleteMany(ctx context.Context, names []string) ([]error, error) {
	if d.opt.DeleteVersions {
		return nil, errors.ErrUnsupported
	}
	out := make([]error, len(names))
	at := make(map[string]int, len(names))
	for i, name := range names {
		at[d.key(name)] = i
		out[i] = errNoAnswer
	}
	ctx = httpclient.Hear(ctx)
	results, err := d.core.RemoveObjectsWithIter(ctx, d.opt.Bucket, func(yield func(minio.ObjectInfo) bool) {
		for _, name := range names {
			if !yield(minio.ObjectInfo{Key: d.key(name)}) {
				return
			}
		}
	}, minio.RemoveObjectsOptions{})
	if err != nil {
		return nil, d.typed(ctx, actionDelete, err)
	}
	for r := range results {
		i, known := at[r.ObjectName]
		if !known && r.Err != nil {
			return nil, d.typed(ctx, actionDelete, r.Err) // of the request
		}
		if out[i] = d.typed(ctx, actionDelete, r.Err); errors.Is(out[i], object.ErrNotExist) {
			out[i] = nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// errNoAnswer means that a bulk delete did not say what became of an object.
var errNoAnswer = fmt.Errorf("%w: the store does not say whether it was deleted", object.ErrUnavailable)
