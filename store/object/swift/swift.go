// Package swift keeps objects in a container of OpenStack Swift.
//
// An object is named <prefix>/<name>. What is put carries its MD5, which Swift
// compares and keeps as the ETag, and its SHA-256 as metadata; what is read
// whole is compared with that. An object that is larger than a segment is a
// static large object: its segments lie under <prefix>/.segments/, where no
// listing shows them, and it appears with its manifest, which names the MD5 and
// the size of each.
//
// Swift has no atomic creation: of several who create one object at once with
// If-None-Match: * more than one may succeed. It is sent all the same, for it
// keeps a late request from writing over what is there; who needs exactly one
// winner needs a lock elsewhere. Listings lag, by design.
//
// A token that expires is renewed, also in the middle of an upload. Objects
// never have an end: X-Delete-At is not sent, and that an object has one all the
// same is an error of Stat.
package swift

import (
	"bytes"
	"context"
	"crypto/md5" // what Swift compares with
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ncw/swift/v2"
	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
	"jetkeep/store/object/httpclient"
)

const (
	openTimeout = 30 * time.Second
	// looks is how many objects are looked at at once before a bulk delete.
	looks = 16
	// tokens is how many a request is tried with while the server refuses each.
	tokens    = 4
	shaHeader = "X-Object-Meta-Jetkeep-Sha256"
	hidden    = ".segments/"
)

// A Driver keeps objects in a container.
type Driver struct {
	opt       Options
	conn      *swift.Connection
	transport *http.Transport
	prefix    string // of every name, with its slash
}

// Open opens a container. That there is none is object.ErrNotExist.
func Open(ctx context.Context, o Options) (*Driver, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.setDefaults()
	transport, err := httpclient.New(httpclient.Options{CAFile: o.CAFile, UploadRate: o.UploadRate, DownloadRate: o.DownloadRate})
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	d := &Driver{opt: o, transport: transport}
	if o.Prefix != "" {
		d.prefix = o.Prefix + "/"
	}
	d.conn = o.connection(unhurried{&httpclient.Listener{Next: transport}})
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	// Swift ends its answer to this one with bytes that belong to no answer, so
	// that the connection cannot be used again.
	look := request{method: http.MethodHead, container: o.Container, access: accessRead, header: swift.Headers{"Connection": "close"}}
	if _, err := d.do(ctx, look); err != nil {
		transport.CloseIdleConnections()
		if errors.Is(err, object.ErrNotExist) {
			err = fmt.Errorf("there is no container %s: %w", o.Container, object.ErrNotExist)
		}
		return nil, fmt.Errorf("open %s: %w", o, err)
	}
	return d, nil
}

// Create makes the container, unless it is there, and opens it.
func Create(ctx context.Context, o Options) (*Driver, error) {
	d, err := Open(ctx, o)
	if !errors.Is(err, object.ErrNotExist) {
		return d, err
	}
	o.setDefaults()
	transport, err := httpclient.New(httpclient.Options{CAFile: o.CAFile, UploadRate: o.UploadRate, DownloadRate: o.DownloadRate})
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	defer transport.CloseIdleConnections()
	d = &Driver{opt: o, transport: transport, conn: o.connection(unhurried{&httpclient.Listener{Next: transport}})}
	cctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for _, name := range []string{o.Container, o.SegmentContainer} {
		if _, err := d.do(cctx, request{method: http.MethodPut, container: name, access: "the role to make containers"}); err != nil {
			return nil, fmt.Errorf("create %s: %w", o, err)
		}
	}
	return Open(ctx, o)
}

// unhurried lets nobody ask whether a body is welcome before it is sent: when
// Swift says no to that, it closes the connection without a word, and the next
// request on it is lost.
type unhurried struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (u unhurried) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Del("Expect")
	return u.next.RoundTrip(req)
}

// Close lets go of connections.
func (d *Driver) Close() error {
	d.transport.CloseIdleConnections()
	return nil
}

// AtomicCreate says no: see the package's comment.
func (d *Driver) AtomicCreate(context.Context) (bool, error) { return false, nil }

func (d *Driver) name(name string) string { return d.prefix + name }

// A request is one to the storage.
type request struct {
	method, container, name string
	query                   url.Values
	header                  swift.Headers
	// body and size are what is sent, from off on; nil for nothing.
	body      io.ReaderAt
	off, size int64
	access    string // what it needs to be allowed
}

// do sends a request whose answer's header is all that counts.
func (d *Driver) do(ctx context.Context, r request) (http.Header, error) {
	header, _, err := d.exchange(ctx, r, false)
	return header, err
}

// exchange sends a request. The answer's body is the caller's if it is to be
// kept.
func (d *Driver) exchange(ctx context.Context, r request, keep bool) (header http.Header, body io.ReadCloser, err error) {
	ctx = httpclient.Hear(ctx)
	err = d.withToken(ctx, func(at string) (err error) {
		header, body, err = d.try(ctx, at, r, keep)
		return err
	})
	if err != nil {
		return nil, nil, typed(ctx, r.access, err)
	}
	return header, body, nil
}

// withToken calls f, with the URL of the storage, again with another token if
// the one it used is refused. One other is not always enough: of several requests
// that find theirs expired the last to hear of it drops the one that the first
// has got, and a server that gives the same one again may give it in the last
// moment of its life. That no token is to be had is the end.
func (d *Driver) withToken(ctx context.Context, f func(at string) error) error {
	for try := 1; ; try++ {
		at, err := d.conn.GetStorageUrl(ctx)
		if err != nil {
			return d.unauthenticated(err)
		}
		err = f(at)
		var answer *swift.Error
		if try == tokens || !errors.As(err, &answer) || answer.StatusCode != http.StatusUnauthorized || ctx.Err() != nil {
			return err
		}
		d.conn.UnAuthenticate()
	}
}

func (d *Driver) try(ctx context.Context, at string, r request, keep bool) (http.Header, io.ReadCloser, error) {
	o := swift.RequestOpts{
		Container: r.container, ObjectName: r.name, Operation: r.method, Parameters: r.query, Headers: r.header, NoResponse: !keep,
		OnReAuth: func() (string, error) { return d.conn.StorageUrl, nil },
	}
	var body *httpclient.Body
	if r.body != nil {
		headers := swift.Headers{"Content-Length": strconv.FormatInt(r.size, 10)}
		for k, v := range r.header {
			headers[k] = v
		}
		o.Headers = headers
		if r.size > 0 {
			body = httpclient.NewBody(ctx, r.body, r.off, r.size)
			o.Body = body
		}
	}
	resp, _, err := d.conn.Call(ctx, at, o) // the library closes it unless it is kept
	if body != nil {
		err = body.Or(err)
	}
	if err != nil {
		return nil, nil, err
	}
	return resp.Header, resp.Body, nil
}

// unauthenticated says what is wrong with the access.
func (d *Driver) unauthenticated(err error) error {
	var answer *swift.Error
	switch {
	case !errors.As(err, &answer):
	case answer.StatusCode == http.StatusNotFound:
		// What Keystone says of a token that is none, and a web server of a
		// path that is none.
		return &object.PermissionError{Action: "the credentials, or auth_url", Kind: object.ErrPermission, Err: errors.New(err.Error())}
	case answer.StatusCode == 0 && strings.Contains(answer.Text, "storage url"):
		what := "of interface " + d.opt.Interface
		if d.opt.Region != "" {
			what += " in region " + d.opt.Region
		}
		return fmt.Errorf("authenticate: the catalogue has no object store %s; set region, interface or storage_url: %w", what, err)
	}
	return fmt.Errorf("authenticate: %w", err)
}

// Put implements object.Driver.
func (d *Driver) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if size > d.opt.SegmentSize {
		return d.putSegments(ctx, name, body, size)
	}
	sums, err := sumsOf(ctx, body, 0, size)
	if err != nil {
		return err
	}
	return d.put(ctx, request{container: d.opt.Container, name: d.name(name), body: body, size: size}, sums.md5, swift.Headers{
		"If-None-Match": "*", shaHeader: sums.sha256,
	})
}

// put puts an object or a segment whole and compares the ETag that comes back.
func (d *Driver) put(ctx context.Context, r request, etag string, header swift.Headers) error {
	r.method, r.access, r.header = http.MethodPut, accessWrite, swift.Headers{"Etag": etag, "Content-Type": "application/octet-stream"}
	for k, v := range header {
		r.header[k] = v
	}
	answer, err := d.do(ctx, r)
	if err != nil {
		if errors.Is(err, object.ErrNotExist) {
			return fmt.Errorf("there is no container %s", r.container) // not the absence of an object
		}
		return err
	}
	if got := strings.Trim(answer.Get("Etag"), `"`); got != etag {
		return fmt.Errorf("%w: %w: ETag is %s instead of %s", object.ErrUnavailable, object.ErrChecksum, got, etag)
	}
	return nil
}

// sums are those of a content, in hex.
type sums struct{ md5, sha256 string }

func sumsOf(ctx context.Context, body io.ReaderAt, off, size int64) (sums, error) {
	m, s := md5.New(), sha256.New() // what Swift compares with
	if err := httpclient.Copy(ctx, io.MultiWriter(m, s), body, off, size); err != nil {
		return sums{}, err
	}
	return sums{hex.EncodeToString(m.Sum(nil)), hex.EncodeToString(s.Sum(nil))}, nil
}

// Stat implements object.Driver.
func (d *Driver) Stat(ctx context.Context, name string) (object.Info, error) {
	header, err := d.head(ctx, name)
	if err != nil {
		return object.Info{}, err
	}
	if at := header.Get("X-Delete-At"); at != "" {
		return object.Info{}, fmt.Errorf("the store is going to delete the object at X-Delete-At %s, which jetkeep never sets: take it away", at)
	}
	info := object.Info{Name: name}
	if info.Size, err = strconv.ParseInt(header.Get("Content-Length"), 10, 64); err != nil {
		return object.Info{}, fmt.Errorf("answer has no length: %w", err)
	}
	if info.Modified, err = http.ParseTime(header.Get("Last-Modified")); err != nil {
		return object.Info{}, fmt.Errorf("answer has no time: %w", err)
	}
	return info, nil
}

func (d *Driver) head(ctx context.Context, name string) (http.Header, error) {
	return d.do(ctx, request{method: http.MethodHead, container: d.opt.Container, name: d.name(name), access: accessRead})
}

// Get implements object.Driver.
func (d *Driver) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		_, err := d.Stat(ctx, name) // no range is that short
		return io.NopCloser(bytes.NewReader(nil)), err
	}
	r := request{method: http.MethodGet, container: d.opt.Container, name: d.name(name), access: accessRead}
	whole := offset == 0 && length < 0
	switch {
	case whole:
	case length < 0:
		r.header = swift.Headers{"Range": fmt.Sprintf("bytes=%d-", offset)}
	default:
		r.header = swift.Headers{"Range": fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)}
	}
	header, body, err := d.exchange(ctx, r, true)
	var answer *swift.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if err != nil {
		return nil, err
	}
	reader := &objectReader{ctx: ctx, body: body}
	if want := header.Get(shaHeader); whole && want != "" {
		reader.hash, reader.want = sha256.New(), want
	}
	return reader, nil
}

// An objectReader reads an object's content and, if it is read whole, compares
// it with its SHA-256.
type objectReader struct {
	ctx  context.Context // of the request that it is the answer of
	body io.ReadCloser
	hash hash.Hash // nil if there is nothing to compare with
	want string    // in hex
}

func (r *objectReader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if r.hash != nil {
		r.hash.Write(p[:n])
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		if r.hash != nil && hex.EncodeToString(r.hash.Sum(nil)) != r.want {
			return n, fmt.Errorf("%w: content is not what was stored", object.ErrChecksum)
		}
		return n, io.EOF
	case r.ctx.Err() != nil:
		return n, r.ctx.Err()
	case errors.Is(err, swift.TimeoutError):
		return n, fmt.Errorf("%w: %w", object.ErrUnavailable, err)
	}
	return n, httpclient.Broken(r.ctx, err)
}

func (r *objectReader) Close() error { return r.body.Close() }

// List implements object.Driver.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) ([]object.Info, bool, error) {
	marker := ""
	if after != "" {
		marker = d.name(after)
	}
	var page []object.Info
	for {
		hctx := httpclient.Hear(ctx)
		var objects []swift.Object
		err := d.withToken(hctx, func(string) (err error) {
			objects, err = d.conn.Objects(hctx, d.opt.Container, &swift.ObjectsOpts{Limit: limit, Marker: marker, Prefix: d.name(prefix)})
			return err
		})
		if err != nil {
			if err = typed(hctx, accessList, err); errors.Is(err, object.ErrNotExist) {
				err = fmt.Errorf("there is no container %s", d.opt.Container)
			}
			return nil, false, err
		}
		for _, o := range objects {
			marker = o.Name
			name, ok := strings.CutPrefix(o.Name, d.prefix)
			if !ok || object.CheckName(name) != nil {
				continue // not ours, or hidden
			}
			page = append(page, object.Info{Name: name, Size: o.Bytes, Modified: o.LastModified})
			if len(page) == limit {
				return page, true, nil
			}
		}
		if len(objects) == 0 {
			return page, false, nil
		}
		if len(page) > 0 {
			return page, true, nil
		}
	}
}

// Delete implements object.Driver.
func (d *Driver) Delete(ctx context.Context, name string) error {
	header, err := d.head(ctx, name)
	if errors.Is(err, object.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var parts []segment
	if large(header) {
		if parts, err = d.manifest(ctx, name); err != nil {
			return err
		}
	}
	if err := d.remove(ctx, d.opt.Container, d.name(name)); err != nil {
		return err
	}
	return d.removeSegments(ctx, parts)
}

func (d *Driver) remove(ctx context.Context, container, name string) error {
	_, err := d.do(ctx, request{method: http.MethodDelete, container: container, name: name, access: accessWrite})
	if errors.Is(err, object.ErrNotExist) {
		return nil
	}
	return err
}

// DeleteMany implements object.BulkDeleter by Swift's bulk delete, where the
// server has it. What is large is deleted by itself, with its segments.
func (d *Driver) DeleteMany(ctx context.Context, names []string) ([]error, error) {
	out := make([]error, len(names))
	gone, inSegments := make([]bool, len(names)), make([]bool, len(names))
	var g errgroup.Group
	g.SetLimit(looks)
	for i, name := range names {
		g.Go(func() error {
			header, err := d.head(ctx, name)
			inSegments[i] = err == nil && large(header)
			if gone[i] = errors.Is(err, object.ErrNotExist); !gone[i] {
				out[i] = err
			}
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	var paths []string
	at := map[string]int{}
	for i, name := range names {
		switch {
		case out[i] != nil, gone[i]:
		case inSegments[i]:
			out[i] = d.Delete(ctx, name)
		default:
			at["/"+d.opt.Container+"/"+d.name(name)] = i
			paths = append(paths, d.name(name))
		}
	}
	if len(paths) == 0 {
		return out, nil
	}
	hctx := httpclient.Hear(ctx)
	var result swift.BulkDeleteResult
	err := d.withToken(hctx, func(string) (err error) {
		result, err = d.conn.BulkDelete(hctx, d.opt.Container, paths)
		return err
	})
	switch {
	case err == nil, len(result.Errors) > 0: // what became of each is below
	case errors.Is(err, swift.Forbidden), errors.Is(err, swift.BadRequest), errors.Is(err, swift.ObjectNotFound), errors.Is(err, swift.ContainerNotFound):
		return nil, fmt.Errorf("%w: bulk delete: %w", errors.ErrUnsupported, err)
	default:
		return nil, typed(hctx, accessWrite, err)
	}
	for path, err := range result.Errors {
		plain, uerr := url.PathUnescape(path)
		i, known := at[plain]
		if uerr != nil {
			known = false
		}
		if !known {
			return nil, fmt.Errorf("bulk delete: the answer is about %s, which nobody asked for: %w", path, err)
		}
		if err = typed(hctx, accessWrite, err); !errors.Is(err, object.ErrNotExist) {
			out[i] = err
		}
	}
	if gone := int(result.NumberDeleted + result.NumberNotFound); gone+len(result.Errors) != len(paths) {
		return nil, fmt.Errorf("%w: bulk delete answers for %d of %d objects", object.ErrUnavailable, gone+len(result.Errors), len(paths))
	}
	return out, nil
}
