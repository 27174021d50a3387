package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
)

const (
	commitPrefix  = "commits/"
	commitVersion = 1
	none          = "-"
	bodyJSON      = "json"
)

// signaturePattern is what a signature looks like: none, or a scheme and a value.
var signaturePattern = regexp.MustCompile(`^(-|[a-z0-9]{1,32} [A-Za-z0-9+/=_-]+)$`)

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func commitName(task string) string { return commitPrefix + task }

// An envelope is the head of a commit record and its body. Counter, parent and
// signature are reserved for the chain of signed commits.
type envelope struct {
	repository string
	task       string
	codec      string // of the body: json; sealed ones come later
	critical   string // features without which the body cannot be understood
	counter    uint64
	parent     string
	signature  string
	body       []byte
}

// head encodes what is signed: everything before the signature. Its last line
// is a hash over the lines before and the body, so the body is covered too.
func (e *envelope) head() []byte {
	b := fmt.Appendf(nil, "jetkeep-commit %d\nrepository: %s\ntask: %s\ncodec: %s\ncritical: %s\ncounter: %d\nparent: %s\nsize: %d\n",
		commitVersion, e.repository, e.task, e.codec, e.critical, e.counter, e.parent, len(e.body))
	h := sha256.New()
	h.Write(b)
	h.Write(e.body)
	return fmt.Appendf(b, "sha256: %x\n", h.Sum(nil))
}

func (e *envelope) encode() []byte {
	b := append(e.head(), "signature: "+e.signature+"\n\n"...)
	return append(b, e.body...)
}

// decodeEnvelope accepts exactly what encode writes. The version comes first
// and is all that a newer one must keep.
func decodeEnvelope(data []byte) (envelope, error) {
	first, _, _ := bytes.Cut(data, []byte("\n"))
	version, ok := strings.CutPrefix(string(first), "jetkeep-commit ")
	n, err := strconv.ParseUint(version, 10, 31)
	if !ok || err != nil || n == 0 {
		return envelope{}, fmt.Errorf("%w: no commit record", errMalformed)
	}
	if n > commitVersion {
		return envelope{}, fmt.Errorf("%w: commit record version %d", ErrNewerFormat, n)
	}
	head, body, ok := bytes.Cut(data, []byte("\n\n"))
	if !ok {
		return envelope{}, fmt.Errorf("%w: no end of the head", errMalformed)
	}
	values := map[string]string{}
	for _, line := range strings.Split(string(head), "\n")[1:] {
		key, value, _ := strings.Cut(line, ": ")
		values[key] = value
	}
	e := envelope{
		repository: values["repository"], task: values["task"], codec: values["codec"], critical: values["critical"],
		parent: values["parent"], signature: values["signature"], body: body,
	}
	if e.counter, err = strconv.ParseUint(values["counter"], 10, 64); err != nil {
		return envelope{}, fmt.Errorf("%w: counter", errMalformed)
	}
	// Writing it again proves order, spelling, size and hash in one go.
	if !bytes.Equal(e.encode(), data) || !signaturePattern.MatchString(e.signature) {
		return envelope{}, fmt.Errorf("%w: differs from its size, hash or form", errMalformed)
	}
	if e.critical != none {
		return envelope{}, fmt.Errorf("%w: commit record needs %s", ErrNewerFormat, e.critical)
	}
	if e.codec != bodyJSON {
		return envelope{}, fmt.Errorf("%w: commit record's codec is %s", ErrNewerFormat, e.codec)
	}
	return e, nil
}

// encodeCommit encodes a restore point as its commit record.
func (r *Repository) encodeCommit(p Point) ([]byte, error) {
	if !idPattern.MatchString(p.Task) || p.ID != p.Task {
		return nil, fmt.Errorf("restore point id %q, task %q: must be equal and match %s", p.ID, p.Task, idPattern)
	}
	if _, err := p.Content.sum(); err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	body, err := marshal(p)
	if err != nil {
		return nil, err
	}
	e := envelope{repository: r.marker.ID, task: p.Task, codec: bodyJSON, critical: none, parent: none, signature: none, body: body}
	data := e.encode()
	if len(data) > maxCommit {
		return nil, fmt.Errorf("%w: commit record of %d bytes, at most %d", ErrBounds, len(data), maxCommit)
	}
	return data, nil
}

func (r *Repository) decodeCommit(task string, data []byte) (Point, error) {
	name := commitName(task)
	e, err := decodeEnvelope(data)
	if errors.Is(err, ErrNewerFormat) {
		return Point{}, fmt.Errorf("read %s: %w", name, err)
	}
	if err != nil {
		return Point{}, damaged(name, err, "commit record")
	}
	var p Point
	if err := json.Unmarshal(e.body, &p); err != nil {
		return Point{}, damaged(name, err, "body")
	}
	if e.repository != r.marker.ID {
		return Point{}, damaged(name, nil, "belongs to repository %s, not to %s", e.repository, r.marker.ID)
	}
	if e.task != task || p.Task != task || p.ID != task {
		return Point{}, damaged(name, nil, "is the commit record of %s", e.task)
	}
	return p, nil
}

// Commit writes the commit record: from then on the restore point exists.
// Everything that p refers to must be stored. If the same record is there
// already that is success; another one is ErrPointExists.
func (r *Repository) Commit(ctx context.Context, p Point) error {
	data, err := r.encodeCommit(p)
	if err != nil {
		return fmt.Errorf("commit %s: %w", p.Task, err)
	}
	name := commitName(p.Task)
	err = r.bucket.PutBytes(ctx, name, data)
	if !errors.Is(err, object.ErrExist) {
		if err != nil {
			return fmt.Errorf("commit %s: %w", p.Task, err)
		}
		return nil
	}
	there, err := r.bucket.ReadAll(ctx, name, maxCommit)
	if err == nil && !bytes.Equal(there, data) {
		err = ErrPointExists
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", p.Task, err)
	}
	return nil
}

// Point reads one restore point.
func (r *Repository) Point(ctx context.Context, id string) (Point, error) {
	if !idPattern.MatchString(id) {
		return Point{}, fmt.Errorf("read restore point %q: %w", id, ErrNoPoint)
	}
	data, err := r.bucket.ReadAll(ctx, commitName(id), maxCommit)
	if errors.Is(err, object.ErrNotExist) {
		return Point{}, fmt.Errorf("read restore point %s: %w", id, ErrNoPoint)
	}
	if errors.Is(err, object.ErrTooLarge) {
		return Point{}, damaged(commitName(id), err, "too large")
	}
	if err != nil {
		return Point{}, fmt.Errorf("read restore point %s: %w", id, err)
	}
	return r.decodeCommit(id, data)
}

// Listed is one commit record that a listing found: a restore point, or why it
// cannot be read.
type Listed struct {
	ID    string
	Point Point
	Err   error
}

// Points reads all restore points, in order of their ids. One that cannot be
// read is there with its error.
func (r *Repository) Points(ctx context.Context) ([]Listed, error) {
	return r.points(ctx, "")
}

// PointsOf reads the restore points of one backup.
func (r *Repository) PointsOf(ctx context.Context, backup string) ([]Listed, error) {
	if !idPattern.MatchString(backup) {
		return nil, nil
	}
	return r.points(ctx, backup+".")
}

func (r *Repository) points(ctx context.Context, prefix string) ([]Listed, error) {
	var out []Listed
	for info, err := range r.bucket.List(ctx, commitPrefix+prefix) {
		if err != nil {
			return nil, fmt.Errorf("list restore points: %w", err)
		}
		out = append(out, Listed{ID: strings.TrimPrefix(info.Name, commitPrefix)})
	}
	var g errgroup.Group
	g.SetLimit(8)
	for i := range out {
		g.Go(func() error {
			out[i].Point, out[i].Err = r.Point(ctx, out[i].ID)
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list restore points: %w", err)
	}
	return out, nil
}
