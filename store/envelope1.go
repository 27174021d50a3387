package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// An envelope1 is the head of a commit record of format 1 and its body. Such
// records are only read.
type envelope1 struct {
	repository, task, codec, critical, parent, signature string

	counter uint64
	body    []byte
}

func (e *envelope1) encode() []byte {
	b := fmt.Appendf(nil, "jetkeep-commit 1\nrepository: %s\ntask: %s\ncodec: %s\ncritical: %s\ncounter: %d\nparent: %s\nsize: %d\n",
		e.repository, e.task, e.codec, e.critical, e.counter, e.parent, len(e.body))
	h := sha256.New()
	h.Write(b)
	h.Write(e.body)
	return append(fmt.Appendf(b, "sha256: %x\nsignature: %s\n\n", h.Sum(nil), e.signature), e.body...)
}

func parseEnvelope1(data []byte) (*envelope1, error) {
	v, body, err := recordHead(data)
	if err != nil {
		return nil, err
	}
	e := &envelope1{
		repository: v["repository"], task: v["task"], codec: v["codec"], critical: v["critical"],
		parent: v["parent"], signature: v["signature"], body: body,
	}
	if e.counter, err = strconv.ParseUint(v["counter"], 10, 64); err != nil {
		return nil, fmt.Errorf("%w: counter", errMalformed)
	}
	if !bytes.Equal(e.encode(), data) || !signaturePattern.MatchString(e.signature) {
		return nil, fmt.Errorf("%w: differs from its size, hash or form", errMalformed)
	}
	if e.critical != none || e.codec != bodyJSON {
		return nil, fmt.Errorf("%w: commit record needs %s, %s", ErrNewerFormat, e.critical, e.codec)
	}
	return e, nil
}

// decodeCommit1 decodes a commit record of format 1.
func (r *Repository) decodeCommit1(task string, data []byte) (Point, error) {
	name := commitName(task)
	if _, err := recordVersion(data); err != nil {
		return Point{}, recordError(name, err)
	}
	e, err := parseEnvelope1(data)
	if err != nil {
		return Point{}, recordError(name, err)
	}
	if err := r.trust.Check(nil, none); err != nil {
		return Point{}, fmt.Errorf("read %s: %w", name, err) // nothing of format 1 is signed
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

// recordError tells a record of a newer format from a damaged one.
func recordError(name string, err error) error {
	if errors.Is(err, ErrNewerFormat) {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return damaged(name, err, "commit record")
}
