package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/seal"
)

const (
	commitPrefix = "commits/"
	maxCommit    = maxEntry
)

// ErrPruned means that something which a restore point was to refer to has been
// condemned since its writer began. The backup has to be made again.
var ErrPruned = errors.New("needs objects that were pruned meanwhile")

func commitName(task string) string { return commitPrefix + task }

// A summary is the public part of a restore point, one line of JSON: what
// prune and verification must know, and nothing that names what is stored.
type summary struct {
	ID          string    `json:"id"`
	Backup      string    `json:"backup"`
	Time        time.Time `json:"time"`
	Messages    uint64    `json:"messages"`
	Bytes       uint64    `json:"bytes"`
	StoredBytes uint64    `json:"stored_bytes"`
	NewBytes    uint64    `json:"new_bytes"`
	Uses        Uses      `json:"uses"`
	Retained    time.Time `json:"retained,omitzero"`
}

// encodePoint makes the body of a restore point's entry.
func (r *Repository) encodePoint(p *Point) (codec string, body []byte, err error) {
	if !idPattern.MatchString(p.Task) || p.ID != p.Task {
		return "", nil, fmt.Errorf("restore point id %q, task %q: must be equal and match %s", p.ID, p.Task, idPattern)
	}
	if _, err := p.Content.sum(); err != nil {
		return "", nil, fmt.Errorf("content: %w", err)
	}
	c := &p.Content
	public, err := marshal(summary{
		ID: p.ID, Backup: p.Backup, Time: p.Time, Messages: c.Messages, Bytes: c.Bytes,
		StoredBytes: c.StoredBytes, NewBytes: c.NewBytes, Uses: c.Uses, Retained: p.Retained,
	})
	if err != nil {
		return "", nil, err
	}
	private, err := marshal(p)
	if err != nil {
		return "", nil, err
	}
	codec = bodyJSON
	if r.sealer != nil {
		codec = bodyAge
		if private, err = r.sealer.SealMeta(private); err != nil {
			return "", nil, err
		}
	}
	return codec, slices.Concat(public, []byte("\n"), private), nil
}

// decodePoint decodes the restore point of an entry. One that is locked is
// returned with what is public of it, and one that is not trusted as well, each
// with its error.
func (r *Repository) decodePoint(name string, e *entry) (Point, error) {
	if e.kind != entryPoint {
		return Point{}, damaged(name, nil, "is no restore point but a %s", e.kind)
	}
	s, err := decodeSummary(name, e)
	if err != nil {
		return Point{}, err
	}
	_, private, _ := bytes.Cut(e.body, []byte("\n"))
	p := Point{ID: s.ID, Task: e.task, Backup: s.Backup, Time: s.Time}
	p.Content = Content{Messages: s.Messages, Bytes: s.Bytes, StoredBytes: s.StoredBytes, NewBytes: s.NewBytes}
	err = r.openPoint(name, e.codec, private, &p)
	if err == nil && (s.Backup != p.Backup || !s.Time.Equal(p.Time) || s.Messages != p.Content.Messages) {
		err = damaged(name, nil, "summary differs from what it sums up")
	}
	if err == nil || errors.Is(err, ErrLocked) {
		if s.ID != e.task || p.Task != e.task || p.ID != e.task {
			return Point{}, damaged(name, nil, "is the commit record of %s", e.task)
		}
		if e.untrusted != nil {
			err = e.untrusted
		}
	}
	p.Chain, p.Number, p.Retained = e.chain, e.number, s.Retained
	p.Content.Uses, p.Content.Since, p.Content.Epoch, p.Content.chain = s.Uses, e.number, e.epoch, e.chain
	return p, err
}

// decodeSummary decodes what is public of a restore point.
func decodeSummary(name string, e *entry) (summary, error) {
	public, _, ok := bytes.Cut(e.body, []byte("\n"))
	var s summary
	err := json.Unmarshal(public, &s)
	if err == nil {
		err = s.Uses.check()
	}
	if err != nil || !ok || s.ID != e.task {
		return s, damaged(name, err, "summary")
	}
	return s, nil
}

func (r *Repository) openPoint(name, codec string, private []byte, p *Point) error {
	if (codec == bodyAge) != (r.sealer != nil) {
		return damaged(name, nil, "codec is %s, which the repository is not", codec)
	}
	if r.sealer != nil {
		plain, err := r.sealer.OpenMeta(bytes.Clone(private))
		if errors.Is(err, seal.ErrLocked) || errors.Is(err, seal.ErrWrongIdentity) {
			return fmt.Errorf("read %s: %w", name, ErrLocked)
		}
		if err != nil {
			return damaged(name, err, "sealed body")
		}
		private = plain
	}
	*p = Point{}
	if err := json.Unmarshal(private, p); err != nil {
		return damaged(name, err, "body")
	}
	if n := len(p.Content.Tables.List); n > maxInlineTables {
		return damaged(name, nil, "names %d tables itself, at most %d are allowed", n, maxInlineTables)
	}
	return nil
}

// Commit appends the restore point to its chain's log: from then on it exists.
// Everything that p refers to must be stored. If the same restore point is
// there already that is success; another one of the same task is ErrPointExists.
// If anything that it refers to was condemned meanwhile, it fails with
// ErrPruned. After any other error it can be called again.
func (r *Repository) Commit(ctx context.Context, p Point) error {
	if err := r.commit(ctx, p); err != nil {
		return fmt.Errorf("commit %s: %w", p.Task, err)
	}
	return nil
}

func (r *Repository) commit(ctx context.Context, p Point) error {
	if err := r.writable(); err != nil {
		return err
	}
	chain, err := r.Chain(p.Target, p.Stream)
	if err != nil {
		return err
	}
	if at := p.Content.chain; at != "" && at != chain {
		return fmt.Errorf("%w: content was stored for another stream than %s", ErrOrder, p.Stream)
	}
	if ref := p.Consumers.Ref; ref != nil {
		p.Content.Uses = p.Content.Uses.with(Used{Name: chainObject(metaPrefix, chain, ref.Hash), Size: ref.Size})
	}
	p.Retained = r.promise()
	c := &committing{repo: r, point: p, chain: chain, condemned: map[string]uint64{}}
	if c.codec, c.body, err = r.encodePoint(&p); err != nil {
		return err
	}
	there, err := readSmall(ctx, r.bucket, commitName(p.Task), maxCommit)
	if err == nil {
		return c.compare(there)
	}
	if !errors.Is(err, object.ErrNotExist) {
		return err
	}
	// The last entry before the writer began may be that of an attempt which
	// ended before it had made the copy.
	tail, last, err := r.tailAt(ctx, chain, p.Content.Since)
	if err == nil && last != nil {
		err = c.seen(last)
	}
	var e *entry
	if err == nil {
		e, err = r.appendEntry(ctx, &tail, c.seen, func() (*entry, error) { return c.build(ctx, tail.Number) })
	}
	if errors.Is(err, errSameTask) {
		if err := r.putCopy(ctx, c.same); err != nil {
			return err
		}
		return c.compare(c.same.encode())
	}
	if err != nil {
		return err
	}
	return r.putCopy(ctx, e)
}

// putCopy puts the copy of a restore point's entry where it is found by id.
func (r *Repository) putCopy(ctx context.Context, e *entry) error {
	name, data := commitName(e.task), e.encode()
	for try := 0; ; try++ {
		if err := waitTaken(ctx, name, try); err != nil {
			return err
		}
		err := r.bucket.PutBytes(ctx, name, data)
		if !errors.Is(err, object.ErrExist) {
			return err
		}
		there, err := readSmall(ctx, r.bucket, name, maxCommit)
		switch {
		case errors.Is(err, object.ErrNotExist):
			// Forgotten meanwhile, this one or one before of the same id: then
			// this one needs its copy. If it was this one, prune takes it away.
		case err != nil:
			return err
		case !bytes.Equal(there, data):
			return ErrPointExists
		default:
			return nil
		}
	}
}

// errSameTask ends the reading of a log at an entry of the same task.
var errSameTask = errors.New("task is in the log already")

// committing is one call of Commit.
type committing struct {
	repo  *Repository
	point Point
	chain string
	codec string
	body  []byte
	same  *entry // of the same task
	// condemned has what prune entries condemned since the writer began.
	condemned map[string]uint64
}

// seen takes in an entry that came after the writer began.
func (c *committing) seen(e *entry) error {
	switch {
	case e.kind == entryPoint && e.task == c.point.Task:
		c.same = e
		return errSameTask
	case e.kind == entryPrune && e.number > c.point.Content.Since:
		b, err := decodePrune(e)
		if err != nil {
			return err
		}
		for _, o := range b.Objects {
			c.condemned[o.Name] = e.number
		}
	}
	return nil
}

// build makes the entry that follows the last, unless something that it refers
// to was condemned, or cannot be kept as long as promised.
func (c *committing) build(ctx context.Context, last uint64) (*entry, error) {
	if err := c.spared(ctx); err != nil {
		return nil, err
	}
	if err := c.repo.keepAll(ctx, c.chain, last, c.point.Content.Uses, c.point.Retained); err != nil {
		return nil, err
	}
	return &entry{kind: entryPoint, task: c.point.Task, time: time.Now().UTC(), codec: c.codec, body: c.body}, nil
}

func (c *committing) spared(ctx context.Context) error {
	if len(c.condemned) == 0 {
		return nil
	}
	var hit string
	err := c.repo.eachUse(ctx, c.chain, c.point.Content.Uses, func(o Used) bool {
		if c.condemned[o.Name] > 0 {
			hit = o.Name
		}
		return hit == "" // a list that was condemned may be gone
	})
	if hit != "" {
		return fmt.Errorf("%w: %s, by entry %d", ErrPruned, hit, c.condemned[hit])
	}
	return err
}

// compare says whether a record that is there holds the same restore point.
func (c *committing) compare(data []byte) error {
	name := commitName(c.point.Task)
	e, err := c.repo.decodeEntry(name, data)
	if err != nil {
		return err
	}
	p, err := c.repo.decodePoint(name, e)
	if errors.Is(err, ErrLocked) {
		return ErrPointExists
	}
	if err != nil {
		return err
	}
	got, err := marshal(p)
	if err != nil {
		return err
	}
	want, err := marshal(c.point)
	if err == nil && !bytes.Equal(got, want) {
		err = ErrPointExists
	}
	return err
}
