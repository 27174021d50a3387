package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"jetkeep/store/object"
)

// maxGap bounds how many entries of a log Verify misses, besides as many as it
// finds, before it looks for no more of them: that there are others may be forged.
const maxGap = 1000

func (v *verifier) run(ctx context.Context) error {
	if v.opt.Level >= VerifyRecords && !v.repo.Readable() {
		return fmt.Errorf("level %s: %w", v.opt.Level, ErrLocked)
	}
	if v.repo.marker.Format == 1 {
		return v.runFormat1(ctx)
	}
	copies, err := v.copies(ctx)
	if err != nil {
		return err
	}
	logs := map[string]*listedLog{}
	if len(v.opt.Points) == 0 {
		if logs, err = v.listedLogs(ctx); err != nil {
			return err
		}
	}
	chains := slices.Concat(slices.Collect(maps.Keys(logs)), slices.Collect(maps.Keys(copies)))
	if len(v.opt.Points) == 0 {
		chains = slices.AppendSeq(chains, maps.Keys(v.opt.Heads))
	}
	slices.Sort(chains)
	v.signatures()
	for _, chain := range slices.Compact(chains) {
		if !chainPattern.MatchString(chain) {
			continue // strays
		}
		listed := logs[chain]
		if listed == nil {
			listed = &listedLog{}
		}
		if err := v.chain(ctx, chain, listed, copies[chain]); err != nil {
			return err
		}
	}
	if err := v.strays(ctx, copies[""]); err != nil {
		return err
	}
	if v.prunes > 0 {
		v.note("%d of %d prunes have been carried out", v.pruned, v.prunes)
	}
	if v.unsigned > 0 {
		v.note("%d of %d log entries are not signed", v.unsigned, v.entries)
	}
	if len(v.opt.Points) > 0 {
		return nil
	}
	if err := v.aside(ctx); err != nil {
		return err
	}
	return v.orphans(ctx)
}

// signatures says what signatures are worth here.
func (v *verifier) signatures() {
	if v.repo.trust == nil {
		v.note("no trusted keys are configured: who wrote the repository was not checked")
	}
}

// strays reports commit records that do not even say which chain they are of.
func (v *verifier) strays(ctx context.Context, stray []*copied) error {
	c := newChainCheck(v, "")
	for _, k := range stray {
		p := &pointCheck{id: k.id, name: commitName(k.id)}
		if errors.Is(k.err, ErrNoPoint) || v.known[k.id] {
			continue // forgotten meanwhile, or reported with its chain
		}
		c.addPoint(p)
		if err := c.failErr(ctx, p.name, []int32{p.holder}, k.err); err != nil {
			return err
		}
	}
	c.finish(nil)
	return nil
}

// chain verifies the log of a chain and its restore points.
func (v *verifier) chain(ctx context.Context, chain string, listed *listedLog, copies []*copied) error {
	c := newChainCheck(v, chain)
	remembered := v.opt.Heads[chain]
	if seen := v.cache.head(chain).Head; seen.Number > remembered.Number {
		remembered = seen
	}
	copied := uint64(0)
	for _, k := range copies {
		if k.entry.untrusted == nil {
			copied = max(copied, k.entry.number)
		}
	}
	l, err := c.readLog(ctx, chain, max(listed.last, copied, remembered.Number), copied)
	if err != nil {
		return err
	}
	c.checkOrder(l, copies, remembered)
	c.checkHead(l, remembered)
	if err := c.checkDone(ctx, l, listed.done); err != nil {
		return err
	}
	for _, e := range l.entries {
		if e == nil {
			continue
		}
		v.entries++
		if e.signature == none {
			v.unsigned++
		}
		if e.untrusted != nil {
			c.fail(entryName(chain, e.number), nil, "%s", e.untrusted.Error())
		}
	}
	l.sound = len(c.found) == 0
	if l.sound && l.head() > 0 {
		v.report.Heads[chain] = Head{Number: l.head(), Hash: l.at(l.head()).hash}
	}
	if err := c.addPoints(ctx, l, copies); err != nil {
		return err
	}
	if err := c.condemned(ctx, l); err != nil {
		return err
	}
	if err := c.check(ctx); err != nil {
		return err
	}
	forgotten, err := c.forgottenSince(ctx, l)
	if err != nil {
		return err
	}
	if err := c.arrived(ctx, l); err != nil {
		return err
	}
	c.finish(forgotten)
	return nil
}

// arrived looks again for commit records that were missing: a commit writes
// them right after its entry in the log. Where one never did that is put right.
func (c *chainCheck) arrived(ctx context.Context, l *chainLog) error {
	for _, e := range c.late {
		k, err := c.v.repo.copyOf(ctx, e.task)
		switch {
		case errors.Is(err, ErrNoPoint):
			if !e.trusted() || l.unknownAfter(e.number) {
				continue
			}
			// That it cannot be put right, in a store that cannot be written for
			// one, leaves it as it was found.
			if mended, err := c.v.repo.mendCopy(ctx, e); err == nil && mended {
				delete(c.found, commitName(e.task))
				c.v.note("restore point %s could not be found by its id, and can be again: its commit record was copied from entry %d of log %s", e.task, e.number, e.chain)
			}
		case err != nil:
			if err := c.failErr(ctx, commitName(e.task), nil, err); err != nil {
				return err
			}
		case k.hash == e.hash:
			delete(c.found, commitName(e.task))
		}
	}
	return nil
}

// check looks at everything that the restore points need.
func (c *chainCheck) check(ctx context.Context) error {
	if err := c.objects(ctx); err != nil {
		return err
	}
	if err := c.v.census.chain(ctx, c); err != nil {
		return err
	}
	return c.records(ctx)
}

// addPoints compares the restore points of a log with their copies and reads
// what they need.
func (c *chainCheck) addPoints(ctx context.Context, l *chainLog, copies []*copied) error {
	live := map[string]*entry{}
	wanted := c.v.opt.Points
	for _, e := range l.live() {
		live[e.task] = e
		c.v.known[e.task] = true
		if len(wanted) > 0 && !slices.Contains(wanted, e.task) {
			continue
		}
		if err := c.addLive(ctx, l, e); err != nil {
			return err
		}
	}
	for _, k := range copies {
		if live[k.id] == nil {
			if err := c.foreign(ctx, l, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// addLive adds a restore point that the log has. Its commit record is what
// readers use; it must be the same.
func (c *chainCheck) addLive(ctx context.Context, l *chainLog, e *entry) error {
	p := &pointCheck{id: e.task, name: commitName(e.task), number: e.number}
	c.addPoint(p)
	own := []int32{p.holder}
	k, err := c.v.repo.copyOf(ctx, e.task)
	if errors.Is(err, ErrNoPoint) {
		c.late = append(c.late, e)
		if l.unknownAfter(e.number) {
			p.skip, p.beside = true, true
			c.fail(p.name, nil, "missing, as if an entry of log %s that cannot be read had forgotten it", e.chain)
			return nil
		}
		err = damaged(p.name, object.ErrNotExist, "missing, though entry %d of log %s has it", e.number, e.chain)
	}
	if err == nil && k.hash != e.hash {
		err = damaged(p.name, nil, "is not what entry %d of log %s has", e.number, e.chain)
	}
	if err != nil {
		if err := c.failErr(ctx, p.name, own, err); err != nil {
			return err
		}
		if k, err = c.v.repo.readEntry(ctx, e.chain, e.number); err != nil {
			p.skip = true
			return c.failErr(ctx, entryName(e.chain, e.number), nil, err)
		}
	}
	p.point, err = c.v.repo.decodePoint(p.name, k)
	switch {
	case errors.Is(err, ErrLocked):
		p.locked = true
	case err != nil && k.untrusted == nil:
		p.skip = true
		return c.failErr(ctx, p.name, own, err)
	case err != nil:
		c.fail(entryName(e.chain, e.number), own, "%s", err.Error())
	}
	if err := c.addUses(ctx, p, p.holder, p.point.Content.Uses, 0); err != nil {
		return err
	}
	p.listed = !slices.ContainsFunc(c.unlisted, func(n *need) bool { return c.holds(p, n.named) })
	if p.locked {
		if !p.listed {
			p.skip = true
			c.fail(p.name, own, "what it uses cannot be told, and so not be verified")
		}
		return nil
	}
	return c.readTables(ctx, p)
}

// foreign reports a commit record that the log of its chain does not have, or
// has no more.
func (c *chainCheck) foreign(ctx context.Context, l *chainLog, k *copied) error {
	e := k.entry
	c.v.known[k.id] = true
	p := &pointCheck{id: k.id, name: commitName(k.id), skip: true, beside: true}
	if in := l.at(e.number); in == nil || in.hash != e.hash {
		c.addPoint(p)
		c.fail(p.name, []int32{p.holder}, "says that it is entry %d of log %s, which it is not", e.number, l.chain)
		return nil
	}
	_, err := c.v.repo.copyOf(ctx, k.id)
	if errors.Is(err, ErrNoPoint) {
		return nil // it was forgotten only now
	}
	if err != nil {
		return c.failErr(ctx, p.name, nil, err)
	}
	// Who forgot it last may not have come to that.
	if end := l.at(l.head()); l.sound && end != nil && end.trusted() && slices.Contains(l.forgets[end.number], k.id) {
		if deleted, err := c.v.repo.deleteCopy(ctx, end, k.id); err == nil && deleted {
			c.v.note("the commit record of %s, which entry %d of log %s forgot, was there still and has been deleted", k.id, end.number, l.chain)
			return nil
		}
	}
	// Nobody promises that what it needs is still there.
	c.fail(p.name, nil, "was forgotten, and is there still or again")
	return nil
}

// maxListDepth bounds lists of lists.
const maxListDepth = 4

// addUses notes all objects that a restore point says it uses.
func (c *chainCheck) addUses(ctx context.Context, p *pointCheck, from int32, u Uses, depth int) error {
	own := []int32{p.holder}
	for _, o := range u.Objects {
		if !strings.HasPrefix(o.Name, packsPrefix+c.chain+"/") && !strings.HasPrefix(o.Name, metaPrefix+c.chain+"/") {
			c.fail(p.name, own, "uses %s, which is not of its chain", o.Name)
			continue
		}
		c.uses(from, o.Name, o.Size)
	}
	for _, ref := range u.Lists {
		if _, err := ref.hash(); err != nil || depth == maxListDepth {
			c.fail(p.name, own, "a list of what it uses is malformed")
			continue
		}
		name := chainObject(metaPrefix, c.chain, ref.Hash)
		n := c.uses(from, name, ref.Size)
		h, isNew := c.share(from, name)
		if !isNew {
			continue
		}
		n.read = true
		inner, err := c.v.repo.readUses(ctx, c.chain, ref)
		n.gone = errors.Is(err, object.ErrNotExist)
		if err == nil {
			err = c.addUses(ctx, p, h, inner, depth+1)
		} else {
			n.aside = true
			c.unlisted = append(c.unlisted, n)
			err = c.failErr(ctx, name, nil, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// condemned reports what restore points need and a prune condemned.
func (c *chainCheck) condemned(ctx context.Context, l *chainLog) error {
	for _, e := range l.entries {
		if e == nil || e.kind != entryPrune || e.untrusted != nil {
			continue
		}
		again, err := c.v.repo.readEntry(ctx, l.chain, e.number)
		if err != nil {
			return c.failErr(ctx, entryName(l.chain, e.number), nil, err)
		}
		body, err := decodePrune(again)
		if err := c.failErr(ctx, entryName(l.chain, e.number), nil, err); err != nil {
			return err
		}
		for _, o := range body.Objects {
			if n := c.needs[o.Name]; n != nil {
				c.fail(o.Name, n.owners, "was condemned by entry %d and is needed", e.number)
			}
		}
	}
	return nil
}

// forgottenSince says which restore points were forgotten since the log was
// read: what they need may be gone by now, and is no damage.
func (c *chainCheck) forgottenSince(ctx context.Context, l *chainLog) (map[string]bool, error) {
	gone := map[string]bool{}
	if len(c.found) == 0 {
		return gone, nil
	}
	for n := l.head() + 1; ; n++ {
		e, err := c.v.repo.readEntry(ctx, l.chain, n)
		if errors.Is(err, object.ErrNotExist) {
			return gone, nil
		}
		if err != nil {
			return gone, c.failErr(ctx, entryName(l.chain, n), nil, err)
		}
		if e.kind != entryForget || e.untrusted != nil {
			continue
		}
		ids, err := decodeForget(e)
		if err := c.failErr(ctx, entryName(l.chain, n), nil, err); err != nil {
			return gone, err
		}
		for _, id := range ids {
			gone[id] = true
		}
	}
}

// runFormat1 verifies a repository whose only history are its commit records.
func (v *verifier) runFormat1(ctx context.Context) error {
	v.note("format 1 has no log: that no restore point is missing cannot be told")
	listed, err := v.repo.verifyPoints(ctx, v.opt.Points)
	if err != nil {
		return err
	}
	c := newChainCheck(v, "")
	for _, l := range listed {
		p := &pointCheck{id: l.ID, name: commitName(l.ID), point: l.Point}
		c.addPoint(p)
		if l.Err != nil {
			p.skip = true
			if err := c.failErr(ctx, p.name, []int32{p.holder}, l.Err); err != nil {
				return err
			}
			continue
		}
		if err := c.readTables(ctx, p); err != nil {
			return err
		}
	}
	if err := c.check(ctx); err != nil {
		return err
	}
	c.finish(nil)
	if len(v.opt.Points) > 0 {
		return nil
	}
	return v.orphans(ctx)
}

// verifyPoints reads restore points of format 1.
func (r *Repository) verifyPoints(ctx context.Context, ids []string) ([]Listed, error) {
	if len(ids) == 0 {
		return r.Points(ctx)
	}
	var out []Listed
	for _, id := range ids {
		p, err := r.Point(ctx, id)
		if err != nil && (ctx.Err() != nil || errors.Is(err, ErrNoPoint)) {
			return nil, fmt.Errorf("restore point %s: %w", id, err)
		}
		out = append(out, Listed{ID: id, Point: p, Err: err})
	}
	return out, nil
}
