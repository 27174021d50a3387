package store

import (
	"context"
)

// proofs reads the proof of a pack, which the next backup compares with what
// the server sends. That it cannot be read is reported, and reaches no restore
// point.
func (c *chainCheck) proofs(ctx context.Context, n *need) (*proofReader, error) {
	if c.v.repo.marker.Format == 1 {
		return nil, nil
	}
	payload, err := c.v.repo.getBlob(ctx, c.chain, kindProof, n.proof)
	if err != nil {
		return nil, c.failErr(ctx, n.name, nil, err)
	}
	p := new(proofReader)
	if err := p.begin(payload); err != nil {
		c.fail(n.name, nil, "its proof: %s", err.Error())
		return nil, nil
	}
	return p, nil
}

// has says whether the proof of a pack is right about its next segment.
func (r *proofReader) has(s *segment, held []heldRecord) (bool, error) {
	q, err := r.next()
	return err == nil && q.runs[0].first == s.first && q.count() == s.count && q.isOf(held), err
}

func (p *segmentProof) isOf(held []heldRecord) bool {
	for i := range held {
		if print := p.find(held[i].seq); print == nil || !matches(print, held[i].sum) {
			return false
		}
	}
	return uint64(len(held)) == p.count()
}

// proven reports a proof that is not right about the next segment of its pack,
// or, with the last, about how many there are.
func (c *chainCheck) proven(n *need, proofs *proofReader, s *segment, held []heldRecord, last bool) bool {
	ok, err := proofs.has(s, held)
	switch {
	case err != nil:
		c.fail(n.name, nil, "its proof: %s", err.Error())
	case !ok || last && proofs.left > 0:
		c.fail(n.name, nil, "its proof says of segment %d-%d what it does not hold; the next backup may need to store all again", s.first, s.last)
	default:
		return true
	}
	return false
}
