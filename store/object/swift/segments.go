package swift

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ncw/swift/v2"
	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
	"jetkeep/store/object/httpclient"
)

const (
	// cleanTimeout bounds the removal of the segments of a failed upload.
	cleanTimeout = 30 * time.Second
	// maxManifest bounds a manifest that is read: 1000 segments.
	maxManifest = 4 << 20
)

// A segment is an entry of a manifest as it is put.
type segment struct {
	Path string `json:"path"` // /container/name
	ETag string `json:"etag"`
	Size int64  `json:"size_bytes"`
}

// putSegments puts a large object: its segments, some at once, and then the
// manifest, with which it appears. Whatever goes wrong before leaves nothing.
// If the answer to the manifest is lost its segments stay: the object may be
// there.
func (d *Driver) putSegments(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if _, err := d.head(ctx, name); !errors.Is(err, object.ErrNotExist) {
		if err == nil {
			return object.ErrExist // spares the upload
		}
		return err
	}
	all, err := sumsOf(ctx, body, 0, size)
	if err != nil {
		return err
	}
	step := max(d.opt.SegmentSize, (size+maxSegments-1)/maxSegments)
	parts := make([]segment, (size+step-1)/step)
	upload := d.name(hidden + name + "/" + rand.Text())
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(d.opt.Parallel)
	for i := range parts {
		g.Go(func() error {
			off := int64(i) * step
			at := fmt.Sprintf("%s/%08d", upload, i)
			parts[i] = segment{Path: "/" + d.opt.SegmentContainer + "/" + at, Size: min(step, size-off)}
			sums, err := sumsOf(gctx, body, off, parts[i].Size)
			if err != nil {
				return err
			}
			parts[i].ETag = sums.md5
			return d.opt.Retry.Do(gctx, "put segment", name, func(ctx context.Context) error {
				return d.put(ctx, request{container: d.opt.SegmentContainer, name: at, body: body, off: off, size: parts[i].Size}, sums.md5, nil)
			})
		})
	}
	err = g.Wait()
	unknown := false
	if err == nil {
		err = d.putManifest(ctx, name, parts, all)
		unknown = errors.Is(err, object.ErrUnavailable) || ctx.Err() != nil
	}
	if err == nil || unknown {
		return err
	}
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	if cerr := d.removeSegments(cctx, parts); cerr != nil {
		return fmt.Errorf("%w; segments under %s are left: %v", err, upload, cerr) // what went wrong before says whether to try again
	}
	return err
}

func (d *Driver) putManifest(ctx context.Context, name string, parts []segment, all sums) error {
	manifest, err := json.Marshal(parts)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	_, err = d.do(ctx, request{
		method: http.MethodPut, container: d.opt.Container, name: d.name(name), access: accessWrite,
		query: url.Values{"multipart-manifest": {"put"}}, body: bytes.NewReader(manifest), size: int64(len(manifest)),
		header: swift.Headers{"If-None-Match": "*", "Content-Type": "application/octet-stream", shaHeader: all.sha256},
	})
	return err
}

func large(header http.Header) bool {
	return strings.EqualFold(header.Get("X-Static-Large-Object"), "true")
}

// manifest reads which segments a large object has. Those that are not ours
// are left out: a manifest can name whatever it likes.
func (d *Driver) manifest(ctx context.Context, name string) ([]segment, error) {
	_, body, err := d.exchange(ctx, request{
		method: http.MethodGet, container: d.opt.Container, name: d.name(name), access: accessRead,
		query: url.Values{"multipart-manifest": {"get"}, "format": {"raw"}},
	}, true)
	if errors.Is(err, object.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(body, maxManifest))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, httpclient.Broken(ctx, fmt.Errorf("read manifest: %w", err))
	}
	var all, ours []segment
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	for _, s := range all {
		if strings.HasPrefix(s.Path, "/"+d.opt.SegmentContainer+"/"+d.name(hidden+name+"/")) {
			ours = append(ours, s)
		}
	}
	return ours, nil
}

func (d *Driver) removeSegments(ctx context.Context, parts []segment) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(d.opt.Parallel)
	for _, s := range parts {
		at, ok := strings.CutPrefix(s.Path, "/"+d.opt.SegmentContainer+"/")
		if !ok {
			continue // it was not begun
		}
		g.Go(func() error {
			return d.opt.Retry.Do(ctx, "delete segment", at, func(ctx context.Context) error { return d.remove(ctx, d.opt.SegmentContainer, at) })
		})
	}
	return g.Wait()
}
