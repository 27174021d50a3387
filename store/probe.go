package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"jetkeep/store/object"
)

const (
	// probePrefix is where probes put their objects. What is left there means
	// nothing to anybody.
	probePrefix = "probe/"
	probeSize   = 1024
	probeStamp  = "20060102T150405Z"
	// probeAge is how old an object of a probe must be to be left over.
	probeAge = time.Hour
)

var probePattern = regexp.MustCompile(`^probe/(\d{8}T\d{6}Z)-[0-9a-z]+$`)

// What became of a step of a probe.
const (
	ProbeOK = "ok"
	// ProbeDenied means that the credentials do not allow the step.
	ProbeDenied = "denied"
	// ProbeRetained means that the store keeps what was written for a promised
	// time, so that it was not deleted.
	ProbeRetained = "retained"
	ProbeFailed   = "failed"
	// ProbeSkipped means that the step made no sense after those before it.
	ProbeSkipped = "skipped"
)

// A ProbeStep is one thing that was tried with a store.
type ProbeStep struct {
	Name    string // write, read, list or delete
	Outcome string
	Took    time.Duration
	Note    string // what else there is to say
	Err     error  // why the outcome is what it is; nil if it is ProbeOK
}

// A ProbeReport says what a store lets be done.
type ProbeReport []ProbeStep

// Usable says whether backups can be made and restored. Deleting is only for
// those who prune: a writer that cannot delete is meant so.
func (r ProbeReport) Usable() bool {
	for _, s := range r {
		if s.Outcome != ProbeOK && (s.Name != "delete" || s.Outcome == ProbeFailed) {
			return false
		}
	}
	return len(r) > 0
}

// Probe proves that a store works: it writes a small object, reads it, lists it
// and deletes it. It always reports every step; the context bounds all of them
// together. What it cannot delete stays below "probe/", until a Prune of
// somebody who may delete takes it away.
func Probe(ctx context.Context, bucket *object.Bucket) ProbeReport {
	data := make([]byte, probeSize)
	_, _ = rand.Read(data) // never fails
	name := probePrefix + time.Now().UTC().Format(probeStamp) + "-" + strings.ToLower(rand.Text())
	p := probing{ctx: ctx, bucket: bucket}
	if !p.step("write", func() (string, error) { return "", bucket.PutBytes(ctx, name, data) }) {
		p.step("read", func() (string, error) { return "of the repository's marker", p.readMarker() })
		p.step("list", func() (string, error) { return p.list(commitPrefix, "") })
		p.report = append(p.report, ProbeStep{Name: "delete", Outcome: ProbeSkipped, Err: errors.New("nothing was written")})
		return p.report
	}
	p.step("read", func() (string, error) { return "", p.read(name, data) })
	p.step("list", func() (string, error) { return p.list(name, name) })
	p.step("delete", func() (string, error) { return "", p.delete(name) })
	return p.report
}

// probing is one call of Probe.
type probing struct {
	ctx    context.Context // lives as long as the one call it serves
	bucket *object.Bucket
	report ProbeReport
}

// step tries one thing and says whether it worked.
func (p *probing) step(name string, try func() (note string, err error)) bool {
	begin := time.Now()
	s := ProbeStep{Name: name, Outcome: ProbeOK}
	s.Note, s.Err = try()
	s.Took = time.Since(begin)
	denied := new(object.PermissionError)
	switch {
	case s.Err == nil:
	case errors.Is(s.Err, object.ErrRetained):
		s.Outcome = ProbeRetained
	case errors.As(s.Err, &denied), errors.Is(s.Err, object.ErrNotWritable), errors.Is(s.Err, object.ErrPermission):
		s.Outcome = ProbeDenied
	default:
		s.Outcome = ProbeFailed
	}
	p.report = append(p.report, s)
	return s.Outcome == ProbeOK
}

func (p *probing) readMarker() error {
	_, err := p.bucket.ReadAll(p.ctx, markerName, maxMarker)
	return err
}

func (p *probing) read(name string, want []byte) error {
	got := make([]byte, len(want))
	if err := p.bucket.ReadInto(p.ctx, name, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("get object %s: %w: other bytes were read than written", name, object.ErrChecksum)
	}
	return nil
}

// list lists what begins with prefix, as far as one object. That one is missing
// is no fault: listings may lag.
func (p *probing) list(prefix, want string) (string, error) {
	for info, err := range p.bucket.List(p.ctx, prefix) {
		if err != nil {
			return "", err
		}
		if want == "" || info.Name == want {
			return "", nil
		}
	}
	if want == "" {
		return "", nil
	}
	return "the listing does not show it yet", nil
}

func (p *probing) delete(name string) error {
	if err := p.bucket.Delete(p.ctx, name); err != nil {
		return err
	}
	_, err := p.bucket.Stat(p.ctx, name)
	if errors.Is(err, object.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("delete object %s: it is there afterwards", name)
	}
	return err
}

// sweepProbes deletes what probes left behind. Nothing depends on it, so it
// only says what went wrong.
func (x *pruning) sweepProbes(ctx context.Context) error {
	for info, err := range x.repo.bucket.List(ctx, probePrefix) {
		if err == nil {
			m := probePattern.FindStringSubmatch(info.Name)
			if m == nil {
				continue
			}
			made, perr := time.Parse(probeStamp, m[1])
			if perr != nil || x.opt.Now().Sub(made) < probeAge {
				continue
			}
			err = x.repo.bucket.Delete(ctx, info.Name)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, object.ErrRetained):
		case err != nil:
			x.problem("what probes left behind stays: %v", err)
			return nil
		}
	}
	return nil
}
