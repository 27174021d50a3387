package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
)

// light makes restore points without records: objects, the log and commits are
// as with a Writer.
type light struct {
	repo   *Repository
	stream string
	task   string
	since  uint64
	epoch  uint64
	chain  string
	uses   Uses
}

func (r *Repository) newLight(ctx context.Context, stream, task string) (*light, error) {
	chain, since, epoch, err := r.chainHead(ctx, "default", stream)
	return &light{repo: r, stream: stream, task: task, since: since, epoch: epoch, chain: chain}, err
}

// take uses everything that base does, as an increment may.
func (l *light) take(base Point) {
	l.since = min(l.since, base.Number)
	l.uses.Objects = slices.Clone(base.Content.Uses.Objects)
}

// put stores an object, as Writer does: named with the epoch, and only if it is
// not there.
func (l *light) put(ctx context.Context, prefix, text string) error {
	data := fmt.Appendf(nil, "%d %s", l.epoch, text)
	name, _ := l.name(prefix, data)
	_, err := l.repo.bucket.Stat(ctx, name)
	if errors.Is(err, object.ErrNotExist) {
		err = l.repo.bucket.PutBytes(ctx, name, data)
	}
	if err != nil && !errors.Is(err, object.ErrExist) {
		return err
	}
	l.uses = l.uses.with(Used{Name: name, Size: int64(len(data))})
	return nil
}

// putList puts what is used so far into a list, as Writer does if it is much.
func (l *light) putList(ctx context.Context) error {
	payload, err := marshal(l.uses)
	if err != nil {
		return err
	}
	enc, err := newEncoder(LevelDefault)
	if err != nil {
		return err
	}
	raw := append(binary.AppendUvarint([]byte(kindUses), l.epoch), payload...)
	stored := enc.EncodeAll(raw, nil)
	name, hash := l.name(metaPrefix, stored)
	err = l.repo.bucket.PutBytes(ctx, name, stored)
	if err != nil && !errors.Is(err, object.ErrExist) {
		return err
	}
	l.uses = Uses{Lists: []Ref{{Hash: hash, Size: int64(len(stored)), Raw: int64(len(raw))}}}
	return nil
}

func (l *light) name(prefix string, data []byte) (name, hash string) {
	h := sha256.Sum256(data)
	hash = hex.EncodeToString(h[:])
	return chainObject(prefix, l.chain, hash), hash
}

func (l *light) point() Point {
	p := makePoint(l.task, Content{Digest: (record.Sum{}).String(), Uses: l.uses, Since: l.since, Epoch: l.epoch})
	p.Backup, p.Stream = "backup-"+l.task[:1], l.stream
	return p
}

// mustLight makes a restore point with one pack for each text.
func mustLight(t testing.TB, r *Repository, stream, task string, texts ...string) Point {
	t.Helper()
	l, err := r.newLight(t.Context(), stream, task)
	for _, text := range texts {
		if err == nil {
			err = l.put(t.Context(), packsPrefix, text)
		}
	}
	if err == nil {
		err = r.Commit(t.Context(), l.point())
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Point(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reopen returns the repository as another process sees it.
func reopen(t testing.TB, d object.Driver, opt OpenOptions) *Repository {
	t.Helper()
	r, err := Open(t.Context(), object.NewBucket(d), opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The end of a log is found without a listing, whatever is remembered.
func TestHeadIsFoundByName(t *testing.T) {
	r, d := newRepo(t)
	f := faulty.New(t, d, faulty.Fault{Op: faulty.List, Kind: faulty.Hide, Times: -1})
	chain, err := r.Chain("default", "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	old := reopen(t, f, OpenOptions{})
	for n := range uint64(70) {
		fresh := reopen(t, f, OpenOptions{})
		for name, repo := range map[string]*Repository{"fresh": fresh, "knows some": old} {
			if got, err := repo.headNumber(t.Context(), chain); err != nil || got != n {
				t.Fatalf("%s: head %d of %d, %v", name, got, n, err)
			}
		}
		if n%7 == 0 {
			if _, _, err := old.tailOf(t.Context(), chain); err != nil {
				t.Fatal(err)
			}
		}
		mustLight(t, r, "ORDERS", fmt.Sprintf("b.%04d", n))
	}
	n := uint64(0)
	if _, err := old.readLog(t.Context(), chain, func(e *entry) error { n++; return nil }); err != nil || n != 70 {
		t.Errorf("read %d entries, %v", n, err)
	}
	if points, err := old.Points(t.Context()); err != nil || len(points) != 0 {
		t.Errorf("the listing was to hide all, and shows %d, %v", len(points), err)
	}
}

// Those who commit at once all get a number of their own.
func TestCommitsAtOnce(t *testing.T) {
	for name, plain := range map[string]bool{"atomic": false, "not atomic": true} {
		r, d := newRepo(t)
		var driver object.Driver = d
		var opt OpenOptions
		if plain {
			driver, opt.Lock = struct{ object.Driver }{d}, new(locks).lock
		}
		var wg sync.WaitGroup
		for i := range 8 {
			other := reopen(t, driver, opt)
			wg.Go(func() {
				l, err := other.newLight(context.Background(), "ORDERS", fmt.Sprintf("b.%04d", i))
				if err == nil {
					err = other.Commit(context.Background(), l.point())
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		chain, _ := r.Chain("default", "ORDERS")
		ids := map[string]bool{}
		tail, err := r.readLog(t.Context(), chain, func(e *entry) error { ids[e.task] = true; return nil })
		if err != nil || tail.Number != 8 || len(ids) != 8 {
			t.Errorf("%s: %d entries of %d tasks, %v", name, tail.Number, len(ids), err)
		}
	}
}

// An attempt that ended between the log and the copy is finished by the next.
func TestCommitIsRolledForward(t *testing.T) {
	r, d := newRepo(t)
	mustLight(t, r, "ORDERS", "a.0001", "x")
	f := faulty.New(t, d, faulty.Fault{Op: faulty.Put, Prefix: commitPrefix})
	broken := reopen(t, f, OpenOptions{})
	l, err := broken.newLight(t.Context(), "ORDERS", "b.0001")
	if err == nil {
		err = l.put(t.Context(), packsPrefix, "y")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.Commit(t.Context(), l.point()); !errors.Is(err, faulty.ErrInjected) {
		t.Fatal(err)
	}
	if _, err := r.Point(t.Context(), "b.0001"); !errors.Is(err, ErrNoPoint) {
		t.Fatal(err)
	}
	for name, again := range map[string]func() (*light, error){
		"the same writer": func() (*light, error) { return l, nil },
		"a new writer": func() (*light, error) {
			n, err := r.newLight(t.Context(), "ORDERS", "b.0001")
			if err == nil {
				err = n.put(t.Context(), packsPrefix, "y")
			}
			return n, err
		},
	} {
		if err := d.Delete(t.Context(), commitName("b.0001")); err != nil {
			t.Fatal(err)
		}
		l, err := again()
		if err == nil {
			err = r.Commit(t.Context(), l.point())
		}
		p, perr := r.Point(t.Context(), "b.0001")
		if err != nil || perr != nil || p.Number != 2 {
			t.Errorf("%s: entry %d, %v, %v", name, p.Number, err, perr)
		}
	}
}

func TestLatest(t *testing.T) {
	r, d := newRepo(t)
	if _, err := r.Latest(t.Context(), "default", "ORDERS"); !errors.Is(err, ErrNoPoint) {
		t.Fatal(err)
	}
	for i := range 4 {
		mustLight(t, r, "ORDERS", fmt.Sprintf("b.%04d", i))
		mustLight(t, r, "OTHER", fmt.Sprintf("c.%04d", i))
	}
	blind := reopen(t, faulty.New(t, d, faulty.Fault{Op: faulty.List, Kind: faulty.Hide, Times: -1}), OpenOptions{})
	want := func(id string) {
		t.Helper()
		if p, err := blind.Latest(t.Context(), "default", "ORDERS"); err != nil || p.ID != id {
			t.Errorf("newest is %q, want %q: %v", p.ID, id, err)
		}
	}
	want("b.0003")
	if err := r.Forget(t.Context(), []string{"b.0003", "b.0001"}); err != nil {
		t.Fatal(err)
	}
	want("b.0002")
	mustLight(t, r, "ORDERS", "b.0003")
	want("b.0003")
	if points, err := blind.Points(t.Context()); err != nil || len(points) != 0 {
		t.Errorf("the listing was to hide all, and shows %d, %v", len(points), err)
	}
}

// What was read once is not read again; what is gone is not listed.
func TestListingReadsOnce(t *testing.T) {
	r, d := newRepo(t)
	for i := range 5 {
		mustLight(t, r, "ORDERS", fmt.Sprintf("b.%04d", i))
	}
	c := &counting{Driver: d}
	other := reopen(t, c, OpenOptions{})
	for range 3 {
		if all, err := other.Points(t.Context()); err != nil || len(all) != 5 || all[2].Point.ID != "b.0002" {
			t.Fatalf("%d points, %v", len(all), err)
		}
	}
	if c.gets != 6 { // and the marker
		t.Errorf("%d reads", c.gets)
	}
	if err := r.Forget(t.Context(), []string{"b.0002"}); err != nil {
		t.Fatal(err)
	}
	if all, err := other.Points(t.Context()); err != nil || len(all) != 4 {
		t.Errorf("%d points, %v", len(all), err)
	}
	var small cache
	small.points = map[pointKey]Point{}
	for i := range 1000 {
		small.setPoint(pointKey{id: fmt.Sprint(i), size: maxCached / 100}, Point{})
	}
	if len(small.points) != 100 || small.size != 100*(maxCached/100) {
		t.Errorf("%d points of %d bytes are kept", len(small.points), small.size)
	}
}

// counting counts the reads that reach a driver.
type counting struct {
	*mem.Driver
	mu   sync.Mutex
	gets int
}

func (c *counting) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	c.mu.Lock()
	c.gets++
	c.mu.Unlock()
	return c.Driver.Get(ctx, name, offset, length)
}
