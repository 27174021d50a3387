package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
)

var (
	errDead  = errors.New("this process is dead")
	errFlaky = errors.New("the store did not answer")
)

// A world is a store, those who use it, and a scheduler that lets one of them
// do one operation at a time. It knows, from the logs alone, what must be there.
type world struct {
	mem *mem.Driver
	rng *rand.Rand // the scheduler's
	now time.Time
	// calm ends all faults and lies.
	calm bool

	mu       sync.Mutex
	pending  []*operation
	actors   []*actor
	modified map[string]time.Time
	past     []map[string]object.Info // what listings showed once
	truth    truth
	streams  map[string]*modelStream
	failure  string
	trace    []byte
	steps    int
	stats    map[string]int
}

// An actor is a process: it sees the store through gates, has a clock of its
// own, and dies at once.
type actor struct {
	w      *world
	id     int
	rng    *rand.Rand
	offset time.Duration
	paused int // steps
	dead   bool
	done   bool
	retry  func(*actor) // what another process does if this one dies
}

// An operation waits to be let through.
type operation struct {
	actor  *actor
	kind   string
	name   string
	answer chan verdict
}

// A verdict is what becomes of an operation: it may fail before or after it has
// had its effect, and a listing may lie.
type verdict struct {
	before, after error
	lie           string
	show          map[string]object.Info
	cut           int
}

func newWorld(seed uint64) *world {
	return &world{
		mem: mem.New(), rng: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
		modified: map[string]time.Time{}, truth: newTruth(), streams: map[string]*modelStream{"ONE": {}, "TWO": {}}, stats: map[string]int{},
	}
}

func (w *world) failf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == "" {
		w.failure = fmt.Sprintf(format, args...)
	}
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats[what]++
}

// start runs a process.
func (w *world) start(run func(*actor), retry func(*actor)) {
	a := &actor{w: w, id: len(w.actors), rng: rand.New(rand.NewPCG(w.rng.Uint64(), 2)), retry: retry}
	w.actors = append(w.actors, a)
	a.jump(w.rng)
	go func() {
		run(a)
		w.mu.Lock()
		defer w.mu.Unlock()
		a.done = true
	}()
}

// jump sets the clock of a process up to a day wrong.
func (a *actor) jump(r *rand.Rand) {
	a.offset = time.Duration(r.IntN(3)-1) * 24 * time.Hour
}

func (a *actor) clock() time.Time {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	return a.w.now.Add(a.offset)
}

// open opens the repository as a new process does; nil if it dies of it.
func (a *actor) open() *Repository {
	for range 5 {
		if r, err := Open(context.Background(), object.NewBucket(&gate{a}), OpenOptions{}); err == nil {
			return r
		}
	}
	return nil
}

// run lets processes go on, one operation at a time, until all have ended.
func (w *world) run(limit int) {
	for w.failure == "" {
		synctest.Wait()
		w.mu.Lock()
		op := w.choose()
		w.mu.Unlock()
		if op == nil {
			return
		}
		if w.steps++; w.steps > limit {
			w.calm = true // let them come to an end
		}
		v := w.judge(op)
		w.trace = fmt.Appendf(w.trace, "%d %s %s %v %v %s\n", op.actor.id, op.kind, op.name, v.before, v.after, v.lie)
		op.answer <- v
	}
	// A failure was found: let go of everybody.
	for {
		synctest.Wait()
		w.mu.Lock()
		waiting := w.pending
		w.pending = nil
		for _, a := range w.actors {
			a.dead = true
		}
		w.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		for _, op := range waiting {
			op.answer <- verdict{before: errDead}
		}
	}
}

// choose takes one of the waiting operations, of a process that is not paused
// if there is one.
func (w *world) choose() *operation {
	if len(w.pending) == 0 {
		return nil
	}
	slices.SortFunc(w.pending, func(a, b *operation) int {
		return cmp.Or(cmp.Compare(a.actor.id, b.actor.id), cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
	for _, a := range w.actors {
		a.paused = max(0, a.paused-1)
	}
	if w.rng.IntN(25) == 0 {
		w.actors[w.rng.IntN(len(w.actors))].paused = 1 << w.rng.IntN(9)
	}
	awake := map[int]bool{}
	for _, op := range w.pending {
		if op.actor.paused == 0 {
			awake[op.actor.id] = true
		}
	}
	if len(awake) == 0 {
		for _, op := range w.pending {
			awake[op.actor.id] = true
		}
	}
	ids := slices.Sorted(maps.Keys(awake))
	id := ids[w.rng.IntN(len(ids))]
	of := slices.DeleteFunc(slices.Clone(w.pending), func(op *operation) bool { return op.actor.id != id })
	op := of[w.rng.IntN(len(of))]
	w.pending = slices.DeleteFunc(w.pending, func(o *operation) bool { return o == op })
	return op
}

// judge decides what happens to an operation, and whatever else happens then.
func (w *world) judge(op *operation) verdict {
	var v verdict
	if w.calm {
		return v
	}
	if w.rng.IntN(8) == 0 {
		w.now = w.now.Add(time.Duration(w.rng.IntN(300)) * time.Minute)
	}
	if w.rng.IntN(40) == 0 {
		w.actors[w.rng.IntN(len(w.actors))].jump(w.rng)
	}
	if w.rng.IntN(30) == 0 {
		w.past = append(w.past, w.shown())
	}
	switch w.rng.IntN(250) {
	case 0:
		w.kill(op.actor)
		v.before = errDead
	case 1:
		w.kill(op.actor)
		v.after = errDead
	case 2, 3:
		v.before = errFlaky
	case 4, 5:
		v.after = errFlaky
	}
	if op.kind == "list" {
		w.lie(&v)
	}
	// The store retains something for now, for whatever reason: neither a forget
	// nor a prune fails of that.
	if op.kind == "delete" && v.before == nil && v.after == nil && !strings.HasPrefix(op.name, probePrefix) && w.rng.IntN(10) == 0 {
		v.before = object.ErrRetained
		w.stats["retained"]++
	}
	return v
}

func (w *world) lie(v *verdict) {
	switch w.rng.IntN(8) {
	case 0:
		v.lie, v.show = "empty", map[string]object.Info{}
	case 1:
		v.lie, v.cut = "partial", 2+w.rng.IntN(3)
	case 2:
		v.lie, v.before = "error", errFlaky
	case 3, 4:
		if len(w.past) > 0 {
			v.lie, v.show = "stale", w.past[w.rng.IntN(len(w.past))]
		}
	}
	if v.lie != "" {
		w.stats["listing "+v.lie]++
	}
}

// kill ends a process; another one may do its work again.
func (w *world) kill(a *actor) {
	w.mu.Lock()
	a.dead = true
	w.stats["died"]++
	w.mu.Unlock()
	if a.retry != nil {
		w.start(a.retry, a.retry)
	}
}

// shown is what a listing that does not lie shows.
func (w *world) shown() map[string]object.Info {
	all := map[string]object.Info{}
	page, _, _ := w.mem.List(context.Background(), "", "", 1<<20)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, info := range page {
		info.Modified = w.modified[info.Name]
		all[info.Name] = info
	}
	return all
}

// A gate is the store as one process sees it.
type gate struct{ a *actor }

func (g *gate) AtomicCreate(context.Context) (bool, error) { return true, nil }

// ask waits until the scheduler lets the operation through.
func (g *gate) ask(kind, name string) verdict {
	w := g.a.w
	op := &operation{actor: g.a, kind: kind, name: name, answer: make(chan verdict, 1)}
	w.mu.Lock()
	if g.a.dead {
		w.mu.Unlock()
		return verdict{before: errDead}
	}
	w.pending = append(w.pending, op)
	w.mu.Unlock()
	return <-op.answer
}

func (g *gate) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	v := g.ask("put", name)
	if v.before != nil {
		return v.before
	}
	data := make([]byte, size)
	if _, err := body.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := g.a.w.mem.Put(ctx, name, bytes.NewReader(data), size); err != nil {
		return err
	}
	g.a.w.stored(name, data)
	return v.after
}

func (g *gate) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if v := g.ask("get", name); v.before != nil {
		return nil, v.before
	}
	return g.a.w.mem.Get(ctx, name, offset, length)
}

func (g *gate) Stat(ctx context.Context, name string) (object.Info, error) {
	if v := g.ask("stat", name); v.before != nil {
		return object.Info{}, v.before
	}
	info, err := g.a.w.mem.Stat(ctx, name)
	g.a.w.mu.Lock()
	defer g.a.w.mu.Unlock()
	info.Modified = g.a.w.modified[name]
	return info, err
}

func (g *gate) List(_ context.Context, prefix, after string, limit int) ([]object.Info, bool, error) {
	v := g.ask("list", prefix)
	if v.before != nil {
		return nil, false, v.before
	}
	if v.show == nil {
		v.show = g.a.w.shown()
	}
	var page []object.Info
	for i, name := range slices.Sorted(maps.Keys(v.show)) {
		if name > after && strings.HasPrefix(name, prefix) && (v.cut == 0 || i%v.cut != 0) {
			page = append(page, v.show[name])
		}
	}
	return page[:min(limit, len(page))], len(page) > limit, nil
}

func (g *gate) Delete(ctx context.Context, name string) error {
	v := g.ask("delete", name)
	if v.before != nil {
		return v.before
	}
	g.a.w.deleted(name)
	if err := g.a.w.mem.Delete(ctx, name); err != nil {
		return err
	}
	return v.after
}

// still is the store when nobody disturbs it.
type still struct {
	*mem.Driver
	w *world
}

func (s *still) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	data := make([]byte, size)
	if _, err := body.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	err := s.Driver.Put(ctx, name, bytes.NewReader(data), size)
	if err == nil {
		s.w.stored(name, data)
	}
	return err
}

func (s *still) Delete(ctx context.Context, name string) error {
	s.w.deleted(name)
	return s.Driver.Delete(ctx, name)
}

// A truth is what the logs say, read entry by entry as they are written, by
// other means than the code under test.
type truth struct {
	live  map[string]*livePoint // by the name of the entry
	users map[string]int        // live points by object
	ids   map[string]int        // how often an id was committed
}

type livePoint struct {
	id      string
	objects []string
}

func newTruth() truth {
	return truth{live: map[string]*livePoint{}, users: map[string]int{}, ids: map[string]int{}}
}

// living says whether a restore point of the id is in a log and not forgotten.
func (t *truth) living(id string) bool {
	for _, p := range t.live {
		if p.id == id {
			return true
		}
	}
	return false
}

// ids returns what restore points there are.
func (w *world) ids() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for _, p := range w.truth.live {
		ids = append(ids, p.id)
	}
	slices.Sort(ids)
	return ids
}

// stored notes what was written. A restore point that lacks an object when it
// comes to be is lost already.
func (w *world) stored(name string, data []byte) {
	w.mu.Lock()
	w.modified[name] = w.now
	w.mu.Unlock()
	if !strings.HasPrefix(name, chainsPrefix) || strings.HasSuffix(name, ".done") {
		return
	}
	head, body, _ := strings.Cut(string(data), "\n\n")
	line, _, _ := strings.Cut(body, "\n")
	switch {
	case strings.Contains(head, "\nkind: point\n"):
		var s struct {
			ID   string
			Uses struct {
				Objects []struct{ Name string }
				Lists   []struct{ Hash string }
			}
		}
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			w.failf("%s: %v", name, err)
		}
		p := &livePoint{id: s.ID}
		for _, o := range s.Uses.Objects {
			p.objects = append(p.objects, o.Name)
		}
		for _, l := range s.Uses.Lists {
			p.objects = append(p.objects, w.listed(metaPrefix+strings.Split(name, "/")[1]+"/"+l.Hash)...)
		}
		w.born(name, p)
	case strings.Contains(head, "\nkind: forget\n"):
		var f struct{ Points []string }
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			w.failf("%s: %v", name, err)
		}
		w.forgotten(name, f.Points)
	}
}

// listed returns a list and what it names.
func (w *world) listed(name string) []string {
	out := []string{name}
	w.mem.Corrupt(name, func(b []byte) []byte {
		dec, err := newDecoder()
		if err != nil {
			return b
		}
		defer dec.Close()
		raw, _ := dec.DecodeAll(b, make([]byte, 0, 1<<16))
		var u struct{ Objects []struct{ Name string } }
		if at := bytes.IndexByte(raw, '{'); at < 0 || json.Unmarshal(raw[at:], &u) != nil {
			w.failf("%s is no list", name)
		}
		for _, o := range u.Objects {
			out = append(out, o.Name)
		}
		return b
	})
	return out
}

func (w *world) born(name string, p *livePoint) {
	for _, o := range p.objects {
		if _, err := w.mem.Stat(context.Background(), o); err != nil {
			w.failf("restore point %s came to be without %s", p.id, o)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.truth.live[name] = p
	w.truth.ids[p.id]++
	w.stats["committed"]++
	for _, o := range p.objects {
		w.truth.users[o]++
	}
}

func (w *world) forgotten(entry string, ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	chain := strings.Split(entry, "/")[1]
	for name, p := range w.truth.live {
		if strings.Contains(name, chain) && name < entry && slices.Contains(ids, p.id) {
			delete(w.truth.live, name)
			w.stats["forgotten"]++
			for _, o := range p.objects {
				w.truth.users[o]--
			}
		}
	}
}

// deleted looks whether what goes is still needed.
func (w *world) deleted(name string) {
	w.mu.Lock()
	n, id := w.truth.users[name], strings.TrimPrefix(name, commitPrefix)
	record := id != name && w.truth.living(id) && w.truth.ids[id] < 2
	if _, err := w.mem.Stat(context.Background(), name); err == nil && !strings.HasPrefix(name, commitPrefix) {
		w.stats["deleted"]++
	}
	w.mu.Unlock()
	if n > 0 || record {
		w.failf("%s was deleted, though %d live restore points need it", name, n)
	}
}
