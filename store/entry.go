package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The kinds of entries of a chain's log.
const (
	entryPoint  = "point"
	entryForget = "forget"
	entryPrune  = "prune"
)

const (
	entryVersion = 2
	none         = "-"
	bodyJSON     = "json"
	bodyAge      = "age"
	// maxEntry bounds an entry, and with it a commit record.
	maxEntry = 1 << 20
)

var (
	idPattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	chainPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hashPattern  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// signaturePattern is what a signature looks like: none, or a scheme and a value.
	signaturePattern = regexp.MustCompile(`^(-|[a-z0-9]{1,32} [A-Za-z0-9+/=_-]+)$`)
)

// An entry is one of a chain's log: a head of lines that can be read without
// any key, and a body. The entry of a restore point is its commit record.
type entry struct {
	repository string
	chain      string
	number     uint64
	previous   string // hash of the entry before
	epoch      uint64 // number of the last prune entry before, 0 if there is none
	kind       string
	task       string
	time       time.Time // by the clock of whoever wrote it
	codec      string    // of the body's private part
	critical   string    // features without which it cannot be understood
	signature  string
	body       []byte

	hash      string // of the stored bytes
	untrusted error  // why the signature is not accepted
}

// head encodes what is signed: everything before the signature. Its last line
// is a hash over the lines before and the body, so the body is covered too.
func (e *entry) head() []byte {
	b := fmt.Appendf(nil, "jetkeep-commit %d\nrepository: %s\nchain: %s\nnumber: %d\nprevious: %s\nepoch: %d\nkind: %s\ntask: %s\ntime: %s\ncodec: %s\ncritical: %s\nsize: %d\n",
		entryVersion, e.repository, e.chain, e.number, e.previous, e.epoch, e.kind, e.task,
		e.time.UTC().Format(time.RFC3339Nano), e.codec, e.critical, len(e.body))
	h := sha256.New()
	h.Write(b)
	h.Write(e.body)
	return fmt.Appendf(b, "sha256: %x\n", h.Sum(nil))
}

func (e *entry) trusted() bool { return e.untrusted == nil }

func (e *entry) encode() []byte {
	b := append(e.head(), "signature: "+e.signature+"\n\n"...)
	return append(b, e.body...)
}

// recordVersion reads the first line of a commit record, which is all that a
// newer version must keep.
func recordVersion(data []byte) (uint64, error) {
	first, _, _ := bytes.Cut(data, []byte("\n"))
	version, ok := strings.CutPrefix(string(first), "jetkeep-commit ")
	n, err := strconv.ParseUint(version, 10, 31)
	if !ok || err != nil || n == 0 {
		return 0, fmt.Errorf("%w: no commit record", errMalformed)
	}
	if n > entryVersion {
		return 0, fmt.Errorf("%w: commit record version %d", ErrNewerFormat, n)
	}
	return n, nil
}

// recordHead cuts a commit record into the values of its head, which may be
// anything yet, and its body.
func recordHead(data []byte) (map[string]string, []byte, error) {
	head, body, ok := bytes.Cut(data, []byte("\n\n"))
	if !ok {
		return nil, nil, fmt.Errorf("%w: no end of the head", errMalformed)
	}
	values := map[string]string{}
	for _, line := range strings.Split(string(head), "\n")[1:] {
		key, value, _ := strings.Cut(line, ": ")
		values[key] = value
	}
	return values, body, nil
}

// parseEntry accepts exactly what encode writes.
func parseEntry(data []byte) (*entry, error) {
	if version, err := recordVersion(data); err != nil {
		return nil, err
	} else if version != entryVersion {
		return nil, fmt.Errorf("%w: commit record version %d in a log", errMalformed, version)
	}
	v, body, err := recordHead(data)
	if err != nil {
		return nil, err
	}
	e := &entry{
		repository: v["repository"], chain: v["chain"], previous: v["previous"], kind: v["kind"], task: v["task"],
		codec: v["codec"], critical: v["critical"], signature: v["signature"], body: body,
	}
	var errs [3]error
	e.number, errs[0] = strconv.ParseUint(v["number"], 10, 64)
	e.epoch, errs[1] = strconv.ParseUint(v["epoch"], 10, 64)
	e.time, errs[2] = time.Parse(time.RFC3339Nano, v["time"])
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	// Writing it again proves order, spelling, size and hash in one go.
	if !bytes.Equal(e.encode(), data) || !e.wellFormed() {
		return nil, fmt.Errorf("%w: differs from its size, hash or form", errMalformed)
	}
	if e.critical != none {
		return nil, fmt.Errorf("%w: commit record needs %s", ErrNewerFormat, e.critical)
	}
	if e.codec != bodyJSON && e.codec != bodyAge {
		return nil, fmt.Errorf("%w: commit record's codec is %s", ErrNewerFormat, e.codec)
	}
	if !slices.Contains([]string{entryPoint, entryForget, entryPrune}, e.kind) {
		return nil, fmt.Errorf("%w: commit record is a %s", ErrNewerFormat, e.kind)
	}
	sum := sha256.Sum256(data)
	e.hash = hex.EncodeToString(sum[:])
	return e, nil
}

func (e *entry) wellFormed() bool {
	first := e.number == 1 && e.previous == none && e.epoch == 0
	later := e.number > 1 && hashPattern.MatchString(e.previous) && e.epoch < e.number
	return (first || later) && chainPattern.MatchString(e.chain) && idPattern.MatchString(e.task) &&
		e.number <= maxNumber && signaturePattern.MatchString(e.signature)
}

// decodeEntry decodes an entry of this repository and checks its signature; one
// that is not trusted is still returned, for what it says counts where it only
// makes us more careful.
func (r *Repository) decodeEntry(name string, data []byte) (*entry, error) {
	e, err := parseEntry(data)
	if err != nil {
		return nil, recordError(name, err)
	}
	if e.repository != r.marker.ID {
		return nil, damaged(name, nil, "belongs to repository %s, not to %s", e.repository, r.marker.ID)
	}
	if err := r.trust.Check(e.head(), e.signature); err != nil {
		e.untrusted = fmt.Errorf("read %s: %w", name, err)
	}
	return e, nil
}
