package store

import (
	"context"
)

// proofs reads the proof of a pack, which the next backup compares with what
// the server sends. That it cannot be read is reported, and reaches no restore
// point.
func (c *chainCheck) proofs(ctx context.Context, n *need) (proof, error) {
	if c.v.repo.marker.Format == 1 {
		return nil, nil
	}
	payload, err := c.v.repo.getBlob(ctx, c.chain, kindProof, n.proof)
	if err != nil {
		return nil, c.failErr(ctx, n.name, nil, err)
	}
	p, err := decodeProof(payload)
	if err != nil {
		c.fail(n.name, nil, "its proof: %s", err.Error())
		return nil, nil
	}
	return p, nil
}

// has says whether the proof of a pack is right about one of its segments.
func (p proof) has(s *segment, held []heldRecord) bool {
	for i := range p {
		if q := &p[i]; q.runs[0].first == s.first && q.count() == s.count {
			return q.isOf(held)
		}
	}
	return false
}

func (p *segmentProof) isOf(held []heldRecord) bool {
	for i := range held {
		if print := p.find(held[i].seq); print == nil || !matches(print, held[i].sum) {
			return false
		}
	}
	return uint64(len(held)) == p.count()
}
