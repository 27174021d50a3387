package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// A VerifyLevel is how deep Verify looks. Each includes the ones before.
type VerifyLevel int

const (
	// VerifyStructure reads the logs, commits and lists, as far as they can be
	// read without a key the tables, and asks for each object and its size.
	VerifyStructure VerifyLevel = iota
	// VerifyData reads each object and compares its hash. It needs no key.
	VerifyData
	// VerifyRecords also decrypts, decodes and counts each record and compares
	// the digests. It needs to be able to read messages.
	VerifyRecords
)

var verifyLevels = [...]string{"structure", "data", "records"}

func (l VerifyLevel) String() string {
	if l < 0 || int(l) >= len(verifyLevels) {
		return fmt.Sprintf("level %d", int(l))
	}
	return verifyLevels[l]
}

// ParseVerifyLevel reads what String writes.
func ParseVerifyLevel(s string) (VerifyLevel, error) {
	if i := slices.Index(verifyLevels[:], s); i >= 0 {
		return VerifyLevel(i), nil
	}
	return 0, fmt.Errorf("level %q: must be structure, data or records", s)
}

// VerifyOptions say what to verify.
type VerifyOptions struct {
	Level VerifyLevel
	// Points are the ids to verify; none means all, and only then orphans are
	// counted.
	Points []string
	// Heads are the heads of chains as they were remembered outside the store. A
	// log that has not come as far, or that has another entry there, was cut or
	// rewritten. What this Repository saw itself counts, too.
	Heads map[string]Head
	// Part of Parts reads only the objects whose names fall into that part,
	// 1 to Parts; runs over all parts read each object once. Percent reads about
	// so many of a hundred, others for each Seed. Without either all are read.
	// What is not read is still asked for. A digest is compared only if all of
	// a restore point was read.
	Part, Parts int
	Percent     float64
	Seed        string
	// Workers bounds the objects in work at once, and with them the memory.
	Workers int
	// OnProgress is called now and then, by one goroutine at a time.
	OnProgress func(VerifyProgress)
}

// VerifyProgress says how far Verify is in what it reads. The totals grow
// while it finds out what there is.
type VerifyProgress struct {
	Objects, ObjectsTotal int
	Bytes, BytesTotal     int64
	Problems              int
}

// A VerifyReport is what Verify found.
type VerifyReport struct {
	Level VerifyLevel
	// Points is how many were verified, Objects and Bytes what they need, each
	// counted once; Read and ReadBytes what of that was read and hashed, and
	// Records how many records were decoded.
	Points    int
	Objects   int
	Bytes     int64
	Read      int
	ReadBytes int64
	Records   uint64
	// Problems are in order of objects. Beyond MaxProblems they are only
	// counted, in Omitted; Damaged names each restore point that one reaches.
	Problems []Problem
	Omitted  int
	Damaged  []string
	// Notes say what is no damage but worth knowing.
	Notes []string
	// Orphans are objects that no restore point needs: left by a backup that
	// failed, in use by one that runs, or forgotten and not yet pruned.
	Orphans     int
	OrphanBytes int64
	// Census is nil in a store that does not promise to keep anything. What it
	// finds too short is among the Problems, too, and reaches no restore point.
	Census *Census
	// Heads are the heads of the chains that were read, to be remembered.
	Heads map[string]Head
}

// A Head is the last entry of a chain's log: its number and the SHA-256 of its
// stored bytes.
type Head struct {
	Number uint64 `json:"number"`
	Hash   string `json:"hash"`
}

// OK says whether nothing is wrong.
func (r *VerifyReport) OK() bool { return len(r.Problems) == 0 }

// MaxProblems bounds what a report lists.
const MaxProblems = 10_000

// A Problem is something wrong with an object.
type Problem struct {
	Object  string
	Problem string
	// Points are the restore points that cannot be restored because of it, in
	// order; none if the problem reaches no restore point.
	Points []string
}

func (p Problem) String() string {
	s := p.Object + ": " + p.Problem
	if len(p.Points) > 0 {
		s += fmt.Sprintf(" (reaches %d restore points, the first %s)", len(p.Points), p.Points[0])
	}
	return s
}

func (o *VerifyOptions) validate() error {
	switch {
	case o.Level < VerifyStructure || o.Level > VerifyRecords:
		return fmt.Errorf("verify: %s is not known", o.Level)
	case o.Parts < 0 || o.Parts > 0 && (o.Part < 1 || o.Part > o.Parts) || o.Parts == 0 && o.Part != 0:
		return fmt.Errorf("verify: part %d of %d: must be from 1 to the number of parts", o.Part, o.Parts)
	case o.Percent < 0 || o.Percent > 100 || o.Percent != 0 && o.Parts != 0:
		return fmt.Errorf("verify: %v percent: must be from 0 to 100, and without parts", o.Percent)
	}
	return nil
}

// Verify looks whether all restore points, or those asked for, are whole. What
// is wrong with the repository is in the report; an error means that Verify
// could not do its work. It changes nothing, but that it puts right a commit
// record which is missing though the log has it; a note says so.
func (r *Repository) Verify(ctx context.Context, opt VerifyOptions) (*VerifyReport, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	fresh := *r
	fresh.cache = nil // what it remembers is compared with the store, and not used for it
	v := &verifier{
		repo: &fresh, cache: r.cache, opt: opt, report: &VerifyReport{Level: opt.Level, Heads: map[string]Head{}},
		damaged: map[string]bool{}, known: map[string]bool{},
	}
	v.census = newCensus(v)
	err := v.run(ctx)
	if err == nil {
		err = v.census.shared(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	v.report.Damaged = slices.Sorted(maps.Keys(v.damaged))
	v.report.Census = v.census.report()
	slices.SortStableFunc(v.report.Problems, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	return v.report, nil
}

// A verifier is one run of Verify.
type verifier struct {
	repo    *Repository
	cache   *cache // what the repository remembers of logs
	census  *census
	opt     VerifyOptions
	damaged map[string]bool
	known   map[string]bool // restore points whose chain is known
	// Log entries, those without a signature, those that prune, and those of
	// them that have been carried out.
	entries, unsigned, prunes, pruned int
	// What restore points need and is there.
	present      int
	presentBytes int64

	// heavy is held by who reads what takes much memory.
	heavy sync.Mutex

	mu       sync.Mutex // of all below
	report   *VerifyReport
	progress VerifyProgress
	failures int // of the store
}

// maxFailures is after how many errors of the store, none of which proves
// damage, Verify gives up.
const maxFailures = 100

// failed counts an error of the store and says whether there were too many.
func (v *verifier) failed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failures++
	return v.failures > maxFailures
}

// problem reports what reaches no restore point.
func (v *verifier) problem(object, text string) { v.add(Problem{Object: object, Problem: text}) }

func (v *verifier) add(p Problem) {
	if len(v.report.Problems) >= MaxProblems {
		v.report.Omitted++
		return
	}
	v.report.Problems = append(v.report.Problems, p)
}

func (v *verifier) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Notes = append(v.report.Notes, fmt.Sprintf(format, args...))
}

// planned and done keep the progress; bytes are those to be read.
func (v *verifier) planned(objects int, bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.progress.ObjectsTotal += objects
	v.progress.BytesTotal += bytes
}

func (v *verifier) done(read int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.progress.Objects++
	v.progress.Bytes += read
	if read > 0 {
		v.report.Read++
		v.report.ReadBytes += read
	}
	if v.opt.OnProgress != nil {
		v.opt.OnProgress(v.progress)
	}
}

// selected says whether an object is among those to be read in this run.
func (o *VerifyOptions) selected(name string) bool {
	switch {
	case o.Parts > 0:
		return nameNumber("", name)%uint64(o.Parts) == uint64(o.Part-1)
	case o.Percent > 0:
		return float64(nameNumber(o.Seed, name)>>11)/(1<<53) < o.Percent/100
	}
	return true
}

// whole says whether all objects are read.
func (o *VerifyOptions) whole() bool { return o.Parts <= 1 && (o.Percent == 0 || o.Percent == 100) }

// nameNumber turns a name into a number that depends on nothing else, so that
// parts are the same in each run and on each machine.
func nameNumber(seed, name string) uint64 {
	h := sha256.Sum256([]byte(seed + "\x00" + name))
	return binary.BigEndian.Uint64(h[:8])
}
