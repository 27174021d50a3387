package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"jetkeep/store/object"
)

// A copied is a restore point's commit record as it is found by id: a copy of
// its entry in the chain's log.
type copied struct {
	id    string
	entry *entry // without its body
	err   error
}

// A chainLog is the log of a chain as Verify finds it.
type chainLog struct {
	chain   string
	entries []*entry // entry n at n-1, without its body; nil if it cannot be read
	forgets map[uint64][]string
	whole   bool // each entry is known
	cut     bool // there was more of it
	sound   bool // nothing is wrong with it
}

func (l *chainLog) head() uint64 { return uint64(len(l.entries)) }

func (l *chainLog) at(n uint64) *entry {
	if n < 1 || n > l.head() {
		return nil
	}
	return l.entries[n-1]
}

// unknownAfter says whether an entry after that number is not known.
func (l *chainLog) unknownAfter(number uint64) bool {
	return l.cut || !l.whole && slices.Contains(l.entries[number:], nil)
}

// copies reads commit records by their ids: all that a listing shows, or those
// asked for.
func (v *verifier) copies(ctx context.Context) (map[string][]*copied, error) {
	var all []*copied
	for _, id := range v.opt.Points {
		all = append(all, &copied{id: id})
	}
	if len(all) == 0 {
		for info, err := range v.repo.bucket.List(ctx, commitPrefix) {
			if err != nil {
				return nil, err
			}
			all = append(all, &copied{id: strings.TrimPrefix(info.Name, commitPrefix)})
		}
	}
	var g errgroup.Group
	g.SetLimit(verifyAsks)
	for _, k := range all {
		g.Go(func() error {
			k.entry, k.err = v.repo.copyOf(ctx, k.id)
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	chains := map[string][]*copied{}
	for _, k := range all {
		if context.Cause(ctx) != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(k.err, ErrNoPoint) && len(v.opt.Points) > 0 {
			return nil, k.err
		}
		chain := "" // of those that do not say
		if k.entry != nil {
			chain = k.entry.chain
			k.entry.body = nil
		}
		chains[chain] = append(chains[chain], k)
	}
	return chains, nil
}

// listedLogs returns what a listing shows of the logs: the highest number of
// each, and the marks of prunes. It may lack any, and is a hint only of what is
// to be there.
func (v *verifier) listedLogs(ctx context.Context) (map[string]*listedLog, error) {
	logs := map[string]*listedLog{}
	for info, err := range v.repo.bucket.List(ctx, chainsPrefix) {
		if err != nil {
			return nil, err
		}
		chain, number, _ := strings.Cut(strings.TrimPrefix(info.Name, chainsPrefix), "/")
		number, done := strings.CutSuffix(number, doneSuffix)
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || !chainPattern.MatchString(chain) || info.Name != entryName(chain, n) && info.Name != doneName(chain, n) {
			v.problem(info.Name, "is no entry of a log")
			continue
		}
		l := logs[chain]
		if l == nil {
			l = &listedLog{done: map[string]bool{}}
			logs[chain] = l
		}
		if done {
			l.done[info.Name] = true
		} else {
			l.last = max(l.last, n)
		}
	}
	return logs, nil
}

// checkDone looks at the marks which say that prunes have been carried out. One
// that is missing does no harm: the next prune deletes once more.
func (c *chainCheck) checkDone(ctx context.Context, l *chainLog, marks map[string]bool) error {
	for n := uint64(1); n <= l.head(); n++ {
		e, name := l.at(n), doneName(l.chain, n)
		if e != nil && e.kind == entryPrune {
			c.v.prunes++
		}
		if !marks[name] {
			continue
		}
		delete(marks, name)
		if e != nil && e.kind != entryPrune {
			c.fail(name, nil, "marks a %s as a prune that was carried out", e.kind)
			continue
		}
		mark, err := readSmall(ctx, c.v.repo.bucket, name, maxEntry)
		switch {
		case errors.Is(err, object.ErrNotExist):
		case err == nil && string(mark) != doneMark:
			c.fail(name, nil, "is no mark of a prune that was carried out")
		default:
			c.v.pruned++
			if err := c.failErr(ctx, name, nil, err); err != nil {
				return err
			}
		}
	}
	for name := range marks {
		c.fail(name, nil, "marks what is not in the log as carried out")
	}
	return nil
}

// readLog reads a whole log: as far as it can be followed by name, and as far
// as the hint says that it goes. What is missing at the end is reported up to
// the number that commit records have. Numbers cost nothing to make up: it looks
// no further than what it found on the way is worth.
func (c *chainCheck) readLog(ctx context.Context, chain string, hint, copied uint64) (*chainLog, error) {
	head, err := c.v.repo.headNumber(ctx, chain)
	if err != nil {
		return nil, err
	}
	end := max(head, hint)
	l := &chainLog{chain: chain, forgets: map[uint64][]string{}, whole: true}
	var errs []error
	missing := 0
	for l.head() < end {
		part := c.readPart(ctx, l, min(logPart, end-l.head()))
		for _, err := range part {
			if errors.Is(err, object.ErrNotExist) {
				missing++
			}
		}
		if errs = append(errs, part...); missing > maxGap+len(errs)-missing && l.head() < end {
			l.cut = true
			break
		}
	}
	for n := len(errs); n > 0 && (uint64(n) > copied || l.cut) && errors.Is(errs[n-1], object.ErrNotExist); n-- {
		errs, l.entries = errs[:n-1], l.entries[:n-1]
	}
	if l.cut {
		c.fail(entryName(chain, end), nil, "is far beyond the end of its log, which is %d", l.head())
	}
	for i, err := range errs {
		name := entryName(chain, uint64(i)+1)
		if errors.Is(err, object.ErrNotExist) {
			err = damaged(name, err, "missing from the log")
		}
		if err := c.failErr(ctx, name, nil, err); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// logPart is how many entries of a log are looked for before it is judged
// whether to go on.
const logPart = 256

// readPart reads the next entries of a log and returns what went wrong with each.
func (c *chainCheck) readPart(ctx context.Context, l *chainLog, count uint64) []error {
	first := l.head()
	l.entries = append(l.entries, make([]*entry, count)...)
	errs := make([]error, count)
	var g errgroup.Group
	g.SetLimit(verifyAsks)
	for i := range errs {
		g.Go(func() error {
			at := first + uint64(i)
			e, err := c.v.repo.readEntry(ctx, l.chain, at+1)
			if err == nil {
				if e.kind == entryForget {
					c.v.mu.Lock()
					l.forgets[e.number], err = decodeForget(e)
					c.v.mu.Unlock()
				}
				e.body = nil
				l.entries[at] = e
			}
			errs[i] = err
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	return errs
}

// checkOrder checks that each entry is what the one after it follows, from the
// end on, for an entry that is not what it was says nothing of those before.
// Where the copy of an entry is what that must be, it stands in for it.
func (c *chainCheck) checkOrder(l *chainLog, copies []*copied, remembered Head) {
	byNumber := map[uint64]*entry{}
	for _, k := range copies {
		byNumber[k.entry.number] = k.entry
	}
	for n := l.head(); n > 0; n-- {
		e, next := l.at(n), l.at(n+1)
		name := entryName(l.chain, n)
		want := "" // the entry's hash, as far as anything tells
		switch {
		case next != nil:
			want = next.previous
		case n == remembered.Number:
			want = remembered.Hash
		}
		copied := byNumber[n]
		switch {
		case copied != nil && stands(e, copied, want):
			if e != nil {
				c.fail(name, nil, "is not what it was; %s is", commitName(copied.task))
			}
			e = copied
		case e != nil && next != nil && e.hash != want:
			c.fail(name, nil, "is not what entry %d follows: one of both was replaced", n+1)
			e = nil
		}
		l.entries[n-1] = e
	}
	c.checkEpochs(l)
}

// checkEpochs checks that each entry knows the prune before it.
func (c *chainCheck) checkEpochs(l *chainLog) {
	epoch, known := uint64(0), true
	for _, e := range l.entries {
		if e == nil {
			l.whole, known = false, false
			continue
		}
		if known && e.epoch != epoch {
			c.fail(entryName(l.chain, e.number), nil, "says epoch %d, it is %d", e.epoch, epoch)
		}
		if e.kind == entryPrune {
			epoch, known = e.number, true
		}
	}
}

// stands says whether a copy stands in for an entry of the log, if that has any.
func stands(e, copied *entry, want string) bool {
	switch {
	case want != "":
		return copied.hash == want && (e == nil || e.hash != want)
	case e == nil:
		return true
	}
	return e.untrusted != nil && copied.untrusted == nil
}

// checkHead compares the log with what is remembered of it outside the store.
func (c *chainCheck) checkHead(l *chainLog, remembered Head) {
	if remembered.Number == 0 {
		return
	}
	e := l.at(remembered.Number)
	switch {
	case remembered.Number > l.head():
		l.cut = true
		c.fail(entryName(l.chain, remembered.Number), nil, "was the head of the log once, which now ends with %d: it was rolled back", l.head())
	case e != nil && e.hash != remembered.Hash:
		l.cut = true
		c.fail(entryName(l.chain, remembered.Number), nil, "is not the entry that it was: the log was rewritten")
	}
}

// live returns the entries of the restore points that are not forgotten. An
// entry that is not trusted forgets nothing.
func (l *chainLog) live() []*entry {
	live := map[string]*entry{}
	for _, e := range l.entries {
		switch {
		case e == nil:
		case e.kind == entryPoint:
			if live[e.task] == nil {
				live[e.task] = e
			}
		case e.kind == entryForget && e.untrusted == nil:
			for _, id := range l.forgets[e.number] {
				delete(live, id)
			}
		}
	}
	return slices.SortedFunc(maps.Values(live), func(a, b *entry) int { return int(a.number) - int(b.number) })
}
