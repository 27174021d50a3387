package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"jetkeep/store/object"
)

// pruneBody is what a prune entry says: objects that no entry after it refers
// to, and no restore point before it that is not forgotten.
type pruneBody struct {
	Objects []Used `json:"objects"`
}

func decodePrune(e *entry) (pruneBody, error) {
	var b pruneBody
	if err := json.Unmarshal(e.body, &b); err != nil {
		return b, damaged(entryName(e.chain, e.number), err, "body")
	}
	return b, nil
}

// chainState is what a chain's log says in all.
type chainState struct {
	repo   *Repository
	tail   logTail
	points []*logPoint
	byID   map[string][]*logPoint
	prunes []*logPrune
	// condemned has what trusted prune entries condemn, and the last of them.
	condemned map[string]uint64
	names     map[string]string // each name only once in memory
	uses      map[string]bool   // what live points use, nil if not known
}

// A logPoint is a restore point in a log.
type logPoint struct {
	id        string
	number    uint64
	uses      Uses
	forgotten bool
}

// A logPrune is a prune entry in a log.
type logPrune struct {
	number  uint64
	time    time.Time
	objects []Used
	done    bool
}

// readState reads all of a chain's log.
func (r *Repository) readState(ctx context.Context, chain string) (*chainState, error) {
	s := &chainState{
		repo: r, byID: map[string][]*logPoint{}, condemned: map[string]uint64{}, names: map[string]string{},
	}
	var err error
	s.tail, err = r.readLog(ctx, chain, s.add)
	return s, err
}

// add takes in the next entry. What an entry says that is not trusted counts
// only where it keeps objects: its restore points live, and nothing is
// forgotten or deleted because of it.
func (s *chainState) add(e *entry) error {
	name := entryName(e.chain, e.number)
	switch {
	case e.kind == entryPoint:
		return s.addPoint(name, e)
	case !e.trusted():
		return nil
	case e.kind == entryForget:
		return s.addForget(e)
	}
	return s.addPrune(e)
}

func (s *chainState) addPoint(name string, e *entry) error {
	sum, err := decodeSummary(name, e)
	if err != nil {
		return err
	}
	p := &logPoint{id: e.task, number: e.number, uses: sum.Uses}
	s.internAll(p.uses.Objects)
	s.points = append(s.points, p)
	s.byID[p.id] = append(s.byID[p.id], p)
	s.uses = nil
	return nil
}

func (s *chainState) addForget(e *entry) error {
	ids, err := decodeForget(e)
	if err != nil {
		return err
	}
	for _, id := range ids {
		for _, p := range s.byID[id] {
			p.forgotten = true
		}
	}
	s.uses = nil
	return nil
}

// suppose takes restore points for forgotten.
func (s *chainState) suppose(ids []string) {
	for _, id := range ids {
		for _, p := range s.byID[id] {
			p.forgotten = true
		}
	}
	s.uses = nil
}

func (s *chainState) addPrune(e *entry) error {
	b, err := decodePrune(e)
	if err != nil {
		return err
	}
	s.internAll(b.Objects)
	for _, o := range b.Objects {
		s.condemned[o.Name] = e.number
	}
	s.prunes = append(s.prunes, &logPrune{number: e.number, time: e.time, objects: b.Objects})
	return nil
}

func (s *chainState) internAll(objects []Used) {
	for i := range objects {
		objects[i].Name = s.intern(objects[i].Name)
	}
}

func (s *chainState) intern(name string) string {
	if n, ok := s.names[name]; ok {
		return n
	}
	s.names[name] = name
	return name
}

// live says whether a restore point of the id lives.
func (s *chainState) live(id string) bool {
	for _, p := range s.byID[id] {
		if !p.forgotten {
			return true
		}
	}
	return false
}

func (s *chainState) counts() (live, forgotten int) {
	for _, p := range s.points {
		if p.forgotten {
			forgotten++
		}
	}
	return len(s.points) - forgotten, forgotten
}

// inUse returns what live restore points use. If any of that cannot be found
// out, nothing of the chain may be condemned or deleted.
func (s *chainState) inUse(ctx context.Context) (map[string]bool, error) {
	if s.uses != nil {
		return s.uses, nil
	}
	uses := map[string]bool{}
	for _, p := range s.points {
		if p.forgotten {
			continue
		}
		err := s.repo.eachUse(ctx, s.tail.chain, p.uses, func(o Used) bool {
			known := uses[o.Name]
			uses[s.intern(o.Name)] = true
			return !known
		})
		if err != nil {
			return nil, fmt.Errorf("restore point %s: %w", p.id, err)
		}
	}
	s.uses = uses
	return uses, nil
}

// unused returns what forgotten restore points use, no live one uses and no
// prune entry has condemned yet. A list that is missing may have been deleted
// together with what it names; what is left of that is found as orphans.
func (s *chainState) unused(ctx context.Context, uses map[string]bool) ([]Used, error) {
	var out []Used
	seen := map[string]bool{}
	for _, p := range s.points {
		if !p.forgotten {
			continue
		}
		err := s.repo.eachUse(ctx, s.tail.chain, p.uses, func(o Used) bool {
			if seen[o.Name] || uses[o.Name] || s.condemned[o.Name] > 0 {
				return false
			}
			name := s.intern(o.Name)
			seen[name] = true
			if isObjectOf(s.tail.chain, name) {
				out = append(out, Used{Name: name, Size: o.Size})
			}
			return true
		})
		var damage *DamageError
		if err != nil && !errors.As(err, &damage) {
			return nil, fmt.Errorf("restore point %s: %w", p.id, err)
		}
	}
	return out, nil
}

// isObjectOf says whether a name is that of an object of a chain. Nothing else
// is ever deleted by a prune, whatever an entry says.
func isObjectOf(chain, name string) bool {
	for _, prefix := range []string{metaPrefix, packsPrefix} {
		if hash, ok := strings.CutPrefix(name, prefix+chain+"/"); ok {
			return hashPattern.MatchString(hash)
		}
	}
	return false
}

const (
	doneSuffix = ".done"
	doneMark   = "done\n"
)

// doneName names the object which says that a prune entry has been carried out.
func doneName(chain string, number uint64) string { return entryName(chain, number) + doneSuffix }

// findDone finds out which prune entries have been carried out. A listing may
// say so, for such a mark is made last and never taken away; that it lacks one
// says nothing.
func (s *chainState) findDone(ctx context.Context, listed map[string]bool) error {
	for _, p := range s.prunes {
		name := doneName(s.tail.chain, p.number)
		if p.done || listed[name] {
			p.done = true
			continue
		}
		_, err := s.repo.bucket.Stat(ctx, name)
		if err != nil && !errors.Is(err, object.ErrNotExist) {
			return err
		}
		p.done = err == nil
	}
	return nil
}

// listedLog is what a listing shows of a chain's log.
type listedLog struct {
	last uint64          // highest number
	done map[string]bool // marks of prune entries
}

// listLog lists a chain's log, to be compared with what is found by name.
func (r *Repository) listLog(ctx context.Context, chain string) (listedLog, error) {
	l := listedLog{done: map[string]bool{}}
	for info, err := range r.bucket.List(ctx, chainsPrefix+chain+"/") {
		if err != nil {
			return l, fmt.Errorf("list log %s: %w", chain, err)
		}
		if strings.HasSuffix(info.Name, doneSuffix) {
			l.done[info.Name] = true
			continue
		}
		var n uint64
		if _, err := fmt.Sscanf(strings.TrimPrefix(info.Name, chainsPrefix+chain+"/"), "%d", &n); err == nil && entryName(chain, n) == info.Name {
			l.last = max(l.last, n)
		}
	}
	return l, nil
}
